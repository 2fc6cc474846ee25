"""Heads that turn encoder features into logits at the features' own stride; nothing here upsamples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


def conv_bn_relu(inside: int, out: int, kernel: int, rate: int = 1) -> nn.Sequential:
    """Same-size convolution without bias, batch norm, ReLU."""
    padding = kernel // 2 * rate
    return nn.Sequential(
        nn.Conv2d(inside, out, kernel, padding=padding, dilation=rate, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


class FCNHead(nn.Module):
    """Two 3×3 convolutions, their result beside the input through a third, then 1×1 to the classes.

    Source: Long et al. 2015 on dilated features, in the two-convolution form with concatenation that the common
    reference results use.
    """

    def __init__(self, inside: int, classes: int, *, channels: int = 512, dropout: float = 0.1) -> None:
        super().__init__()
        self.convs = nn.Sequential(conv_bn_relu(inside, channels, 3), conv_bn_relu(channels, channels, 3))
        self.fuse = conv_bn_relu(inside + channels, channels, 3)
        self.classify = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, classes, 1))

    def forward(self, features: Tensor) -> Tensor:
        """features (N,C,h,w) → logits (N,K,h,w)."""
        joined = torch.cat([features, self.convs(features)], dim=1)
        logits: Tensor = self.classify(self.fuse(joined))
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
    """One 3×3 convolution, then 1×1 to the classes: the side loss of PSPNet on the last stage but one."""

    def __init__(self, inside: int, classes: int, *, dropout: float = 0.1) -> None:
        channels = max(64, inside // 4)
        super().__init__(
            conv_bn_relu(inside, channels, 3), nn.Dropout2d(dropout), nn.Conv2d(channels, classes, 1)
        )


class ImagePooling(nn.Module):
    """The mean over the whole input, through a 1×1 convolution, spread over the map again.

    Batch norm of a single value per channel has no variance: with one image in training it uses running statistics.
    """

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, out, 1, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, features: Tensor) -> Tensor:
        """features (N,C,h,w) → (N,out,h,w), constant over h and w."""
        pooled = self.conv(features.mean(dim=(2, 3), keepdim=True))
        if self.training and len(pooled) == 1:
            norm = self.norm
            assert norm.running_mean is not None
            assert norm.running_var is not None
            pooled = nn.functional.batch_norm(
                pooled,
                norm.running_mean,
                norm.running_var,
                norm.weight,
                norm.bias,
                training=False,
                eps=norm.eps,
            )
        else:
            pooled = self.norm(pooled)
        return torch.relu(pooled).expand(-1, -1, *features.shape[2:])


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
