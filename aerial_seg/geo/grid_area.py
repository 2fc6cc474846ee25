"""An area on a grid: which pixels it holds, answered window by window and alike for every window."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from aerial_seg.geo.raster.covered import Extent

Inside = NDArray[np.bool_]

_STRIP = 256
"""Rows looked at together by `any`."""


class GridArea:
    """The pixels whose centres lie in a polygonal geometry, in pixel coordinates (column, row) of the whole grid.

    A row's crossings with the outline are computed from global coordinates, so that no window changes a pixel; GDAL's
    rasterizer, which moves the outline to the window first, does. A centre on the outline belongs to the polygon west
    of it, and on a level edge to the one south of it.
    """

    def __init__(self, geometry: BaseGeometry, *, height: int, width: int) -> None:
        self._geometry, self._size = geometry, (height, width)
        shapely.prepare(geometry)
        self._low, self._slope, self._rows = _edges(geometry, height)

    @property
    def pixels(self) -> float:
        """About how many pixels it holds."""
        height, width = self._size
        return float(self._geometry.intersection(shapely.box(0, 0, width, height)).area)

    def any(self) -> bool:
        """Whether it holds any pixel of the grid."""
        height, width = self._size
        box = shapely.box(0, 0, width, height)
        if self._geometry.is_empty or not self._geometry.intersects(box):
            return False
        extent = self.extent
        rows, last = extent.rows, extent.rows.stop
        strips = (range(row, min(row + _STRIP, last)) for row in range(rows.start, last, _STRIP))
        return any(self.touches(rows, extent.cols) for rows in strips)

    @property
    def extent(self) -> Extent:
        """A rectangle that all its pixels lie in; it shares ground with the grid."""
        height, width = self._size
        left, top, right, bottom = self._geometry.bounds
        return Extent(
            range(max(0, int(top)), min(height, int(bottom) + 1)),
            range(max(0, int(left)), min(width, int(right) + 1)),
        )

    def inside(self, rows: range, cols: range) -> Inside:
        """(n, w) bool of these rows and columns: True = the pixel's centre lies in the area."""
        row, x = self._crossings(rows)
        # From a crossing on, what was outside is inside, and the other way round.
        turns = np.zeros((len(rows), len(cols) + 1), np.uint8)
        first = np.clip(np.floor(x + 0.5), cols.start, cols.stop).astype(np.int64)
        np.bitwise_xor.at(turns, (row - rows.start, first - cols.start), np.uint8(1))
        return np.bitwise_xor.accumulate(turns[:, :-1], axis=1).view(np.bool_)

    def touches(self, rows: range, cols: range) -> bool:
        """Whether any pixel of this window lies in the area."""
        if not (len(rows) and len(cols)):
            return False
        window = shapely.box(cols.start, rows.start, cols.stop, rows.stop)
        if not self._geometry.intersects(window):
            return False
        return self._geometry.contains(window) or bool(self.inside(rows, cols).any())

    def _crossings(self, rows: range) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Where the middle of each row meets the outline: row (m,) and column coordinate (m,)."""
        begin, end = self._rows
        near = np.flatnonzero(end[: np.searchsorted(begin, rows.stop)] > rows.start)
        start = np.maximum(begin[near], rows.start)
        count = np.minimum(end[near], rows.stop) - start
        edge = np.repeat(near, count)
        row = np.arange(len(edge)) + np.repeat(start - np.cumsum(count) + count, count)
        low = self._low[edge]
        return row, low[:, 0] + (row + 0.5 - low[:, 1]) * self._slope[edge]


def _edges(
    geometry: BaseGeometry, height: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Of every edge that meets the middle of a row: its northern end (n, 2), columns per row (n,), rows begin, end."""
    rings = [shapely.get_coordinates(ring) for ring in shapely.get_rings(shapely.get_parts(geometry))]
    start = np.concatenate([ring[:-1] for ring in rings]) if rings else np.zeros((0, 2))
    stop = np.concatenate([ring[1:] for ring in rings]) if rings else np.zeros((0, 2))
    downward = (start[:, 1] < stop[:, 1])[:, None]
    low, high = np.where(downward, start, stop), np.where(downward, stop, start)
    begin, end = (np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64) for y in (low[:, 1], high[:, 1]))
    order = np.argsort(begin, kind="stable")
    order = order[begin[order] < end[order]]
    low, high = low[order], high[order]
    slope = (high[:, 0] - low[:, 0]) / (high[:, 1] - low[:, 1])
    return low, slope, (begin[order], end[order])
