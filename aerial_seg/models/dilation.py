"""Dilated ResNets: trade the stride of the last stages for dilation, so that logits stay dense."""

from __future__ import annotations

from torch import nn

from aerial_seg.errors import SettingsError

_STAGES = ("layer2", "layer3", "layer4")
"""The stages with a stride of 2, after the stem's 4."""


def dilate(encoder: nn.Module, output_stride: int) -> None:
    """The encoder's last features now have this output stride (4, 8, 16 or 32).

    Every convolution of a stage whose stride is taken away gets the stage's full rate, the first block included:
    rates of layer2..4 are (1,1,2) at 16, (1,2,4) at 8, (2,4,8) at 4. That is the placement of the PSPNet author's
    code. Kernels keep their weights and their padding stays "same".

    Raises SettingsError for an encoder without ResNet stages.
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
        rate *= 2
        for module in getattr(encoder, name).modules():
            if isinstance(module, nn.Conv2d):
                _set_rate(module, rate)
            elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
                raise SettingsError(f"{name} of {type(encoder).__name__} pools inside; use another encoder")


def _set_rate(conv: nn.Conv2d, rate: int) -> None:
    kernel = conv.kernel_size[0]
    conv.stride = (1, 1)
    conv.dilation = (rate, rate)
    conv.padding = (kernel // 2 * rate, kernel // 2 * rate)
