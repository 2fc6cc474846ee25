"""From lattice cells to pixels: bilinear interpolation whose phases are exact integers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aerial_seg.tiling.geometry import ModelGeometry

_LOGITS_AT_ONCE = 4_000_000
"""Interpolated logits held at a time, so that memory depends on neither the width nor the classes."""


@dataclass(frozen=True, slots=True)
class PixelAxis:
    """For each output pixel of one axis: the two cells it lies between and its share of the second.

    The output may have another pixel size than the run: `pixels` output pixels span `run` pixels of the network's
    grid. Pixel p is centred at run coordinate x = (2p + 1)·run / (2·pixels) − 1/2 and at cell (x − (s − 1)/2)/s,
    or x/s with align_corners; outside the outermost cells' centres it takes their value.
    """

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    share: NDArray[np.float32]

    @classmethod
    def of(cls, geometry: ModelGeometry, *, run: int, pixels: int) -> PixelAxis:
        """The axis of `pixels` output pixels over a run of `run` pixels."""
        stride = geometry.logit_stride
        shift = 1 if geometry.align_corners else stride
        bottom = 2 * pixels * stride
        top = (2 * np.arange(pixels, dtype=np.int64) + 1) * run - pixels * shift
        low, rest = np.divmod(top, bottom)
        last = geometry.cells(run) - 1
        share = (rest / bottom).astype(np.float32)
        share[low < 0] = 0
        low = np.clip(low, 0, last)
        return cls(low=low, high=np.minimum(low + 1, last), share=share)

    def __len__(self) -> int:
        return len(self.low)

    def is_identity(self) -> bool:
        """True when every pixel is exactly one cell, in order (logit stride 1 at the run's own pixel size)."""
        return not self.share.any() and np.array_equal(self.low, np.arange(len(self)))


def interpolate(cells: NDArray[np.float32], rows: PixelAxis, cols: PixelAxis) -> NDArray[np.float32]:
    """Logits at the pixels of two axes: cells (K, h, w) → (K, len(rows), len(cols)), float32."""
    down = _between(cells, rows, axis=1)
    return _between(down, cols, axis=2)


def _between(values: NDArray[np.float32], axis_map: PixelAxis, *, axis: int) -> NDArray[np.float32]:
    low = np.take(values, axis_map.low, axis=axis)
    if not axis_map.share.any():
        return low
    shape = [1, 1, 1]
    shape[axis] = -1
    high = np.take(values, axis_map.high, axis=axis)
    # low + (high − low)·share keeps constants exact, as the laws ask.
    high -= low
    high *= axis_map.share.reshape(shape)
    high += low
    return high


def argmax(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The channel with the largest logit, the first one in a tie: (K, h, w) → (h, w) uint8."""
    # A running maximum reads each plane once; np.argmax over the first axis is several times slower.
    best = logits[0].copy()
    channel = np.zeros(best.shape, np.uint8)
    for k in range(1, len(logits)):
        better = logits[k] > best
        np.copyto(best, logits[k], where=better)
        channel[better] = k
    return channel


class RowUpsampler:
    """Turns finished lattice rows, pushed in order, into finished pixel rows of the mask."""

    def __init__(self, rows: PixelAxis, cols: PixelAxis) -> None:
        self._rows = rows
        self._cols = cols
        self._next = 0
        self._first_cell = 0
        self._held: NDArray[np.float32] | None = None

    def push(self, cells: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (first pixel row, channels (n, W) uint8) for every pixel row that the cells so far decide."""
        held = cells if self._held is None else np.concatenate([self._held, cells], axis=1)
        known = self._first_cell + held.shape[1]
        end = int(np.searchsorted(self._rows.high, known, side="left"))
        at_once = max(1, _LOGITS_AT_ONCE // (len(cells) * len(self._cols)))
        for start in range(self._next, end, at_once):
            stop = min(start + at_once, end)
            yield start, argmax(self._logits(held, start, stop))
        self._next = end
        keep = min(known, int(self._rows.low[end])) if end < len(self._rows) else known
        self._held = held[:, max(0, keep - self._first_cell) :].copy()
        self._first_cell = max(keep, self._first_cell)

    def _logits(self, held: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
        low, high = self._rows.low[start:stop], self._rows.high[start:stop]
        first, last = int(low[0]), int(high[-1])
        local = PixelAxis(low=low - first, high=high - first, share=self._rows.share[start:stop])
        cells = held[:, first - self._first_cell : last + 1 - self._first_cell]
        return interpolate(cells, local, self._cols)
