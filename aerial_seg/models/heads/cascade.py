"""DeepLabv3's cascade: copies of the last stage, one after another."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class CascadeHead(nn.Module):
    """Further ResNet blocks after the last stage, then 1×1 to the classes.

    Source: Chen et al. 2017, Rethinking Atrous Convolution, section 3.2 and figure 3.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], inside: int, classes: int, *, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.classify = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(inside, classes, 1))

    def forward(self, features: Tensor) -> Tensor:
        """features (N,C,h,w) of block4 → logits (N,K,h',w')."""
        logits: Tensor = self.classify(self.blocks(features))
        return logits
