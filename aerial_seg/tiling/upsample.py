"""From lattice cells to pixels: bilinear interpolation whose phases are exact integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from aerial_seg.numba_kernels import Bytes, Floats, Ints
from aerial_seg.tiling.channels import channels_between
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.kernels import largest_channels, survey
from aerial_seg.tiling.layers import Layers, doubts, fill_layers, fill_layers_of_cells
from aerial_seg.tiling.squares import MAX_RUN, Pixels

_PIXELS_AT_ONCE = 4_000_000
"""Pixels made at a time, so that memory beyond the cells depends on neither the width nor the classes."""
MOST_CLASSES = 255


@dataclass(frozen=True, slots=True)
class PixelAxis:
    """For each output pixel of one axis: the two cells it lies between and its share of the second.

    The output may have another pixel size than the run: `pixels` output pixels span `run` pixels of the network's
    grid. Pixel p is centred at run coordinate x = (2p + 1)·run / (2·pixels) − 1/2 and at cell (x − (t − 1)/2)/s,
    t the cell's span (s as a rule), or x/s with align_corners; outside the outermost cells' centres it takes their
    value.

    low, high: global cell numbers, equal where the share is 0. first: the global number of the first pixel.
    """

    low: Ints
    high: Ints
    share: Floats
    first: int = 0

    @classmethod
    @lru_cache(maxsize=2)
    def of(cls, geometry: ModelGeometry, *, run: int, pixels: int) -> PixelAxis:
        """The axis of `pixels` output pixels over a run of `run` pixels; the last ones asked for are kept."""
        stride = geometry.logit_stride
        shift = 1 if geometry.align_corners else geometry.cell_span or stride
        bottom = 2 * pixels * stride
        top = (2 * np.arange(pixels, dtype=np.int64) + 1) * run - pixels * shift
        low, rest = np.divmod(top, bottom)
        last = geometry.cells(run) - 1
        share = (rest / bottom).astype(np.float32)
        share[(low < 0) | (low >= last)] = 0
        low = np.clip(low, 0, last)
        return cls(low=low, high=low + (share > 0), share=share)

    @classmethod
    def stretched(cls, cells: int, pixels: int) -> PixelAxis:
        """The axis of `pixels` pixels over which that many cells are stretched, each equally wide."""
        return cls.of(ModelGeometry(1, 1, 1), run=cells, pixels=pixels)

    def __len__(self) -> int:
        return len(self.low)

    def part(self, first: int, stop: int) -> PixelAxis:
        """The pixels first..stop of the whole output (exclusive); cells keep their global numbers."""
        if not self.first <= first < stop <= self.first + len(self):
            raise ValueError(
                f"pixels {first}..{stop} are not among {self.first}..{self.first + len(self)} of the axis"
            )
        inside = slice(first - self.first, stop - self.first)
        return PixelAxis(low=self.low[inside], high=self.high[inside], share=self.share[inside], first=first)

    @property
    def cells(self) -> range:
        """The lattice cells that these pixels need."""
        return range(int(self.low[0]), int(self.high[-1]) + 1)

    def is_identity(self) -> bool:
        """True when every pixel is exactly one cell, in order (logit stride 1 at the run's own pixel size)."""
        return not self.share.any() and np.array_equal(self.low, np.arange(len(self)) + self.low[0])

    def pixels(self, start: int, stop: int, *, first_cell: int) -> Pixels:
        """Pixels start..stop, counted from this axis' first, for a kernel whose block of cells begins at first_cell."""
        low = self.low[start:stop] - first_cell
        index = np.arange(len(low))
        run_start = np.maximum.accumulate(np.where(np.diff(low, prepend=-1) > 0, index, 0))
        return Pixels(
            low=low,
            high=self.high[start:stop] - first_cell,
            share=self.share[start:stop],
            runs=np.append(np.flatnonzero((index - run_start) % MAX_RUN == 0), len(low)),
        )


@dataclass(frozen=True, slots=True)
class PixelRows:
    """Finished pixel rows: `start`, the first one's number in the whole output, and what was made of them.

    channels (n, W) uint8: the channel with the largest value, the first one in a tie.
    confidence (n, W) uint8: the probability p of that channel as round(250·p); 255 stays free for nodata.
    probabilities (K, n, W) uint8: those of all channels, likewise.
    margin (n, W) float32: by how much the largest interpolated value exceeds the second, ∞ with one class.
    """

    start: int
    channels: Bytes
    confidence: Bytes | None = None
    probabilities: Bytes | None = None
    margin: Floats | None = None


class RowUpsampler:
    """Turns finished lattice rows, pushed in order, into finished pixel rows; holds one row of cells between pushes.

    Values are interpolated between rows of cells first, then between columns.
    """

    def __init__(
        self,
        rows: PixelAxis,
        cols: PixelAxis,
        *,
        confidence: bool = False,
        probabilities: bool = False,
        margin: bool = False,
        softmaxed: bool = False,
    ) -> None:
        """softmaxed: the cells hold probabilities; else these are the softmax of the interpolated logits."""
        self._rows, self._cols = rows, cols
        self._across = cols.pixels(0, len(cols), first_cell=cols.cells.start)
        self._is_identity = rows.is_identity() and cols.is_identity()
        self._confidence, self._probabilities, self._margin = confidence, probabilities, margin
        self._softmaxed = softmaxed
        self._next = 0
        self._end = rows.cells.start
        self._held: Floats | None = None

    def push(self, cells: Floats) -> Iterator[PixelRows]:
        """Yield all pixel rows that the cells (n, cells across, K) float32 decide, following those pushed before."""
        if cells.ndim != 3 or cells.shape[1] != len(self._cols.cells):
            raise ValueError(f"rows of cells are (n, {len(self._cols.cells)}, classes), got {cells.shape}")
        if cells.shape[2] > MOST_CLASSES:
            raise ValueError(f"at most {MOST_CLASSES} classes fit a byte beside nodata, got {cells.shape[2]}")
        if len(cells) == 0:
            return
        cells = np.ascontiguousarray(cells, np.float32)
        if self._held is not None:
            yield from self._between(np.concatenate([self._held, cells[:1]]), self._end - 1)
        yield from self._between(cells, self._end)
        self._end += len(cells)
        is_waited_for = self._next < len(self._rows) and self._rows.low[self._next] < self._end
        self._held = cells[-1:].copy() if is_waited_for else None

    def _between(self, cells: Floats, first_cell: int) -> Iterator[PixelRows]:
        """The pixel rows that come next and lie between these rows of cells, some at a time."""
        end = int(np.searchsorted(self._rows.high, first_cell + len(cells), side="left"))
        if self._next >= end:
            return
        make = self._maker(cells)
        planes = cells.shape[2] if self._probabilities else 1
        at_once = max(1, _PIXELS_AT_ONCE // (planes * len(self._cols)))
        for start in range(self._next, end, at_once):
            stop = min(start + at_once, end)
            yield make(self._rows.first + start, self._rows.pixels(start, stop, first_cell=first_cell))
        self._next = end

    def _maker(self, cells: Floats) -> Callable[[int, Pixels], PixelRows]:
        """Makes the pixel rows from a number on that lie between some of these cells."""
        if self._is_identity:
            return lambda start, rows: self._rows_of(start, cells[rows.low[0] : rows.low[-1] + 1])
        known = survey(cells)
        if not self._wants_layers:
            return lambda start, rows: PixelRows(start, channels_between(cells, known, rows, self._across))
        doubt = doubts(cells, known, self._softmaxed)

        def make(start: int, rows: Pixels) -> PixelRows:
            layers = self._layers(len(rows.share), cells.shape[2])
            fill_layers(cells, known, doubt, rows, self._across, layers)
            return _pixel_rows(start, layers)

        return make

    def _rows_of(self, start: int, cells: Floats) -> PixelRows:
        """Pixel rows that are rows of cells."""
        if not self._wants_layers:
            return PixelRows(start, largest_channels(cells))
        layers = self._layers(len(cells), cells.shape[2])
        fill_layers_of_cells(cells, layers)
        return _pixel_rows(start, layers)

    @property
    def _wants_layers(self) -> bool:
        return self._confidence or self._probabilities or self._margin

    def _layers(self, height: int, classes: int) -> Layers:
        size, nothing = (height, len(self._cols)), (0, 0)
        return Layers(
            channels=np.empty(size, np.uint8),
            confidence=np.empty(size if self._confidence else nothing, np.uint8),
            probabilities=np.empty((classes, *size) if self._probabilities else (0, 0, 0), np.uint8),
            margin=np.empty(size if self._margin else nothing, np.float32),
            softmaxed=self._softmaxed,
        )


def _pixel_rows(start: int, layers: Layers) -> PixelRows:
    return PixelRows(
        start,
        channels=layers.channels,
        confidence=layers.confidence if layers.confidence.size else None,
        probabilities=layers.probabilities if layers.probabilities.size else None,
        margin=layers.margin if layers.margin.size else None,
    )


def softmax_cells(logits: Floats) -> Floats:
    """The softmax over the channels of a tile's cells (h, w, K) float32: what is blended instead of logits."""
    probabilities: Floats = logits - logits.max(axis=2, keepdims=True)
    np.exp(probabilities, out=probabilities)
    probabilities /= probabilities.sum(axis=2, keepdims=True)
    return probabilities
