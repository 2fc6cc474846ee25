"""Copies of a ResNet's last stage to put behind it."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from aerial_seg.errors import SettingsError
from aerial_seg.models.backbone.stages import stages_of, subsampling


def further_blocks(encoder: nn.Module, count: int) -> list[nn.Module]:
    """`count` copies of the encoder's last stage, of which each takes what the one before gives and halves its size.

    Taken before any dilation. Weights are block4's, as the paper wants, with one exception that it does not speak of:
    block4's first convolution takes half as many channels as a copy is given, so each copy begins with that of block4's
    second unit, and its first shortcut subsamples, without a projection.

    Raises SettingsError for a stage of one unit, or whose units have no conv1 and downsample.
    Source: Chen et al. 2017, Rethinking Atrous Convolution, section 3.2: where block4 is duplicated.
    """
    stage = stages_of(encoder)[-1]
    return [_continued(stage) for _ in range(count)]


def _continued(stage: nn.Module) -> nn.Module:
    copied = copy.deepcopy(stage)
    units: list[Any] = list(copied.children())
    has_names = all(hasattr(unit, "conv1") and hasattr(unit, "downsample") for unit in units)
    if len(units) < 2 or not has_names:
        raise SettingsError(
            f"the encoder's last stage ({len(units)} × {type(units[0]).__name__}) cannot be continued by a cascade; "
            "use a ResNet or ResNeXt encoder"
        )
    first, second = units[:2]
    stride = first.conv1.stride
    first.conv1 = copy.deepcopy(second.conv1)
    first.conv1.stride = stride
    first.downsample = subsampling()
    return copied
