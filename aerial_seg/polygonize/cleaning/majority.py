"""Masks smoothed by vote: every pixel takes the commonest class of a square window around it, a chunk at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import SettingsError
from aerial_seg.numba_kernels import inner, kernel
from aerial_seg.polygonize.batch import NONE, Codes

Int32s = NDArray[np.int32]

_PANEL = 256
"""Columns worked on together: their counts stay in the cache, and however many codes there are, memory is small."""
_ABSENT = -1


def majority(chunks: Iterator[Codes], size: int) -> Iterator[Codes]:
    """Chunks of the same heights in which every pixel of a class has the commonest class of its window.

    chunks: (h, W) uint16 from the north, NONE = nodata. The window is `size` pixels wide and high, odd and 3 or
    more; its pixels outside of the raster and without class do not vote. In a tie the pixel keeps its class if that
    is among the tied, else the lowest code wins. Nodata stays nodata. A chunk comes out once size // 2 rows to the
    south of it have come in. Raises SettingsError for another size.
    """
    if size < 3 or size % 2 == 0:
        raise SettingsError(
            f"a window of {size} px to smooth the mask, wanted an odd number from 3 on; try 3 or 5"
        )
    return _smoothed(chunks, size // 2)


def _smoothed(chunks: Iterator[Codes], reach: int) -> Iterator[Codes]:
    """`rows` holds what the windows of the waiting chunks need: `north` rows of halo, the chunks, rows after them."""
    waiting: deque[int] = deque()
    rows: Codes | None = None
    north = 0
    for codes in chunks:
        rows = codes if rows is None else np.concatenate([rows, codes])
        waiting.append(len(codes))
        while waiting and north + waiting[0] + reach <= len(rows):
            height = waiting.popleft()
            yield smoothed_rows(rows[: north + height + reach], north, height, reach)
            kept = max(north + height - reach, 0)
            rows, north = rows[kept:], north + height - kept
    for height in waiting:
        assert rows is not None
        yield smoothed_rows(rows[: north + height + reach], north, height, reach)
        north += height


@kernel
def smoothed_rows(codes: Codes, first: int, height: int, reach: int) -> Codes:
    """Rows first:first+height of the codes (h, W) after the vote in windows of 2·reach + 1: (height, W) uint16."""
    width = codes.shape[1]
    smoothed = np.empty((height, width), np.uint16)
    # The rank of a code among those of a panel.
    ranks = np.full(NONE + 1, _ABSENT, np.int32)
    for left in range(0, width, _PANEL):
        right = min(left + _PANEL, width)
        west, east = max(left - reach, 0), min(right + reach, width)
        # Few columns have few codes, even where all have many.
        kinds = _rank_codes(codes[:, west:east], ranks)
        columns = np.zeros((right - left + 2 * reach + 1, kinds.size), np.int32)
        for y in range(first, first + height):
            _move_down(codes[:, west:east], columns[west - left + reach + 1 :], ranks, (y, first, reach))
            _vote(codes[y, left:right], columns, ranks, kinds, smoothed[y - first, left:right])
        for code in kinds:
            ranks[code] = _ABSENT
    return smoothed


@inner
def _rank_codes(codes: Codes, ranks: Int32s) -> Codes:
    """The codes that occur, ascending, NONE in any case and so the last; ranks[code] is the place of each."""
    found = np.empty(NONE + 1, np.uint16)
    found[0] = NONE
    ranks[NONE] = 0
    count = 1
    for y in range(codes.shape[0]):
        for x in range(codes.shape[1]):
            if ranks[codes[y, x]] == _ABSENT:
                ranks[codes[y, x]] = 0
                found[count] = codes[y, x]
                count += 1
    kinds = np.sort(found[:count])
    for rank in range(count):
        ranks[kinds[rank]] = rank
    return kinds


@inner
def _move_down(codes: Codes, columns: Int32s, ranks: Int32s, at: tuple[int, int, int]) -> None:
    """columns (w, K) have become the counts of the codes in each column of the window around row y."""
    y, first, reach = at
    if y == first:
        for row in range(max(y - reach, 0), min(y + reach, codes.shape[0])):
            _count_row(codes[row], columns, ranks, 1)
    if y > first and y - reach - 1 >= 0:
        _count_row(codes[y - reach - 1], columns, ranks, -1)
    if y + reach < codes.shape[0]:
        _count_row(codes[y + reach], columns, ranks, 1)


@inner
def _count_row(row: Codes, columns: Int32s, ranks: Int32s, change: int) -> None:
    for x in range(row.size):
        columns[x, ranks[row[x]]] += change


@inner
def _vote(row: Codes, columns: Int32s, ranks: Int32s, kinds: Codes, smoothed: Codes) -> None:
    """A row's votes; columns has the one west of the first window, then those of all windows, empty outside."""
    size, classes = columns.shape[0] - row.size, kinds.size - 1
    counts = np.zeros(classes, np.int32)
    for x in range(size):
        for k in range(classes):
            counts[k] += columns[x, k]
    for x in range(row.size):
        most = np.int32(0)
        for k in range(classes):
            counts[k] += columns[x + size, k] - columns[x, k]
            most = max(most, counts[k])
        if row[x] == NONE or counts[ranks[row[x]]] == most:
            smoothed[x] = row[x]
        else:
            smoothed[x] = kinds[_first(counts, most)]


@inner
def _first(counts: Int32s, wanted: np.int32) -> int:
    place = 0
    while counts[place] != wanted:
        place += 1
    return place
