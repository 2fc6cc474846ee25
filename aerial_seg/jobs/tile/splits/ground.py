"""The ground of chips: the blocks that it is divided into, and what lies in two splits."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import STRtree

from aerial_seg.labels.chip_file import ChipWindow

_TOUCHING = 1e-3
"""Chips whose shared ground is nowhere wider than this part of their side only touch: half a pixel of 512."""


def blocks_of(
    windows: Sequence[ChipWindow], places: Sequence[Any], *, sources: int, chip_size: int, side: int
) -> list[Hashable]:
    """The square of side × side chips that the middle of each chip lies in."""
    if sources == 1:
        length, half = side * chip_size, chip_size // 2
        return [((window.top + half) // length, (window.left + half) // length) for window in windows]
    # Blocks of several rasters are squares of one common ground, laid out from its south-west corner.
    left, bottom, right, top = shapely.bounds(np.asarray(places, dtype=object)).T
    extent = side * max((right - left).max(), (top - bottom).max())
    cols = ((left + right) / 2 - left.min()) // extent
    rows = ((bottom + top) / 2 - bottom.min()) // extent
    return list(zip(rows.tolist(), cols.tolist(), strict=True))


def overlapping(footprints: Sequence[Any], splits: Sequence[str], ranks: Mapping[str, int]) -> list[int]:
    """The chips to leave out so that no ground is in two splits; the split of lower rank gives way.

    A chip that gives way itself drives nothing out. Chips whose split has no rank count for nothing.
    """
    shapes = np.asarray(footprints, dtype=object)
    rank = np.array([ranks.get(split, -1) for split in splits], np.int64)
    below, above = np.flatnonzero(rank >= 0), np.flatnonzero(rank > 0)
    first, second = STRtree(shapes[above]).query(shapes[below], predicate="intersects")
    pairs = np.column_stack([below[first], above[second]])
    pairs = pairs[rank[pairs[:, 0]] < rank[pairs[:, 1]]]
    if not len(pairs):
        return []
    pairs = pairs[_shares_ground(shapes, pairs)]
    left_out = np.zeros(len(shapes), bool)
    for level in range(int(rank.max()) - 1, -1, -1):
        own = pairs[rank[pairs[:, 0]] == level]
        left_out[own[~left_out[own[:, 1]], 0]] = True
    return [int(chip) for chip in np.flatnonzero(left_out)]


def _shares_ground(shapes: NDArray[np.object_], pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(m,) whether the two chips of a pair share more than a line. Where chips lie close, there are many pairs."""
    area = shapely.area(shapes)
    found = np.zeros(len(pairs), bool)
    for begin in range(0, len(pairs), 65_536):
        one, other = pairs[begin : begin + 65_536].T
        shared = shapely.intersection(shapes[one], shapes[other])
        # A corner of 16 × 16 pixels is a small part of a chip, and ground in two splits all the same.
        thin = np.array([_TOUCHING * math.sqrt(a) for a in np.minimum(area[one], area[other])])
        found[begin : begin + 65_536] = ~shapely.is_empty(shapely.buffer(shared, -thin / 2))
    return found
