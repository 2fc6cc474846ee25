"""3×3 convolutions with 4/9 of the multiplications, for networks that are compiled for a CPU.

Winograd's minimal filtering F(2×2, 3×3): four outputs of a 3×3 convolution come from 4×4 inputs by 16 products instead
of 36; sums and differences before and after cost little, for compiling fuses them. All products of one kind are one
group of a grouped 1×1 convolution, so the multiplying itself stays the library's.

Weighed: of the CPU time of a compiled forward with a ResNet-50 (fp32, 320 × 320 px, one thread of an EPYC with AVX-512)
it saves 8 % for DeepLabv3 and 25 % for PSPNet at output stride 16, and 38 % for PSPNet at 8.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.1.
"""

from __future__ import annotations

import copy
import platform
from collections.abc import Sequence
from itertools import chain
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.utils.parametrize import is_parametrized

from aerial_seg.models.device import has_matrix_units
from aerial_seg.models.replace import replace_modules

FEWEST_CHANNELS = 256
"""Of a convolution's inputs and outputs: with fewer the sums take longer than the multiplications that they save."""

LARGEST_SHARE = 0.6
"""Of the direct convolution's multiplications; a large rate on a small lattice pads too much."""

PART_BYTES = 32 << 20
"""Of a convolution's transformed inputs, which are four times its inputs: so much is held at once."""


def winograd_pays(device: torch.device, precision: str) -> bool:
    """Tell whether networks compiled for this device are faster so; measured on x86 without matrix units.

    Where whole tiles are multiplied at once products are too cheap to save, and other libraries compute grouped
    convolutions slowly. A GPU's library chooses for itself.
    """
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return precision == "fp32" or not has_matrix_units()


def with_winograd(network: nn.Module) -> nn.Module:
    """Return a copy that shares the network's weights, its wide 3×3 convolutions of stride 1 as WinogradConv2d.

    The logits are equal up to rounding, which is about twice the direct convolutions'.
    """
    weights = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    faster = copy.deepcopy(network, weights)
    wide = [module for module in faster.modules() if _can_replace(module)]
    replace_modules(faster, {conv: WinogradConv2d(conv) for conv in wide})
    return faster


class WinogradConv2d(nn.Conv2d):
    """Compute the plain convolution's result with fewer multiplications where that pays; it shares its weights."""

    def __init__(self, plain: nn.Conv2d) -> None:
        """Of a 3×3 convolution of stride 1 that pads as much as its rate."""
        rate = plain.dilation[0]
        super().__init__(
            plain.in_channels,
            plain.out_channels,
            3,
            padding=rate,
            dilation=rate,
            bias=plain.bias is not None,
            device="meta",
        )
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,H,W) → (N,O,H,W)."""
        rate = self.dilation[0]
        height, width = features.shape[2:]
        if _share(height, rate) * _share(width, rate) > LARGEST_SHARE:
            return super().forward(features)
        outputs = _transform_products(self._products(features), rate)[:, :height, :width]
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs.permute(0, 3, 1, 2)

    def _products(self, features: Tensor) -> Tensor:
        """(N,C,H,W) → (N,16·O,h,w), so many channels at a time as PART_BYTES allows."""
        rate = self.dilation[0]
        step = _channels_at_once(features, rate, self.weight.dtype)
        features_of = torch.split(features, step, dim=1)
        weights_of = torch.split(self.weight, step, dim=1)
        products = [
            conv2d(_transform_inputs(part, rate, weight.dtype), _transform_weight(weight), groups=16)
            for part, weight in zip(features_of, weights_of, strict=True)
        ]
        return sum(products[1:], start=products[0])


def _can_replace(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (3, 3)
        and module.stride == (1, 1)
        and module.groups == 1
        and module.padding == module.dilation
        and module.dilation[0] == module.dilation[1]
        and module.padding_mode == "zeros"
        and min(module.in_channels, module.out_channels) >= FEWEST_CHANNELS
        and not is_parametrized(module)
    )


def _share(length: int, rate: int) -> float:
    """Products along one axis, over those of a direct convolution that skips what lies in the padding."""
    return 4 * rate * _pairs(length, rate) / (length + 2 * max(length - rate, 0))


def _pairs(length: int, rate: int) -> int:
    """Pairs of outputs in each of the axis' `rate` interleaved parts."""
    return -(-length // (2 * rate))


def _channels_at_once(features: Tensor, rate: int, dtype: torch.dtype) -> int:
    """All of them, or their half, quarter, … whose transformed inputs keep to PART_BYTES; not many small parts."""
    batch, step, height, width = features.shape
    one = 16 * batch * rate**2 * _pairs(height, rate) * _pairs(width, rate) * dtype.itemsize
    while step > FEWEST_CHANNELS and step * one > PART_BYTES:
        step = -(-step // 2)
    return step


def _transform_inputs(features: Tensor, rate: int, dtype: torch.dtype) -> Tensor:
    """(N,C,H,W) → (N,16·C,h,w): what the 16 products multiply, for each of the h·w groups of four outputs."""
    batch, channels, height, width = features.shape
    down, across = _pairs(height, rate), _pairs(width, rate)
    padded = _pad(
        features.permute(0, 2, 3, 1),
        rate,
        bottom=(2 * down + 1) * rate - height,
        right=(2 * across + 1) * rate - width,
    )
    padded = padded.reshape(batch, 2 * down + 2, rate, 2 * across + 2, rate, channels)
    padded = padded.to(torch.promote_types(dtype, torch.float32))
    rows = torch.stack(_combine_inputs([padded[:, k : k + 2 * down : 2] for k in range(4)]), dim=-2)
    cells = _combine_inputs([rows[:, :, :, k : k + 2 * across : 2] for k in range(4)])
    sums = torch.stack([cell.to(dtype) for cell in cells], dim=-2)
    return sums.reshape(batch, down * rate, across * rate, -1).permute(0, 3, 1, 2)


def _pad(image: Tensor, before: int, *, bottom: int, right: int) -> Tensor:
    """(N,H,W,C) with zeros around it: `before` rows above and columns on the left, and so many below and on the right.

    By concatenating: a padding would be compiled into each of the 16 readings, as a question whether it lies inside.
    """
    batch, height, _, channels = image.shape
    left, right_side = (image.new_zeros(batch, height, columns, channels) for columns in (before, right))
    image = torch.cat([left, image, right_side], dim=2)
    above, below = (image.new_zeros(batch, rows, image.shape[2], channels) for rows in (before, bottom))
    return torch.cat([above, image, below], dim=1)


def _transform_weight(weight: Tensor) -> Tensor:
    """(O,C,3,3) → (16·O,C,1,1), computed in float64; a constant, which freezing computes once."""
    rows = _combine_weights(weight.double().unbind(2))
    cells = [cell for row in rows for cell in _combine_weights(row.unbind(2))]
    return torch.cat(cells).to(weight.dtype)[:, :, None, None]


def _transform_products(products: Tensor, rate: int) -> Tensor:
    """(N,16·O,h,w) → (N,2·h,2·w,O): the four outputs of each group at their places, summed in at least float32."""
    batch, channels, height, width = products.shape
    parts = products.permute(0, 2, 3, 1).to(torch.promote_types(products.dtype, torch.float32))
    parts = parts.reshape(batch, height // rate, rate, width // rate, rate, 4, 4, channels // 16)
    rows = torch.stack(_combine_products(parts.unbind(-3)), dim=2)
    outputs = torch.stack(_combine_products(rows.unbind(-2)), dim=5)
    return outputs.reshape(batch, 2 * height, 2 * width, -1).to(products.dtype)


def _combine_inputs(taken: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Bᵀ of the paper's equation 7, along one axis."""
    first, second, third, fourth = taken
    return first - third, second + third, third - second, second - fourth


def _combine_weights(taken: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """G of that equation."""
    first, second, third = taken
    return first, (first + second + third) / 2, (first - second + third) / 2, third


def _combine_products(taken: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Aᵀ of that equation."""
    first, second, third, fourth = taken
    return first + second + third, second - third - fourth
