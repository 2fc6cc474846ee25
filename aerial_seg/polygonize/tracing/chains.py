"""Outlines that cross the borders of chunks: parts are joined end to start until they close."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

P = TypeVar("P")
Xy = NDArray[np.float64]
Place = tuple[int, int]
"""Raster row of a border and column of a crack that crosses it."""


@dataclass(slots=True, eq=False)
class _Chain(Generic[P]):
    """An outline from the place where it comes in to where it goes out; `blocks` (n,2) hold its vertices in order."""

    patch: P
    blocks: deque[Xy]
    start: Place
    stop: Place


class Chains(Generic[P]):
    """The open outlines at the southern border of the last chunk, each with the patch on its right."""

    def __init__(self) -> None:
        self._by_start: dict[Place, _Chain[P]] = {}
        self._by_stop: dict[Place, _Chain[P]] = {}

    def add(
        self, part: Xy, patch: P, *, start: Place, stop: Place, borders: Borders
    ) -> Iterator[tuple[P, Xy]]:
        """Takes in a part (n,2) of the chunk between two borders; yields the outline if that closes it.

        The closed outline (n,2) ends with its first vertex and may touch itself.
        """
        chain = _Chain(patch, deque([part]), start, stop)
        if start[0] == borders.north:
            before = self._by_stop.pop(start)
            _join(before.blocks, chain.blocks, plain=bool(borders.plain[start[1]]))
            before.blocks.extend(chain.blocks)
            chain = before
            chain.stop = stop
        else:
            self._by_start[start] = chain
        if stop[0] != borders.north:
            self._by_stop[stop] = chain
            return
        after = self._by_start.pop(stop)
        plain = bool(borders.plain[stop[1]])
        if after is chain:
            yield chain.patch, _closed(np.concatenate(chain.blocks), plain=plain)
        else:
            _join(chain.blocks, after.blocks, plain=plain)
            self._merge(chain, after)

    def _merge(self, first: _Chain[P], second: _Chain[P]) -> None:
        """The longer one takes in the other."""
        if len(first.blocks) >= len(second.blocks):
            first.blocks.extend(second.blocks)
            first.stop = second.stop
            self._by_stop[second.stop] = first
        else:
            second.blocks.extendleft(reversed(first.blocks))
            second.start = first.start
            self._by_start[first.start] = second


@dataclass(frozen=True, slots=True)
class Borders:
    """The northern border row of a chunk; plain (W+1,) bool: columns where a crack crosses it outside of nodes."""

    north: int
    plain: NDArray[np.bool_]


def _join(first: deque[Xy], second: deque[Xy], *, plain: bool) -> None:
    """The vertex that both share stays once; not at all if it is no node and the line goes straight on."""
    joint, previous = _last_two(first)
    following = _second(second)
    first.append(first.pop()[:-1])
    if plain and _straight(previous, joint, following):
        second.appendleft(second.popleft()[1:])


def _last_two(blocks: deque[Xy]) -> tuple[Xy, Xy]:
    if len(blocks[-1]) > 1:
        return blocks[-1][-1], blocks[-1][-2]
    last = blocks[-1][-1]
    return last, next(block[-1] for block in islice(reversed(blocks), 1, None) if len(block))


def _second(blocks: deque[Xy]) -> Xy:
    if len(blocks[0]) > 1:
        second: Xy = blocks[0][1]
        return second
    return next(block[0] for block in islice(blocks, 1, None) if len(block))


def _straight(a: Xy, b: Xy, c: Xy) -> bool:
    return bool((b[0] - a[0]) * (c[1] - b[1]) == (b[1] - a[1]) * (c[0] - b[0]))


def _closed(outline: Xy, *, plain: bool) -> Xy:
    """The first vertex comes again at the end; another takes its place if it is none."""
    if plain and _straight(outline[-2], outline[0], outline[1]):
        return np.concatenate([outline[1:-1], outline[1:2]])
    return outline


def simple_rings(outline: Xy) -> list[Xy]:
    """The rings (n,2) that a closed outline consists of: it is cut wherever it touches itself.

    Each begins at its north-west vertex and ends with it.
    """
    points = outline[:-1]
    # As complex numbers, because sorting those is ten times faster than sorting rows.
    names = np.ascontiguousarray(points).view(np.complex128).ravel()
    _, vertex, times = np.unique(names, return_inverse=True, return_counts=True)
    marks = np.flatnonzero(times[vertex] > 1)
    if len(marks) == 0:
        return [_from_north_west(points)]
    points, vertex = np.roll(points, -marks[0], axis=0), np.roll(vertex, -marks[0])
    marks = marks - marks[0]
    pieces = np.split(points, marks[1:])
    ids = vertex[marks].tolist()
    rings: list[Xy] = []
    stack: list[int] = []
    place_of: dict[int, int] = {}
    for piece, name in enumerate(ids):
        place_of[name] = len(stack)
        stack.append(piece)
        back = place_of.get(ids[(piece + 1) % len(ids)])
        if back is not None:
            rings.append(_from_north_west(np.concatenate([pieces[k] for k in stack[back:]])))
            for k in stack[back:]:
                del place_of[ids[k]]
            del stack[back:]
    return rings


def _from_north_west(points: Xy) -> Xy:
    first = int(np.lexsort((points[:, 0], points[:, 1]))[0])
    return np.concatenate([points[first:], points[: first + 1]])
