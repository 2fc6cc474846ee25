"""Regions and which of them touch: holes filled and small regions joined to their neighbours, without any pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Ints, kernel
from aerial_seg.polygonize.batch import NONE, Codes
from aerial_seg.polygonize.cleaning.adjacency import Pairs, pair_keys, unique_pairs
from aerial_seg.polygonize.cleaning.components import Int32s, add_up, join_all

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Regions:
    """Regions of one code each, numbered 0..n-1 in the order of their first pixels, and pairs of them that touch.

    codes (n,) uint16; sizes (n,) int64 pixels. No pair has equal codes. Pairs that no rule asks for may be missing.
    """

    codes: Codes
    sizes: Ints
    pairs: Pairs

    def __len__(self) -> int:
        return len(self.codes)

    def recoded(self, codes: Codes, min_pixels: int) -> tuple[Regions, Int32s]:
        """The regions when these (n,) are their codes, and the number there of every region here, (n,) int32.

        Regions of one code that touch have become one. Pairs stay if both regions have classes and one is small.
        """
        left, right, borders = self.pairs
        same = codes[left] == codes[right]
        numbers = join_all(len(self), left[same], right[same])
        starts = np.flatnonzero(np.diff(np.maximum.accumulate(numbers), prepend=-1))
        codes, sizes = codes[starts], add_up(numbers, self.sizes, len(starts))
        left, right = numbers[left], numbers[right]
        needed = (left != right) & _are_needed(codes, sizes, left, right, min_pixels)
        pairs = unique_pairs(pair_keys(left[needed], right[needed]), borders[needed])
        return Regions(codes, sizes, pairs), numbers


def _are_needed(codes: Codes, sizes: Ints, left: Int32s, right: Int32s, min_pixels: int) -> Bools:
    """Which pairs are of two classes, one region at least being small."""
    small, classed = sizes < min_pixels, codes != NONE
    needed: Bools = (small[left] | small[right]) & classed[left] & classed[right]
    return needed


def find_holes(regions: Regions, at_edge: Bools, limit: int, classes: Codes) -> tuple[Bools, Codes]:
    """Which regions are holes, (n,) bool, and the codes (n,) that all regions have once the holes are filled.

    A hole has a class that is not among `classes`, fewer than `limit` pixels, does not touch the raster's edge
    (`at_edge` (n,)), and touches nothing but one region, whose class is among `classes`; that class fills it.
    """
    chosen = np.isin(regions.codes, classes)
    left, right, _ = regions.pairs
    neighbours = np.bincount(left, minlength=len(regions)) + np.bincount(right, minlength=len(regions))
    around = np.zeros(len(regions), np.int32)
    # Of several neighbours the last one stays; it matters only where there is one.
    around[left], around[right] = right, left
    holes = ~chosen & (regions.codes != NONE) & (regions.sizes < limit) & ~at_edge
    holes &= (neighbours == 1) & chosen[around]
    return holes, np.where(holes, regions.codes[around], regions.codes)


def join_small(regions: Regions, min_pixels: int) -> tuple[Regions, Int32s]:
    """The regions when no small one touches a class any more, and the number there of every region here.

    The rounds of `clean`; what is still small is left as it is.
    """
    codes, sizes, pairs = regions.codes, regions.sizes, regions.pairs
    pairs = pairs.only(_are_needed(codes, sizes, pairs.left, pairs.right, min_pixels))
    regions, numbers = Regions(codes, sizes, pairs), np.arange(len(regions), dtype=np.int32)
    while len(regions.pairs.left):
        leaders = _leaders(_choices(regions.codes, regions.sizes, regions.pairs, min_pixels), regions)
        regions, joined = regions.recoded(regions.codes[leaders], min_pixels)
        numbers = joined[numbers]
    return regions, numbers


@kernel
def _choices(codes: Codes, sizes: Ints, pairs: Pairs, min_pixels: int) -> Int32s:
    """The neighbour that every small region joins, (n,) int32; a region's own number where it joins none."""
    choices = np.arange(codes.size, dtype=np.int32)
    borders = np.zeros(codes.size, np.int64)
    for k in range(pairs.left.size):
        for own, other in ((pairs.left[k], pairs.right[k]), (pairs.right[k], pairs.left[k])):
            if sizes[own] >= min_pixels:
                continue
            best, border = choices[own], pairs.borders[k]
            better = best == own
            if not better and sizes[other] != sizes[best]:
                better = sizes[other] > sizes[best]
            elif not better and border != borders[own]:
                better = border > borders[own]
            elif not better and codes[other] != codes[best]:
                better = codes[other] < codes[best]
            elif not better:
                better = other < best
            if better:
                choices[own], borders[own] = other, border
    return choices


def _leaders(choices: Int32s, regions: Regions) -> Int32s:
    """The region at the end of every chain of choices, (n,) int32.

    Two regions that chose each other end at the larger one, of equal ones at the lower code. There are no longer
    circles: where a chose b and b chose c, b found c no worse than a. So at every second step around a circle sizes
    never fall, hence are equal; then borders never fall from step to step, hence are equal; then codes never rise,
    hence are equal; then first pixels come earlier and earlier, unless c is a.
    """
    leaders = choices.copy()
    own = np.arange(len(choices), dtype=np.int32)
    mutual = (choices[choices] == own) & (choices != own)
    ahead = regions.sizes > regions.sizes[choices]
    ahead |= (regions.sizes == regions.sizes[choices]) & (regions.codes < regions.codes[choices])
    leaders[mutual & ahead] = own[mutual & ahead]
    while not np.array_equal(further := leaders[leaders], leaders):
        leaders = further
    return leaders
