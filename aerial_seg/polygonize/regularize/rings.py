"""Whole polygons laid out with right angles: one direction for all their rings."""

from __future__ import annotations

from math import cos, sin, sqrt

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Ints, inner, kernel
from aerial_seg.polygonize.regularize.direction import (
    Points,
    bounds,
    corners,
    deviation,
    direction,
    roundness,
)
from aerial_seg.polygonize.regularize.sides import (
    corner_points,
    drop_short_sides,
    first_sides,
    join_parallels,
    shortest_side,
    tilt,
)

SQUARED, SMALL, ROUND = 0, 1, 2

_FEWEST_SQUARE = 0.3
"""An outline of which less keeps the dominant direction has none: a circle has 0.22."""
_MANY_SQUARE = 0.7
"""More keeps it in a square whose corners are cut, which may then be as round as it likes."""
_UPRIGHT = 0.01
"""Where a direction is off the raster's by this many tolerances at most, the raster's is meant."""
_ROUNDEST = 0.85
"""Outlines rounder than this, from a hexagon on, are masts, tanks and huts; a square has 0.79."""


@kernel
def square_polygons(
    coords: Points, rings: Ints, polygons: Ints, tolerance: float
) -> tuple[Points, Ints, NDArray[np.uint8]]:
    """Polygons of as many rings, laid out alike, and what became of each: SQUARED, or SMALL or ROUND and unchanged.

    coords (n, 2), closed rings; rings (r+1,) and polygons (p+1,): offsets. The polygons are valid; nothing is said
    about whether those that come back are.
    """
    squared = np.empty((2 * len(coords) + 5 * len(rings), 2))
    ends = np.zeros(len(rings), np.int64)
    verdicts = np.zeros(len(polygons) - 1, np.uint8)
    for p in range(len(polygons) - 1):
        # Far from the origin, as in a projected CRS, products of coordinates lose what matters.
        outer = coords[rings[polygons[p]] : rings[polygons[p] + 1]]
        x, y, _, _ = bounds(outer)
        angle, verdicts[p] = _outer_direction(_open_ring(outer, x, y), tolerance)
        for r in range(polygons[p], polygons[p + 1]):
            ring = coords[rings[r] : rings[r + 1]]
            found = np.empty((0, 2))
            if verdicts[p] == SQUARED:
                points = _open_ring(ring, x, y)
                bends = corners(points, tolerance)
                found = _square_ring(_turned(points, -angle), bends, tolerance, r > polygons[p])
            if len(found) == 0:
                # It is the outer ring that comes first, so nothing of this polygon is squared yet.
                verdicts[p] = max(verdicts[p], SMALL)
                ends[r + 1] = ends[r] + len(ring)
                for k in range(len(ring)):
                    squared[ends[r] + k, 0], squared[ends[r] + k, 1] = ring[k, 0], ring[k, 1]
                continue
            found = _turned(found, angle)
            size = len(found)
            ends[r + 1] = ends[r] + size + 1
            for k in range(size + 1):
                squared[ends[r] + k, 0] = found[k % size, 0] + x
                squared[ends[r] + k, 1] = found[k % size, 1] + y
    return squared[: ends[len(rings) - 1]], ends, verdicts


@inner
def _open_ring(ring: Points, x: float, y: float) -> Points:
    """The ring's vertices from x, y, each once: neither the closing one nor repeated ones."""
    points = np.empty((len(ring) - 1, 2))
    count = 0
    for k in range(len(ring) - 1):
        if ring[k, 0] != ring[k + 1, 0] or ring[k, 1] != ring[k + 1, 1]:
            points[count, 0], points[count, 1] = ring[k, 0] - x, ring[k, 1] - y
            count += 1
    return points[:count]


@inner
def _turned(points: Points, angle: float) -> Points:
    """The points turned around 0 from the x axis towards the y axis."""
    cosine, sine = cos(angle), sin(angle)
    turned = np.empty_like(points)
    for k in range(len(points)):
        turned[k, 0] = cosine * points[k, 0] - sine * points[k, 1]
        turned[k, 1] = sine * points[k, 0] + cosine * points[k, 1]
    return turned


@inner
def _outer_direction(points: Points, tolerance: float) -> tuple[float, int]:
    """The direction of a polygon by its outer ring, and whether it has one. points: from the least x and y on."""
    bends = corners(points, tolerance)
    if len(bends) < 3:
        return 0.0, SMALL
    angle, share = direction(points, bends)
    if share < _FEWEST_SQUARE or (share < _MANY_SQUARE and roundness(points, bends) > _ROUNDEST):
        return 0.0, ROUND
    turned = _turned(points, -angle)
    sides, size = first_sides(turned, bends, tolerance)
    angle += tilt(turned, sides, size, tolerance)
    _, _, right, bottom = bounds(points)
    if abs(deviation(angle, 0.0)) * max(right, bottom) < _UPRIGHT * tolerance:
        angle = 0.0
    return angle, SQUARED


@inner
def _square_ring(points: Points, bends: Ints, tolerance: float, boxed: bool) -> Points:
    """The vertices of a ring that is turned so that its direction is the x axis; bends: its corners.

    If it has too few sides: those of a box when `boxed`, else none.
    """
    nothing = _box(points) if boxed else np.empty((0, 2))
    if len(bends) < 3:
        return nothing
    sides, size = first_sides(points, bends, tolerance)
    size = join_parallels(points, sides, size)
    size = drop_short_sides(points, sides, size, tolerance)
    if size < 3 or shortest_side(points, sides, size, tolerance)[1] <= 0:
        return nothing
    return corner_points(points, sides, size)


@inner
def _box(points: Points) -> Points:
    """An upright rectangle with the proportions of the ring's box, and with its area, middle and turn."""
    left, top, right, bottom = bounds(points)
    area = 0.0
    for k in range(len(points)):
        after = (k + 1) % len(points)
        area += (points[k, 0] * points[after, 1] - points[after, 0] * points[k, 1]) / 2
    scale = sqrt(abs(area) / ((right - left) * (bottom - top))) / 2
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    right, down = (right - left) * scale, np.copysign((bottom - top) * scale, area)
    box = np.empty((4, 2))
    for k in range(4):
        box[k, 0] = middle_x + (right if k in (1, 2) else -right)
        box[k, 1] = middle_y + (down if k in (2, 3) else -down)
    return box
