"""Heads that bring the last features back to an earlier, finer stage: DeepLabv3+ and GCN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from aerial_seg.models.heads.aspp import ASPP
from aerial_seg.models.heads.blocks import Decoder, conv_bn_relu, separable_bn_relu

_FINEST = 2
"""Index of the encoder's feature map at stride 4, after the image and the stem's."""

LOW_LEVEL = 48
"""Channels of the low-level features. Source: Chen et al. 2018, table 1."""


@dataclass(frozen=True, slots=True)
class Refining:
    """How DeepLabv3+ refines: channels of the low-level features, number of 3×3 convolutions, their kind.

    separable: depthwise with a 1×1 behind them, those of the pyramid's rates too, which then fuses by a plain 3×3; and
    dropout is of whole channels (mmseg).
    """

    low_level: int = LOW_LEVEL
    count: int = 2
    separable: bool = False


class DeepLabV3PlusHead(Decoder):
    """Atrous spatial pyramid pooling, brought to stride 4 beside the first stage's features, refined by 3×3.

    The low-level features go through a 1×1 to few channels first.
    Source: Chen et al. 2018, Encoder-Decoder with Atrous Separable Convolution, section 3.1 and 4.1.
    """

    stride = 4

    def __init__(
        self,
        inside: Sequence[int],
        classes: int,
        *,
        rates: Sequence[int],
        channels: int = 256,
        dropout: float = 0.1,
        align_corners: bool = False,
        refining: Refining = Refining(),
    ) -> None:
        """inside: channels of the encoder's feature maps."""
        super().__init__()
        self._align_corners = align_corners
        separable, low_level = refining.separable, refining.low_level
        self.aspp = ASPP(
            inside[-1],
            rates=rates,
            channels=channels,
            fuse_kernel=3 if separable else 1,
            separable=separable,
        )
        self.low_level = conv_bn_relu(inside[_FINEST], low_level, 1)
        wide = separable_bn_relu if separable else conv_bn_relu
        self.refine = nn.Sequential(
            *(wide(channels + (0 if k else low_level), channels, 3) for k in range(refining.count))
        )
        drop = nn.Dropout2d(dropout) if separable else nn.Dropout(dropout)
        self.classify = nn.Sequential(drop, nn.Conv2d(channels, classes, 1))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Feature maps of the encoder → logits (N,K,H/4,W/4)."""
        fine = self.low_level(features[_FINEST])
        coarse = enlarge(self.aspp.fused(features[-1]), fine, align_corners=self._align_corners)
        logits: Tensor = self.classify(self.refine(torch.cat([coarse, fine], dim=1)))
        return logits


class LargeKernel(nn.Module):
    """A k×k neighbourhood through two pairs of one-dimensional convolutions, added: k×1 then 1×k, and the reverse.

    Source: Peng et al. 2017, Large Kernel Matters, section 3.1 and figure 2 B.
    """

    def __init__(self, inside: int, out: int, kernel: int) -> None:
        super().__init__()
        tall, wide = (kernel, 1), (1, kernel)
        self.tall_first = nn.Sequential(
            nn.Conv2d(inside, out, tall, padding="same"), nn.Conv2d(out, out, wide, padding="same")
        )
        self.wide_first = nn.Sequential(
            nn.Conv2d(inside, out, wide, padding="same"), nn.Conv2d(out, out, tall, padding="same")
        )

    def forward(self, features: Tensor) -> Tensor:
        """features (N,C,h,w) → (N,out,h,w)."""
        seen: Tensor = self.tall_first(features) + self.wide_first(features)
        return seen


class BoundaryRefinement(nn.Module):
    """Scores and a residual of two 3×3 convolutions of them. Source: Peng et al. 2017, section 3.2 and figure 2 C."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(classes, classes, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(classes, classes, 3, padding=1),
        )

    def forward(self, scores: Tensor) -> Tensor:
        """scores (N,K,h,w) → (N,K,h,w)."""
        refined: Tensor = scores + self.residual(scores)
        return refined


class GCNHead(Decoder):
    """A large kernel and a boundary refinement on every stage, added from the coarsest to the one at stride 4.

    Stages of the same stride, as dilation makes them, are added as they are; others are enlarged bilinearly where the
    paper has learnt deconvolutions. Its two refinements at strides 2 and 1 are left out: logits come at stride 4.
    Source: Peng et al. 2017, Large Kernel Matters: Improve Semantic Segmentation by Global Convolutional Network.
    """

    stride = 4

    def __init__(
        self, inside: Sequence[int], classes: int, *, kernel: int = 15, align_corners: bool = False
    ) -> None:
        """inside: channels of the encoder's feature maps."""
        super().__init__()
        self._align_corners = align_corners
        stages = inside[_FINEST:]
        self.kernels = nn.ModuleList(LargeKernel(channels, classes, kernel) for channels in stages)
        self.refine_stage = nn.ModuleList(BoundaryRefinement(classes) for _ in stages)
        self.refine_sum = nn.ModuleList(BoundaryRefinement(classes) for _ in stages[:-1])

    def forward(self, features: list[Tensor]) -> Tensor:
        """Feature maps of the encoder → logits (N,K,H/4,W/4)."""
        stages = zip(features[_FINEST:], self.kernels, self.refine_stage, strict=True)
        *finer, logits = [refine(kernel(seen)) for seen, kernel, refine in stages]
        for scores, refine in zip(reversed(finer), reversed(self.refine_sum), strict=True):
            logits = refine(scores + enlarge(logits, scores, align_corners=self._align_corners))
        finest: Tensor = logits
        return finest


def enlarge(coarse: Tensor, fine: Tensor, *, align_corners: bool) -> Tensor:
    """coarse on the lattice of `fine`, which covers the same ground at the same or a smaller stride."""
    if coarse.shape[2:] == fine.shape[2:]:
        return coarse
    return interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=align_corners)
