"""Fewer vertices on shared arcs: neighbours simplify alike, and no line ever crosses another.

A shortcut replaces a piece of an arc by its chord. It is taken only where no other crack has a lattice point between
the piece and the chord (tested in the box around both). That suffices for a valid coverage: if two chords crossed, one
of them would enter the other's region, and the piece it stands for would have to follow it there; but cracks are unit
edges and a straight line leaves no other way out than past one of their lattice points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aerial_seg.choices import SimplifyMethod
from aerial_seg.numba_kernels import Bytes, Floats64, Ints, inner, kernel
from aerial_seg.polygonize.tracing.arcs import NOBODY, Arcs, Int32, Points
from aerial_seg.polygonize.tracing.shortcut_check import farthest_from_start, is_free
from aerial_seg.polygonize.tracing.visvalingam import remove_small_triangles

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Simplification:
    """How outlines lose vertices: none with a tolerance of 0.

    tolerance: pixels. Douglas-Peucker: no vertex that goes lies farther from the new line. Visvalingam: the root of
    the area of the triangles that may go. smooth: whether corners are then cut twice (Chaikin).
    """

    tolerance: float = 0.0
    method: SimplifyMethod = "douglas-peucker"
    smooth: bool = False

    @property
    def changes(self) -> bool:
        """Whether outlines are to differ from the pixels' edges."""
        return self.tolerance > 0 or self.smooth


class Shape(NamedTuple):
    """Arcs as they will be drawn: xy (n,2) float64, offsets (arcs+1,). refused: shortcuts that met another line."""

    xy: Floats64
    offsets: Ints
    refused: int


def simplify_arcs(points: Points, arcs: Arcs, exact: Bools, how: Simplification) -> Shape:
    """The arcs with fewer vertices; nodes, and the first vertex of arcs without nodes, stay where they are.

    exact (arcs,) bool: arcs to leave alone.
    """
    kept = np.zeros(len(arcs.xy), np.bool_)
    rigid = _rigid_arcs(points, arcs)
    if how.tolerance > 0:
        reduce = _douglas_peucker if how.method == "douglas-peucker" else remove_small_triangles
        refused = int(reduce(points.marks, points.top, arcs, exact, rigid, how.tolerance, kept))
    else:
        kept[:], refused = True, 0
    if not how.smooth:
        return Shape(arcs.xy[kept].astype(np.float64), _new_offsets(arcs.offsets, kept), refused)
    soft = np.zeros(len(arcs.xy), np.bool_)
    _find_soft(points.marks, points.top, arcs, exact, kept, soft)
    xy, offsets = arcs.xy[kept].astype(np.float64), _new_offsets(arcs.offsets, kept)
    soft = soft[kept]
    for _ in range(2):
        xy, offsets, soft = _cut_corners(xy, offsets, soft)
    return Shape(xy, offsets, refused)


def _new_offsets(offsets: Ints, kept: Bools) -> Ints:
    return np.concatenate([[0], np.cumsum(kept)])[offsets]


@kernel
def _rigid_arcs(points: Points, arcs: Arcs) -> Bools:
    """Arcs that must not become one straight line, because another arc between the same nodes may: two would be one.

    That other arc is unknown when both ends lie on one border row; it may be in the next chunk.
    """
    nodes, last = len(points.node_cols), points.marks.shape[0] - 1
    first_arc = np.full((nodes, 4), NOBODY, np.int32)
    count = np.zeros(nodes, np.uint8)
    rigid = np.zeros(len(arcs.ends), np.bool_)
    for arc in range(len(arcs.ends)):
        low, high = min(arcs.ends[arc, 0], arcs.ends[arc, 1]), max(arcs.ends[arc, 0], arcs.ends[arc, 1])
        if low == high:
            rigid[arc] = True
            continue
        rigid[arc] = high < points.node_rows[1] or low >= points.node_rows[last]
        for k in range(count[low]):
            other = first_arc[low, k]
            if max(arcs.ends[other, 0], arcs.ends[other, 1]) == high:
                rigid[arc] = rigid[other] = True
        first_arc[low, count[low]] = arc
        count[low] += 1
    return rigid


@kernel
def _douglas_peucker(
    marks: Bytes, top: int, arcs: Arcs, exact: Bools, rigid: Bools, tolerance: float, kept: Bools
) -> int:
    """`kept` (vertices,) tells which vertices stay; returns how many shortcuts were refused."""
    stack = np.empty((64, 3), np.int64)
    refused = 0
    for arc in range(len(arcs.ends)):
        first, last = arcs.offsets[arc], arcs.offsets[arc + 1] - 1
        if exact[arc] or last - first < 2:
            kept[first : last + 1] = True
            continue
        kept[first] = kept[last] = True
        stack[0] = first, last, np.int64(rigid[arc])
        depth = 1
        if arcs.ends[arc, 0] == arcs.ends[arc, 1]:
            turn = farthest_from_start(arcs.xy, first, last)
            kept[turn] = True
            stack[0] = first, turn, 1
            stack[1] = turn, last, 1
            depth = 2
        while depth > 0:
            depth -= 1
            low, high, whole = stack[depth, 0], stack[depth, 1], stack[depth, 2]
            if high - low < 2:
                continue
            far, distance = _farthest(arcs.xy, low, high)
            if distance <= tolerance * tolerance and not whole:
                if is_free(marks, top, arcs.xy, low, high):
                    continue
                refused += 1
            kept[far] = True
            if depth + 2 > len(stack):
                larger = np.empty((2 * len(stack), 3), np.int64)
                larger[: len(stack)] = stack
                stack = larger
            stack[depth] = far, high, 0
            stack[depth + 1] = low, far, 0
            depth += 2
    return refused


@inner
def _farthest(xy: Int32, low: int, high: int) -> tuple[int, float]:
    """The vertex farthest from the segment low–high, the first of several, and its squared distance."""
    ax, ay = float(xy[low, 0]), float(xy[low, 1])
    dx, dy = xy[high, 0] - ax, xy[high, 1] - ay
    square = dx * dx + dy * dy
    far, distance = low + 1, -1.0
    for k in range(low + 1, high):
        px, py = xy[k, 0] - ax, xy[k, 1] - ay
        along = px * dx + py * dy
        if along <= 0:
            away = px * px + py * py
        elif along >= square:
            away = (px - dx) ** 2 + (py - dy) ** 2
        else:
            across = px * dy - py * dx
            away = across * across / square
        if away > distance:
            far, distance = k, away
    return far, distance


@kernel
def _find_soft(marks: Bytes, top: int, arcs: Arcs, exact: Bools, kept: Bools, soft: Bools) -> None:
    """`soft` (vertices,): corners that may be cut, because nothing lies between them and their neighbours' chord."""
    for arc in range(len(arcs.ends)):
        if exact[arc]:
            continue
        before = here = arcs.offsets[arc]
        for k in range(arcs.offsets[arc] + 1, arcs.offsets[arc + 1]):
            if not kept[k]:
                continue
            if here != before:
                closes = arcs.xy[before, 0] == arcs.xy[k, 0] and arcs.xy[before, 1] == arcs.xy[k, 1]
                soft[here] = not closes and is_free(marks, top, arcs.xy, before, k)
            before, here = here, k


@kernel
def _cut_corners(xy: Floats64, offsets: Ints, soft: Bools) -> tuple[Floats64, Ints, Bools]:
    """Every soft corner is two soft corners now, at a quarter of its segments. Source: Chaikin 1974."""
    count = len(xy) + soft.sum()
    new_xy, new_soft = np.empty((count, 2)), np.zeros(count, np.bool_)
    new_offsets = np.empty_like(offsets)
    place = 0
    for arc in range(len(offsets) - 1):
        new_offsets[arc] = place
        for k in range(offsets[arc], offsets[arc + 1]):
            if not soft[k]:
                new_xy[place] = xy[k]
                place += 1
                continue
            for axis in range(2):
                new_xy[place, axis] = 0.75 * xy[k, axis] + 0.25 * xy[k - 1, axis]
                new_xy[place + 1, axis] = 0.75 * xy[k, axis] + 0.25 * xy[k + 1, axis]
            new_soft[place] = new_soft[place + 1] = True
            place += 2
    new_offsets[-1] = place
    return new_xy, new_offsets, new_soft
