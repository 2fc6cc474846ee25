"""Ground that polygons of several classes cover: counted once while they are burnt, decided by a priority."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import shapely
from numpy.typing import NDArray

from aerial_seg.documents import listed
from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.geo.grid import Grid
from aerial_seg.labels.burning import NOWHERE, Outlines, OverlapCount, Picture, covered_counts
from aerial_seg.labels.class_table import UNLABELLED
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.mentions import setting
from aerial_seg.printable import shortened

MOST_OVERLAP = 0.001
"""Share of the labelled ground on which two classes may lie without a word on which is on top."""

_MOST_COMPARED = 1000
"""Polygons of which each is compared with each: should all lie at one place, that is a million pairs, 16 MB."""

_Pair = tuple[int, int]


@dataclass(slots=True)
class Overlaps:
    """What has been burnt so far. priority: classes by name, the topmost first; the others lie below all of them.

    Polygons that say that their ground is unlabelled take labels away, and so count as one class more.
    """

    legend: Legend
    priority: tuple[str, ...]
    _found: OverlapCount = field(default_factory=OverlapCount)

    def __post_init__(self) -> None:
        """Raises SettingsError for a priority of what is no class."""
        for name in self.priority:
            if name not in self._values:
                raise SettingsError(
                    f"{setting('priority')} names '{shortened(name)}', which is no class; known: "
                    f"{', '.join(self.legend.names)}{did_you_mean(name, self.legend.names)}"
                )
        if len(set(self.priority)) < len(self.priority):
            raise SettingsError(
                f"{setting('priority')} names a class twice; name each once, the topmost first"
            )

    def burn(
        self,
        geometries: NDArray[np.object_],
        values: NDArray[np.uint8],
        grid: Grid,
        *,
        rim: int = 0,
        all_touched: bool = False,
        known: NDArray[np.bool_] | None = None,
        elsewhere: int = NOWHERE,
    ) -> tuple[Picture, OverlapCount]:
        """Pixel values (H, W) of polygons (n,) with a value each, the topmost class on top, else the last one.

        With them what `add` is to count; nothing is counted yet, so that several threads may ask at once.

        geometries: in pixels (column, row) of the grid. rim: pixels around the grid that are burnt and not counted,
        since other windows count them. all_touched: as burnt_polygons has it; neighbours, which then share pixels, do
        not overlap for that. known: (H, W) where overlaps count; beside it the ground is unlabelled or not measured.
        elsewhere: what pixels without a polygon get, see Outlines.burnt.
        """
        outlines = Outlines.of(geometries)
        counted = _counted(grid, rim, known)
        # Where the highest value on top looks like the lowest on top, no two classes meet, and that is the picture.
        highest = outlines.burnt(values, grid.shape, ranks=values, elsewhere=elsewhere)
        bounds = shapely.bounds(geometries)
        contested = None
        meeting = _may_meet_others(bounds, values)
        if meeting.any():
            below = -values.astype(np.int16)
            lowest = outlines.burnt(values, grid.shape, ranks=below, only=meeting, elsewhere=elsewhere)
            contested = (lowest != elsewhere) & (lowest != highest)
            contested = contested if contested.any() else None
        labels = highest
        if all_touched or contested is not None:
            shown = Outlines.of(geometries, all_touched=True) if all_touched else outlines
            labels = shown.burnt(values, grid.shape, ranks=self._ranks(values), elsewhere=elsewhere)
        found = _covered(highest, elsewhere, counted, contested)
        if contested is not None and counted is not None:
            contested &= counted
        if contested is not None and contested.any():
            _count_contested(found, outlines, bounds, values, grid, contested)
        return labels, found

    def add(self, found: OverlapCount) -> None:
        """Count what `burn` has found in a window."""
        self._found.add(found)

    def _ranks(self, values: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The higher, the later it is burnt; equal for classes without a priority."""
        ranks = np.zeros(256, np.int64)
        for place, name in enumerate(reversed(self.priority), start=1):
            ranks[self._values[name]] = place
        return ranks[values]

    @property
    def _values(self) -> dict[str, int]:
        return {UNLABELLED: IGNORE, **dict(zip(self.legend.names, self.legend.values, strict=True))}

    @property
    def _names(self) -> dict[int, str]:
        return {value: name for name, value in self._values.items()}

    def check(self, *, of: int = 0) -> tuple[str, ...]:
        """What to say of all that has been burnt. Raises InputError where it is too much to be left to chance.

        of: pixels that will have been burnt in the end; asked before that, it raises only for what will be too much
        whatever else comes.
        """
        names = self._names
        decided = [
            pair for pair in self._found.pixels if {names[value] for value in pair} & set(self.priority)
        ]
        open_pairs = [pair for pair in self._found.pixels if pair not in decided]
        undecided = sum(self._found.pixels[pair] for pair in open_pairs)
        if undecided > MOST_OVERLAP * max(1, self._found.covered, of):
            share = undecided / self._found.covered
            told = listed(self._told(open_pairs), most=3)
            raise InputError(
                f"polygons of different classes overlap on {share:.2g} of the labelled area ({told}), wanted at most "
                f"{MOST_OVERLAP:g}; say which class lies on top with {setting('priority', self._suggested(open_pairs))}"
            )
        notes = []
        if open_pairs:
            notes.append(
                f"overlaps of classes, the later polygon on top: {listed(self._told(open_pairs), most=3)}"
            )
        if decided:
            notes.append(
                f"overlaps of classes, decided by their priority: {listed(self._told(decided), most=3)}"
            )
        return tuple(notes)

    def _told(self, pairs: Sequence[_Pair]) -> Iterator[str]:
        """`road × building 1.2 ha`, the largest first."""
        names = self._names
        for pair in sorted(pairs, key=lambda pair: (-self._found.pixels[pair], pair)):
            area = self._found.area[pair] / 1e6
            size = (
                f"{self._found.pixels[pair]} px"
                if not area
                else f"{area / 1e4:.3g} ha"
                if area >= 1e4
                else f"{area:.3g} m²"
            )
            yield f"{names[pair[0]]} × {names[pair[1]]} {size}"

    def _suggested(self, pairs: Sequence[_Pair]) -> tuple[str, ...]:
        """The classes of these pairs, the smaller on top of the larger, behind those that have a priority."""
        names = self._names
        values = sorted(
            {value for pair in pairs for value in pair},
            key=lambda value: (self._found.of_class[value], value),
        )
        return (*self.priority, *(names[value] for value in values))


def _may_meet_others(bounds: NDArray[np.float64], values: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(n,) which polygons may share a pixel with one of another value, by their boxes (n, 4) in pixels.

    The others need not be burnt twice, which costs more than all else.
    """
    if not len(values) or (values == values[0]).all():
        return np.zeros(len(values), bool)
    if len(values) > _MOST_COMPARED:
        return np.ones(len(values), bool)
    # A pixel whose centre a polygon holds lies within half a pixel of its box.
    west, north, east, south = bounds.T
    boxes: NDArray[np.object_] = np.asarray(shapely.box(west - 0.5, north - 0.5, east + 0.5, south + 0.5))
    one, other = shapely.STRtree(boxes).query(boxes)
    found = np.zeros(len(values), bool)
    found[one[values[one] != values[other]]] = True
    return found


def _counted(grid: Grid, rim: int, known: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """(H, W) which pixels count; None for all, as nearly always."""
    if not rim:
        return None if known is None or known.all() else known
    inner = np.zeros(grid.shape, bool)
    inner[rim : grid.height - rim, rim : grid.width - rim] = True
    return inner if known is None else inner & known


def _covered(
    highest: Picture,
    elsewhere: int,
    counted: NDArray[np.bool_] | None,
    contested: NDArray[np.bool_] | None,
) -> OverlapCount:
    """Pixels (H, W) that count and that a polygon covers, and of each class those that no other one covers."""
    counts = covered_counts(highest, elsewhere, counted)
    found = OverlapCount(covered=int(counts.sum()))
    if contested is not None:
        alone = ~contested if counted is None else counted & ~contested
        counts = covered_counts(highest, elsewhere, alone)
    found.of_class.update({value: count for value, count in enumerate(counts.tolist()) if count})
    return found


def _count_contested(
    found: OverlapCount,
    outlines: Outlines,
    bounds: NDArray[np.float64],
    values: NDArray[np.uint8],
    grid: Grid,
    contested: NDArray[np.bool_],
) -> None:
    """Count the pixels (H, W) that several classes cover. bounds: (n, 4) of the polygons, in pixels."""
    rows, cols = (np.flatnonzero(contested.any(axis=axis)) for axis in (1, 0))
    across = (bounds[:, 0] <= cols[-1] + 1) & (bounds[:, 2] >= cols[0])
    near = across & (bounds[:, 1] <= rows[-1] + 1) & (bounds[:, 3] >= rows[0])
    masks = {}
    for value in map(int, np.unique(values[near])):
        covers = outlines.burnt(values, grid.shape, only=near & (values == value)) != NOWHERE
        masks[value] = covers & contested
        found.of_class[value] += int(masks[value].sum())
    gsd = grid.gsd() if grid.crs is not None else None
    for one, other in combinations(masks, 2):
        pixels = int((masks[one] & masks[other]).sum())
        if pixels:
            found.pixels[one, other] += pixels
            # In square millimetres, which are whole: the order of the windows changes no sum.
            found.area[one, other] += round(pixels * gsd[0] * gsd[1] * 1e6) if gsd is not None else 0
