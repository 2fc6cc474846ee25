"""How a ResNet begins: its stem's depth, its max-pool, and what its batch norms add to a variance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from aerial_seg.errors import SettingsError
from aerial_seg.models.backbone.stages import resnet_of

Stem = Literal["7x7", "deep32", "deep64"]

_WIDTHS: Mapping[Stem, tuple[int, int, int]] = {"deep32": (32, 32, 64), "deep64": (64, 64, 128)}


def deepen_stem(encoder: Any, stem: Stem) -> None:
    """The encoder begins with three 3×3 convolutions in place of one 7×7; the first strides.

    deep32 is ResNet-v1c's, deep64 the PSPNet author's, after which the first stage takes 128 channels. The new weights
    are fresh (He initialisation), the others stay. Raises SettingsError for an encoder without a single 7×7.
    """
    if stem == "7x7":
        return
    old = getattr(encoder, "conv1", None)
    if not isinstance(old, nn.Conv2d) or old.kernel_size != (7, 7) or not hasattr(encoder, "_out_channels"):
        raise SettingsError(
            f"model.stem is {stem}, but {type(encoder).__name__} has no single 7×7 convolution to replace; use a "
            "resnetNN or resnext encoder, or leave stem at 7x7"
        )
    first, second, out = _WIDTHS[stem]
    encoder.conv1 = nn.Sequential(
        _conv(old.in_channels, first, stride=2),
        nn.BatchNorm2d(first),
        nn.ReLU(inplace=True),
        _conv(first, second),
        nn.BatchNorm2d(second),
        nn.ReLU(inplace=True),
        _conv(second, out),
    )
    encoder.bn1 = nn.BatchNorm2d(out)
    if out != old.out_channels:
        _widen_input(next(encoder.layer1.children()), out)
        before, _, *others = encoder._out_channels
        encoder._out_channels = [before, out, *others]


def _conv(inside: int, out: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inside, out, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _widen_input(block: Any, inside: int) -> None:
    """The block takes `inside` channels; where it had no projection it has one now."""
    old = block.conv1
    block.conv1 = _conv(inside, old.out_channels, old.kernel_size[0])
    shortcut = block.downsample
    out = old.out_channels if shortcut is None else shortcut[0].out_channels
    block.downsample = nn.Sequential(_conv(inside, out, 1), nn.BatchNorm2d(out))


def set_ceil_mode(encoder: nn.Module) -> None:
    """The stem's max-pool keeps a half-filled last window, as Caffe does: even sides have one cell more.

    Raises SettingsError for an encoder without a max-pool after its stem.
    """
    pool = getattr(resnet_of(encoder), "maxpool", None)
    if not isinstance(pool, nn.MaxPool2d):
        raise SettingsError(
            f"model.ceil_mode is true, but {type(encoder).__name__} has no max-pool after its stem; leave it out"
        )
    pool.ceil_mode = True


def set_batch_norm_eps(network: nn.Module, eps: float) -> None:
    """Every batch norm of the network adds this to its variance."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
