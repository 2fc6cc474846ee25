"""Whether a shortcut along an arc would meet another line."""

from __future__ import annotations

from aerial_seg.numba_kernels import Bytes, inner
from aerial_seg.polygonize.tracing.arcs import Int32


@inner
def farthest_from_start(xy: Int32, first: int, last: int) -> int:
    """The vertex of a closed arc that lies farthest from where it begins; the first of several."""
    best, chosen = 0, first + 1
    for k in range(first + 1, last):
        dx, dy = int(xy[k, 0] - xy[first, 0]), int(xy[k, 1] - xy[first, 1])
        if dx * dx + dy * dy > best:
            best, chosen = dx * dx + dy * dy, k
    return chosen


@inner
def is_free(marks: Bytes, top: int, xy: Int32, first: int, last: int) -> bool:
    """Whether no other crack has a lattice point in the box around the piece first … last and its chord.

    The box is the piece's own, upright, cut down to the strip along the chord that holds the piece.
    """
    ax, ay = int(xy[first, 0]), int(xy[first, 1])
    dx, dy = int(xy[last, 0]) - ax, int(xy[last, 1]) - ay
    west, east = min(ax, ax + dx), max(ax, ax + dx)
    north, south = min(ay, ay + dy), max(ay, ay + dy)
    low = high = length = 0
    for k in range(first + 1, last + 1):
        x, y = int(xy[k, 0]), int(xy[k, 1])
        length += abs(x - int(xy[k - 1, 0])) + abs(y - int(xy[k - 1, 1]))
        west, east, north, south = min(west, x), max(east, x), min(north, y), max(south, y)
        across = (x - ax) * dy - (y - ay) * dx
        low, high = min(low, across), max(high, across)
    allowed = length + 1
    if abs(dx) >= abs(dy):
        for x in range(west, east + 1):
            along = (x - ax) * dy
            begin, end = _between(along - high, along - low, dx)
            for y in range(max(north, ay + begin), min(south, ay + end) + 1):
                if marks[y - top, x] & 15:
                    allowed -= 1
            if allowed < 0:
                return False
        return True
    for y in range(north, south + 1):
        along = (y - ay) * dx
        begin, end = _between(along + low, along + high, dy)
        for x in range(max(west, ax + begin), min(east, ax + end) + 1):
            if marks[y - top, x] & 15:
                allowed -= 1
        if allowed < 0:
            return False
    return True


@inner
def _between(low: int, high: int, divisor: int) -> tuple[int, int]:
    """The smallest and the largest whole number n with low ≤ n·divisor ≤ high."""
    if divisor < 0:
        low, high, divisor = -high, -low, -divisor
    return -((-low) // divisor), high // divisor
