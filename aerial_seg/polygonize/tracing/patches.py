"""What is known of the patches of a chunk besides their outlines."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Bytes, Ints, kernel
from aerial_seg.polygonize.batch import Codes
from aerial_seg.polygonize.tracing.arcs import Int32

Bools = NDArray[np.bool_]


class Measured(NamedTuple):
    """Code, pixels, and the sum and minimum of the stored confidence of each patch; the latter empty without any.

    values (n,) int64, n_px (n,) int64, conf_sum (n,) int64, conf_min (n,) uint8.
    """

    values: Ints
    n_px: Ints
    conf_sum: Ints
    conf_min: Bytes


def measure_patches(frame: Codes, labels: Int32, count: int, levels: Bytes | None) -> Measured:
    """The patches of a framed chunk (h+1, W+2); the row above, which was measured before, does not count.

    labels: numbers 0 … count−1. levels (h, W) uint8: stored confidence.
    """
    values = np.empty(count, np.int64)
    n_px = np.zeros(count, np.int64)
    with_levels = levels is not None
    conf_sum = np.zeros(count if with_levels else 0, np.int64)
    conf_min = np.full(count if with_levels else 0, 255, np.uint8)
    _count_pixels(frame, labels, values, n_px)
    if levels is not None:
        _sum_levels(labels, levels, conf_sum, conf_min)
    return Measured(values, n_px, conf_sum, conf_min)


@kernel
def _count_pixels(frame: Codes, labels: Int32, values: Ints, n_px: Ints) -> None:
    for y in range(frame.shape[0]):
        start = 0
        for x in range(1, frame.shape[1] + 1):
            if x == frame.shape[1] or labels[y, x] != labels[y, start]:
                values[labels[y, start]] = frame[y, start]
                if y > 0:
                    n_px[labels[y, start]] += x - start
                start = x


@kernel
def _sum_levels(labels: Int32, levels: Bytes, conf_sum: Ints, conf_min: Bytes) -> None:
    for y in range(levels.shape[0]):
        for x in range(levels.shape[1]):
            label = labels[y + 1, x + 1]
            conf_sum[label] += levels[y, x]
            conf_min[label] = min(conf_min[label], levels[y, x])


def touching_corners(frame: Codes, labels: Int32, wanted: Bools) -> Ints:
    """Pairs (n,2) of wanted patches of one code that touch at a pixel's corner only, each pair once.

    wanted (labels,) bool.
    """
    pairs = []
    for shift in (slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1)):
        above, below = (slice(None, -1), shift[0]), (slice(1, None), shift[1])
        touch = (frame[above] == frame[below]) & (labels[above] != labels[below]) & wanted[labels[above]]
        pairs.append(np.stack([labels[above][touch], labels[below][touch]], axis=1))
    return np.unique(np.sort(np.concatenate(pairs).astype(np.int64), axis=1), axis=0)
