"""Masks cleaned before they are traced: holes filled and small patches joined to their neighbours, in two passes.

The first pass finds the patches and which of them touch; what becomes of each is settled on that graph; the second
pass looks it up. No raster is kept, and the result does not depend on how the rows were cut into chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.polygonize.batch import NONE, Codes
from aerial_seg.polygonize.cleaning.adjacency import Adjacency, Pairs
from aerial_seg.polygonize.cleaning.components import Components, ComponentTable, find_runs, paint_runs
from aerial_seg.polygonize.cleaning.sieve_graph import Bools, Regions, find_holes, join_small

Source = Callable[[], Iterator[Codes]]
"""Starts at the northern border each time it is called, with the same chunks (h, W) uint16 each time."""


@dataclass(frozen=True, slots=True)
class CleanRules:
    """What is to be cleaned; nothing by default.

    min_pixels: patches of fewer pixels are small. hole_pixels: holes of fewer pixels are filled, in patches of the
    classes with the codes `hole_classes`. Raises SettingsError for what cannot be.
    """

    min_pixels: int = 0
    hole_pixels: int = 0
    hole_classes: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for name, pixels in (("smallest patch", self.min_pixels), ("largest hole", self.hole_pixels)):
            if pixels < 0:
                raise SettingsError(f"{name} of {pixels} px, wanted 0 or more; 0 leaves all as they are")
        strange = sorted(code for code in self.hole_classes if not 0 <= code < NONE)
        if strange:
            raise SettingsError(f"holes in class {strange[0]}, wanted codes 0–{NONE - 1}; name another class")

    @property
    def fills_holes(self) -> bool:
        """Whether any hole can be filled."""
        return self.hole_pixels > 1 and bool(self.hole_classes)

    @property
    def ask_for_nothing(self) -> bool:
        """Whether every mask stays as it is: no patch has less than one pixel."""
        return self.min_pixels <= 1 and not self.fills_holes


@dataclass(frozen=True, slots=True)
class Removed:
    """Patches that lost their class or stood among small ones, and the pixels they held."""

    patches: int = 0
    pixels: int = 0


@dataclass(frozen=True, slots=True)
class SieveReport:
    """What `clean` did with the patches below `min_pixels`, and with holes below `hole_pixels`.

    absorbed: are part of a patch now that had `min_pixels` before.
    crowded: had only small ones around them, and grew together with them into a patch of `min_pixels` or more.
    islands: lay in nodata, alone or as a crowd still too small, and became nodata.
    holes: were filled with the class around them, before the other patches were counted.
    """

    min_pixels: int
    absorbed: Removed = field(default_factory=Removed)
    crowded: Removed = field(default_factory=Removed)
    islands: Removed = field(default_factory=Removed)
    hole_pixels: int = 0
    holes: Removed = field(default_factory=Removed)

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for each kind of patch that there was."""
        kinds = (
            (self.holes, "holes", self.hole_pixels, "took the class around them"),
            (self.absorbed, "patches", self.min_pixels, "joined their largest neighbour"),
            (self.crowded, "patches", self.min_pixels, "stood among small ones only and grew together"),
            (self.islands, "patches", self.min_pixels, "lay alone in nodata and were left out"),
        )
        return tuple(
            f"{removed.patches:,} {noun} below {limit} px ({removed.pixels:,} px) {what}"
            for removed, noun, limit, what in kinds
            if removed.patches
        )


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A mask whose patches are settled: `chunks()` gives its chunks from the north, cut as they were, each time anew.

    source: the chunks as they were. report: what was done. classes (p,) uint16: the code of each provisional id of
    `Components`; None when all are as they were. counts: provisional ids of each chunk.
    """

    source: Source
    report: SieveReport
    classes: Codes | None = None
    counts: tuple[int, ...] = ()

    def chunks(self) -> Iterator[Codes]:
        """The cleaned chunks (h, W) uint16. Raises InputError where one has more or fewer patches than at first."""
        return self.source() if self.classes is None else self._looked_up(self.classes)

    def _looked_up(self, classes: Codes) -> Iterator[Codes]:
        first, chunk = 0, -1
        for chunk, codes in enumerate(self.source()):
            runs = find_runs(np.ascontiguousarray(codes))
            if chunk >= len(self.counts) or len(runs.values) != self.counts[chunk]:
                raise _changed(chunk)
            yield paint_runs(runs, classes[first : first + len(runs.values)])
            first += len(runs.values)
        if chunk + 1 < len(self.counts):
            raise _changed(chunk + 1)


def _changed(chunk: int) -> InputError:
    return InputError(
        f"chunk {chunk} of the mask has other patches than when it was read first, wanted the same; "
        "let no other program write to the mask, and run again"
    )


def clean(chunks: Source, rules: CleanRules) -> Cleaned:
    """The mask has no hole and no small patch that the rules name any more.

    `chunks()` gives the mask from the north as (h, W) uint16 of any heights, NONE = nodata; it is called once here,
    or never when the rules ask for nothing, and once for every pass over the result. Raises InputError when there are
    too many patches.

    A patch is a 4-connected set of pixels of one code; two patches are neighbours when they share sides of pixels,
    and the number of those is the length of their border. Nodata is no class and is never small.

    1. Holes, if asked for: a patch of a class not among `hole_classes`, of fewer than `hole_pixels` pixels, that
       does not touch the raster's edge and whose only neighbour, nodata included, is one patch of a class among
       `hole_classes`, takes that class. All holes are found in the mask as it came. Patches of one class that touch
       now are one patch.
    2. Rounds: every patch of a class with fewer than `min_pixels` pixels that has a neighbour of a class chooses the
       largest of these; of equally large ones that with the longest border, then of the lowest code, then with
       the first pixel (row by row). All choose by the state before the round. Where two chose each other the one
       with more pixels, then that of the lower code, stays as it is. Every other patch that chose takes the class
       that its choice has at the end of the round, so a chain takes the class of its last patch. Then patches of one
       class that touch become one patch. The rounds end when no small patch has a neighbour of a class.
    3. What is still small has nodata and the raster's edge around it only, and becomes nodata.

    So patches that are not small keep their pixels, and nothing grows into nodata.
    """
    if rules.ask_for_nothing:
        return Cleaned(chunks, SieveReport(rules.min_pixels, hole_pixels=rules.hole_pixels))
    table, pairs, counts = _survey(chunks(), limit=max(rules.min_pixels, rules.hole_pixels))
    settled, report = settle(table, pairs, rules)
    if np.array_equal(settled, table.values):
        return Cleaned(chunks, report)
    return Cleaned(chunks, report, settled[table.of], counts)


def _survey(chunks: Iterator[Codes], limit: int) -> tuple[ComponentTable, Pairs, tuple[int, ...]]:
    """The components, the pairs of them that a limit leaves, and the provisional ids of each chunk."""
    components, adjacency, counts = Components(), Adjacency(limit), []
    for codes in chunks:
        runs = find_runs(np.ascontiguousarray(codes))
        components.add_runs(runs)
        adjacency.add(runs)
        counts.append(len(runs.values))
    table = components.table()
    return table, adjacency.pairs(table), tuple(counts)


def settle(table: ComponentTable, pairs: Pairs, rules: CleanRules) -> tuple[Codes, SieveReport]:
    """The code of every component, (n,) uint16, after the rules of `clean`, and what was done.

    pairs: all but those of two components that have both `min_pixels` and `hole_pixels` or more.
    """
    regions = Regions(table.values, table.sizes, pairs)
    numbers = np.arange(len(regions), dtype=np.int32)
    holes = np.zeros(len(regions), bool)
    if rules.fills_holes:
        classes = np.array(sorted(rules.hole_classes), np.uint16)
        holes, codes = find_holes(regions, table.at_edge, rules.hole_pixels, classes)
        regions, numbers = regions.recoded(codes, rules.min_pixels)
    before = regions
    regions, joined = join_small(before, rules.min_pixels)
    small = (before.sizes < rules.min_pixels) & (before.codes != NONE)
    lost = (regions.sizes < rules.min_pixels) & (regions.codes != NONE)
    with_large = np.zeros(len(regions), bool)
    with_large[joined[~small]] = True
    settled = np.where(lost, np.uint16(NONE), regions.codes)
    report = SieveReport(
        rules.min_pixels,
        absorbed=_count(before.sizes, small & with_large[joined]),
        crowded=_count(before.sizes, small & ~with_large[joined] & ~lost[joined]),
        islands=_count(before.sizes, small & lost[joined]),
        hole_pixels=rules.hole_pixels,
        holes=_count(table.sizes, holes),
    )
    return settled[joined][numbers], report


def _count(sizes: NDArray[np.int64], chosen: Bools) -> Removed:
    return Removed(patches=int(chosen.sum()), pixels=int(sizes[chosen].sum()))
