"""An outline as few straight sides, along and across one direction where it will bear that."""

from __future__ import annotations

from math import atan, ceil, cos, hypot, pi, sin, sqrt
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Ints, inner
from aerial_seg.polygonize.regularize.direction import Points, deviation, slope

Sides = NDArray[np.void]
"""The straight sides of one ring, in its order; how many of the rows are in use goes with it."""


class Side(Protocol):
    """A row of Sides, to be written to as well.

    It stands for `count` of the ring's edges from `begin` on; for none if it only joins two parallel sides. way: unit
    vector of travel. The points (x, y) of its line have way_x · y − way_y · x = offset.
    """

    begin: int
    count: int
    way_x: float
    way_y: float
    offset: float


_SIDE = np.dtype(
    [
        ("begin", np.int64),
        ("count", np.int64),
        ("way_x", np.float64),
        ("way_y", np.float64),
        ("offset", np.float64),
    ]
)
_SHORTEST = 1.5
"""Sides shorter than this many tolerances are steps of the raster or noise, and go."""
_STRAY = 1.5
"""A side may stray this many tolerances from the axis that it is laid on."""
_LONG = 5.0
_LONG_SHARE = 0.08
"""A side off both axes stays if it is this many tolerances long, and this share of the outline."""
_CHAMFER = pi / 5
"""A short side that is turned more from both axes cuts a corner: its neighbours meet without it."""
_HALF_RIGHT = pi / 18
"""Long sides off the axes that are within 10° of 45° are laid at 45°."""
_EVEN = 1e-6
"""Lengths that differ by less, in tolerances, differ by rounding, and the first one counts."""
_CROSSING = sin(pi / 9)
"""Lines that meet under less than 20° do not say where."""
_ROUNDS = 4
"""Of reweighting; the tilt then moves by less than 0.01°."""


@inner
def first_sides(points: Points, bends: Ints, tolerance: float) -> tuple[Sides, int]:
    """A side for each part between corners, without short ones that cut a corner."""
    n, m = len(points), len(bends)
    sides = np.empty(2 * m, _SIDE)
    size = 0
    around = 0.0
    for k in range(m):
        a, b = bends[k], bends[(k + 1) % m]
        around += hypot(points[b, 0] - points[a, 0], points[b, 1] - points[a, 1])
    long = max(_LONG * tolerance, _LONG_SHARE * around)
    for k in range(m):
        begin = bends[k]
        count = (bends[(k + 1) % m] - begin) % n
        way_x, way_y = _way(points, begin, count, long, tolerance)
        if way_x != 0 or way_y != 0:
            side = sides[size]
            side.begin, side.count, side.way_x, side.way_y = begin, count, way_x, way_y
            side.offset = _offset(points, side, tolerance)
            size += 1
    return sides, size


@inner
def _way(points: Points, begin: int, count: int, long: float, tolerance: float) -> tuple[float, float]:
    """The way of travel that these edges are laid along; (0, 0) if they cut a corner."""
    end = (begin + count) % len(points)
    dx, dy = points[end, 0] - points[begin, 0], points[end, 1] - points[begin, 1]
    length = hypot(dx, dy)
    angle = slope(points, begin, count)
    off = abs(deviation(angle, 0.0))
    if length >= long and length * sin(off) / 2 > _STRAY * tolerance:
        if off > pi / 4 - _HALF_RIGHT:
            return np.copysign(sqrt(0.5), dx), np.copysign(sqrt(0.5), dy)
        forward = 1.0 if dx * cos(angle) + dy * sin(angle) >= 0 else -1.0
        return forward * cos(angle), forward * sin(angle)
    if off > _CHAMFER:
        return 0.0, 0.0
    if abs(dx) >= abs(dy):
        return np.copysign(1.0, dx), 0.0
    return 0.0, np.copysign(1.0, dy)


@inner
def _pieces(points: Points, side: Side, tolerance: float) -> Points:
    """A side's edges in pieces of at most one tolerance: (m, 3) of along, offset and weight.

    The first two are those of a piece's middle, along the side's way and across it; a piece weighs what it leads along.
    """
    n = len(points)
    total = 0
    for k in range(side.begin, side.begin + side.count):
        a, b = k % n, (k + 1) % n
        total += _piece_count(points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], tolerance)
    found = np.empty((total, 3))
    filled = 0
    for k in range(side.begin, side.begin + side.count):
        a, b = k % n, (k + 1) % n
        dx, dy = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1]
        pieces = _piece_count(dx, dy, tolerance)
        for piece in range(pieces):
            x, y = points[a, 0] + (piece + 0.5) / pieces * dx, points[a, 1] + (piece + 0.5) / pieces * dy
            found[filled, 0] = side.way_x * x + side.way_y * y
            found[filled, 1] = side.way_x * y - side.way_y * x
            found[filled, 2] = abs(side.way_x * dx + side.way_y * dy) / pieces
            filled += 1
    return found


@inner
def _piece_count(dx: float, dy: float, tolerance: float) -> int:
    """At least one; a length that is a whole number of tolerances but for rounding has that many."""
    return max(1, ceil(hypot(dx, dy) / tolerance - _EVEN))


@inner
def _offset(points: Points, side: Side, tolerance: float) -> float:
    """Where a side's line lies: the mean offset of its pieces without the outer quarters."""
    return _midmean(_pieces(points, side, tolerance))


@inner
def _midmean(pieces: Points) -> float:
    """The mean of the offsets between their quartiles: a quarter of the weight off the others does not count."""
    offsets = np.empty(len(pieces))
    total, mean = 0.0, 0.0
    for k in range(len(pieces)):
        offsets[k] = pieces[k, 1]
        mean += offsets[k] / len(pieces)
        total += pieces[k, 2]
    if total == 0:
        return mean
    below, inside, base = 0.0, 0.0, np.nan
    for k in np.argsort(offsets, kind="mergesort"):
        share = min(below + pieces[k, 2], 0.75 * total) - max(below, 0.25 * total)
        below += pieces[k, 2]
        if share > 0:
            # From the first of them on: where all are equal the mean is no rounding error beside them.
            base = offsets[k] if np.isnan(base) else base
            inside += share * (offsets[k] - base)
    return float(base + inside / (0.5 * total))


@inner
def tilt(points: Points, sides: Sides, size: int, tolerance: float) -> float:
    """How far the sides on the axes are turned from them together, in radians.

    By least distances, not squares (iteratively reweighted), so that a bay or a tree that covers a wall
    does not turn the house.
    """
    found = 0.0
    for _ in range(_ROUNDS):
        up, down = 0.0, 0.0
        for at in range(size):
            if sides[at].way_x != 0 and sides[at].way_y != 0:
                continue
            pieces = _pieces(points, sides[at], tolerance)
            for k in range(len(pieces)):
                pieces[k, 1] -= found * pieces[k, 0]
            middle = _midmean(pieces)
            weight, along = 0.0, 0.0
            for k in range(len(pieces)):
                pieces[k, 2] /= max(abs(pieces[k, 1] - middle), tolerance / 3)
                weight += pieces[k, 2]
                along += pieces[k, 2] * pieces[k, 0]
            for k in range(len(pieces)):
                way = pieces[k, 0] - along / weight
                up += pieces[k, 2] * way * (pieces[k, 1] - middle)
                down += pieces[k, 2] * way * way
        found += up / down if down > 0 else 0.0
    return atan(found)


@inner
def join_parallels(points: Points, sides: Sides, size: int) -> int:
    """Between two neighbours on the same axis stands a short side across it; returns how many sides there are now."""
    k = 0
    while size > 1 and k < size:
        after = (k + 1) % size
        if _are_on_one_axis(sides[k], sides[after]):
            x, y = _break(points, sides[k], sides[after])
            for j in range(size, k + 1, -1):
                sides[j] = sides[j - 1]
            size += 1
            _lead_across(sides[k], sides[(k + 2) % size], sides[k + 1], (x, y))
            k += 1
        k += 1
    return size


@inner
def _are_on_one_axis(a: Side, b: Side) -> bool:
    return bool((a.way_x == 0 and b.way_x == 0) or (a.way_y == 0 and b.way_y == 0))


@inner
def _lead_across(a: Side, b: Side, between: Side, through: tuple[float, float]) -> None:
    """The side between leads from the line of side `a` to the parallel one of `b`, through a point; it has no edges."""
    same = a.way_x * b.way_x + a.way_y * b.way_y
    forward = 1.0 if b.offset * same >= a.offset else -1.0
    between.begin, between.count = b.begin, 0
    between.way_x, between.way_y = -a.way_y * forward, a.way_x * forward
    between.offset = between.way_x * through[1] - between.way_y * through[0]


@inner
def _break(points: Points, a: Side, b: Side) -> tuple[float, float]:
    """The middle between the last point of side `a` and the first one of side `b`."""
    last, first = (a.begin + a.count) % len(points), b.begin
    return (points[last, 0] + points[first, 0]) / 2, (points[last, 1] + points[first, 1]) / 2


@inner
def _meeting(points: Points, a: Side, b: Side) -> tuple[float, float]:
    """Where side `b` follows on side `a`."""
    cross = a.way_x * b.way_y - a.way_y * b.way_x
    if abs(cross) >= _CROSSING:
        return (
            (a.offset * b.way_x - b.offset * a.way_x) / cross,
            (a.offset * b.way_y - b.offset * a.way_y) / cross,
        )
    x, y = _break(points, a, b)
    to_a, to_b = a.offset - a.way_x * y + a.way_y * x, b.offset - b.way_x * y + b.way_y * x
    # A side on an axis keeps its line; the one beside it that is on none gives way.
    share = 1.0 if a.way_x == 0 or a.way_y == 0 else 0.0 if b.way_x == 0 or b.way_y == 0 else 0.5
    return (
        x - share * to_a * a.way_y - (1 - share) * to_b * b.way_y,
        y + share * to_a * a.way_x + (1 - share) * to_b * b.way_x,
    )


@inner
def corner_points(points: Points, sides: Sides, size: int) -> Points:
    """Where each side and the next one meet, (size, 2); the last is where the last and the first do."""
    vertices = np.empty((size, 2))
    for k in range(size):
        vertices[k, 0], vertices[k, 1] = _meeting(points, sides[k], sides[(k + 1) % size])
    return vertices


@inner
def shortest_side(points: Points, sides: Sides, size: int, tolerance: float) -> tuple[int, float]:
    """The side with the least length, the first of equal ones, and that length: negative if it leads backwards."""
    vertices = corner_points(points, sides, size)
    best, least = 0, np.inf
    for k in range(size):
        length = (vertices[k, 0] - vertices[k - 1, 0]) * sides[k].way_x
        length += (vertices[k, 1] - vertices[k - 1, 1]) * sides[k].way_y
        if sides[k].count == 0:
            length = abs(length)
        if length < least - _EVEN * tolerance:
            best, least = k, length
    return best, least


@inner
def drop_short_sides(points: Points, sides: Sides, size: int, tolerance: float) -> int:
    """No side is shorter than 1.5 tolerances, or four are left, the shortest having gone first.

    Where the neighbours of one that went are on one axis, they are one side. Returns how many are left.
    """
    while size > 4:
        at, length = shortest_side(points, sides, size, tolerance)
        if length >= _SHORTEST * tolerance:
            break
        before, after = (at - 1) % size, (at + 1) % size
        if _are_on_one_axis(sides[before], sides[after]):
            _merge(points, sides[before], sides[at].count, sides[after], tolerance)
            size = _drop(sides, size, max(at, after))
            at = min(at, after)
        size = _drop(sides, size, at)
    return size


@inner
def _drop(sides: Sides, size: int, at: int) -> int:
    for k in range(at, size - 1):
        sides[k] = sides[k + 1]
    return size - 1


@inner
def _merge(points: Points, side: Side, gone: int, other: Side, tolerance: float) -> None:
    """The side takes the edges of another one on its axis, and those between, of which `gone` belonged to a side."""
    n = len(points)
    own = side.count + gone + other.count
    if own == 0:
        same = side.way_x * other.way_x + side.way_y * other.way_y
        side.offset = (side.offset + same * other.offset) / 2
        return
    count = (other.begin + other.count - side.begin) % n
    side.count = count if count > 0 else n
    begin, end = side.begin % n, (side.begin + side.count) % n
    lead = (points[end, 0] - points[begin, 0]) * side.way_x + (points[end, 1] - points[begin, 1]) * side.way_y
    if lead < 0:
        side.way_x, side.way_y = -side.way_x, -side.way_y
    side.offset = _offset(points, side, tolerance)
