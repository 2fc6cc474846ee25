"""8-bit weights multiplied as such: by OpenVINO, on CPUs that have units for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.inference.engines.external import ExternalFailed, failing
from aerial_seg.inference.engines.openvino import OpenvinoEngine
from aerial_seg.mentions import setting
from aerial_seg.models.device import hardware_name, has_byte_units, inference
from aerial_seg.models.eight_bits.graph import NotOfThisGraph, round_to_bytes, traced_module
from aerial_seg.models.eight_bits.layers import EightBitLayers
from aerial_seg.models.file import TrainedModel
from aerial_seg.models.network import Network
from aerial_seg.models.placing import PlacedNetwork

PRECISION = "int8"
"""What a runtime calls it."""
AGREEMENT = 0.1
"""Largest difference between OpenVINO's logits and those of the same roundings in torch, as rms over rms.

Where a number lies half-way between two bytes the last digit of a float32 decides, so that a few
logits may differ more.
"""


def why_not(engine: str, precision: str, device: torch.device) -> str | None:
    """Return why 8-bit weights are not multiplied as such here; None where they are.

    The table: CPUs with AVX-512 VNNI, AVX VNNI or AMX sum products of bytes exactly in 32 bits; older ones saturate in
    16 on the way, ARM's are not OpenVINO's fast path, and GPUs have another engine.
    Raises SettingsError where only OpenVINO is missing.
    """
    if engine not in ("auto", "openvino"):
        return f"{setting('engine', engine)} was asked for"
    if precision != "auto":
        return f"{setting('precision', precision)} was asked for"
    if device.type != "cpu":
        return f"the device is {device}"
    if not has_byte_units():
        return f"{hardware_name(device)} has no units that multiply them (VNNI or AMX)"
    if find_spec("openvino") is None:
        raise SettingsError(
            "a model of 8-bit weights is run by openvino, which is not installed; pip install 'aerial-seg[openvino]', "
            f"or use {setting('engine', 'eager')}, which takes several times as long"
        )
    return None


def prepare_eight_bits(original: Network) -> nn.Module:
    """Return a copy of the network to be rounded; its batch norms are folded already where they can be."""
    network = copy.deepcopy(original).eval()
    network.drop_training_parts()
    return network


def rounded_graph(network: nn.Module, layers: EightBitLayers, batch: Tensor) -> GraphModule:
    """Return the network with its roundings, for batches of this very shape.

    Raises ExternalFailed for a network that torch cannot trace, InputError for layers that are not this network's.
    """
    prefix = "base." if isinstance(network, PlacedNetwork) else ""
    with failing(RuntimeError, ValueError):
        graph = traced_module(network, batch)
    try:
        return round_to_bytes(graph, layers.inputs, layers.weight_scales, prefix=prefix)
    except NotOfThisGraph as error:
        raise InputError(
            f"the model's 8-bit layers are not those of its network: {error}; copy the file again or export it again"
        ) from error


class EightBitEngine(OpenvinoEngine):
    """Run a rounded graph in OpenVINO. Made only where its logits are those of the graph in torch."""

    def __init__(self, network: nn.Module, layers: EightBitLayers, batch: Tensor) -> None:
        """Raises ExternalFailed for a network that cannot run there or computes something else there."""
        graph = rounded_graph(network, layers, batch)
        super().__init__(graph, batch)
        with inference(batch.device, "fp32"):
            wanted = graph(batch)
            difference = float((self(batch) - wanted).square().mean().sqrt())
            size = float(wanted.square().mean().sqrt().clamp(min=1e-12))
        if not difference <= AGREEMENT * size:
            raise ExternalFailed(f"its logits differ by {difference / size:.1g} of them (rms)")


class WholeImages(Network):
    """Stand for a network of 8-bit weights where whole images are run: one engine for each shape of them.

    native: OpenVINO runs it; else torch computes with the same roundings, which takes longer than without.
    """

    def __init__(self, base: Network, layers: EightBitLayers, *, native: bool) -> None:
        super().__init__()
        self.geometry, self.any_side = base.geometry, base.any_side
        self._network, self._layers, self._native = prepare_eight_bits(base), layers, native
        self._engines: dict[tuple[int, ...], Callable[[Tensor], Tensor]] = {}

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,h,w). Raises InputError where OpenVINO cannot run it."""
        shape = tuple(image.shape)
        if shape not in self._engines:
            with torch.inference_mode(False):  # whose tensors cannot be traced
                self._engines[shape] = self._engine(shape)
        return self._engines[shape](image)

    def _engine(self, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
        example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        try:
            if self._native:
                return EightBitEngine(self._network, self._layers, example)
            return rounded_graph(self._network, self._layers, example)
        except ExternalFailed as error:
            raise InputError(
                f"openvino cannot run the model's 8-bit weights ({error}); update openvino, or use the model that they "
                "were made of"
            ) from error


def whole_images(
    model: TrainedModel, device: torch.device, *, emulated: bool = False
) -> tuple[Network, tuple[str, ...]]:
    """Return what runs whole images of a model of any weights, and what is to say of that.

    emulated: where 8-bit weights are not multiplied as such, torch still rounds as if they were.
    """
    if model.eight_bits is None:
        return model.network, ()
    reason = why_not("auto", "auto", device)
    if reason is None or emulated:
        return WholeImages(model.network, model.eight_bits, native=reason is None), ()
    return model.network, (dequantised_note(reason),)


def dequantised_note(reason: str) -> str:
    """Say that 8-bit weights are not multiplied as such, and why."""
    return f"the model's 8-bit weights are computed with as the numbers they stand for: {reason}"
