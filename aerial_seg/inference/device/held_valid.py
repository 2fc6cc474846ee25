"""Which pixels of the rows on the device were measured: known on the host, for two who ask, as bits."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Valid = NDArray[np.bool_]


class HeldValid:
    """Hold the valid rows that were read, until neither tiles nor finished rows need them any more.

    Rows that were never added were read by nobody, because nothing of theirs is wanted: they count as not measured.
    """

    def __init__(self, width: int, kept: slice, *, finished: bool) -> None:
        """width: columns of added rows. kept: those of them that `take` gives. finished: whether it will be asked."""
        self._width, self._kept = width, kept
        self._rows: deque[tuple[int, Bytes | None]] = deque()
        self._tiles_from = 0
        self._finished_from = 0 if finished else None

    def add(self, rows: range, valid: Valid | None) -> None:
        """Hold more rows; valid (n, width), None where all of them were measured."""
        bits = [None] * len(rows) if valid is None else list(np.packbits(valid, axis=1))
        self._rows.extend(zip(rows, bits, strict=True))

    def measured_columns(self, rows: range) -> Valid:
        """Tell of every column (width,) whether one of these rows was measured; tiles ask no further north again."""
        self._tiles_from = rows.start
        self._forget()
        found = np.zeros(-(-self._width // 8), np.uint8)
        for row, bits in self._rows:
            if row in rows:
                if bits is None:
                    return np.ones(self._width, np.bool_)
                found |= bits
        return np.unpackbits(found, count=self._width).view(np.bool_)

    def take(self, rows: range) -> Valid | None:
        """Return valid (n, columns kept) of finished rows, None where all is; they ask no further north again."""
        self._finished_from = rows.start
        self._forget()
        held = [(row, bits) for row, bits in self._rows if row in rows]
        if len(held) == len(rows) and all(bits is None for _, bits in held):
            return None
        valid = np.zeros((len(rows), self._width), np.bool_)
        for row, bits in held:
            valid[row - rows.start] = True if bits is None else np.unpackbits(bits, count=self._width)
        return valid[:, self._kept]

    def _forget(self) -> None:
        first = (
            self._tiles_from if self._finished_from is None else min(self._tiles_from, self._finished_from)
        )
        while self._rows and self._rows[0][0] < first:
            self._rows.popleft()
