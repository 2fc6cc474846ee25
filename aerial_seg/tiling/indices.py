"""Which index stands for which: rows in a ring that forgets, and pixels of an axis that goes on as in mirrors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def ring_slots(rows: range, capacity: int) -> Iterator[tuple[slice, slice]]:
    """Yield the one or two places of rows in a ring of so many, each with its place among the rows."""
    start = rows.start
    while start < rows.stop:
        slot = start % capacity
        count = min(rows.stop - start, capacity - slot)
        yield slice(slot, slot + count), slice(start - rows.start, start - rows.start + count)
        start += count


def mirrored(length: int, before: int, after: int) -> NDArray[np.int64]:
    """Return which of so many pixels each one is of an axis that goes on as in mirrors, before and after them."""
    inside = np.arange(length, dtype=np.int64)
    return np.pad(inside, (before, after), mode="symmetric") if before or after else inside
