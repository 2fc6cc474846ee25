"""What a report keeps of the comparison of a mask with labels, in one look at every pixel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aerial_seg.geo.raster.covered import Extent
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.intervals import ChipScore, Intervals, bootstrap_intervals
from aerial_seg.legend import IGNORE
from aerial_seg.numba_kernels import Bytes, Ints, kernel

Pixels = NDArray[np.uint8]

PLACES = 600
"""About so many squares a map is cut into; the worst of them are shown."""
SMALLEST = 32
"""Pixels a side of a place at least: less has no surroundings."""
SQUARE = 3
"""Places a side of the squares that the intervals are drawn over: neighbours err together."""


@kernel
def _tally(
    true: Bytes, said: Bytes, levels: Bytes, top: int, left: int, cell: int, cells_a_place: int,
    known: Ints, wrong: Ints, tables: Ints, bins: Ints,
) -> None:  # fmt: skip
    """Count (n, w) pixels of one row of places.

    known, wrong (h, w) of all cells; tables (places across, K, K); bins (256, 2) of levels (n, w), of none where they
    are (0, 0).
    """
    for i in range(true.shape[0]):
        row = (top + i) // cell
        begin = 0
        while begin < true.shape[1]:
            col = (left + begin) // cell
            end = min((col + 1) * cell - left, true.shape[1])
            place = col // cells_a_place
            seen, bad = 0, 0
            for j in range(begin, end):
                t, s = true[i, j], said[i, j]
                if t == 255 or s == 255:
                    continue
                seen += 1
                tables[place, t, s] += 1
                if t != s:
                    bad += 1
                if levels.shape[0] > 0:
                    bins[levels[i, j], 1 if t == s else 0] += 1
            known[row, col] += seen
            wrong[row, col] += bad
            begin = end


@dataclass(frozen=True, slots=True)
class Division:
    """How a map of height × width pixels is cut. cell: pixels a side of a page's pixel; place: of a place."""

    height: int
    width: int
    cell: int
    place: int

    @classmethod
    def of(cls, height: int, width: int, *, side: int) -> Division:
        """side: the most cells a side."""
        cell = -(-max(height, width) // side)
        wanted = max(SMALLEST, math.sqrt(height * width / PLACES))
        return cls(height, width, cell, cell * max(1, round(wanted / cell)))

    @property
    def square(self) -> int:
        """Pixels a side of the squares that intervals are drawn over."""
        return SQUARE * self.place

    @property
    def cells(self) -> tuple[int, int]:
        """(h, w) of the page's picture."""
        return -(-self.height // self.cell), -(-self.width // self.cell)

    def extent(self, down: int, across: int) -> Extent:
        """The pixels of a place."""
        top, left = down * self.place, across * self.place
        return Extent(
            range(top, min(top + self.place, self.height)), range(left, min(left + self.place, self.width))
        )


@dataclass(slots=True)
class Comparison:
    """Collect what is seen of labels and mask: an Onlooker of evaluate.

    confidence: of the mask, levels of which 250 is 1; None where there is none. details: called at the end, while the
    labels can be read once more. truth: (h, w) cells, the channel of the
    labels in the middle of each, 255 = unlabelled. known, wrong: (h, w) labelled and mapped pixels, and those in error.
    bins: (256, 2) pixels by confidence level, wrong and right.
    """

    division: Division
    classes: int
    confidence: Raster | None = None
    details: Callable[[Comparison, Callable[[Extent], Pixels]], None] | None = None
    truth: Pixels = field(init=False)
    known: Ints = field(init=False)
    wrong: Ints = field(init=False)
    bins: Ints = field(init=False)
    _sparse: dict[tuple[int, int], list[tuple[Ints, Ints]]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.division.cells
        self.truth = np.full(shape, IGNORE, np.uint8)
        self.known, self.wrong = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.bins = np.zeros((256, 2), np.int64)

    def see(self, where: Extent, true: Pixels, said: Pixels) -> None:
        """Take in a piece."""
        one, rows, cols = self.division, where.rows, where.cols
        levels = np.zeros((0, 0), np.uint8)
        if self.confidence is not None:
            image, valid = self.confidence.read(
                top=rows.start, left=cols.start, height=len(rows), width=len(cols)
            )
            levels = np.where(valid, image[0], IGNORE).astype(np.uint8)
        across = -(-one.width // one.place)
        for down in range(rows.start // one.place, (rows.stop - 1) // one.place + 1):
            begin = max(rows.start, down * one.place)
            part = slice(begin - rows.start, min(rows.stop, (down + 1) * one.place) - rows.start)
            tables = np.zeros((across, self.classes, self.classes), np.int64)
            _tally(
                np.ascontiguousarray(true[part]), np.ascontiguousarray(said[part]),
                levels[part] if len(levels) else levels, begin, cols.start, one.cell, one.place // one.cell,
                self.known, self.wrong, tables, self.bins,
            )  # fmt: skip
            self._keep(down, tables)
        self._sample(where, true)

    def _keep(self, down: int, tables: Ints) -> None:
        for across in np.flatnonzero(tables.any(axis=(1, 2))).tolist():
            flat = tables[across].ravel()
            pairs = np.flatnonzero(flat)
            self._sparse.setdefault((down, across), []).append((pairs, flat[pairs]))

    def _sample(self, where: Extent, true: Pixels) -> None:
        """The labels in the middle of each cell, of those that begin here."""
        cell, rows, cols = self.division.cell, where.rows, where.cols
        h, w = self.division.cells
        # The middle of the last cell may lie beyond the map.
        down = np.minimum(np.arange(h) * cell + cell // 2, self.division.height - 1)
        across = np.minimum(np.arange(w) * cell + cell // 2, self.division.width - 1)
        inside_rows = np.flatnonzero((down >= rows.start) & (down < rows.stop))
        inside_cols = np.flatnonzero((across >= cols.start) & (across < cols.stop))
        if len(inside_rows) and len(inside_cols):
            picked = true[np.ix_(down[inside_rows] - rows.start, across[inside_cols] - cols.start)]
            self.truth[np.ix_(inside_rows, inside_cols)] = picked

    def end(self, burn: Callable[[Extent], Pixels]) -> None:
        """Look at the worst places once more."""
        if self.details is not None:
            self.details(self, burn)

    def places(self) -> dict[tuple[int, int], ChipScore]:
        """The score of every place with labelled pixels, by its number downwards and across."""
        found = {}
        for key, parts in sorted(self._sparse.items()):
            flat = np.zeros(self.classes * self.classes, np.int64)
            for pairs, pixels in parts:
                flat[pairs] += pixels
            found[key] = ChipScore.of(f"{key[0]},{key[1]}", flat.reshape(self.classes, self.classes))
        return found

    def intervals(self, names: tuple[str, ...]) -> Intervals:
        """The 95 % interval of each score over squares of SQUARE × SQUARE places."""
        places = self.places()
        units = [f"{down // SQUARE},{across // SQUARE}" for down, across in places]
        return bootstrap_intervals(list(places.values()), units, names, unit="square")


@dataclass(frozen=True, slots=True)
class WorstPlace:
    """A place that costs much: pixels of it that are labelled and wrong, and what is most often taken for what.

    cost: what the mIoU over all places loses by it, in parts of the union of each class.
    """

    where: Extent
    known: int
    wrong: int
    cost: float
    true: int
    said: int
    pixels: int


def worst_places(comparison: Comparison, *, most: int) -> tuple[WorstPlace, ...]:
    """The places that cost most, the worst first; none that is without error.

    The cost is that of report.samples: the place's wrong pixels of each class as a share of the class's union over all.
    """
    scores = comparison.places()
    if not scores:
        return ()
    tables = {key: score.confusion for key, score in scores.items()}
    total = np.sum(list(tables.values()), axis=0)
    union = np.maximum(total.sum(axis=0) + total.sum(axis=1) - np.diag(total), 1)
    found = []
    for (down, across), table in tables.items():
        hit = np.diag(table)
        off = table - np.diag(hit)
        wrong = int(off.sum())
        if not wrong:
            continue
        true, said = np.unravel_index(int(off.argmax()), off.shape)
        cost = float(((off.sum(axis=0) + off.sum(axis=1)) / union).sum())
        where = comparison.division.extent(down, across)
        found.append(
            WorstPlace(where, int(table.sum()), wrong, cost, int(true), int(said), int(off[true, said]))
        )
    return tuple(sorted(found, key=lambda one: -one.cost)[:most])
