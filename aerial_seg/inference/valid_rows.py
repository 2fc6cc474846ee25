"""Which pixels of the output hold a class: those that were measured, and only in the area if one was asked for."""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aerial_seg.geo.grid_area import GridArea
from aerial_seg.geo.raster.statistics import Readable
from aerial_seg.geo.raster.swath import RowReader

Bytes = NDArray[np.uint8]
Valid = NDArray[np.bool_]


class ValidRows(Protocol):
    """Tell which pixels of the output grid were measured, asked for from north to south."""

    def take(self, rows: range) -> Valid | None:
        """Return valid (n, w) of these rows, or None where all is; rows further north are not asked for again."""
        ...


class RememberedRows:
    """Remember valid rows of swaths that were read anyway (the run's grid is the output's), as bits.

    Rows that no swath held were read by nobody, because nothing of theirs is wanted: they count as not measured.
    """

    def __init__(self, cols: slice, width: int) -> None:
        self._cols, self._width = cols, width
        self._rows: deque[tuple[int, Bytes]] = deque()
        self._end = 0
        bytes_of_row = -(-width // 8)
        self._blank, self._full = np.zeros(bytes_of_row, np.uint8), np.full(bytes_of_row, 0xFF, np.uint8)

    def remember(self, reader: RowReader, rows: range) -> None:
        """Keep the rows that are new."""
        new = range(max(self._end, rows.start), rows.stop)
        if not len(new):
            return
        if reader.is_measured(new):
            self._rows.extend((row, self._full) for row in new)
        else:
            self._rows.extend(enumerate(np.packbits(reader.valid(new)[:, self._cols], axis=1), new.start))
        self._end = new.stop

    def take(self, rows: range) -> Valid | None:
        """Return valid (n, w), or None where all is; what lies north of it is forgotten."""
        while self._rows and self._rows[0][0] < rows.start:
            self._rows.popleft()
        held = list(takewhile(lambda one: one[0] < rows.stop, self._rows))
        if len(held) == len(rows) and all(bits is self._full for _, bits in held):
            return None
        all_bits = np.tile(self._blank, (len(rows), 1))
        for row, bits in held:
            all_bits[row - rows.start] = bits
        return np.unpackbits(all_bits, axis=1, count=self._width).view(np.bool_)


class RereadRows:
    """Read valid rows from the source on its own grid (the run's grid has another pixel size)."""

    def __init__(self, source: Readable, cols: range) -> None:
        self._source, self._cols = source, cols

    def take(self, rows: range) -> Valid:
        """Return valid (n, w)."""
        return self._source.read(
            top=rows.start, left=self._cols.start, height=len(rows), width=len(self._cols)
        )[1]


class RowsWithin:
    """Keep measured rows only where an area holds them; the network still sees what was measured around it."""

    def __init__(self, measured: ValidRows, area: GridArea, cols: range) -> None:
        self._measured, self._area, self._cols = measured, area, cols

    def take(self, rows: range) -> Valid:
        """Return valid (n, w) inside the area; rows that it does not touch are not looked at."""
        inside = self._area.inside(rows, self._cols)
        measured = self._measured.take(rows) if inside.any() else None
        return inside if measured is None else inside & measured
