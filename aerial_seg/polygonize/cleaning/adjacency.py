"""Which components touch, and along how many pixel sides, gathered a chunk at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Ints, inner, kernel
from aerial_seg.polygonize.batch import Codes
from aerial_seg.polygonize.cleaning.components import ComponentTable, Int32s, Runs, row_labels

_BITS = 32
_LOW = (1 << _BITS) - 1
_EMPTY = -1
_SPREAD = -7046029254386353131
"""2⁶⁴ divided by the golden ratio, as a signed number: products with it spread neighbouring keys (Knuth, TAOCP 6.4)."""
_NO_LIMIT = 2**62


class Pairs(NamedTuple):
    """Pairs of components that touch, each once, ascending: left < right, both (e,) int32; borders (e,) int64.

    borders: the pixel sides that the two share.
    """

    left: Int32s
    right: Int32s
    borders: Ints

    def only(self, chosen: NDArray[np.bool_]) -> Pairs:
        """The chosen ones, (e,) bool."""
        return Pairs(self.left[chosen], self.right[chosen], self.borders[chosen])


class Adjacency:
    """The pairs of touching components of a raster that comes chunk by chunk, north to south.

    Takes the same runs, in the same order, as the `Components` beside it, whose provisional ids it uses. With a
    limit, pairs of two components that both have that many pixels or more may be left out: most of what a raster
    of large regions has in pairs.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = _NO_LIMIT if limit is None else limit
        self._count = 0
        self._keys: list[Ints] = []
        self._borders: list[Int32s] = []
        self._last: tuple[Int32s, Codes] | None = None

    def add(self, runs: Runs) -> None:
        """The pairs of the next chunk are known, and those across its northern border."""
        keys, borders = _pairs_of_chunk(runs, self._limit)
        # Adds the first id to both halves of the key.
        self._keep(keys + self._count * ((1 << _BITS) + 1), borders)
        top, bottom = row_labels(runs, 0), row_labels(runs, -1)
        if self._last is not None:
            above, codes_above = self._last
            apart = codes_above != runs.values[top]
            ids = top[apart].astype(np.int64) + self._count
            crossing, counts = np.unique((above[apart].astype(np.int64) << _BITS) | ids, return_counts=True)
            self._keep(crossing, counts)
        self._last = bottom + np.int32(self._count), runs.values[bottom]
        self._count += len(runs.values)

    def _keep(self, keys: Ints, borders: Ints) -> None:
        self._keys.append(keys)
        self._borders.append(borders.astype(np.int32))

    def pairs(self, table: ComponentTable) -> Pairs:
        """The pairs of the components in the table; without those of two that reach the limit."""
        return unique_pairs(*self._chosen(table))

    def _chosen(self, table: ComponentTable) -> tuple[Ints, Int32s]:
        large = table.sizes >= self._limit
        chosen = [(np.empty(0, np.int64), np.empty(0, np.int32))]
        for keys, borders in zip(self._keys, self._borders, strict=True):
            one, other = table.of[keys >> _BITS], table.of[keys & _LOW]
            wanted = ~(large[one] & large[other])
            chosen.append((pair_keys(one[wanted], other[wanted]), borders[wanted]))
        return np.concatenate([keys for keys, _ in chosen]), np.concatenate(
            [borders for _, borders in chosen]
        )


def pair_keys(one: Int32s, other: Int32s) -> Ints:
    """left·2³² + right of every pair (e,), the smaller number being on the left."""
    keys = np.minimum(one, other).astype(np.int64) << _BITS
    keys |= np.maximum(one, other)
    return keys


def unique_pairs(keys: Ints, borders: Ints | Int32s) -> Pairs:
    """Every pair once, however often its key comes, with all of its borders."""
    return _sum_up(keys, borders, np.argsort(keys))


@kernel
def _sum_up(keys: Ints, borders: Ints | Int32s, order: Ints) -> Pairs:
    count, key = 0, np.int64(_EMPTY)
    for k in order:
        count += keys[k] != key
        key = keys[k]
    left, right, sums = np.empty(count, np.int32), np.empty(count, np.int32), np.zeros(count, np.int64)
    at, key = -1, np.int64(_EMPTY)
    for k in order:
        if keys[k] != key:
            key = keys[k]
            at += 1
            left[at], right[at] = key >> _BITS, key & _LOW
        sums[at] += borders[k]
    return Pairs(left, right, sums)


@kernel
def _pairs_of_chunk(runs: Runs, limit: int) -> tuple[Ints, Ints]:
    """Keys left·2³² + right and borders of the pairs of a chunk's components, each pair once, in no order."""
    # The components and their pairs are a planar graph, which has fewer than three pairs for each component: the
    # hash table is never more than three quarters full.
    capacity = 16
    while capacity < 4 * runs.values.size:
        capacity *= 2
    table = np.zeros((capacity, 2), np.int64)
    table[:, 0] = _EMPTY
    large = runs.sizes >= limit
    for y in range(runs.rows.size - 1):
        for j in range(runs.rows[y] + 1, runs.rows[y + 1]):
            _tally(table, large, (runs.labels[j - 1], runs.labels[j]), 1)
        if y > 0:
            _tally_rows(table, large, runs, y)
    used = table[:, 0] != _EMPTY
    return table[:, 0][used], table[:, 1][used]


@inner
def _tally_rows(table: Ints, large: NDArray[np.bool_], runs: Runs, y: int) -> None:
    """The sides between row y and the one above it are counted."""
    i, j, start = runs.rows[y - 1], runs.rows[y], 0
    while j < runs.rows[y + 1]:
        above, below = runs.ends[i], runs.ends[j]
        end = min(above, below)
        _tally(table, large, (runs.labels[i], runs.labels[j]), end - start)
        i += above == end
        j += below == end
        start = end


@inner
def _tally(table: Ints, large: NDArray[np.bool_], pair: tuple[np.int32, np.int32], sides: int) -> None:
    """The pair's row of the table (key, sides) has grown by these sides."""
    if pair[0] == pair[1] or (large[pair[0]] and large[pair[1]]):
        return
    a, b = np.int64(min(pair[0], pair[1])), np.int64(max(pair[0], pair[1]))
    key, last = (a << _BITS) | b, table.shape[0] - 1
    # The younger component tells a first place, near those of the other components that a row meets.
    at = (4 * b + (a & 3)) & last
    if table[at, 0] != key and table[at, 0] != _EMPTY:
        at = ((key * _SPREAD) >> _BITS) & last
        while table[at, 0] != key and table[at, 0] != _EMPTY:
            at = (at + 1) & last
    table[at, 0] = key
    table[at, 1] += sides
