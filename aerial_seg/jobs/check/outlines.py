"""Whether a chip lies where the index draws it: one that was moved, resized or replaced is of other ground."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from pyproj.exceptions import ProjError

from aerial_seg.geo.grid import Grid
from aerial_seg.geo.systems import is_local, same_local
from aerial_seg.jobs.check.index_rows import IndexRow
from aerial_seg.training.manifest import INDEX

_APART, _APART_ELSEWHERE = 1e-3, 0.05
"""Of a pixel: what differs by less is one place; more where the outline was brought into another CRS, as GDAL does."""
_AGAIN = "put the chip back as it was, or run `aerial-seg tile` again"


def beside_outline(
    row: IndexRow, path: Path, grid: Grid, valid: NDArray[np.bool_] | None
) -> list[tuple[str, str]]:
    """Kind and words of a problem where the file `path` of a chip, with this grid, has not the outline of its row.

    The outline ends where its source does, and a chip may reach beyond: nothing of that is measured. valid: (h,w), None
    where that is not known.
    """
    if row.place is None or row.place.is_empty:
        return []
    told = _difference(row, grid, valid)
    return [("chip-moved", f"{path} {told}; {_AGAIN}")] if told else []


def _difference(row: IndexRow, grid: Grid, valid: NDArray[np.bool_] | None) -> str:
    """What differs, in the words that go on after the file's name; empty where nothing does."""
    name = f"the outline that {INDEX} has of it"
    if (row.crs is None) != (grid.crs is None):
        which = "no CRS" if grid.crs is None else f"the CRS {grid.crs.to_string()}"
        return f"has {which}, but {INDEX} {'has none' if row.crs is None else 'one'}: it was replaced"
    place, near = row.place, _APART
    if row.crs is not None and row.crs != grid.crs and not same_local(row.crs, grid.crs):
        assert grid.crs is not None
        near = _APART_ELSEWHERE
        if is_local(row.crs) or is_local(grid.crs):
            return f"is in {grid.crs.name}, but {name} in {row.crs.name}: it was replaced"
        try:
            move = Transformer.from_crs(row.crs, grid.crs, always_xy=True)
            there = move.transform(*shapely.get_coordinates(place).T)
            place = shapely.transform(place, lambda _: np.stack(there, axis=1))
        except ProjError as error:
            return f"is in {grid.crs.name}, in which {name} has no place ({error}): it was moved"
    x, y = shapely.get_coordinates(place).T
    across, down = ~grid.transform * (x, y)
    left, top, right, bottom = across.min(), down.min(), across.max(), down.max()
    if not np.isfinite([left, top, right, bottom]).all():
        return f"has no place on {name}: it was moved"
    off = max(abs(left), abs(top))
    if off > near:
        return f"lies {off:.3g} px beside {name}: it was moved"
    size = f"{right:.6g} × {bottom:.6g} of its pixels"
    filled = abs(shapely.area(place) / abs(grid.transform.determinant) - right * bottom) <= near * (
        right + bottom
    )
    if right > grid.width + near or bottom > grid.height + near or not filled:
        return f"is {grid.width} × {grid.height} px, but {name} is {size}: it was resized"
    if valid is not None:
        beyond = valid[round(bottom) :].sum() + valid[: round(bottom), round(right) :].sum()
        if beyond:
            return f"measures {int(beyond):,} px beyond {name} ({size}): it was resized or replaced"
    return ""
