"""From arcs to the outlines of patches: closed rings, and open parts that cross a chunk's border.

A half-edge runs along an arc with its patch on the right. At a node it goes on into the rightmost crack, so that
pixels which touch at a corner only are not connected there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Ints, inner, kernel
from aerial_seg.polygonize.tracing.arcs import NOBODY, NORTH, SOUTH, Arcs, Int32, Points

Bools = NDArray[np.bool_]

CLOSED = -1
"""Start and stop of a ring."""
_EXIT = -2
"""The outline goes on in the next or in the previous chunk."""


class Outlines(NamedTuple):
    """Rings and open parts of outlines.

    steps (n,) int32 half-edges, one outline after the other; offsets (k+1,). labels (k,) int32: the patch.
    starts, stops (k,) int64: CLOSED, or where a part crosses a border row: 2·column for the chunk's northern border,
    2·column + 1 for its southern one.
    """

    steps: Int32
    offsets: Ints
    labels: Int32
    starts: Ints
    stops: Ints


def find_outlines(points: Points, arcs: Arcs, labels: Int32, wanted: Bools) -> Outlines:
    """All outlines of the patches whose label is wanted, each ring touching itself nowhere.

    labels (h+1, W+2) int32: the patch of every pixel of the framed chunk. wanted (labels,) bool.
    """
    out = np.full((len(points.node_cols), 4), NOBODY, np.int32)
    _leave_nodes(points, arcs, out)
    half_edges = 2 * len(arcs.ends)
    found = Outlines(
        steps=np.empty(half_edges, np.int32),
        offsets=np.zeros(half_edges + 1, np.int64),
        labels=np.empty(half_edges, np.int32),
        starts=np.full(half_edges, CLOSED, np.int64),
        stops=np.full(half_edges, CLOSED, np.int64),
    )
    sides = np.stack([labels.ravel()[arcs.right], labels.ravel()[arcs.left]], axis=1).ravel()
    done = ~wanted[sides]
    count = _follow_parts(points, arcs, out, sides, done, found)
    count = _follow_rings(arcs, out, sides, done, found, count)
    return Outlines(
        found.steps[: found.offsets[count]],
        found.offsets[: count + 1],
        found.labels[:count],
        found.starts[:count],
        found.stops[:count],
    )


@kernel
def _leave_nodes(points: Points, arcs: Arcs, out: Int32) -> None:
    """out (nodes, 4): the half-edge that leaves a node in each direction, _EXIT where it leaves the chunk."""
    for arc in range(len(arcs.ends)):
        first, final = arcs.ends[arc, 0], arcs.ends[arc, 1]
        if first != NOBODY:
            out[first, arcs.ways[arc, 0]] = 2 * arc
            out[final, (arcs.ways[arc, 1] + 2) & 3] = 2 * arc + 1
    for node in range(points.node_rows[1]):
        if points.marks[0, points.node_cols[node]] & 1:
            out[node, NORTH] = _EXIT
    for node in range(points.node_rows[-2], points.node_rows[-1]):
        out[node, SOUTH] = _EXIT


@inner
def _turn(out: Int32, node: int, way: int) -> int:
    """The half-edge after one that arrives at the node this way: the rightmost."""
    for turn in (1, 0):
        if out[node, (way + turn) & 3] != NOBODY:
            return int(out[node, (way + turn) & 3])
    return int(out[node, (way + 3) & 3])


@inner
def _arrival(arcs: Arcs, half: int) -> tuple[int, int]:
    """The node that a half-edge ends in, and its last direction."""
    arc = half >> 1
    if half & 1:
        return int(arcs.ends[arc, 0]), (int(arcs.ways[arc, 0]) + 2) & 3
    return int(arcs.ends[arc, 1]), int(arcs.ways[arc, 1])


@kernel
def _follow_parts(points: Points, arcs: Arcs, out: Int32, sides: Int32, done: Bools, found: Outlines) -> int:
    """Every part that comes in over a border row is followed until it goes out again."""
    bottom = points.node_rows[-2]
    count = 0
    for entry in range(points.node_rows[1] + points.node_rows[-1] - bottom):
        from_north = entry < points.node_rows[1]
        node = entry if from_north else entry - points.node_rows[1] + bottom
        if from_north and out[node, NORTH] != _EXIT:
            continue
        half = _turn(out, node, SOUTH) if from_north else out[node, NORTH]
        if done[half]:
            continue
        place = found.offsets[count]
        found.labels[count] = sides[half]
        found.starts[count] = 2 * points.node_cols[node] + (0 if from_north else 1)
        while half != _EXIT:
            done[half] = True
            found.steps[place] = half
            place += 1
            node, way = _arrival(arcs, half)
            half = _turn(out, node, way)
        found.stops[count] = 2 * points.node_cols[node] + (1 if node >= bottom else 0)
        count += 1
        found.offsets[count] = place
    return count


@kernel
def _follow_rings(arcs: Arcs, out: Int32, sides: Int32, done: Bools, found: Outlines, count: int) -> int:
    """The rest are rings. One that comes back to a node is two rings that touch there."""
    stack = np.empty(len(done), np.int32)
    place_of = np.full(len(out), NOBODY, np.int32)
    for first in range(len(done)):
        if done[first]:
            continue
        if arcs.ends[first >> 1, 0] == NOBODY:
            done[first] = True
            stack[0] = first
            count = _keep(found, count, stack, 0, 1, sides[first])
            continue
        half, depth = first, 0
        start, _ = _arrival(arcs, half ^ 1)
        while not done[half]:
            done[half] = True
            place_of[start] = depth
            stack[depth] = half
            depth += 1
            node, way = _arrival(arcs, half)
            back = place_of[node]
            if back != NOBODY:
                count = _keep(found, count, stack, back, depth, sides[first])
                for k in range(back, depth):
                    origin, _ = _arrival(arcs, stack[k] ^ 1)
                    place_of[origin] = NOBODY
                depth = back
            half, start = _turn(out, node, way), node
    return count


@inner
def _keep(found: Outlines, count: int, stack: Int32, low: int, high: int, label: int) -> int:
    place = found.offsets[count]
    for k in range(low, high):
        found.steps[place + k - low] = stack[k]
    found.offsets[count + 1] = place + high - low
    found.labels[count] = label
    return count + 1


class Lines(NamedTuple):
    """The vertices of outlines: xy (n,2) float64, offsets (k+1,). Rings end with their first vertex."""

    xy: NDArray[np.float64]
    offsets: Ints


def draw(outlines: Outlines, xy: NDArray[np.generic], offsets: Ints) -> Lines:
    """The vertices of every outline from those of the arcs; rings begin at their north-west vertex.

    xy (n,2) int32 or float64 and offsets (arcs+1,): the arcs' vertices, simplified or not.
    """
    lengths = np.diff(offsets)[outlines.steps >> 1] - 1
    counts = np.add.reduceat(lengths, outlines.offsets[:-1]) + 1 if len(lengths) else lengths
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    lines = Lines(np.empty((int(ends[-1]), 2)), ends)
    _draw(outlines, xy, offsets, lines)
    return lines


@kernel
def _draw(outlines: Outlines, xy: NDArray[np.generic], offsets: Ints, lines: Lines) -> None:
    for outline in range(len(outlines.labels)):
        low, high = lines.offsets[outline], lines.offsets[outline + 1]
        place = low
        for k in range(outlines.offsets[outline], outlines.offsets[outline + 1]):
            arc, backward = outlines.steps[k] >> 1, outlines.steps[k] & 1
            first, last = offsets[arc], offsets[arc + 1] - 1
            for j in range(last - first):
                vertex = last - j if backward else first + j
                lines.xy[place, 0], lines.xy[place, 1] = xy[vertex, 0], xy[vertex, 1]
                place += 1
            if k == outlines.offsets[outline + 1] - 1:
                vertex = first if backward else last
                lines.xy[place, 0], lines.xy[place, 1] = xy[vertex, 0], xy[vertex, 1]
        if outlines.starts[outline] == CLOSED:
            _rotate(lines.xy, low, high - 1)
            lines.xy[high - 1, 0], lines.xy[high - 1, 1] = lines.xy[low, 0], lines.xy[low, 1]


@inner
def _rotate(xy: NDArray[np.float64], low: int, high: int) -> None:
    """The open ring low … high−1 begins at its north-west vertex: three reversals."""
    best = low
    for k in range(low + 1, high):
        if xy[k, 1] < xy[best, 1] or (xy[k, 1] == xy[best, 1] and xy[k, 0] < xy[best, 0]):
            best = k
    if best != low:
        _reverse(xy, low, best)
        _reverse(xy, best, high)
        _reverse(xy, low, high)


@inner
def _reverse(xy: NDArray[np.float64], low: int, high: int) -> None:
    high -= 1
    while low < high:
        for axis in range(2):
            kept = xy[low, axis]
            xy[low, axis] = xy[high, axis]
            xy[high, axis] = kept
        low += 1
        high -= 1


@kernel
def twice_areas(lines: Lines) -> NDArray[np.float64]:
    """Twice the signed area of every ring (k,): positive for exteriors, which run clockwise with y down."""
    areas = np.zeros(len(lines.offsets) - 1)
    for ring in range(len(areas)):
        first, last = lines.offsets[ring], lines.offsets[ring + 1] - 1
        x0, y0 = lines.xy[first, 0], lines.xy[first, 1]
        total = 0.0
        for k in range(first, last):
            total += (lines.xy[k, 0] - x0) * (lines.xy[k + 1, 1] - y0)
            total -= (lines.xy[k + 1, 0] - x0) * (lines.xy[k, 1] - y0)
        areas[ring] = total
    return areas
