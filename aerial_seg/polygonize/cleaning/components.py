"""4-connected components of rows of class codes, a chunk at a time: runs of equal pixels joined by union-find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import InputError
from aerial_seg.numba_kernels import Ints, inner, kernel
from aerial_seg.polygonize.batch import Codes

Int32s = NDArray[np.int32]
S = TypeVar("S", np.int32, np.uint16)

_MOST = 2**31 - 1
"""Components that 32 bits can number."""
_AT_ONCE = 16


class Runs(NamedTuple):
    """A chunk (h, W) as runs of equal pixels, and the components they form within the chunk.

    Components are numbered 0..n-1 in the order of their first pixels, row by row.
    rows (h+1,) int64: offsets of the rows into the runs. ends (r,) int32: the column after a run's last pixel.
    labels (r,) int32: component of every run.
    values (n,) uint16, sizes (n,) int64 in pixels, firsts (n,) int64: code, size and first pixel (row·W + column
    in the chunk) of every component.
    """

    rows: Ints
    ends: Int32s
    labels: Int32s
    values: Codes
    sizes: Ints
    firsts: Ints
    width: int


@kernel
def find_runs(codes: Codes) -> Runs:
    """The runs and components of a chunk (h, W) uint16; pixels without class form components as well."""
    height, width = codes.shape
    rows = _row_offsets(codes)
    ends = np.empty(rows[height], np.int32)
    kinds = np.empty(rows[height], np.uint16)
    parents = np.arange(int(rows[height]), dtype=np.int32)
    changes = np.zeros(width // 8 + 1, np.uint64)
    for y in range(height):
        _cut_row(codes[y], changes, ends[rows[y] : rows[y + 1]], kinds[rows[y] : rows[y + 1]])
        if y > 0:
            _join_rows(parents, kinds, ends, rows[y - 1 : y + 2])
    count = _rank(parents)
    values = np.empty(count, np.uint16)
    sizes = np.zeros(count, np.int64)
    firsts = np.full(count, -1, np.int64)
    for y in range(height):
        start = 0
        for i in range(rows[y], rows[y + 1]):
            label = parents[i]
            if firsts[label] < 0:
                firsts[label] = y * width + start
                values[label] = kinds[i]
            sizes[label] += ends[i] - start
            start = ends[i]
    return Runs(rows, ends, parents, values, sizes, firsts, width)


@inner
def _row_offsets(codes: Codes) -> Ints:
    height, width = codes.shape
    rows = np.zeros(height + 1, np.int64)
    for y in range(height):
        # Counting in a loop of its own is vectorised, and makes the arrays of runs no longer than they need to be.
        changes = 0
        for x in range(1, width):
            changes += codes[y, x] != codes[y, x - 1]
        rows[y + 1] = rows[y] + changes + 1
    return rows


@inner
def _cut_row(row: Codes, changes: NDArray[np.uint64], ends: Int32s, kinds: Codes) -> None:
    """The ends and codes of a row's runs; `changes` has a byte for each pixel and is scratch."""
    flags = changes.view(np.uint8)
    for x in range(1, row.size):
        flags[x] = row[x] != row[x - 1]
    at = 0
    for word in range(changes.size):
        if changes[word] != 0:
            # Writing at every pixel and moving on at a change is faster than a branch that nobody can foresee.
            for x in range(8 * word, 8 * word + 8):
                ends[at] = x
                at += flags[x]
    ends[at] = row.size
    for i in range(ends.size):
        kinds[i] = row[ends[i] - 1]


@inner
def _join_rows(parents: Int32s, kinds: Codes, ends: Int32s, rows: Ints) -> None:
    """Runs of rows[0]:rows[1] and of the row below, rows[1]:rows[2], that touch and are of one kind are joined."""
    i, j = rows[0], rows[1]
    while j < rows[2]:
        above, below = ends[i], ends[j]
        if kinds[i] == kinds[j]:
            if parents[j] == j:
                parents[j] = _root(parents, i)
            else:
                _join(parents, i, j)
        i += above <= below
        j += below <= above


@inner
def _join(parents: Int32s, a: int, b: int) -> None:
    one, other = _root(parents, a), _root(parents, b)
    # The smaller one is the root: what _rank relies on, and what makes the numbering that of the first pixels.
    if one < other:
        parents[other] = one
    else:
        parents[one] = other


@inner
def _root(parents: Int32s, item: int) -> np.int64:
    """The root of the item's set; the way to it is half as long from now on."""
    root = np.int64(item)
    while parents[root] != root:
        parents[root] = parents[parents[root]]
        root = np.int64(parents[root])
    return root


@inner
def _rank(parents: Int32s) -> int:
    """Every parent, none larger than its child, has become the number of its set; the count of sets."""
    count = 0
    for i in range(parents.size):
        if parents[i] == i:
            parents[i] = count
            count += 1
        else:
            parents[i] = parents[parents[i]]
    return count


@kernel
def join_all(count: int, left: Int32s, right: Int32s) -> Int32s:
    """The set (count,) int32 of every one of `count` items, left[i] and right[i] being in one set.

    Sets are numbered 0..n-1 in the order of their first items.
    """
    parents = np.arange(count, dtype=np.int32)
    for i in range(left.size):
        _join(parents, left[i], right[i])
    _rank(parents)
    return parents


@kernel
def paint_runs(runs: Runs, table: NDArray[S]) -> NDArray[S]:
    """table[component] at every pixel: (h, W), of the table's type."""
    height = runs.rows.size - 1
    # Most runs are short: each is written _AT_ONCE pixels at a time, and what is too much the next run overwrites.
    painted = np.empty(height * runs.width + _AT_ONCE, table.dtype)
    for y in range(height):
        at = y * runs.width
        for i in range(runs.rows[y], runs.rows[y + 1]):
            value, end = table[runs.labels[i]], y * runs.width + runs.ends[i]
            while at < end:
                for k in range(_AT_ONCE):
                    painted[at + k] = value
                at += _AT_ONCE
            at = end
    return painted[: height * runs.width].reshape(height, runs.width)


def label_chunk(codes: Codes) -> tuple[Int32s, int]:
    """The component of every pixel, (h, W) int32, and how many there are.

    codes (h, W) uint16. Components are 4-connected, numbered 0..n-1 in the order of their first pixels; pixels
    without class are numbered too.
    """
    runs = find_runs(codes)
    count = len(runs.values)
    return paint_runs(runs, np.arange(count, dtype=np.int32)), count


def row_labels(runs: Runs, row: int) -> Int32s:
    """The component of every pixel of one row of the chunk, (W,) int32; row may count from the end."""
    first, last = runs.rows[:-1][row], runs.rows[1:][row]
    return np.repeat(runs.labels[first:last], np.diff(runs.ends[first:last], prepend=0))


@dataclass(frozen=True, slots=True)
class ComponentTable:
    """The components of a raster, numbered 0..n-1 in the order of their first pixels, row by row.

    of (p,) int32: component of every provisional id. values (n,) uint16: codes. sizes (n,) int64: pixels.
    firsts (n,) int64: first pixel as row·W + column of the raster. at_edge (n,) bool, True = touches the raster's edge.
    """

    of: Int32s
    values: Codes
    sizes: Ints
    firsts: Ints
    at_edge: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.values)


class Components:
    """The components of a raster that comes chunk by chunk, north to south.

    A chunk's components get the next free provisional ids in the order of their first pixels, so the same chunks
    always get the same ids, and a second pass can look up what the first one found. What is kept grows with the
    number of components and the width, not with the height.
    """

    def __init__(self) -> None:
        self._count = 0
        self._rows = 0
        self._chunks: list[tuple[Codes, Ints, Ints]] = []
        self._links: list[Int32s] = []
        self._edge: list[Int32s] = []
        self._last: tuple[Int32s, Codes] | None = None

    def __len__(self) -> int:
        """Provisional ids so far."""
        return self._count

    def add(self, codes: Codes) -> Int32s:
        """The provisional id of every pixel of the next chunk: (h, W) uint16 → (h, W) int32."""
        runs, first = find_runs(codes), self._count
        self.add_runs(runs)
        return paint_runs(runs, np.arange(first, self._count, dtype=np.int32))

    def add_runs(self, runs: Runs) -> None:
        """As `add`, of a chunk whose runs are known; its provisional ids are its labels, from the last len() on.

        Raises InputError when there are more components than 32 bits can number.
        """
        first = self._count
        if first + len(runs.values) > _MOST:
            raise InputError(
                f"the mask has more than {_MOST:,} patches, wanted fewer: this looks like noise; smooth it "
                "first, or work on a part of it"
            )
        top = row_labels(runs, 0)
        if self._last is None:
            self._edge.append(np.unique(top))
        else:
            self._link(top + np.int32(first), runs.values[top])
        sides = np.concatenate([runs.labels[runs.rows[:-1]], runs.labels[runs.rows[1:] - 1]])
        self._edge.append(np.unique(sides) + np.int32(first))
        self._chunks.append((runs.values, runs.sizes, runs.firsts + self._rows * runs.width))
        bottom = row_labels(runs, -1)
        self._last = bottom + np.int32(first), runs.values[bottom]
        self._count += len(runs.values)
        self._rows += len(runs.rows) - 1

    def _link(self, ids: Int32s, codes: Codes) -> None:
        assert self._last is not None
        above, codes_above = self._last
        links = np.stack([above, ids])[:, codes_above == codes]
        new = np.ones(links.shape[1], bool)
        new[1:] = (links[:, 1:] != links[:, :-1]).any(axis=0)
        self._links.append(links[:, new])

    def table(self) -> ComponentTable:
        """The components of all chunks so far taken together, as if they were the whole raster."""
        links = np.concatenate([np.empty((2, 0), np.int32), *self._links], axis=1)
        of = join_all(self._count, np.ascontiguousarray(links[0]), np.ascontiguousarray(links[1]))
        values, sizes, firsts = (
            np.concatenate([np.empty(0, kind), *(chunk[k] for chunk in self._chunks)])
            for k, kind in enumerate((np.uint16, np.int64, np.int64))
        )
        count = int(of.max()) + 1 if self._count else 0
        edge = np.zeros(count, bool)
        for ids in self._edge if self._last is None else [*self._edge, np.unique(self._last[0])]:
            edge[of[ids]] = True
        # Numbers rise with the first pixels, so a component's first id is where the running maximum rises.
        starts = np.flatnonzero(np.diff(np.maximum.accumulate(of), prepend=-1))
        return ComponentTable(of, values[starts], add_up(of, sizes, count), firsts[starts], edge)


@kernel
def add_up(groups: Int32s, amounts: Ints, count: int) -> Ints:
    """The sum of the amounts of each of `count` groups, (count,) int64."""
    sums = np.zeros(count, np.int64)
    for i in range(groups.size):
        sums[groups[i]] += amounts[i]
    return sums
