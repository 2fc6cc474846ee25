"""Reads a raster from north to south, every block once: a ring of rows that a thread fills ahead of its user."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import lcm
from types import TracebackType
from typing import Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray

from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.values.fill import Pixels, Valid
from aerial_seg.tiling.indices import ring_slots

CHUNK_BYTES = 16_000_000
"""Pixels read at once. GDAL's block cache then needs little more than this, whatever the raster's width."""
CACHE_BYTES = 4 * CHUNK_BYTES
_TALLEST_UNIT = 2048
"""Blocks taller than this are not worth a ring that holds them: GDAL's cache keeps one row of them instead."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldWindow:
    """Tell where a window lies in what is held, without a copy of its pixels; it holds until the next `advance`.

    image (n, m, C): all that is held, a pixel's bands beside each other. rows (h,): which of its rows are the window's.
    first_col: where its columns begin. valid (h, w): None where all of it is measured.
    """

    image: Pixels
    rows: NDArray[np.int64]
    first_col: int
    valid: Valid | None


class RowReader(Protocol):
    """Gives windows of rows that are only ever asked for further south; used as a context manager."""

    def __enter__(self) -> RowReader: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def cols(self) -> range:
        """The columns of the raster that can be asked for."""
        ...

    def advance(self, top: int, bottom: int) -> None:
        """Rows top..bottom can be taken now; those further north are not asked for again."""
        ...

    def take(self, rows: range, cols: range) -> tuple[Pixels, Valid]:
        """image (C, h, w) and valid (h, w) of a window inside the rows of the last `advance`."""
        ...

    def hold(self, rows: range, cols: range) -> HeldWindow:
        """As `take`, but where it lies."""
        ...

    def valid(self, rows: range) -> Valid:
        """valid (h, W) of rows inside the last `advance`, all columns."""
        ...

    def take_valid(self, rows: range, cols: range) -> Valid:
        """As `take`, without the image."""
        ...

    def is_measured(self, rows: range) -> bool:
        """Whether all columns of these rows are known to be measured; False may mean that nobody looked."""
        ...


def row_reader(raster: Raster | ArrayRaster, cols: range, *, swath: int, ahead: int) -> RowReader:
    """What reads these columns from north to south: ahead of its user from a file, in place from memory."""
    if isinstance(raster, ArrayRaster):
        return HeldRows(raster, cols)
    return SwathReader(raster, cols, swath=swath, ahead=ahead)


class HeldRows:
    """The rows of an image in memory: windows are views, nothing is read ahead, copied or forgotten."""

    def __init__(self, raster: ArrayRaster, cols: range) -> None:
        self._raster, self._cols = raster, cols

    def __enter__(self) -> HeldRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @property
    def cols(self) -> range:
        """The columns of the raster that can be asked for."""
        return self._cols

    def advance(self, top: int, bottom: int) -> None:
        """All rows are there at any time."""
        del top, bottom

    def take(self, rows: range, cols: range) -> tuple[Pixels, Valid]:
        """image (C, h, w) and valid (h, w), as views."""
        return self._raster.read(top=rows.start, left=cols.start, height=len(rows), width=len(cols))

    def hold(self, rows: range, cols: range) -> HeldWindow:
        """The window alone, its bands brought beside each other."""
        image, valid = self.take(rows, cols)
        there = np.ascontiguousarray(image.transpose(1, 2, 0))
        return HeldWindow(there, np.arange(len(rows)), 0, None if valid.all() else valid)

    def valid(self, rows: range) -> Valid:
        """valid (h, W) of all columns, as a view."""
        return self.take_valid(rows, self._cols)

    def take_valid(self, rows: range, cols: range) -> Valid:
        """As `take`, without the image."""
        return self.take(rows, cols)[1]

    def is_measured(self, rows: range) -> bool:
        """Nobody looked."""
        return False


class SwathReader:
    """Rows of the columns `cols` of a raster; requests only ever move south.

    Reads are aligned to the file's blocks on both axes, so that each is decoded once; a thread reads the rows that
    will be asked for next while the caller works on those it has. Use as a context manager: it bounds GDAL's cache.
    """

    def __init__(self, raster: Raster, cols: range, *, swath: int, ahead: int) -> None:
        """swath: rows of the largest request. ahead: rows to read while the caller is busy."""
        self._raster, self._cols = raster, cols
        self._unit_rows, self._unit_cols = _reading_unit(raster)
        self._capacity = ring_rows(raster, swath=swath, ahead=ahead)
        bands = len(raster.info.bands)
        # A pixel's bands beside each other: as most files hold them, and as networks take them.
        self._image: Pixels = np.empty((self._capacity, len(cols), bands), raster.info.dtype)
        # Bits from a column on that is a multiple of 8, so that every chunk begins with a byte of its own.
        self._first_bit = cols.start // 8 * 8
        self._valid = np.zeros((self._capacity, -(-(cols.stop - self._first_bit) // 8)), np.uint8)
        self._is_measured = np.zeros(self._capacity, bool)
        self._top = 0
        self._end = 0
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read")
        self._reading: Future[None] | None = None
        self._cache = rasterio.Env(GDAL_CACHEMAX=cache_bytes(raster, len(cols)))

    def __enter__(self) -> SwathReader:
        self._cache.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._cache.__exit__(kind, error, trace)

    @property
    def cols(self) -> range:
        """The columns of the raster that are read."""
        return self._cols

    def advance(self, top: int, bottom: int) -> None:
        """Rows top..bottom, as far as they lie in the raster, can be taken now; those further north are forgotten.

        Raises InputError naming file and window when a block cannot be read: never zeros in silence.
        """
        height = self._raster.grid.height
        top, bottom = min(max(0, top), height), min(bottom, height)
        if top < self._top:
            raise ValueError(f"rows {top}..{bottom} lie north of row {self._top}, which was asked for before")
        if self._reading is not None:
            self._reading.result()
            self._reading = None
        self._top = top
        self._end = max(self._end, top // self._unit_rows * self._unit_rows)
        if self._end < bottom:
            self._worker.submit(self._fill, bottom).result()
        # A row may be overwritten only by one that lies a whole ring further south.
        reach = min(top + self._capacity - self._unit_rows + 1, height)
        if reach > self._end:
            self._reading = self._worker.submit(self._fill, reach)

    def take(self, rows: range, cols: range) -> tuple[Pixels, Valid]:
        """image (C, h, w) and valid (h, w) of a window inside the rows of the last `advance`, as copies."""
        across = self._held_columns(rows, cols)
        image = np.empty((len(rows), len(cols), self._image.shape[2]), self._image.dtype)
        for slots, part in ring_slots(rows, self._capacity):
            image[part] = self._image[slots, across]
        return image.transpose(2, 0, 1), self.take_valid(rows, cols)

    def hold(self, rows: range, cols: range) -> HeldWindow:
        """As `take`, but where it lies in the ring."""
        across = self._held_columns(rows, cols)
        slots = np.arange(rows.start, rows.stop) % self._capacity
        valid = None if self.is_measured(rows) else self.take_valid(rows, cols)
        return HeldWindow(self._image, slots, across.start, valid)

    def _held_columns(self, rows: range, cols: range) -> slice:
        if rows.start < self._top or cols.start < self._cols.start or cols.stop > self._cols.stop:
            raise ValueError(f"the window of rows {rows} and columns {cols} is not held")
        return slice(cols.start - self._cols.start, cols.stop - self._cols.start)

    def valid(self, rows: range) -> Valid:
        """valid (h, W) of rows inside the last `advance`, all columns, as a copy."""
        return self.take_valid(rows, self._cols)

    def take_valid(self, rows: range, cols: range) -> Valid:
        """As `take`, without the image."""
        first, stop = cols.start - self._first_bit, cols.stop - self._first_bit
        across = slice(first // 8, -(-stop // 8))
        held = np.concatenate([self._valid[slots, across] for slots, _ in ring_slots(rows, self._capacity)])
        return np.unpackbits(held, axis=1).view(np.bool_)[:, first % 8 : first % 8 + len(cols)]

    def is_measured(self, rows: range) -> bool:
        """Whether all columns of these rows are measured."""
        return all(bool(self._is_measured[slots].all()) for slots, _ in ring_slots(rows, self._capacity))

    def _fill(self, target: int) -> None:
        """Rows are held up to row `target` or a little further; runs in the reader's thread only."""
        while self._end < target:
            stop = min((self._end // self._unit_rows + 1) * self._unit_rows, self._raster.grid.height)
            self._fill_rows(range(self._end, stop))
            self._end = stop

    def _fill_rows(self, rows: range) -> None:
        bands = self._image.shape[2]
        per_unit = self._unit_cols * len(rows) * bands * self._image.itemsize
        columns = max(1, CHUNK_BYTES // per_unit) * lcm(self._unit_cols, 8)
        for slots, _ in ring_slots(rows, self._capacity):
            self._is_measured[slots] = True
        start = self._cols.start
        while start < self._cols.stop:
            stop = min((start // columns + 1) * columns, self._cols.stop)
            self._fill_part(rows, range(start, stop))
            start = stop

    def _fill_part(self, rows: range, cols: range) -> None:
        """Straight into the ring, but for rows that go on at its beginning: blocks are not to be read twice."""
        across = slice(cols.start - self._cols.start, cols.stop - self._cols.start)
        places = list(ring_slots(rows, self._capacity))
        image = (
            self._image[places[0][0], across]
            if len(places) == 1
            else np.empty((len(rows), len(cols), self._image.shape[2]), self._image.dtype)
        )
        valid = self._raster.read_into(image.transpose(2, 0, 1), top=rows.start, left=cols.start)
        first = (cols.start - self._first_bit) // 8
        stop = -(-(cols.stop - self._first_bit) // 8)
        bits = None if valid is None else _as_bits(valid, cols.start % 8)
        for slots, part in places:
            if len(places) > 1:
                self._image[slots, across] = image[part]
            self._valid[slots, first:stop] = 0xFF if bits is None else bits[part]
            if valid is not None:
                self._is_measured[slots] &= valid[part].all(axis=1)


def _as_bits(valid: Valid, before: int) -> NDArray[np.uint8]:
    """Bits of valid (h, w), row by row, after so many that are 0."""
    return np.packbits(np.pad(valid, ((0, 0), (before, 0))) if before else valid, axis=1)


def _reading_unit(raster: Raster) -> tuple[int, int]:
    """Rows and columns of one read at the least: a block, several thin ones, or a piece of blocks that are too tall."""
    rows, cols = raster.block_shape
    if rows > _TALLEST_UNIT:
        return 256, cols
    return rows * max(1, 64 // rows), cols


def ring_rows(raster: Raster, *, swath: int, ahead: int) -> int:
    """Rows that a SwathReader holds."""
    return swath + ahead + _reading_unit(raster)[0] - 1


def row_of_blocks_bytes(raster: Raster | ArrayRaster, width: int) -> int:
    """What all blocks beside each other take, decoded, over so many columns."""
    rows, cols = raster.block_shape
    pixel = len(raster.info.bands) * np.dtype(raster.info.dtype).itemsize
    return (-(-width // cols) + 1) * cols * rows * pixel


def cache_bytes(raster: Raster, width: int) -> int:
    """GDAL's block cache: one read's blocks with room to spare; a whole row of blocks where they are too tall."""
    if raster.block_shape[0] <= _TALLEST_UNIT:
        return CACHE_BYTES
    return max(CACHE_BYTES, row_of_blocks_bytes(raster, width))
