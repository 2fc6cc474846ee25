"""Loops over finished rows of classes: channels become pixel values, and pixel values are counted."""

from __future__ import annotations

import numpy as np

from aerial_seg.numba_kernels import Bytes, Ints, kernel


@kernel
def put_values(channels: Bytes, table: Bytes) -> None:
    """channels (n, w) hold table[channel] now; table (256,)."""
    for i in range(channels.shape[0]):
        for j in range(channels.shape[1]):
            channels[i, j] = table[channels[i, j]]


@kernel
def count_values(values: Bytes) -> Ints:
    """How many of values (n, w) are 0, 1, … 255: (256,) int64. Fast where neighbours are mostly equal."""
    counts = np.zeros(256, np.int64)
    for i in range(values.shape[0]):
        last, since = values[i, 0], 0
        for j in range(1, values.shape[1]):
            if values[i, j] != last:
                counts[last] += j - since
                last, since = values[i, j], j
        counts[last] += values.shape[1] - since
    return counts
