"""Fully convolutional heads, and the auxiliary one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aerial_seg.models.heads.blocks import conv_bn_relu


class FCNHead(nn.Module):
    """Two 3×3 convolutions, their result beside the input through a third, then 1×1 to the classes.

    concat False: without the third convolution and the input beside the result. rate: of the first two.
    Source: Long et al. 2015 on dilated features, in the two-convolution forms that the common reference results use.
    """

    def __init__(
        self,
        inside: int,
        classes: int,
        *,
        channels: int = 512,
        dropout: float = 0.1,
        concat: bool = True,
        rate: int = 1,
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            conv_bn_relu(inside, channels, 3, rate), conv_bn_relu(channels, channels, 3, rate)
        )
        self.fuse = conv_bn_relu(inside + channels, channels, 3) if concat else None
        self.classify = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, classes, 1))

    def forward(self, features: Tensor) -> Tensor:
        """features (N,C,h,w) → logits (N,K,h,w)."""
        seen = self.convs(features)
        if self.fuse is not None:
            seen = self.fuse(torch.cat([features, seen], dim=1))
        logits: Tensor = self.classify(seen)
        return logits


class PlainHead(nn.Sequential):
    """One 3×3 convolution to `channels` (by default a quarter of the features'), then 1×1 to the classes.

    Dropout is of single values, not of channels. Source: torchvision's FCNHead, which is also its auxiliary head.
    """

    def __init__(
        self, inside: int, classes: int, *, channels: int | None = None, dropout: float = 0.1
    ) -> None:
        width = channels or inside // 4
        super().__init__(conv_bn_relu(inside, width, 3), nn.Dropout(dropout), nn.Conv2d(width, classes, 1))


class AuxiliaryHead(nn.Sequential):
    """One 3×3 convolution, then 1×1 to the classes: the side loss of PSPNet on the last stage but one.

    channels: its width; None: a quarter of the features', at least 64. rate: of the 3×3.
    """

    def __init__(
        self,
        inside: int,
        classes: int,
        *,
        channels: int | None = None,
        dropout: float = 0.1,
        rate: int = 1,
    ) -> None:
        width = channels or max(64, inside // 4)
        super().__init__(
            conv_bn_relu(inside, width, 3, rate), nn.Dropout2d(dropout), nn.Conv2d(width, classes, 1)
        )
