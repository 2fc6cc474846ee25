"""From a chunk of class codes to its arcs: the boundary lines between junctions.

A crack is the unit edge between two pixels of different codes. Lattice points are pixel corners; a point where three
or four cracks meet is a node. An arc is a maximal line of cracks between nodes, or a closed one without any. Every
vertical crack that crosses a chunk's border row is cut there, so that each arc lies within one chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Bytes, Ints, inner, kernel
from aerial_seg.polygonize.batch import NONE, Codes

Int32 = NDArray[np.int32]

NORTH, EAST, SOUTH, WEST = range(4)
SEEN = 16
"""Added to the marks of a corner that an arc has passed."""
NOBODY = -1
"""No half-edge, no node."""


class Points(NamedTuple):
    """The lattice points of a chunk of h rows and W columns.

    marks (h+1, W+1) uint8: bits 1, 2, 4, 8 for cracks to the north, east, south and west. Row h is the next chunk's
    row 0: only its cracks to the north are known. top: the raster row of row 0.
    node_rows (h+2,): offsets into node_cols of each row's nodes; node_cols (n,) int32, ascending in each row. The ends
    of cracks that cross row 0 or row h count as nodes.
    """

    marks: Bytes
    node_rows: Ints
    node_cols: Int32
    top: int


class Arcs(NamedTuple):
    """The arcs of a chunk; arc a gives half-edge 2a along its vertices and 2a+1 back along them.

    xy (n,2) int32 raster columns and rows of the vertices, arc after arc; offsets (a+1,). ends (a,2) int32: first and
    last node, NOBODY for closed arcs without nodes, whose first vertex comes again at the end. ways (a,2) uint8: the
    direction of the first and of the last crack. right and left (a,2) int32: row and column in the chunk's frame
    of the pixel on that side of the first crack, as row·(W+2)+column.
    """

    xy: Int32
    offsets: Ints
    ends: Int32
    ways: Bytes
    right: Ints
    left: Ints


def framed(codes: Codes, above: Codes) -> Codes:
    """The chunk (h, W) under the row `above` (W,), between columns without class: (h+1, W+2)."""
    height, width = codes.shape
    frame = np.full((height + 1, width + 2), NONE, np.uint16)
    frame[0, 1:-1] = above
    frame[1:, 1:-1] = codes
    return frame


def find_points(frame: Codes, top: int) -> Points:
    """The lattice points of a framed chunk; `top` is its first row's number in the raster."""
    marks = np.empty((frame.shape[0], frame.shape[1] - 1), np.uint8)
    node_rows = np.zeros(frame.shape[0] + 1, np.int64)
    _mark(frame, marks, node_rows)
    node_cols = np.empty(int(node_rows[-1]), np.int32)
    _list_nodes(marks, node_rows, node_cols)
    return Points(marks, node_rows, node_cols, top)


def find_arcs(frame: Codes, points: Points) -> Arcs:
    """All arcs of the chunk, those from nodes first, in row-major order of where they start."""
    vertices, arcs = _count(points.marks)
    xy = np.empty((vertices, 2), np.int32)
    offsets = np.zeros(arcs + 1, np.int64)
    ends, ways = np.empty((arcs, 2), np.int32), np.empty((arcs, 2), np.uint8)
    right, left = np.empty(arcs, np.int64), np.empty(arcs, np.int64)
    found = Arcs(xy, offsets, ends, ways, right, left)
    left_out = np.zeros(len(points.node_cols), np.uint8)
    count = _walk_from_nodes(points, found, left_out)
    count = _walk_loops(points, found, count)
    used = int(offsets[count])
    return Arcs(xy[:used], offsets[: count + 1], ends[:count], ways[:count], right[:count], left[:count])


@inner
def is_node(mark: int, row: int, last: int) -> bool:
    """Whether arcs end at a point of these marks: a junction, or where a crack crosses a border row."""
    junction = mark & 15 in (7, 11, 13, 14, 15)
    return junction or (mark & 1 == 1 and (row == 0 or row == last))


@kernel
def _mark(frame: Codes, marks: Bytes, node_rows: Ints) -> None:
    last = marks.shape[0] - 1
    for y in range(marks.shape[0]):
        nodes = 0
        below = min(y + 1, last)
        for x in range(marks.shape[1]):
            north_west, north_east = frame[y, x], frame[y, x + 1]
            mark = np.uint8(north_west != north_east)
            if y < last:
                south_west, south_east = frame[below, x], frame[below, x + 1]
                mark |= np.uint8(north_east != south_east) << 1
                mark |= np.uint8(south_west != south_east) << 2
                mark |= np.uint8(north_west != south_west) << 3
            marks[y, x] = mark
            if mark != 0 and is_node(int(mark), y, last):
                nodes += 1
        node_rows[y + 1] = node_rows[y] + nodes


@kernel
def _list_nodes(marks: Bytes, node_rows: Ints, node_cols: Int32) -> None:
    last = marks.shape[0] - 1
    for y in range(marks.shape[0]):
        place = node_rows[y]
        if place == node_rows[y + 1]:
            continue
        for x in range(marks.shape[1]):
            if marks[y, x] != 0 and is_node(marks[y, x], y, last):
                node_cols[place] = x
                place += 1


@kernel
def _count(marks: Bytes) -> tuple[int, int]:
    """Upper bounds of the vertices and of the arcs."""
    last = marks.shape[0] - 1
    corners = ends = loops = 0
    for y in range(marks.shape[0]):
        for x in range(marks.shape[1]):
            mark = marks[y, x]
            if mark in (0, 5, 10) and not (mark == 5 and y == 0):
                continue
            if is_node(mark, y, last):
                ends += (mark & 1) + (mark >> 1 & 1) + (mark >> 2 & 1) + (mark >> 3 & 1)
            else:
                corners += 1
                loops += mark == 6
    # An arc has two ends; a loop starts in a corner to the east and south, and visits it twice.
    return corners + ends + loops, (ends + 1) // 2 + loops


@inner
def node_at(points: Points, y: int, x: int) -> int:
    """The number of the node at this point."""
    low, high = int(points.node_rows[y]), int(points.node_rows[y + 1])
    while high - low > 1:
        middle = (low + high) >> 1
        if points.node_cols[middle] <= x:
            low = middle
        else:
            high = middle
    return low


@inner
def _sides(y: int, x: int, way: int, width: int) -> tuple[int, int]:
    """The pixels right and left of the crack that leaves point (y, x) this way, as numbers in a frame that wide."""
    north_west, south_west = y * width + x, (y + 1) * width + x
    if way == NORTH:
        return north_west + 1, north_west
    if way == EAST:
        return south_west + 1, north_west + 1
    if way == SOUTH:
        return south_west, south_west + 1
    return north_west, south_west


@inner
def _next_point(y: int, x: int, way: int) -> tuple[int, int]:
    """The lattice point at the other end of the crack that leaves (y, x) this way."""
    if way == NORTH:
        return y - 1, x
    if way == EAST:
        return y, x + 1
    return (y + 1, x) if way == SOUTH else (y, x - 1)


@inner
def _onward(mark: int, way: int) -> int:
    """The way out of a corner or a straight point that was entered this way."""
    rest = (mark & 15) & ~(1 << ((way + 2) & 3))
    if rest == 1:
        return NORTH
    if rest == 2:
        return EAST
    return SOUTH if rest == 4 else WEST


@kernel
def _walk_from_nodes(points: Points, arcs: Arcs, done: Bytes) -> int:
    """Every crack at a node belongs to an arc; `done` (nodes,) tells which of a node's cracks were walked."""
    marks, last = points.marks, points.marks.shape[0] - 1
    width = marks.shape[1] + 1
    count = 0
    for row in range(last + 1):
        for node in range(points.node_rows[row], points.node_rows[row + 1]):
            col = points.node_cols[node]
            for way in range(4):
                bit = 1 << way
                if marks[row, col] & bit == 0 or done[node] & bit != 0 or (row == 0 and way == NORTH):
                    continue
                done[node] |= bit
                end, back = _walk(points, arcs, count, row, col, way)
                arcs.ends[count, 0], arcs.ends[count, 1] = node, end
                arcs.right[count], arcs.left[count] = _sides(row, col, way, width)
                done[end] |= 1 << back
                count += 1
    return count


@inner
def _walk(points: Points, arcs: Arcs, arc: int, y: int, x: int, way: int) -> tuple[int, int]:
    """The vertices of one arc are listed; returns its last node and the way back from there."""
    marks, last = points.marks, points.marks.shape[0] - 1
    place = arcs.offsets[arc]
    arcs.xy[place, 0], arcs.xy[place, 1] = x, y + points.top
    arcs.ways[arc, 0] = way
    while True:
        y, x = _next_point(y, x, way)
        mark = marks[y, x]
        if is_node(mark, y, last):
            break
        turned = _onward(mark, way)
        if turned != way:
            place += 1
            arcs.xy[place, 0], arcs.xy[place, 1] = x, y + points.top
            marks[y, x] = mark | SEEN
            way = turned
    place += 1
    arcs.xy[place, 0], arcs.xy[place, 1] = x, y + points.top
    arcs.ways[arc, 1] = way
    arcs.offsets[arc + 1] = place + 1
    return node_at(points, y, x), (way + 2) & 3


@kernel
def _walk_loops(points: Points, arcs: Arcs, count: int) -> int:
    """Closed arcs without nodes, each from its north-west vertex on: the first of its corners in row-major order."""
    marks = points.marks
    width = marks.shape[1] + 1
    for row in range(marks.shape[0] - 1):
        for col in range(marks.shape[1]):
            if marks[row, col] != 6:
                continue
            place, y, x, way = arcs.offsets[count], row, col, EAST
            arcs.ways[count, 0] = EAST
            while True:
                mark = marks[y, x] & 15
                turned = _onward(mark, way) if (y != row or x != col) else EAST
                if (y == row and x == col) or turned != way:
                    arcs.xy[place, 0], arcs.xy[place, 1] = x, y + points.top
                    marks[y, x] = mark | SEEN
                    place += 1
                way = turned
                y, x = _next_point(y, x, way)
                if y == row and x == col:
                    break
            arcs.xy[place, 0], arcs.xy[place, 1] = col, row + points.top
            arcs.ways[count, 1] = way
            arcs.offsets[count + 1] = place + 1
            arcs.ends[count, 0] = arcs.ends[count, 1] = NOBODY
            arcs.right[count], arcs.left[count] = _sides(row, col, EAST, width)
            count += 1
    return count
