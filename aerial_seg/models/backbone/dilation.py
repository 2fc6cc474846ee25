"""Dilated ResNets: trade the stride of the last stages for dilation, so that logits stay dense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from aerial_seg.errors import SettingsError

Placement = Literal["full", "contracted"]

_STAGES = ("layer2", "layer3", "layer4")
"""The stages with a stride of 2, after the stem's 4."""


def dilate(
    encoder: nn.Module,
    output_stride: int,
    *,
    placement: Placement = "full",
    multi_grid: Sequence[int] = (),
) -> None:
    """The encoder, built at stride 32, now has features of this output stride (4, 8, 16 or 32) at its end.

    Rates of layer2..4 are (1,1,2) at 16, (1,2,4) at 8, (2,4,8) at 4; kernels keep their weights and their padding stays
    "same". placement says what the convolution gets whose stride is taken away: `full`: its stage's rate as all others,
    as in the PSPNet author's code; `contracted`: the rate of the stage before, as in torchvision and mmseg, where it is
    the 3×3 of a stage's first bottleneck (of a basic block it is the first 3×3; mmseg never dilates the second).
    Contracted, every convolution sees the pixels that it saw at stride 32, so the features of two strides agree where
    their lattices meet.

    multi_grid: unit rates of the last stage, one per block (a ResNet of bottlenecks has three there); they multiply
    the rates of the block's 3×3 convolutions whatever the stride is. Empty: all 1.

    Raises SettingsError for an encoder without ResNet stages and for another number of unit rates than blocks.
    Source: Chen et al. 2017, Rethinking Atrous Convolution, sections 3.1 and 3.2.1.
    """
    missing = [name for name in _STAGES if not isinstance(getattr(encoder, name, None), nn.Module)]
    if missing:
        raise SettingsError(
            f"{type(encoder).__name__} has no stages {', '.join(_STAGES)} to dilate; "
            "use a ResNet, ResNeXt or SE-ResNeXt encoder (resnet18 … resnet152, resnext50_32x4d, se_resnext50_32x4d)"
        )
    stride, rate = 4, 1
    for name in _STAGES:
        if stride < output_stride:
            stride *= 2
            continue
        stage = getattr(encoder, name)
        if any(isinstance(module, nn.MaxPool2d | nn.AvgPool2d) for module in stage.modules()):
            raise SettingsError(f"{name} of {type(encoder).__name__} pools inside; use another encoder")
        _take_stride(stage, rate * 2, rate if placement == "contracted" else rate * 2)
        rate *= 2
    if multi_grid:
        _multiply(getattr(encoder, _STAGES[-1]), multi_grid)


def _take_stride(stage: nn.Module, rate: int, rate_of_striding: int) -> None:
    for conv in _convolutions(stage):
        set_rate(conv, rate if conv.stride == (1, 1) else rate_of_striding)
        conv.stride = (1, 1)


def _multiply(stage: nn.Module, multi_grid: Sequence[int]) -> None:
    blocks = list(stage.children())
    if len(blocks) != len(multi_grid):
        raise SettingsError(
            f"model.multi_grid has {len(multi_grid)} unit rates {list(multi_grid)}, but the encoder's last stage has "
            f"{len(blocks)} blocks; give one unit rate per block"
        )
    for block, unit in zip(blocks, multi_grid, strict=True):
        for conv in _convolutions(block):
            if conv.kernel_size != (1, 1):
                set_rate(conv, int(conv.dilation[0]) * unit)


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [inner for inner in module.modules() if isinstance(inner, nn.Conv2d)]


def set_rate(conv: nn.Conv2d, rate: int) -> None:
    """The convolution has this rate, and its output the size that it had: padding stays "same"."""
    kernel = conv.kernel_size[0]
    conv.dilation = (rate, rate)
    conv.padding = (kernel // 2 * rate, kernel // 2 * rate)
