"""Deformable convolution: the taps of a kernel move by offsets that another convolution reads from the image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from aerial_seg.errors import SettingsError


class DeformableConv(nn.Conv2d):
    """A convolution whose taps lie at fractional places; until its offsets learn anything it is the plain one.

    offset: the convolution that says, per place and tap, by how many cells it moves down and right; it begins with 0.
    reach: factor of the offsets, so that they stay as long in pixels when the lattice becomes denser.
    Source: Dai et al. 2017, Deformable Convolutional Networks, section 2.1.
    """

    def __init__(self, plain: nn.Conv2d) -> None:
        """Takes over the plain convolution's weights, stride, padding and rate."""
        kernel: Any = plain.kernel_size
        where: dict[str, Any] = {
            "stride": plain.stride, "padding": plain.padding, "dilation": plain.dilation
        }  # fmt: skip
        super().__init__(
            plain.in_channels,
            plain.out_channels,
            kernel,
            groups=plain.groups,
            bias=plain.bias is not None,
            **where,
        )
        self.weight, self.bias = plain.weight, plain.bias
        self.offset = nn.Conv2d(plain.in_channels, 2 * kernel[0] * kernel[1], kernel, **where)
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)
        self.reach = 1.0

    def forward(self, features: Tensor) -> Tensor:
        """features (N,C,h,w) → (N,out,h',w')."""
        assert not isinstance(self.padding, str)
        # The operator has no half precision on CPUs and takes all its inputs in one.
        exact = torch.promote_types(self.weight.dtype, torch.float32)
        moved: Tensor = deform_conv2d(
            features.to(exact),
            self.offset(features).to(exact) * self.reach,
            self.weight.to(exact),
            None if self.bias is None else self.bias.to(exact),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )
        return moved.to(features.dtype)


def deform_stage(stage: nn.Module) -> None:
    """Every 3×3 convolution of the stage is deformable. Raises SettingsError where there is none."""
    found: list[tuple[Any, str, nn.Conv2d]] = [
        (parent, name, child)
        for parent in list(stage.modules())
        for name, child in parent.named_children()
        if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3)
    ]
    if not found:
        raise SettingsError(
            f"model.deformable is true, but {type(stage).__name__} has no 3×3 convolutions; use a ResNet encoder"
        )
    for parent, name, child in found:
        setattr(parent, name, DeformableConv(child))
