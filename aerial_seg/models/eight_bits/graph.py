"""Where a network's tensors are rounded to 8 bits: a rule over its graph, the same whoever computes it.

Each convolution that is named reads a tensor of 8 bits. That tensor is rounded where it arises, before it is pooled,
joined to others or moved about, so that everybody who reads it reads the rounded one and it travels as bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from aerial_seg.printable import shortened

aten: Any = torch.ops.aten

LEVELS = 255
"""The largest number of an activation; the smallest is 0."""
LARGEST_WEIGHT = 127
"""Weights lie between its negative and it."""

_PASSED_ON = {
    aten.max_pool2d.default, aten.cat.default, aten.upsample_nearest2d.default, aten.upsample_nearest2d.vec,
    aten.slice.Tensor, aten.select.int, aten.narrow.default, aten.clone.default, aten.contiguous.default,
    aten.dropout.default, aten.feature_dropout.default, aten.view.default, aten.reshape.default,
    aten.permute.default, aten.transpose.int, aten.expand.default, aten.constant_pad_nd.default, aten.pad.default,
}  # fmt: skip
"""Operators that give no numbers but those they get, or 0: to round before them is to round after them."""


@dataclass(frozen=True, slots=True)
class InputRange:
    """Say which numbers the bytes of a tensor stand for: byte q for scale · (q − zero_point)."""

    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True)
class Group:
    """Hold convolutions by name that must share a range, and where in the graph the tensors arise that they read."""

    layers: tuple[str, ...]
    sources: tuple[Node, ...]


class NotOfThisGraph(ValueError):
    """Tell in a few words which ranges do not fit a graph. Caught by who knows where they are from."""


def traced_module(network: nn.Module, batch: Tensor) -> GraphModule:
    """Return the network's graph for batches of this very shape; a convolution's weight is found by its name."""
    with torch.no_grad():
        program = torch.export.export(network, (torch.zeros_like(batch),), strict=False)
        module: Any = program.module()
    assert isinstance(module, GraphModule)
    return module


def convolutions(graph: GraphModule, prefix: str = "") -> dict[str, Node]:
    """Return the graph's convolutions by the name of their layer; those whose weight is read twice are left out.

    prefix: what the layers' names in the graph begin with besides.
    """
    found: dict[str, Node] = {}
    twice: set[str] = set()
    for node in graph.graph.nodes:
        if node.target not in (aten.conv2d.default, aten.conv2d.padding):
            continue
        weight = node.args[1]
        if not isinstance(weight, Node) or weight.op != "get_attr":
            continue
        name = str(weight.target)
        if not (name.startswith(prefix) and name.endswith(".weight")):
            continue
        layer = name.removeprefix(prefix).removesuffix(".weight")
        twice |= {layer} & found.keys()
        found[layer] = node
    return {layer: node for layer, node in found.items() if layer not in twice}


def groups(nodes: Mapping[str, Node], layers: Collection[str]) -> list[Group]:
    """Return which of these layers read tensors that arise in the same place, or are joined to one, in order."""
    of_source: dict[Node, int] = {}
    made: dict[int, tuple[list[str], list[Node]]] = {}
    for number, layer in enumerate(name for name in nodes if name in layers):
        names, places = [layer], list(_sources(nodes[layer].args[0]))
        for other in sorted({of_source[place] for place in places if place in of_source}):
            more_names, more_places = made.pop(other)
            names, places = [*more_names, *names], [*more_places, *places]
        places = list(dict.fromkeys(places))
        made[number] = (names, places)
        of_source |= dict.fromkeys(places, number)
    return [Group(tuple(names), tuple(places)) for names, places in made.values()]


def _sources(node: Any) -> Iterator[Node]:
    if not isinstance(node, Node):
        return
    if node.target not in _PASSED_ON:
        yield node
        return
    first = node.args[0]
    for one in first if isinstance(first, list | tuple) else (first,):
        yield from _sources(one)


def round_to_bytes(
    graph: GraphModule,
    ranges: Mapping[str, InputRange],
    weight_scales: Mapping[str, Tensor],
    *,
    prefix: str = "",
) -> GraphModule:
    """Return the graph with these layers' inputs and weights rounded, both by layer; it is changed in place.

    weight_scales: (output channels,) float32. Raises NotOfThisGraph where the graph has no such layer, or layers of one
    group have several ranges.
    """
    nodes = convolutions(graph, prefix)
    for layer in ranges:
        if layer not in nodes:
            raise NotOfThisGraph(f"its graph has no convolution {shortened(layer)} whose weight is read once")
    for group in groups(nodes, ranges):
        shared = ranges[group.layers[0]]
        for layer in group.layers:
            if ranges[layer] != shared:
                raise NotOfThisGraph(
                    f"{shortened(group.layers[0])} and {shortened(layer)} read one tensor by two scales"
                )
        for source in group.sources:
            _insert_after(graph, source, shared)
    for number, (layer, scale) in enumerate(weight_scales.items()):
        _round_weight(graph, nodes[layer], scale, number)
    graph.graph.lint()
    graph.recompile()
    return graph


def _insert_after(graph: GraphModule, source: Node, shared: InputRange) -> None:
    readers = list(source.users)
    after = source
    if source.op == "placeholder":
        after = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    with graph.graph.inserting_after(after):
        rounded = graph.graph.call_function(
            aten.fake_quantize_per_tensor_affine.default,
            (source, shared.scale, shared.zero_point, 0, LEVELS),
        )
    for reader in readers:
        if reader.op == "call_function":
            reader.replace_input_with(source, rounded)


def _round_weight(graph: GraphModule, conv: Node, scale: Tensor, number: int) -> None:
    weight: Any = conv.args[1]
    names = f"_weight_scale_{number}", f"_weight_zero_{number}"
    for name, values in zip(names, (scale, torch.zeros(len(scale), dtype=torch.int32)), strict=True):
        graph.register_buffer(name, values)
    with graph.graph.inserting_before(conv):
        tensors = [graph.graph.get_attr(name) for name in names]
        rounded = graph.graph.call_function(
            aten.fake_quantize_per_channel_affine.default,
            (weight, *tensors, 0, -LARGEST_WEIGHT, LARGEST_WEIGHT),
        )
    conv.update_arg(1, rounded)


class Watching(torch.fx.Interpreter):
    """Run a graph and show what arises in some places."""

    def __init__(self, graph: GraphModule, see: Callable[[Node, Any, Callable[[Node], Any]], None]) -> None:
        super().__init__(graph)
        self._see = see

    def run_node(self, n: Node) -> Any:
        """The node's value, once it was seen."""
        value = super().run_node(n)
        self._see(n, value, lambda node: self.env[node])
        return value
