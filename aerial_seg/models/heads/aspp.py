"""DeepLabv3's head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aerial_seg.models.heads.blocks import ImagePooling, conv_bn_relu


class ASPPHead(nn.Module):
    """Atrous spatial pyramid pooling with image-level features.

    1×1, one 3×3 per rate and the image pooling, each `channels` wide with batch norm; concatenated in the order
    1×1, rates, pooling; 1×1 to `channels`; dropout; with `refine` another 3×3 as in torchvision; 1×1 to the classes.

    Source: Chen et al. 2017, Rethinking Atrous Convolution, section 3.3. `rates` are those at this output stride
    (6, 12, 18 at stride 16, doubled at 8).
    """

    def __init__(
        self,
        inside: int,
        classes: int,
        *,
        rates: Sequence[int],
        channels: int = 256,
        dropout: float = 0.1,
        refine: bool = False,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv_bn_relu(inside, channels, 1),
                *(conv_bn_relu(inside, channels, 3, rate) for rate in rates),
                ImagePooling(inside, channels),
            ]
        )
        self.project = conv_bn_relu(channels * len(self.branches), channels, 1)
        refined = [conv_bn_relu(channels, channels, 3)] if refine else []
        self.classify = nn.Sequential(nn.Dropout(dropout), *refined, nn.Conv2d(channels, classes, 1))

    def forward(self, features: Tensor) -> Tensor:
        """features (N,C,h,w) → logits (N,K,h,w)."""
        seen = torch.cat([branch(features) for branch in self.branches], dim=1)
        logits: Tensor = self.classify(self.project(seen))
        return logits
