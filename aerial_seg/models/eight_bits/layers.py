"""8-bit weights as tensors of a model file, and as the float32 numbers that they stand for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from aerial_seg.models.eight_bits.card import EightBits
from aerial_seg.models.eight_bits.graph import LARGEST_WEIGHT, InputRange
from aerial_seg.models.network import Network
from aerial_seg.models.replace import replace_modules, rest_of_norm
from aerial_seg.printable import shortened

WEIGHT_SCALE, INPUT_SCALE, INPUT_ZERO = "weight_scale", "input_scale", "input_zero_point"

_SMALLEST_SCALE, _LARGEST_SCALE = 1e-20, 1e20
"""No weights and activations that float32 computes with are far outside: beyond lie numbers that overflow."""

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class EightBitLayers:
    """Hold what the engine must know besides a network whose weights are 8-bit ones times their scales.

    weight_scales: (output channels,) float32, by convolution. inputs: of the bytes that each reads.
    """

    weight_scales: Mapping[str, Tensor]
    inputs: Mapping[str, InputRange]


class NoSuchLayer(ValueError):
    """Tell in a few words what a card says of a network that is not so. Caught by who read the card."""


def take_form(network: Network, card: EightBits) -> None:
    """Give a new network the layers of the file: without training parts, batch norms gone, biases where they were.

    Raises NoSuchLayer for a card that is not of this network.
    """
    network.drop_training_parts()
    modules = dict(network.named_modules())
    norms = [modules.get(name) for name in card.folded]
    for name, norm in zip(card.folded, norms, strict=True):
        if not isinstance(norm, nn.BatchNorm2d):
            raise NoSuchLayer(f"{shortened(name)} is no batch norm")
    for name in (*card.biased, *card.layers, *card.kept):
        if not isinstance(modules.get(name), nn.Conv2d | nn.ConvTranspose2d):
            raise NoSuchLayer(f"{shortened(name)} is no convolution")
    if len(set(card.layers)) < len(card.layers):
        raise NoSuchLayer("a layer is named twice")
    for name in card.layers:
        if not isinstance(modules[name], nn.Conv2d) or name in card.kept:
            raise NoSuchLayer(f"{shortened(name)} cannot be of 8 bits")
    for name in card.biased:
        _give_bias(modules[name])
    replace_modules(network, {norm: rest_of_norm(norm) for norm in norms if isinstance(norm, nn.BatchNorm2d)})
    network.eval()


def _give_bias(module: nn.Module) -> None:
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    if module.bias is None:
        weight = module.weight
        module.bias = nn.Parameter(weight.new_zeros(module.out_channels), requires_grad=False)


def give_biases(network: nn.Module) -> None:
    """Give every convolution that can be of 8 bits a bias, 0 where it had none."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            _give_bias(module)


def layout(state: Mapping[str, Tensor], layers: Collection[str]) -> Layout:
    """Return type and shape by name of a file's tensors, of a network's state dict in that form."""
    wanted: Layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}
    for layer in layers:
        shape = wanted[f"{layer}.weight"][1]
        wanted[f"{layer}.weight"] = (torch.int8, shape)
        wanted[f"{layer}.{WEIGHT_SCALE}"] = (torch.float32, shape[:1])
        wanted[f"{layer}.{INPUT_SCALE}"] = (torch.float32, ())
        wanted[f"{layer}.{INPUT_ZERO}"] = (torch.uint8, ())
    return wanted


def to_tensors(
    state: Mapping[str, Tensor], rounded: Mapping[str, Tensor], layers: EightBitLayers
) -> dict[str, Tensor]:
    """Return a file's tensors. rounded: int8 weights by layer; those of `state` stand for all else."""
    tensors = dict(state)
    for layer, weight in rounded.items():
        tensors[f"{layer}.weight"] = weight
        tensors[f"{layer}.{WEIGHT_SCALE}"] = layers.weight_scales[layer]
        tensors[f"{layer}.{INPUT_SCALE}"] = torch.tensor(layers.inputs[layer].scale, dtype=torch.float32)
        tensors[f"{layer}.{INPUT_ZERO}"] = torch.tensor(layers.inputs[layer].zero_point, dtype=torch.uint8)
    return tensors


def from_tensors(
    tensors: Mapping[str, Tensor], layers: Collection[str]
) -> tuple[dict[str, Tensor], EightBitLayers]:
    """Return (a state dict of float32, what the engine must know) of a file's tensors, which have that layout.

    Raises NoSuchLayer for scales that are none.
    """
    state = dict(tensors)
    scales, inputs = {}, {}
    for layer in layers:
        scale, input_scale = state.pop(f"{layer}.{WEIGHT_SCALE}"), state.pop(f"{layer}.{INPUT_SCALE}")
        for name, values in ((WEIGHT_SCALE, scale), (INPUT_SCALE, input_scale)):
            # Of NaN the comparison is false.
            if not bool(((values >= _SMALLEST_SCALE) & (values <= _LARGEST_SCALE)).all()):
                raise NoSuchLayer(
                    f"{shortened(layer)}.{name} is not between {_SMALLEST_SCALE:g} and {_LARGEST_SCALE:g}"
                )
        weight = state[f"{layer}.weight"]
        if bool((weight < -LARGEST_WEIGHT).any()):
            raise NoSuchLayer(f"{shortened(layer)}.weight holds numbers below {-LARGEST_WEIGHT}")
        state[f"{layer}.weight"] = dequantised(weight, scale)
        scales[layer] = scale
        inputs[layer] = InputRange(float(input_scale), int(state.pop(f"{layer}.{INPUT_ZERO}")))
    return state, EightBitLayers(MappingProxyType(scales), MappingProxyType(inputs))


def scales_of(weight: Tensor) -> Tensor:
    """Return the scale (O,) of every output channel of a convolution's weight (O,I,h,w) float32."""
    largest = weight.abs().amax(dim=(1, 2, 3)) / LARGEST_WEIGHT
    return largest.clamp(_SMALLEST_SCALE, _LARGEST_SCALE)


def quantised(weight: Tensor, scale: Tensor) -> Tensor:
    """Return the weight (O,I,h,w) as int8."""
    steps = (weight / scale[:, None, None, None]).round()
    return steps.clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT).to(torch.int8)


def dequantised(weight: Tensor, scale: Tensor) -> Tensor:
    """Return the int8 weight (O,I,h,w) as the float32 numbers that it stands for."""
    return weight.float() * scale[:, None, None, None]
