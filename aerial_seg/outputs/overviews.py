"""Smaller versions of a raster, made where something was measured: over empty ground they cost nothing.

GDAL's own compute every pixel of them: for a raster of 66,000² that is all nodata that took fifty times as long.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from aerial_seg.files.names import exact
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import BLOCK, FilledBlocks
from aerial_seg.geo.raster.opening import open_dataset
from aerial_seg.legend import IGNORE
from aerial_seg.outputs.durable import disk_errors, reading_back, require_written
from aerial_seg.outputs.segments import scratch_profile

_CHUNK_BYTES = 16_000_000

Bytes = NDArray[np.uint8]
Reduction = Callable[[Bytes, Bytes, Bytes, Bytes], Bytes]


@dataclass(frozen=True, slots=True)
class Halving:
    """Which pixels of one axis become one: pixel i stands for `low[i]` to `high[i]`, one or two of them.

    Of an odd length the middle pixel stays alone, so that the smaller axis spans exactly the same ground.
    """

    low: NDArray[np.intp]
    high: NDArray[np.intp]

    @classmethod
    def of(cls, length: int) -> Halving:
        """The axis of half the length, rounded up."""
        half = -(-length // 2)
        borders = (2 * np.arange(half + 1) * length + half) // (2 * half)
        return cls(borders[:-1], borders[1:] - 1)

    def __len__(self) -> int:
        return len(self.low)

    def span(self, part: slice) -> tuple[int, int]:
        """The first pixel and the one past the last that a part of the smaller axis stands for."""
        return int(self.low[part][0]), int(self.high[part][-1]) + 1


def most_frequent(a: Bytes, b: Bytes, c: Bytes, d: Bytes) -> Bytes:
    """Of four classes the one that is there most often, of equals the first; 255 only where all are 255."""
    first = np.where(a != IGNORE, a, np.where(b != IGNORE, b, np.where(c != IGNORE, c, d)))
    of_c = np.where((c == d) & (c != IGNORE), c, first)
    of_b = np.where(((b == c) | (b == d)) & (b != IGNORE), b, of_c)
    return np.where(((a == b) | (a == c) | (a == d)) & (a != IGNORE), a, of_b)


def mean(a: Bytes, b: Bytes, c: Bytes, d: Bytes) -> Bytes:
    """The mean, halves rounded up, of those of four that are not 255; 255 only where all are 255."""
    total = np.zeros(a.shape, np.uint16)
    count = np.zeros(a.shape, np.uint16)
    for part in (a, b, c, d):
        measured = part != IGNORE
        total += np.where(measured, part, 0)
        count += measured
    rounded = (2 * total + count) // np.maximum(2 * count, 1)
    return np.where(count > 0, rounded, IGNORE).astype(np.uint8)


REDUCTIONS: dict[str, Reduction] = {"mode": most_frequent, "average": mean}


def halve(values: Bytes, rows: Halving, cols: Halving, *, reduction: Reduction) -> Bytes:
    """values (…, h, w) → (…, len(rows), len(cols))."""
    top, bottom = np.take(values, rows.low, axis=-2), np.take(values, rows.high, axis=-2)
    a, b, c, d = (np.take(half, at, axis=-1) for half in (top, bottom) for at in (cols.low, cols.high))
    return reduction(a, b, c, d)


@dataclass(frozen=True, slots=True)
class Level:
    """A smaller version of a raster, and which of its blocks hold something."""

    path: Path
    filled: FilledBlocks


def write_overviews(source: Path, folder: Path, *, reduction: str, filled: FilledBlocks) -> list[Level]:
    """1.tif, 2.tif … in the new folder are `source` halved and halved again, until one block holds it all.

    source: uint8, 255 = nodata; blocks of it that are not `filled` hold nothing else and are not read.
    reduction: "mode" for classes, which only ever gives classes that are there, or "average". Raises OutputError when
    the disk does not take them.
    """
    with disk_errors(folder):
        folder.mkdir()
    levels: list[Level] = []
    smaller = Level(source, filled)
    while True:
        with open_dataset(smaller.path) as dataset:
            if max(dataset.shape) <= BLOCK:
                return levels
            level = folder / f"{len(levels) + 1}.tif"
            smaller = Level(level, _write_level(dataset, smaller.filled, level, REDUCTIONS[reduction]))
            levels.append(smaller)


def _write_level(
    dataset: DatasetReader, filled: FilledBlocks, level: Path, reduction: Reduction
) -> FilledBlocks:
    """The blocks of the new level that hold something."""
    rows, cols = Halving.of(dataset.height), Halving.of(dataset.width)
    grid = Grid(crs=None, transform=Affine.identity(), height=len(rows), width=len(cols))
    written: list[tuple[int, Window, int]] = []
    made = FilledBlocks(grid.height, grid.width)
    with disk_errors(level):
        with rasterio.open(exact(level), "w", **scratch_profile(grid, dataset.count)) as smaller:
            for window, band in product(chunks(grid.height, grid.width, bands=4), dataset.indexes):
                down, across = window.toslices()
                (top, bottom), (left, right) = rows.span(down), cols.span(across)
                larger = Window(left, top, right - left, bottom - top)
                if not filled.any_in(larger):
                    continue
                values = dataset.read(band, window=larger)
                if values.min() == IGNORE:
                    continue
                part = Halving(rows.low[down] - top, rows.high[down] - top)
                beside = Halving(cols.low[across] - left, cols.high[across] - left)
                halved = halve(values, part, beside, reduction=reduction)
                smaller.write(halved, band, window=window)
                made.mark(window)
                written.append((band, window, zlib.crc32(halved.data)))
        with reading_back(level) as smaller:
            whole = all(zlib.crc32(smaller.read(b, window=w).data) == checksum for b, w, checksum in written)
        require_written(whole, level)
    return made


def chunks(height: int, width: int, *, bands: int) -> Iterator[Window]:
    """Windows of whole blocks, west to east, then north to south, that fit in a little memory."""
    across = max(1, _CHUNK_BYTES // (bands * BLOCK * BLOCK)) * BLOCK
    for top in range(0, height, BLOCK):
        for left in range(0, width, across):
            yield Window(left, top, min(across, width - left), min(BLOCK, height - top))
