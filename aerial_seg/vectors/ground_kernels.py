"""The loops over the edges of millions of polygons: area and perimeter on ground that polynomials describe."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Floats64, Ints, inner, kernel

Flags = NDArray[np.bool_]

DEGREE, COEFFICIENTS = 4, 15
"""Of a facet's polynomials: 1, v, v², v³, v⁴, u, uv, uv², uv³, u², u²v, u²v², u³, u³v, u⁴."""
FLUX, SQUARES, MIXED, DOWN, COLUMNS = 5, 20, 35, 50, 65
"""Where the parts of a facet's row in the table begin, and its length."""
SLACK = 1 / 64
"""Of a facet's side. The polynomials hold so far outside of the raster: smoothed corners may leave it by a pixel."""

_SHORT = 1 / 128
"""Of a facet's side. Along shorter edges one point of the metric and two of the flux are as good as three of both."""
_TWO = math.sqrt(1 / 3)
_THREE = math.sqrt(3 / 5)
"""Where Gauss's rules of two and three points look, in halves of an edge from its middle."""


class Facets(NamedTuple):
    """The ground under a raster: rows × cols equal facets of pixel space, on each a few polynomials.

    left, top: pixels; across, down: facets per pixel. u, v run from -1 to 1 over a facet, eastwards and southwards on
    screen. table (rows·cols, 65) float64, the facets row by row: the flux φ(u, v), square metres per unit of v that lie
    west of u (5 coefficients of 1 to v⁴; then 15 of the polynomial that u multiplies), and the metric's three parts in
    square metres: |∂u|² (15), 2 ∂u·∂v (15), |∂v|² (15). area_doubts, length_doubts (rows + 1, cols + 1) int64: on how
    many of the facets above and left of each of the facets' corners areas or lengths are not to be trusted.
    """

    left: float
    top: float
    across: float
    down: float
    table: Floats64
    area_doubts: Ints
    length_doubts: Ints


@kernel
def leave_trust(coords: Floats64, rings: Ints, polygons: Ints, facets: Facets) -> tuple[Flags, Flags]:
    """For every polygon (p,): True if its area is not to be had from the facets, True if its perimeter is not.

    That is so if its box reaches beyond the facets, or holds a part of one that is not to be trusted.
    """
    rows, cols = facets.area_doubts.shape[0] - 1, facets.area_doubts.shape[1] - 1
    areas, lengths = np.ones(polygons.size - 1, np.bool_), np.ones(polygons.size - 1, np.bool_)
    for p in range(areas.size):
        start, end = rings[polygons[p]], rings[polygons[p] + 1]
        west = east = coords[start, 0]
        north = south = coords[start, 1]
        for k in range(start + 1, end):
            x, y = coords[k, 0], coords[k, 1]
            west, east = min(west, x), max(east, x)
            north, south = min(north, y), max(south, y)
        west, east = (west - facets.left) * facets.across, (east - facets.left) * facets.across
        north, south = (north - facets.top) * facets.down, (south - facets.top) * facets.down
        if west >= -SLACK and north >= -SLACK and east <= cols + SLACK and south <= rows + SLACK:
            box = _facet(north, rows), _facet(west, cols), _facet(south, rows) + 1, _facet(east, cols) + 1
            areas[p] = _count_in(facets.area_doubts, box) > 0
            lengths[p] = _count_in(facets.length_doubts, box) > 0
    return areas, lengths


@inner
def _count_in(sums: Ints, box: tuple[int, int, int, int]) -> int:
    top, left, bottom, right = box
    count: int = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return count


@kernel
def sum_edges(
    coords: Floats64, rings: Ints, polygons: Ints, facets: Facets, skip: Flags
) -> tuple[Floats64, Floats64]:
    """Square metres (p,) and metres (p,) of polygons, holes taken off the area and their rings added to the length.

    Each ring counts by its size, whichever way it runs. skip (p,): not these; they are NaN. What lies on untrusted
    facets counts as their polynomials say.
    """
    areas, lengths = np.full(skip.size, np.nan), np.full(skip.size, np.nan)
    for p in range(skip.size):
        if skip[p]:
            continue
        area, length = _measure_ring(coords, rings[polygons[p]], rings[polygons[p] + 1], facets)
        area = abs(area)
        for hole in range(polygons[p] + 1, polygons[p + 1]):
            off, more = _measure_ring(coords, rings[hole], rings[hole + 1], facets)
            area -= abs(off)
            length += more
        areas[p], lengths[p] = area, length
    return areas, lengths


@inner
def _facet(at: float, count: int) -> int:
    return max(0, min(int(at), count - 1))


@inner
def _measure_ring(coords: Floats64, start: int, end: int, facets: Facets) -> tuple[float, float]:
    """Signed square metres and metres of one closed ring.

    By Green the area is the integral of the flux over dv along the ring. The flux is continuous across facets that lie
    side by side; along the horizontal sides between facets dv is 0, so that no jump there counts.
    """
    rows, cols = facets.area_doubts.shape[0] - 1, facets.area_doubts.shape[1] - 1
    table = facets.table
    x, y = (coords[start, 0] - facets.left) * facets.across, (coords[start, 1] - facets.top) * facets.down
    i, j = _facet(y, rows), _facet(x, cols)
    # A constant changes no integral over a closed ring; without it small rings would drown in the flux's rounding.
    base = _flux(table, i * cols + j, 2 * (x - j) - 1, 2 * (y - i) - 1)
    area = length = 0.0
    for k in range(start + 1, end):
        x1, y1 = (coords[k, 0] - facets.left) * facets.across, (coords[k, 1] - facets.top) * facets.down
        i1, j1 = _facet(y1, rows), _facet(x1, cols)
        du, dv = x1 - x, y1 - y
        if i1 == i and j1 == j and abs(du) + abs(dv) <= _SHORT:
            cell, u, v = i * cols + j, x + x1 - 2 * j - 1, y + y1 - 2 * i - 1
            if dv != 0:
                low = _flux(table, cell, u - _TWO * du, v - _TWO * dv)
                high = _flux(table, cell, u + _TWO * du, v + _TWO * dv)
                area += ((low - base) + (high - base)) * dv
            length += 2 * _speed(table, cell, u, v, du, dv)
        else:
            swept, walked = _measure_long(table, (x, y, x1, y1), rows, cols, base)
            area += swept
            length += walked
        x, y, i, j = x1, y1, i1, j1
    return area, length


@inner
def _measure_long(
    table: Floats64, edge: tuple[float, float, float, float], rows: int, cols: int, base: float
) -> tuple[float, float]:
    """What an edge adds to a ring's area and length, facet by facet along it."""
    x, y, x1, y1 = edge
    dx, dy = x1 - x, y1 - y
    side = math.floor(x) + 1 if dx > 0 else math.ceil(x) - 1
    line = math.floor(y) + 1 if dy > 0 else math.ceil(y) - 1
    area = length = t = 0.0
    while t < 1:
        at_side = (side - x) / dx if dx != 0 else 2.0
        at_line = (line - y) / dy if dy != 0 else 2.0
        until = min(at_side, at_line, 1.0)
        side += (1 if dx > 0 else -1) if at_side <= until else 0
        line += (1 if dy > 0 else -1) if at_line <= until else 0
        middle_x, middle_y = x + dx * ((t + until) / 2), y + dy * ((t + until) / 2)
        i, j = _facet(middle_y, rows), _facet(middle_x, cols)
        cell, u, v = i * cols + j, 2 * (middle_x - j) - 1, 2 * (middle_y - i) - 1
        du, dv = dx * (until - t), dy * (until - t)
        for k in range(-1, 2):
            at_u, at_v, share = u + k * _THREE * du, v + k * _THREE * dv, (5 if k else 8) / 9
            area += share * (_flux(table, cell, at_u, at_v) - base) * dv
            length += share * _speed(table, cell, at_u, at_v, du, dv)
        t = until
    return area, length


@inner
def _flux(table: Floats64, cell: int, u: float, v: float) -> float:
    return _in_v(table, cell, 0, v) + u * _polynomial(table, cell, FLUX, u, v)


@inner
def _speed(table: Floats64, cell: int, u: float, v: float, du: float, dv: float) -> float:
    """The length in metres of a small step (du, dv) at (u, v)."""
    squared = 0.0
    if du != 0:
        squared += _polynomial(table, cell, SQUARES, u, v) * du * du
    if dv != 0:
        squared += _polynomial(table, cell, DOWN, u, v) * dv * dv
        if du != 0:
            squared += _polynomial(table, cell, MIXED, u, v) * du * dv
    return math.sqrt(max(squared, 0.0))


@inner
def _polynomial(table: Floats64, cell: int, at: int, u: float, v: float) -> float:
    first = table[cell, at + 6] + v * (table[cell, at + 7] + v * table[cell, at + 8])
    first = table[cell, at + 5] + v * first
    second = table[cell, at + 9] + v * (table[cell, at + 10] + v * table[cell, at + 11])
    third = table[cell, at + 12] + v * table[cell, at + 13]
    value: float = _in_v(table, cell, at, v)
    value += u * (first + u * (second + u * (third + u * table[cell, at + 14])))
    return value


@inner
def _in_v(table: Floats64, cell: int, at: int, v: float) -> float:
    high = table[cell, at + 2] + v * (table[cell, at + 3] + v * table[cell, at + 4])
    value: float = table[cell, at] + v * (table[cell, at + 1] + v * high)
    return value
