"""Dilated ResNets: trade the stride of the last stages for dilation, so that logits stay dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from aerial_seg.errors import SettingsError
from aerial_seg.models.backbone.stages import STEM_STRIDE, convolutions, striding

Placement = Literal["full", "contracted", "contracted-first"]


@dataclass(frozen=True, slots=True)
class Striding:
    """Stages with those of their modules that stride when nothing is dilated, in the order of the forward."""

    stages: tuple[tuple[nn.Module, tuple[nn.Module, ...]], ...]

    @classmethod
    def of(cls, stages: Sequence[nn.Module]) -> Striding:
        """That of stages nobody has dilated yet."""
        return cls(tuple((stage, tuple(striding(stage))) for stage in stages))

    @property
    def largest(self) -> int:
        """The output stride without dilation."""
        return STEM_STRIDE * int(2 ** sum(bool(modules) for _, modules in self.stages))

    def set(self, output_stride: int) -> None:
        """The stages stride until this output stride is reached, and no further; rates stay as they are."""
        stride = STEM_STRIDE
        for _, modules in self.stages:
            step = 2 if modules and stride < output_stride else 1
            stride *= step
            for module in modules:
                assert isinstance(module, nn.Conv2d | nn.MaxPool2d)
                module.stride = (step, step)


@dataclass(frozen=True, slots=True)
class MultiGrid:
    """Unit rates of a stage's blocks, one each; absolute: they are its rates, whatever the stride."""

    rates: tuple[int, ...] = field(default=())
    absolute: bool = False


def dilate_stages(
    strides: Striding, output_stride: int, *, placement: Placement = "full", rates: Sequence[int] = ()
) -> None:
    """The stages have this output stride at their end; kernels keep their weights and their padding stays "same".

    Rates of layer2..4 are (1,1,2) at 16, (1,2,4) at 8, (2,4,8) at 4. placement says what the convolution gets whose
    stride is taken away: `full`: its stage's rate as all others, as in the PSPNet author's code; `contracted`: the
    rate of the stage before, as in torchvision and mmseg, where it is the 3×3 of a stage's first bottleneck (of a basic
    block it is the first 3×3); `contracted-first`: as that, and the second 3×3 of a basic block is never dilated, as in
    mmseg. rates: the first four stages' own, whatever their strides; empty: as said. Contracted, every convolution sees
    the pixels that it saw without dilation, so the features of two strides agree where their lattices meet. Where a
    stage's last unit strides, contracted leaves that whole stage the rate of the stage before.

    Source: Chen et al. 2017, Rethinking Atrous Convolution, sections 3.1 and 3.2.
    """
    strides.set(output_stride)
    stride, rate = STEM_STRIDE, 1
    for place, (stage, modules) in enumerate(strides.stages):
        before = rate
        if modules:
            if stride < output_stride:
                stride *= 2
            else:
                rate *= 2
        if place < len(rates):
            rate = rates[place]
        contracted = placement != "full" and rate > before
        behind = not contracted
        for conv in convolutions(stage):
            strides_here = conv in modules
            keeps = contracted and (strides_here or not behind) and conv.kernel_size != (1, 1)
            set_rate(conv, before if keeps else rate)
            behind = behind or strides_here
        if placement == "contracted-first":
            _undilate_second(stage)


def _undilate_second(stage: nn.Module) -> None:
    """In blocks with several 3×3 convolutions, all but the first have rate 1."""
    for block in stage.children():
        for conv in [one for one in convolutions(block) if one.kernel_size != (1, 1)][1:]:
            set_rate(conv, 1)


def set_multi_grid(stage: nn.Module, grid: MultiGrid) -> None:
    """The 3×3 convolutions of the stage's blocks have the rate that they had, times their block's unit rate.

    No rates: nothing changes. Raises SettingsError for another number of rates than blocks.
    Source: Chen et al. 2017, Rethinking Atrous Convolution, section 3.2.1.
    """
    if not grid.rates:
        return
    blocks = list(stage.children())
    if len(blocks) != len(grid.rates):
        raise SettingsError(
            f"model.multi_grid has {len(grid.rates)} unit rates {list(grid.rates)}, but the encoder's last stage has "
            f"{len(blocks)} blocks; give one unit rate per block"
        )
    for block, unit in zip(blocks, grid.rates, strict=True):
        for conv in convolutions(block):
            if conv.kernel_size != (1, 1):
                set_rate(conv, unit if grid.absolute else int(conv.dilation[0]) * unit)


def set_rate(conv: nn.Conv2d, rate: int) -> None:
    """The convolution has this rate, and its output the size that it had: padding stays "same"."""
    conv.dilation = (rate, rate)
    if conv.padding != "same":
        conv.padding = tuple(kernel // 2 * rate for kernel in conv.kernel_size)
