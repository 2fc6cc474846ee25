"""Touching objects of chosen classes told apart while rows stream: each gets a suffix that no neighbour has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Bytes
from aerial_seg.polygonize.batch import CHUNK_ROWS, NONE, Codes
from aerial_seg.polygonize.cleaning.code_suffix import with_suffixes
from aerial_seg.polygonize.cleaning.components import label_chunk
from aerial_seg.polygonize.cleaning.watershed import split_instances
from aerial_seg.polygonize.row_chunks import Rows, in_row_chunks

OBJECT_BITS = 6
_HELD_ROWS = 4 * CHUNK_ROWS

Bools = NDArray[np.bool_]


@dataclass(slots=True)
class ObjectCounts:
    """Patches that were parted, the objects they were parted into, and patches too tall to be looked at."""

    parted: int = 0
    objects: int = 0
    too_tall: int = 0


@dataclass(slots=True)
class _Held:
    """Rows that wait: settled (n, W) bool tells which pixels have their suffixes (n, W) uint8."""

    codes: Codes
    levels: Bytes | None
    suffixes: Bytes
    settled: Bools

    def joined(self, codes: Codes, levels: Bytes | None) -> _Held:
        """With further rows below."""
        return _Held(
            np.concatenate([self.codes, codes]),
            None if self.levels is None or levels is None else np.concatenate([self.levels, levels]),
            np.concatenate([self.suffixes, np.zeros(codes.shape, np.uint8)]),
            np.concatenate([self.settled, np.zeros(codes.shape, bool)]),
        )

    def cut(self, row: int) -> tuple[_Held, _Held]:
        """The rows above and those from `row` on."""
        return self._part(slice(None, row)), self._part(slice(row, None))

    def _part(self, rows: slice) -> _Held:
        levels = None if self.levels is None else self.levels[rows]
        return _Held(self.codes[rows], levels, self.suffixes[rows], self.settled[rows])


class ObjectSplitter:
    """Gives objects of the classes with these codes (n,) uint16 suffixes; see split_instances for what an object is."""

    def __init__(self, codes: Codes, *, min_distance: int) -> None:
        self._chosen = np.zeros(NONE + 1, bool)
        self._chosen[codes] = True
        self._min_distance = min_distance
        self.counts = ObjectCounts()

    def suffixed(self, rows: Rows) -> Iterator[tuple[Codes, Bytes | None]]:
        """The same rows with suffixes of OBJECT_BITS bits; late by the chunks that the objects in them need to end.

        Patches taller than some chunks are left whole: their rows would have to be held.
        """
        held: _Held | None = None
        left_whole = np.zeros(0, np.uint16)
        for codes, levels in in_row_chunks(rows):
            if held is None:
                left_whole = np.full(codes.shape[1], NONE, np.uint16)
                held = _Held(codes, levels, np.zeros(codes.shape, np.uint8), np.zeros(codes.shape, bool))
            else:
                held = held.joined(codes, levels)
            self._settle(held, left_whole, last=False)
            while len(held.codes) and (held.settled[:CHUNK_ROWS].all() or len(held.codes) > _HELD_ROWS):
                ready, held = held.cut(CHUNK_ROWS)
                left_whole = np.where(ready.settled[-1], NONE, ready.codes[-1]).astype(np.uint16)
                yield with_suffixes(ready.codes, ready.suffixes, OBJECT_BITS), ready.levels
        if held is not None and len(held.codes):
            self._settle(held, left_whole, last=True)
            yield with_suffixes(held.codes, held.suffixes, OBJECT_BITS), held.levels

    def _settle(self, held: _Held, left_whole: Codes, *, last: bool) -> None:
        """Every pixel is settled whose patch ends here, or went on from one that was left whole."""
        held.settled |= ~self._chosen[held.codes]
        waiting = np.where(held.settled, np.uint16(NONE), held.codes)
        labels, count = label_chunk(waiting)
        whole = np.zeros(count, bool)
        whole[labels[0][(waiting[0] == left_whole) & (left_whole != NONE)]] = True
        ended = np.ones(count, bool)
        if not last:
            ended[labels[-1]] = False
        # One that was left whole stays unsettled in its last row, so that what follows is left whole as well.
        self.counts.too_tall += int((whole & ended)[np.unique(labels[waiting != NONE])].sum())
        for code in np.unique(waiting[waiting != NONE]):
            patches = (waiting == code) & (ended & ~whole)[labels]
            if patches.any():
                self._split(held, patches, labels)
        held.settled |= ended[labels] & (waiting != NONE)

    def _split(self, held: _Held, patches: Bools, labels: NDArray[np.int32]) -> None:
        rows = np.flatnonzero(patches.any(axis=1))
        part = slice(rows[0], rows[-1] + 1)
        levels = None if held.levels is None else held.levels[part]
        objects = split_instances(patches[part], levels, min_distance=self._min_distance)
        held.suffixes[part] |= _different_suffixes(objects)[objects]
        numbers, first = np.unique(objects, return_index=True)
        owner = labels[part].ravel()[first[numbers > 0]]
        _, parts = np.unique(owner, return_counts=True)
        self.counts.parted += int((parts > 1).sum())
        self.counts.objects += int(parts[parts > 1].sum())


def _different_suffixes(objects: NDArray[np.int32]) -> Bytes:
    """The suffix of every number (n+1,) uint8, so that objects which touch differ: the smallest that is free."""
    beside = [(objects[:, 1:], objects[:, :-1]), (objects[1:], objects[:-1])]
    pairs = np.concatenate([np.stack([a[a != b], b[a != b]], axis=1) for a, b in beside])
    pairs = np.unique(np.sort(pairs[(pairs > 0).all(axis=1)], axis=1), axis=0)
    suffixes = np.zeros(int(objects.max()) + 1, np.uint8)
    lower: dict[int, list[int]] = {}
    for one, other in pairs.tolist():
        lower.setdefault(other, []).append(one)
    for number in sorted(lower):
        taken = {int(suffixes[neighbour]) for neighbour in lower[number]}
        suffix = next(suffix for suffix in range(len(taken) + 1) if suffix not in taken)
        assert suffix < 1 << OBJECT_BITS, "more objects around one than there are suffixes"
        suffixes[number] = suffix
    return suffixes
