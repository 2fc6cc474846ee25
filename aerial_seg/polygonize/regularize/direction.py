"""The corners of an outline, and the direction that most of its sides keep, up to right angles."""

from __future__ import annotations

from math import atan2, hypot, pi

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Ints, inner

Points = NDArray[np.float64]

_RIGHT = pi / 2
_NEAR = pi / 18
"""Sides that deviate less than 10° speak for a direction."""
_EVEN = 1e-9
"""What differs by this share differs by rounding, and the first one counts."""


@inner
def corners(points: Points, tolerance: float) -> Ints:
    """The positions of a ring's corners, in its order: those that Douglas and Peucker keep at this tolerance.

    points (n, 2): the ring without its closing vertex. Two far ends of it are always corners, and it is from the first
    of them that everything is counted: the same corners come in the same order wherever the ring begins.
    """
    n = len(points)
    if n < 3:
        return np.empty(0, np.int64)
    kept = np.zeros(n, np.bool_)
    left, top, right, bottom = bounds(points)
    first = _farthest(points, (left + right) / 2, (top + bottom) / 2)
    second = _farthest(points, points[first, 0], points[first, 1])
    kept[first] = kept[second] = True
    stack = np.empty((n + 2, 2), np.int64)
    stack[0, 0], stack[0, 1], stack[1, 0], stack[1, 1] = first, second, second, first
    waiting = 2
    while waiting > 0:
        waiting -= 1
        begin, end = stack[waiting, 0], stack[waiting, 1]
        worst, at = tolerance * (1 + _EVEN), -1
        for k in range(1, (end - begin) % n):
            distance = _distance(points, (begin + k) % n, begin, end)
            if distance > worst:
                worst, at = distance * (1 + _EVEN), (begin + k) % n
        if at >= 0:
            kept[at] = True
            stack[waiting, 0], stack[waiting, 1] = begin, at
            stack[waiting + 1, 0], stack[waiting + 1, 1] = at, end
            waiting += 2
    found = np.empty(n, np.int64)
    count = 0
    for k in range(first, first + n):
        if kept[k % n]:
            found[count] = k % n
            count += 1
    return found[:count]


@inner
def bounds(points: Points) -> tuple[float, float, float, float]:
    """The least x and y, and the largest x and y."""
    # Written out because numba takes seconds to compile array expressions.
    left, top, right, bottom = np.inf, np.inf, -np.inf, -np.inf
    for k in range(len(points)):
        left, right = min(left, points[k, 0]), max(right, points[k, 0])
        top, bottom = min(top, points[k, 1]), max(bottom, points[k, 1])
    return left, top, right, bottom


@inner
def _farthest(points: Points, x: float, y: float) -> int:
    """The point farthest from x, y; of equally far ones that with the smallest x, then y."""
    best, farthest = 0, -1.0
    for k in range(len(points)):
        far = (points[k, 0] - x) ** 2 + (points[k, 1] - y) ** 2
        if far < farthest * (1 - _EVEN):
            continue
        before = points[k, 0] < points[best, 0] or (
            points[k, 0] == points[best, 0] and points[k, 1] < points[best, 1]
        )
        if far > farthest * (1 + _EVEN) or before:
            best, farthest = k, far
    return best


@inner
def _distance(points: Points, at: int, begin: int, end: int) -> float:
    """From one point of the ring to the segment between two others."""
    x, y = points[begin, 0], points[begin, 1]
    dx, dy = points[end, 0] - x, points[end, 1] - y
    square = dx * dx + dy * dy
    along = 0.0
    if square > 0:
        along = min(max(((points[at, 0] - x) * dx + (points[at, 1] - y) * dy) / square, 0.0), 1.0)
    return hypot(points[at, 0] - x - along * dx, points[at, 1] - y - along * dy)


@inner
def direction(points: Points, bends: Ints) -> tuple[float, float]:
    """The dominant direction of a ring with these corners, and the share of its length that keeps it.

    In radians from 0 to under π/2, from the x axis towards the y axis: sides along it and at right angles to it count
    alike. It is the densest 10° of a histogram of the sides by length², then the mean of the sides near it, weighted
    alike: a side that is twice as long says its direction more than twice as well.
    """
    count = len(bends)
    angles, lengths = np.empty(count), np.empty(count)
    bins = np.zeros(90)
    for k in range(count):
        begin, end = bends[k], bends[(k + 1) % count]
        lengths[k] = hypot(points[end, 0] - points[begin, 0], points[end, 1] - points[begin, 1])
        angles[k] = slope(points, begin, (end - begin) % len(points)) % _RIGHT
        bins[int(angles[k] / _RIGHT * 90) % 90] += lengths[k] ** 2
    best, densest = 0, -1.0
    for k in range(90):
        dense = 0.0
        for near in range(-5, 6):
            dense += bins[(k + near) % 90] * (6 - abs(near))
        if dense > densest:
            best, densest = k, dense
    angle = (best + 0.5) * _RIGHT / 90
    for _ in range(4):
        turn, weight = 0.0, 0.0
        for k in range(count):
            off = deviation(angles[k], angle)
            if abs(off) < _NEAR:
                turn += off * lengths[k] ** 2
                weight += lengths[k] ** 2
        angle += turn / weight if weight > 0 else 0.0
    along, around = 0.0, 0.0
    for k in range(count):
        around += lengths[k]
        if abs(deviation(angles[k], angle)) < _NEAR:
            along += lengths[k]
    return angle % _RIGHT, along / around


@inner
def roundness(points: Points, bends: Ints) -> float:
    """4π × area / perimeter² of the polygon of a ring's corners: 1 for a circle, π/4 for a square."""
    area, around = 0.0, 0.0
    for k in range(len(bends)):
        a, b = bends[k], bends[(k + 1) % len(bends)]
        area += (points[a, 0] * points[b, 1] - points[b, 0] * points[a, 1]) / 2
        around += hypot(points[b, 0] - points[a, 0], points[b, 1] - points[a, 1])
    return 4 * pi * abs(area) / around**2


@inner
def deviation(angle: float, from_angle: float) -> float:
    """How far an angle is turned from another one, up to right angles: from −π/4 to under π/4."""
    return (angle - from_angle + _RIGHT / 2) % _RIGHT - _RIGHT / 2


@inner
def slope(points: Points, begin: int, count: int) -> float:
    """The direction of a ring's `count` edges from a point on: the principal axis of that line, −π/2 to π/2."""
    n = len(points)
    total, sum_x, sum_y = 0.0, 0.0, 0.0
    for k in range(begin, begin + count):
        a, b = k % n, (k + 1) % n
        length = hypot(points[b, 0] - points[a, 0], points[b, 1] - points[a, 1])
        total += length
        sum_x += length * (points[a, 0] + points[b, 0]) / 2
        sum_y += length * (points[a, 1] + points[b, 1]) / 2
    if total == 0:
        return 0.0
    mean_x, mean_y = sum_x / total, sum_y / total
    xx, xy, yy = 0.0, 0.0, 0.0
    for k in range(begin, begin + count):
        a, b = k % n, (k + 1) % n
        dx, dy = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1]
        x, y = (points[a, 0] + points[b, 0]) / 2 - mean_x, (points[a, 1] + points[b, 1]) / 2 - mean_y
        length = hypot(dx, dy)
        xx += length * (x * x + dx * dx / 12)
        xy += length * (x * y + dx * dy / 12)
        yy += length * (y * y + dy * dy / 12)
    return 0.5 * atan2(2 * xy, xx - yy)
