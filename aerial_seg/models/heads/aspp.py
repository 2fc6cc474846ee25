"""Atrous spatial pyramid pooling: DeepLabv2's sum and DeepLabv3's concatenation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aerial_seg.models.heads.blocks import ImagePooling, conv_bn_relu, separable_bn_relu


class ASPP(nn.Module):
    """1×1, one 3×3 per rate and the image pooling, each `channels` wide with batch norm, fused to `channels`.

    image_pooling: False leaves it out.
    They are concatenated in the order 1×1, rates, pooling; the fusing convolution is 1×1 or fuse_kernel wide.
    separable: those of the rates are depthwise, with a 1×1 behind them.
    Source: Chen et al. 2017, Rethinking Atrous Convolution, section 3.3.
    """

    def __init__(
        self,
        inside: int,
        *,
        rates: Sequence[int],
        channels: int = 256,
        fuse_kernel: int = 1,
        image_pooling: bool = True,
        separable: bool = False,
    ) -> None:
        super().__init__()
        wide = separable_bn_relu if separable else conv_bn_relu
        self.branches = nn.ModuleList(
            [
                conv_bn_relu(inside, channels, 1),
                *(wide(inside, channels, 3, rate) for rate in rates),
                *([ImagePooling(inside, channels)] if image_pooling else []),
            ]
        )
        self.project = conv_bn_relu(channels * len(self.branches), channels, fuse_kernel)

    def fused(self, features: Tensor) -> Tensor:
        """features (N,C,h,w) → (N,channels,h,w)."""
        seen: Tensor = self.project(torch.cat([branch(features) for branch in self.branches], dim=1))
        return seen


class ASPPHead(ASPP):
    """Atrous spatial pyramid pooling with image-level features, dropout, 1×1 to the classes.

    image_pooling: False leaves these features out, as the paper's table 5 does to see what they bring.
    refine: another 3×3 after the dropout, as in torchvision. drop_channels: dropout of whole channels, as in mmseg.
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
        variant: str = "default",
        image_pooling: bool = True,
    ) -> None:
        super().__init__(
            inside,
            rates=rates,
            channels=channels,
            fuse_kernel=3 if variant == "mmseg" else 1,
            image_pooling=image_pooling,
        )
        drop = nn.Dropout2d(dropout) if variant == "mmseg" else nn.Dropout(dropout)
        refined = [conv_bn_relu(channels, channels, 3)] if variant == "torchvision" else []
        self.classify = nn.Sequential(drop, *refined, nn.Conv2d(channels, classes, 1))

    def forward(self, features: Tensor) -> Tensor:
        """features (N,C,h,w) → logits (N,K,h,w)."""
        logits: Tensor = self.classify(self.fused(features))
        return logits


class ASPPSumHead(nn.Module):
    """One 3×3 convolution per rate straight to the classes, with bias and nothing after it; their logits are added.

    A single rate is DeepLab-LargeFOV. Weights begin with N(0, 0.01), biases with 0.
    Source: Chen et al. 2018, DeepLab (v2), section 3.2 and figure 7.
    """

    def __init__(self, inside: int, classes: int, *, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(inside, classes, 3, padding=rate, dilation=rate) for rate in rates
        )
        for conv in self.branches:
            assert isinstance(conv, nn.Conv2d)
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, features: Tensor) -> Tensor:
        """features (N,C,h,w) → logits (N,K,h,w)."""
        first, *others = self.branches
        logits: Tensor = first(features)
        for branch in others:
            logits = logits + branch(features)
        return logits
