"""Protocols, a network that knows single pixels, and resizing written out in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from aerial_seg.benchmarks.protocol import (
    ResolvedProtocol,
    SlideWindow,
)
from aerial_seg.benchmarks.resize import ResizeRule
from aerial_seg.inference.padded_forward import PaddedForward
from aerial_seg.tiling.geometry import ModelGeometry

WHOLE = ResolvedProtocol(None, ResizeRule("none"), (1.0,), None, "none", "logits")
POINTWISE = ModelGeometry(output_stride=1, logit_stride=1, origin_step=1)
WEIGHTS = torch.tensor([[1.5, -0.5, 0.25], [-1.0, 2.0, 0.5], [0.5, 0.5, -2.0], [0.1, -1.5, 1.0]])

SIDE = st.integers(1, 40)

AVERAGES = st.sampled_from(["logits", "probabilities"])


def image_of(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))


def pointwise(images: Tensor) -> Tensor:
    return torch.einsum("kc,nchw->nkhw", WEIGHTS.to(images), images).tanh() * 3


def sampler(stride: int, *, align_corners: bool = False, any_side: bool = True) -> PaddedForward:
    """Looks at the first pixel of each cell only, so that it is neither symmetric nor indifferent to padding."""
    geometry = ModelGeometry(stride, stride, 2 * stride, align_corners=align_corners)
    return PaddedForward(
        lambda images: pointwise(images[:, :, ::stride, ::stride]), geometry, any_side=any_side
    )


def slide(crop: int, step: int, average: str = "logits", padding: str = "end") -> SlideWindow:
    return SlideWindow(crop=crop, step=step, average=average, padding=padding)


Array = NDArray[np.float64]


def interpolation(run: int, pixels: int, stride: int = 1) -> Array:
    """(pixels, cells of run): weights of bilinear interpolation from cells `stride` wide to `pixels` over `run`."""
    cells = -(-run // stride)
    matrix = np.zeros((pixels, cells))
    for pixel in range(pixels):
        at = ((pixel + 0.5) * run / pixels - 0.5 - (stride - 1) / 2) / stride
        at = min(max(at, 0), cells - 1)
        low = min(int(at), cells - 1)
        high = min(low + 1, cells - 1)
        matrix[pixel, low] += 1 - (at - low)
        matrix[pixel, high] += at - low
    return matrix


def resized(
    planes: Array, height: int, width: int, stride: int = 1, run: tuple[int, int] | None = None
) -> Array:
    run = run or (planes.shape[1] * stride, planes.shape[2] * stride)
    rows, cols = interpolation(run[0], height, stride), interpolation(run[1], width, stride)
    return np.einsum("yi,kij,xj->kyx", rows, planes, cols)


MULTI = replace(WHOLE, scales=(0.5, 1.0, 1.5), flip="image")
