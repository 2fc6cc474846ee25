"""Ranges of activations and errors of layers, measured on images: what 8 bits need to know, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from aerial_seg.models.eight_bits.graph import (
    LEVELS,
    InputRange,
    Watching,
    convolutions,
    groups,
    traced_module,
)
from aerial_seg.models.eight_bits.layers import EightBitLayers, dequantised, quantised, scales_of

_LEAST_SPAN = 1e-12
"""Of a range: a tensor that is 0 on every image still has bytes."""


@dataclass(slots=True)
class _Seen:
    """Sums over images of the smallest and largest number of a tensor."""

    low: float = 0.0
    high: float = 0.0

    def add(self, values: Tensor) -> None:
        self.low += min(0.0, float(values.min()))
        self.high += max(0.0, float(values.max()))


@dataclass(slots=True)
class _LayerError:
    """Sums over images of what rounding changes of a convolution's output."""

    shift: Tensor
    changed: float = 0.0
    size: float = 0.0
    pixels: int = 0


@dataclass(slots=True)
class _Graphs:
    """The network's graph by the shape of its images."""

    network: nn.Module
    made: dict[tuple[int, ...], GraphModule] = field(default_factory=dict)

    def of(self, image: Tensor) -> GraphModule:
        shape = tuple(image.shape)
        if shape not in self.made:
            self.made[shape] = traced_module(self.network, image)
        return self.made[shape]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Hold what images said of a network whose every convolution has a bias.

    spans: of every layer that can be of 8 bits, the means of the smallest and of the largest numbers of the tensors
    where its input arises, by the tensor's name. errors: of its output, relative (rms over rms).
    shifts: (output channels,) by layer: what rounding adds to its output on the mean.
    """

    spans: Mapping[str, Mapping[str, tuple[float, float]]]
    errors: Mapping[str, float]
    shifts: Mapping[str, Tensor]

    def layers(self, chosen: Collection[str], weights: Mapping[str, Tensor]) -> EightBitLayers:
        """Return what the engine must know where these layers are of 8 bits. weights: by layer, float32."""
        inputs = {name: one for name, one in _ranges(self.spans, chosen).items() if name in chosen}
        return EightBitLayers({name: scales_of(weights[name]) for name in inputs}, inputs)


def calibrate(network: nn.Module, images: Iterable[Tensor], *, tell: Callable[[], object]) -> Calibrated:
    """Run the images (1,C,H,W) twice through the network, whose every convolution has a bias.

    tell: is called after each image and pass. Raises what torch raises of a network that it cannot trace.
    """
    kept, graphs = list(images), _Graphs(network)
    seen: dict[str, _Seen] = {}
    first = graphs.of(kept[0])
    nodes = convolutions(first)
    places = {name: one.sources for one in groups(nodes, nodes) for name in one.layers}
    wanted = {source.name for sources in places.values() for source in sources}

    def look(node: Node, value: Any, _: Callable[[Node], Any]) -> None:
        if node.name in wanted:
            seen.setdefault(node.name, _Seen()).add(value)

    with torch.inference_mode():
        for image in kept:
            Watching(graphs.of(image), look).run(image)
            tell()
    count = len(kept)
    spans = {
        name: {
            source.name: (seen[source.name].low / count, seen[source.name].high / count) for source in sources
        }
        for name, sources in places.items()
    }
    errors = _errors(graphs, kept, _ranges(spans, nodes), tell)
    return Calibrated(
        spans,
        {name: (one.changed / max(one.size, _LEAST_SPAN)) ** 0.5 for name, one in errors.items()},
        {name: one.shift / one.pixels for name, one in errors.items()},
    )


def _ranges(
    spans: Mapping[str, Mapping[str, tuple[float, float]]], chosen: Collection[str]
) -> dict[str, InputRange]:
    """Of these layers; those that read what arises in one place, or is joined to it, share one."""
    shared: list[tuple[set[str], set[str]]] = []  # names of layers, names of tensors
    for name in (name for name in spans if name in chosen):
        names, tensors = {name}, set(spans[name])
        for other in [one for one in shared if not one[1].isdisjoint(tensors)]:
            shared.remove(other)
            names, tensors = names | other[0], tensors | other[1]
        shared.append((names, tensors))
    found: dict[str, InputRange] = {}
    for names, _ in shared:
        ends = [span for name in names for span in spans[name].values()]
        one = _range(min(low for low, _ in ends), max(high for _, high in ends))
        found |= dict.fromkeys(names, one)
    return {name: found[name] for name in spans if name in found}


def _range(low: float, high: float) -> InputRange:
    """0 is one of its numbers: padding and ReLUs make many of them. The scale is a float32, as in the file."""
    scale = float(torch.tensor(max(high - low, _LEAST_SPAN) / LEVELS, dtype=torch.float32))
    return InputRange(scale, min(LEVELS, max(0, round(-low / scale))))


def _errors(
    graphs: _Graphs, images: list[Tensor], ranges: Mapping[str, InputRange], tell: Callable[[], object]
) -> dict[str, _LayerError]:
    """Of every layer alone, the others being exact."""
    found: dict[str, _LayerError] = {}
    by_node = {node.name: name for name, node in convolutions(graphs.of(images[0])).items()}

    def look(node: Node, value: Any, of: Callable[[Node], Any]) -> None:
        layer = by_node.get(node.name)
        if layer is None:
            return
        arguments: list[Any] = [of(one) if isinstance(one, Node) else one for one in node.args]
        given, weight, *others = arguments
        scale, one = scales_of(weight), ranges[layer]
        rounded = torch.fake_quantize_per_tensor_affine(given, one.scale, one.zero_point, 0, LEVELS)
        coarse = dequantised(quantised(weight, scale), scale)
        change = node.target(rounded, coarse, *others, **node.kwargs) - value  # type: ignore[operator]
        error = found.setdefault(layer, _LayerError(torch.zeros(change.shape[1])))
        error.shift += change.sum(dim=(0, 2, 3))
        error.pixels += change[:, 0].numel()
        error.changed += float(change.square().sum())
        error.size += float(value.square().sum())

    with torch.inference_mode():
        for image in images:
            Watching(graphs.of(image), look).run(image)
            tell()
    return {name: found[name] for name in ranges}
