"""PSPNet's head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from aerial_seg.models.heads.blocks import ImagePooling, Pooling, conv_bn_relu, pool_whole


@dataclass(frozen=True, slots=True)
class Pyramid:
    """How the map is pooled: parts per side, what of each part, whether a 1×1 convolution then narrows it."""

    bins: tuple[int, ...] = (1, 2, 3, 6)
    pooling: Pooling = "average"
    reduce: bool = True


class PSPHead(nn.Module):
    """Pyramid pooling: averages over 1², 2², 3² and 6² parts of the map, beside the features themselves.

    Each part: 1×1 to the features' channels over the number of bins, batch norm, ReLU, upsampled; concatenated after
    the features in the order of the bins; 3×3 to `channels`; 1×1 to the classes. Part i of n over a side of length l
    reaches from ⌊i·l/n⌋ to ⌈(i+1)·l/n⌉: every cell is in one, whatever the side.

    Maximum pooling and parts that keep all channels are the paper's ablations. align_corners: of the parts' upsampling.
    Source: Zhao et al. 2017, Pyramid Scene Parsing Network, section 3.2 and table 1.
    """

    def __init__(
        self,
        inside: int,
        classes: int,
        *,
        pyramid: Pyramid = Pyramid(),
        channels: int = 512,
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self._pyramid, self._align_corners = pyramid, align_corners
        part = inside // len(pyramid.bins) if pyramid.reduce else inside
        if 1 in pyramid.bins and pyramid.reduce:
            self.whole = ImagePooling(inside, part, pooling=pyramid.pooling)
        adaptive = nn.AdaptiveMaxPool2d if pyramid.pooling == "max" else nn.AdaptiveAvgPool2d
        self.parts = nn.ModuleList(
            nn.Sequential(adaptive(count), *([conv_bn_relu(inside, part, 1)] if pyramid.reduce else []))
            for count in pyramid.bins
            if count != 1
        )
        self.fuse = conv_bn_relu(inside + part * len(pyramid.bins), channels, 3)
        self.classify = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, classes, 1))

    def forward(self, features: Tensor) -> Tensor:
        """features (N,C,h,w) → logits (N,K,h,w)."""
        seen = [features]
        parts = iter(self.parts)
        seen += [
            self._whole(features) if count == 1 else self._spread(next(parts)(features), features)
            for count in self._pyramid.bins
        ]
        logits: Tensor = self.classify(self.fuse(torch.cat(seen, dim=1)))
        return logits

    def _whole(self, features: Tensor) -> Tensor:
        if self._pyramid.reduce:
            constant: Tensor = self.whole(features)
            return constant
        return pool_whole(features, self._pyramid.pooling).expand_as(features)

    def _spread(self, part: Tensor, features: Tensor) -> Tensor:
        return interpolate(part, size=features.shape[2:], mode="bilinear", align_corners=self._align_corners)
