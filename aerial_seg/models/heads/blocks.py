"""What several heads are made of."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Pooling = Literal["average", "max"]


def conv_bn_relu(inside: int, out: int, kernel: int, rate: int = 1) -> nn.Sequential:
    """Same-size convolution without bias, batch norm, ReLU."""
    padding = kernel // 2 * rate
    return nn.Sequential(
        nn.Conv2d(inside, out, kernel, padding=padding, dilation=rate, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def separable_bn_relu(inside: int, out: int, kernel: int, rate: int = 1) -> nn.Sequential:
    """Same-size depthwise convolution, then 1×1, each without bias and with batch norm and ReLU.

    Source: Chen et al. 2018, Encoder-Decoder with Atrous Separable Convolution, section 3.1.
    """
    padding = kernel // 2 * rate
    return nn.Sequential(
        nn.Conv2d(inside, inside, kernel, padding=padding, dilation=rate, groups=inside, bias=False),
        nn.BatchNorm2d(inside),
        nn.ReLU(inplace=True),
        *conv_bn_relu(inside, out, 1),
    )


class ImagePooling(nn.Module):
    """The mean (or maximum) over the whole input, through a 1×1 convolution, spread over the map again.

    Batch norm of a single value per channel has no variance: with one image in training it uses running statistics.
    """

    def __init__(self, inside: int, out: int, *, pooling: Pooling = "average") -> None:
        super().__init__()
        self._pooling = pooling
        self.conv = nn.Conv2d(inside, out, 1, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, features: Tensor) -> Tensor:
        """features (N,C,h,w) → (N,out,h,w), constant over h and w."""
        pooled = self.conv(pool_whole(features, self._pooling))
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


def pool_whole(features: Tensor, pooling: Pooling) -> Tensor:
    """features (N,C,h,w) → (N,C,1,1)."""
    if pooling == "max":
        return features.amax(dim=(2, 3), keepdim=True)
    return features.mean(dim=(2, 3), keepdim=True)


class Decoder(nn.Module):
    """A head that reads several of the encoder's feature maps, not the last alone.

    `stride` is what its logits come at.
    """

    stride: int

    def forward(self, features: list[Tensor]) -> Tensor:
        """All feature maps of the encoder, the image first → logits (N,K,h,w) at `stride`."""
        raise NotImplementedError
