"""PSPNet's head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from aerial_seg.models.heads.blocks import ImagePooling, conv_bn_relu


class PSPHead(nn.Module):
    """Pyramid pooling: averages over 1², 2², 3² and 6² parts of the map, beside the features themselves.

    Each part: 1×1 to a quarter of the features' channels, batch norm, upsampled (align_corners=False); concatenated
    after the features in the order of `bins`; 3×3 to `channels`; 1×1 to the classes.

    Source: Zhao et al. 2017, Pyramid Scene Parsing Network, section 3.2.
    """

    def __init__(
        self,
        inside: int,
        classes: int,
        *,
        bins: Sequence[int] = (1, 2, 3, 6),
        channels: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        part = inside // len(bins)
        self.bins = tuple(bins)
        self.whole = ImagePooling(inside, part)
        self.parts = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bin_), conv_bn_relu(inside, part, 1))
            for bin_ in bins
            if bin_ != 1
        )
        self.fuse = conv_bn_relu(inside + part * len(bins), channels, 3)
        self.classify = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, classes, 1))

    def forward(self, features: Tensor) -> Tensor:
        """features (N,C,h,w) → logits (N,K,h,w)."""
        size = features.shape[2:]
        pyramid = [self.whole(features)] if 1 in self.bins else []
        pyramid += [interpolate(part(features), size=size, mode="bilinear") for part in self.parts]
        logits: Tensor = self.classify(self.fuse(torch.cat([features, *pyramid], dim=1)))
        return logits
