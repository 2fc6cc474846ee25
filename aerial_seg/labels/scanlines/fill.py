"""Which pixels' centres polygons hold: GDAL's rule, without GDAL's way from Python to it.

A row of pixels is a line through their centres. Between the first place where a polygon's edges cross it and the
second, the third and the fourth, lies the polygon; a pixel belongs to it from the place rounded to the next edge of a
pixel on. A centre on an edge belongs to what lies below or to the right of it; on the upper level edge of a hole it
belongs to the polygon all the same. `rasterio.features.rasterize` is the tests' oracle, to the pixel.

Source: GDAL, alg/llrasterize.cpp and gdalrasterize.cpp (what `gdal_rasterize` documents without -at).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Floats64, Ints, inner, kernel

Numbers = NDArray[np.uint8] | NDArray[np.int16]


@kernel
def fill_polygons(
    points: Floats64, rings: Ints, polygons: Ints, order: Ints, values: Ints, out: Numbers
) -> None:
    """Write values[k] into the pixels of out (H,W) whose centre the polygon k holds, for each k of `order` in turn.

    points: (m, 2) column and row of all vertices, each ring closed. rings: (r + 1,) where the points of each begin, and
    the end. polygons: (p + 1,) where the rings of each begin, and the end. Floats are computed as GDAL computes them.
    """
    height, width = out.shape
    begins = np.zeros(height + 2, np.int64)
    crossings = np.zeros(64, np.int64)
    for k in order:
        first, last = rings[polygons[k]], rings[polygons[k + 1]]
        low, high = _rows(points, first, last, height)
        if low >= high:
            continue
        # How many edges cross each row, then where: so long outlines are gone through twice, not once a row.
        begins[low : high + 1] = 0
        _count_crossings(points, rings[polygons[k] : polygons[k + 1] + 1], low, high, begins)
        for row in range(low, high):
            begins[row + 1] += begins[row]
        if begins[high] > len(crossings):
            crossings = np.zeros(2 * begins[high], np.int64)
        _cross(points, rings[polygons[k] : polygons[k + 1] + 1], low, high, begins, crossings)
        begin = np.int64(0)
        for row in range(low, high):
            end = begins[row]
            _sort(crossings[begin:end])
            for place in range(begin, end - 1, 2):
                _paint(out[row], crossings[place], crossings[place + 1], width, values[k])
            begin = end
        for ring in range(polygons[k], polygons[k + 1]):
            _paint_level_edges(points[rings[ring] : rings[ring + 1]], low, high, values[k], out)


@inner
def _row_from(y: float, low: int, high: int) -> int:
    """The first row whose centre lies at y or below it, within low..high."""
    return min(max(math.ceil(y - 0.5), low), high)


@inner
def _rows(points: Floats64, first: int, last: int, height: int) -> tuple[int, int]:
    """The rows from the first whose centre lies on or below the uppermost point to behind the last on or above."""
    top = bottom = points[first, 1]
    for place in range(first + 1, last):
        top, bottom = min(top, points[place, 1]), max(bottom, points[place, 1])
    if bottom < 0 or top > height:
        return 0, 0
    return int(max(math.ceil(top - 0.5), 0)), int(min(math.floor(bottom - 0.5) + 1, height))


@inner
def _count_crossings(points: Floats64, rings: Ints, low: int, high: int, begins: Ints) -> None:
    """Count in begins[row + 1] the edges that cross the row; begins[low] stays 0."""
    for ring in range(len(rings) - 1):
        for place in range(rings[ring], rings[ring + 1] - 1):
            one, other = points[place, 1], points[place + 1, 1]
            for row in range(_row_from(min(one, other), low, high), _row_from(max(one, other), low, high)):
                begins[row + 1] += 1


@inner
def _cross(points: Floats64, rings: Ints, low: int, high: int, begins: Ints, crossings: Ints) -> None:
    """Put the columns at which edges cross a row behind begins[row], which becomes the end of the row's."""
    for ring in range(len(rings) - 1):
        for place in range(rings[ring], rings[ring + 1] - 1):
            up, down = place, place + 1
            if points[up, 1] > points[down, 1]:
                up, down = down, up
            x, y = points[up, 0], points[up, 1]
            across, along = points[down, 0] - x, points[down, 1] - y
            for row in range(_row_from(y, low, high), _row_from(points[down, 1], low, high)):
                crossings[begins[row]] = math.floor((row + 0.5 - y) * across / along + x + 0.5)
                begins[row] += 1


@inner
def _paint_level_edges(ring: Floats64, low: int, high: int, value: int, out: Numbers) -> None:
    """Fill the pixels whose centres lie on a level edge that has the ring below it: of a hole, which left them out."""
    # Where the ring is walked with a positive area such edges run east, else west.
    sign = 0.0
    for place in range(len(ring) - 1):
        y, after = ring[place, 1], ring[place + 1, 1]
        if y != after or y - 0.5 != math.floor(y - 0.5):
            continue
        row = int(y - 0.5)
        if row < low or row >= high:
            continue
        if sign == 0.0:
            sign = _area(ring)
        from_x, to_x = ring[place, 0], ring[place + 1, 0]
        if (to_x > from_x) == (sign > 0):
            left, right = math.floor(min(from_x, to_x) + 0.5), math.floor(max(from_x, to_x) + 0.5)
            _paint(out[row], left, right, out.shape[1], value)


@inner
def _area(ring: Floats64) -> float:
    """Twice the ring's area, positive where it is walked from the column axis to the row axis."""
    total = 0.0
    for place in range(1, len(ring) - 1):
        x, y = ring[place, 0] - ring[0, 0], ring[place, 1] - ring[0, 1]
        total += x * (ring[place + 1, 1] - ring[0, 1]) - (ring[place + 1, 0] - ring[0, 0]) * y
    return total


@inner
def _paint(row: Numbers, begin: int, end: int, width: int, value: int) -> None:
    for column in range(max(begin, 0), min(end, width)):
        row[column] = value


@inner
def _sort(values: Ints) -> None:
    """In place; mostly there are two."""
    if len(values) > 32:
        values.sort()
        return
    for place in range(1, len(values)):
        value, before = values[place], place - 1
        while before >= 0 and values[before] > value:
            values[before + 1] = values[before]
            before -= 1
        values[before + 1] = value
