"""Where an encoder's stages are and where they stride: what dilation, cascades and stride placement work on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

from torch import nn

from aerial_seg.errors import SettingsError

StridePlacement = Literal["3x3", "1x1", "last-unit"]

STAGES = ("layer1", "layer2", "layer3", "layer4")
STEM_STRIDE = 4
"""Of the stem's convolution and max-pool, before the first stage."""


def resnet_of(encoder: nn.Module) -> nn.Module | None:
    """The module that has the ResNet stages layer1 to layer4, be it the encoder or what it wraps; None if none has."""
    for module in (encoder, getattr(encoder, "model", None)):
        if all(isinstance(getattr(module, name, None), nn.Module) for name in STAGES):
            assert isinstance(module, nn.Module)
            return module
    return None


def can_dilate(encoder: nn.Module) -> bool:
    """Whether the encoder's strides can be taken away here: ResNet stages that stride by convolutions alone."""
    resnet = resnet_of(encoder)
    return resnet is not None and not any(
        _pools(module) for name in STAGES for module in getattr(resnet, name).modules()
    )


def _pools(module: nn.Module) -> bool:
    return isinstance(module, nn.MaxPool2d | nn.AvgPool2d) and module.kernel_size not in (1, (1, 1))


def keeps_every_side(encoder: nn.Module) -> bool:
    """Whether a side of l pixels has ⌈l/s⌉ cells at every stride s: not so where a 3×3 max-pool has no padding."""
    pools = (inner for inner in encoder.modules() if isinstance(inner, nn.MaxPool2d) and _pools(inner))
    return all(pool.padding in (1, (1, 1)) for pool in pools)


def stages_of(encoder: nn.Module) -> list[nn.Module]:
    """layer1 to layer4. Raises SettingsError for an encoder without them."""
    resnet = resnet_of(encoder)
    if resnet is None:
        raise SettingsError(
            f"{type(encoder).__name__} has no stages {', '.join(STAGES)}; use a ResNet, ResNeXt or SE-ResNeXt encoder "
            "(resnet18 … resnet152, resnext50_32x4d, se_resnext50_32x4d, tu-wide_resnet50_2)"
        )
    return [getattr(resnet, name) for name in STAGES]


def convolutions(module: nn.Module) -> Iterator[nn.Conv2d]:
    """Every convolution in it, in the order of its registration, which is that of its forward in all ResNets."""
    return (inner for inner in module.modules() if isinstance(inner, nn.Conv2d))


def striding(stage: nn.Module) -> list[nn.Module]:
    """The convolutions and subsamplings of a stage with a stride of 2."""
    kinds = nn.Conv2d | nn.MaxPool2d
    return [inner for inner in stage.modules() if isinstance(inner, kinds) and inner.stride in (2, (2, 2))]


def subsampling(stride: int = 2) -> nn.MaxPool2d:
    """Every stride-th cell, as a shortcut without weights takes it."""
    return nn.MaxPool2d(1, stride=stride)


def place_strides(encoder: nn.Module, placement: StridePlacement) -> None:
    """The encoder, built with the 3×3 of a stage's first block striding, strides where the placement says.

    1x1: in that block's first convolution. last-unit: in the last block of the stage before, whose shortcut subsamples.
    Weights stay. Raises SettingsError for an encoder whose blocks are no bottlenecks, or without a bottleneck's names.
    Source: He et al. 2016 (1×1, the Caffe models); slim's resnet_v1 `beta` variants (last unit).
    """
    if placement == "3x3":
        return
    stages = stages_of(encoder)
    for before, stage in pairwise(stages):
        first, last = (_bottleneck(block) for block in (next(stage.children()), list(before.children())[-1]))
        if first.conv2.stride != (2, 2):
            raise SettingsError(
                f"{type(encoder).__name__} does not stride in its 3×3 convolutions; stride_placement is for resnet50 "
                "and deeper, and for resnext"
            )
        first.conv2.stride = (1, 1)
        if placement == "1x1":
            first.conv1.stride = (2, 2)
        else:
            first.downsample[0].stride = (1, 1)
            last.conv2.stride = (2, 2)
            last.downsample = subsampling()


def _bottleneck(block: Any) -> Any:
    if not all(isinstance(getattr(block, name, None), nn.Conv2d) for name in ("conv1", "conv2", "conv3")):
        raise SettingsError(
            f"stride_placement is for bottlenecks (resnet50 and deeper, resnext), and the encoder has "
            f"{type(block).__name__}; leave it at 3x3"
        )
    return block
