"""Which split the scenes say that a chip shows, by the globs on their names: of one scene, or of several as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.raster.remote import public_name
from aerial_seg.geo.turns import turn_of
from aerial_seg.jobs.tile.shares import Share, named_splits

OUT = ""
"""The split of a chip that is in none."""
_MOVED = 0.5
"""Pixels that a raster may be moved to sit on a mosaic's common grid: a chip must reach further into it."""


def splits_of_scenes(
    chips: Sequence[tuple[int, Grid]],
    grids: Sequence[Grid],
    members: Sequence[Sequence[RasterInfo]],
    shares: Mapping[str, Share],
    *,
    rest: bool = True,
) -> list[str | None]:
    """The split of each chip by the globs alone: None where none matches, OUT where it reaches into scenes of two.

    chips: the number of the source and the grid of each. grids, members: of each source what it is cut on, and the
    rasters that it is made of, one or those of a mosaic. rest: whether some must be left for training: what is added
    to training chips need not hold others.
    """
    of_each, named = iter(named_splits(names_of(members), shares, rest=rest)), []
    splits = [[next(of_each) for _ in own] for own in members]
    boxes = {
        k: _boxes(own, grid)
        for k, (own, grid) in enumerate(zip(members, grids, strict=True))
        if len(set(splits[k])) > 1
    }
    for source, grid in chips:
        own = set(splits[source])
        if source in boxes:
            reached = np.flatnonzero(_reaches(grid, boxes[source]))
            own = {splits[source][int(k)] for k in reached} or {None}
        named.append(own.pop() if len(own) == 1 else OUT)
    return named


def names_of(members: Sequence[Sequence[RasterInfo]]) -> list[str]:
    """What globs are matched against."""
    return [public_name(info.path) for own in members for info in own]


def _boxes(members: Sequence[RasterInfo], grid: Grid) -> NDArray[np.float64]:
    """(n, 4) the footprints within a north-up mosaic, those that lie once around the earth from it moved there."""
    boxes = np.array([info.grid.for_polygons().bounds for info in members], np.float64)
    sides = np.array([[abs(info.grid.transform.a), abs(info.grid.transform.e)] for info in members])
    turn = turn_of(grid.crs)
    if turn is not None:
        boxes[:, [0, 2]] += turn * (boxes[:, :1] < grid.bounds[0] - sides[:, :1])
    boxes[:, :2] += _MOVED * sides
    boxes[:, 2:] -= _MOVED * sides
    return boxes


def _reaches(grid: Grid, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    left, bottom, right, top = grid.bounds
    beside = (boxes[:, 2] <= left) | (boxes[:, 0] >= right) | (boxes[:, 3] <= bottom) | (boxes[:, 1] >= top)
    return ~beside
