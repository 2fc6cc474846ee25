"""Visvalingam's way to fewer vertices: the corners that matter least go first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Bytes, Floats64, Ints, inner, kernel
from aerial_seg.polygonize.tracing.arcs import Arcs, Int32
from aerial_seg.polygonize.tracing.shortcut_check import farthest_from_start, is_free

Bools = NDArray[np.bool_]


@kernel
def remove_small_triangles(
    marks: Bytes, top: int, arcs: Arcs, exact: Bools, rigid: Bools, tolerance: float, kept: Bools
) -> int:
    """`kept` (vertices,) tells which vertices stay; returns how many removals were refused.

    A corner goes when the triangle with its neighbours has an area of at most tolerance² and no other line between.
    Source: Visvalingam and Whyatt 1993; of equal corners the first goes first.
    """
    longest = 2
    for arc in range(len(arcs.ends)):
        longest = max(longest, arcs.offsets[arc + 1] - arcs.offsets[arc])
    before, after = np.empty(longest, np.int64), np.empty(longest, np.int64)
    area, slot = np.empty(longest), np.empty(longest, np.int64)
    heap = np.empty(longest, np.int64)
    refused = 0
    kept[:] = True
    for arc in range(len(arcs.ends)):
        first, last = arcs.offsets[arc], arcs.offsets[arc + 1] - 1
        if exact[arc] or last - first < 2:
            continue
        turn = farthest_from_start(arcs.xy, first, last) if arcs.ends[arc, 0] == arcs.ends[arc, 1] else last
        pieces = 1 if turn == last else 2
        for piece in range(pieces):
            low, high = (first, turn) if piece == 0 else (turn, last)
            whole = rigid[arc] or pieces == 2
            refused += _reduce(
                marks, top, arcs.xy, (low, high, whole), tolerance * tolerance, kept,
                (before, after, area, slot, heap),
            )  # fmt: skip
    return refused


@inner
def _reduce(
    marks: Bytes,
    top: int,
    xy: Int32,
    piece: tuple[int, int, bool],
    limit: float,
    kept: Bools,
    scratch: tuple[Ints, Ints, Floats64, Ints, Ints],
) -> int:
    low, high, whole = piece
    before, after, area, slot, heap = scratch
    size, refused = 0, 0
    for k in range(low + 1, high):
        i = k - low
        before[i], after[i] = i - 1, i + 1
        area[i] = _triangle(xy, k - 1, k, k + 1)
        heap[size], slot[i] = i, size
        _rise(heap, slot, area, size)
        size += 1
    left = high - low - 1
    while size > 0:
        i = heap[0]
        if area[i] > limit:
            break
        size -= 1
        heap[0] = heap[size]
        slot[heap[0]] = 0
        _sink(heap, slot, area, 0, size)
        slot[i] = -1
        if left == 1 and whole:
            break
        previous, following = before[i], after[i]
        if not is_free(marks, top, xy, low + previous, low + following):
            refused += 1
            continue
        kept[low + i] = False
        left -= 1
        for other, far in ((previous, 0), (following, 1)):
            if other <= 0 or other >= high - low:
                continue
            if far == 0:
                after[other] = following
            else:
                before[other] = previous
            # No smaller than what just went, so that a line of small corners goes evenly.
            area[other] = max(area[i], _triangle(xy, low + before[other], low + other, low + after[other]))
            if slot[other] < 0:
                heap[size], slot[other] = other, size
                size += 1
            _rise(heap, slot, area, slot[other])
            _sink(heap, slot, area, slot[other], size)
    return refused


@inner
def _triangle(xy: Int32, a: int, b: int, c: int) -> float:
    ux, uy = float(xy[b, 0]) - xy[a, 0], float(xy[b, 1]) - xy[a, 1]
    vx, vy = float(xy[c, 0]) - xy[a, 0], float(xy[c, 1]) - xy[a, 1]
    return float(abs(ux * vy - uy * vx)) / 2


@inner
def _goes_first(area: Floats64, i: int, j: int) -> bool:
    return area[i] < area[j] or (area[i] == area[j] and i < j)


@inner
def _rise(heap: Ints, slot: Ints, area: Floats64, place: int) -> None:
    while place > 0:
        parent = (place - 1) >> 1
        if not _goes_first(area, heap[place], heap[parent]):
            break
        _swap(heap, slot, place, parent)
        place = parent


@inner
def _sink(heap: Ints, slot: Ints, area: Floats64, place: int, size: int) -> None:
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and _goes_first(area, heap[child + 1], heap[child]):
            child += 1
        if not _goes_first(area, heap[child], heap[place]):
            break
        _swap(heap, slot, place, child)
        place = child


@inner
def _swap(heap: Ints, slot: Ints, a: int, b: int) -> None:
    kept = heap[a]
    heap[a] = heap[b]
    heap[b] = kept
    slot[heap[a]], slot[heap[b]] = a, b
