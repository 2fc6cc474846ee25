"""A raster at half its size: which pixels become one, and what of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aerial_seg.legend import IGNORE
from aerial_seg.numba_kernels import Bytes, Ints, inner, kernel

_NODATA = np.uint8(IGNORE)


@dataclass(frozen=True, slots=True)
class Halving:
    """Which pixels of one axis become one: pixel i stands for `low[i]` to `high[i]`, one or two of them.

    Of an odd length the middle pixel stays alone, so that the smaller axis spans exactly the same ground.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]

    @classmethod
    def of(cls, length: int) -> Halving:
        """The axis of half the length, rounded up."""
        half = -(-length // 2)
        borders = (2 * np.arange(half + 1, dtype=np.int64) * length + half) // (2 * half)
        return cls(borders[:-1], borders[1:] - 1)

    def __len__(self) -> int:
        return len(self.low)

    def span(self, part: range) -> range:
        """The pixels that a part of the smaller axis stands for."""
        return range(int(self.low[part.start]), int(self.high[part.stop - 1]) + 1)

    def reached(self, part: range) -> range:
        """The pixels of the smaller axis that stand for any of these."""
        first = int(np.searchsorted(self.high, part.start))
        return range(first, int(np.searchsorted(self.low, part.stop)))

    def within(self, part: range) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """low and high of a part of the smaller axis, counted from the first pixel that it stands for."""
        start, here = self.low[part.start], slice(part.start, part.stop)
        return self.low[here] - start, self.high[here] - start


def halve(values: Bytes, rows: Halving, cols: Halving, *, classes: bool) -> Bytes:
    """values (h, w, bands), 255 = nodata → (len(rows), len(cols), bands).

    classes: the most frequent of the four pixels, of equals the first; else the mean of those that are measured,
    halves rounded up. 255 only where all four are 255.
    """
    return halve_part(values, rows.within(range(len(rows))), cols.within(range(len(cols))), classes=classes)


def halve_part(
    values: Bytes,
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
    cols: tuple[NDArray[np.int64], NDArray[np.int64]],
    *,
    classes: bool,
) -> Bytes:
    """As `halve`; rows, cols: low and high, counted within the values."""
    made = np.empty((len(rows[0]), len(cols[0]), values.shape[2]), np.uint8)
    reduce = _most_frequent_of_all if classes else _means_of_all
    reduce(values, *rows, *cols, made)
    return made


@inner
def _most_frequent(a: np.uint8, b: np.uint8, c: np.uint8, d: np.uint8) -> np.uint8:
    """Of four classes the one that is there most often, of equals the first; 255 only where all are 255."""
    first = a if a != _NODATA else (b if b != _NODATA else (c if c != _NODATA else d))
    of_c = c if (c == d) & (c != _NODATA) else first
    of_b = b if ((b == c) | (b == d)) & (b != _NODATA) else of_c
    return a if ((a == b) | (a == c) | (a == d)) & (a != _NODATA) else of_b


@inner
def _mean(a: np.uint8, b: np.uint8, c: np.uint8, d: np.uint8) -> np.uint8:
    """The mean, halves rounded up, of those of four that are not 255; 255 only where all are 255."""
    count = (
        np.uint16(a != _NODATA) + np.uint16(b != _NODATA) + np.uint16(c != _NODATA) + np.uint16(d != _NODATA)
    )
    total = _measured(a) + _measured(b) + _measured(c) + _measured(d)
    # Divided by a number that is known the compiler needs no division.
    of_three = (2 * total + 3) // 6
    of_two = (total + 1) // 2
    of_four = (total + 2) // 4
    mean = of_four if count == 4 else (of_three if count == 3 else (of_two if count == 2 else total))
    return np.uint8(mean) if count else _NODATA


@inner
def _measured(value: np.uint8) -> np.uint32:
    return np.uint32(value) if value != _NODATA else np.uint32(0)


@inner
def _gather(line: Bytes, low: Ints, high: Ints, ahead: Bytes, behind: Bytes) -> None:
    """ahead, behind (m · bands): of a line (w · bands) the pixels at low and at high."""
    bands = len(ahead) // len(low)
    if bands > 1:
        for j in range(len(low)):
            for band in range(bands):
                ahead[j * bands + band] = line[low[j] * bands + band]
                behind[j * bands + band] = line[high[j] * bands + band]
        return
    for j in range(len(low)):
        ahead[j] = line[low[j]]
        behind[j] = line[high[j]]


@kernel
def _most_frequent_of_all(
    values: Bytes, top: Ints, bottom: Ints, left: Ints, right: Ints, made: Bytes
) -> None:
    """made (n, m, bands) from values (h, w, bands)."""
    a, b, c, d = np.empty((4, made.shape[1] * made.shape[2]), np.uint8)
    for i in range(made.shape[0]):
        _gather(values[top[i]].reshape(-1), left, right, a, b)
        _gather(values[bottom[i]].reshape(-1), left, right, c, d)
        row = made[i].reshape(-1)
        for k in range(len(a)):
            row[k] = _most_frequent(a[k], b[k], c[k], d[k])


@kernel
def _means_of_all(values: Bytes, top: Ints, bottom: Ints, left: Ints, right: Ints, made: Bytes) -> None:
    """made (n, m, bands) from values (h, w, bands)."""
    a, b, c, d = np.empty((4, made.shape[1] * made.shape[2]), np.uint8)
    for i in range(made.shape[0]):
        _gather(values[top[i]].reshape(-1), left, right, a, b)
        _gather(values[bottom[i]].reshape(-1), left, right, c, d)
        row = made[i].reshape(-1)
        for k in range(len(a)):
            row[k] = _mean(a[k], b[k], c[k], d[k])
