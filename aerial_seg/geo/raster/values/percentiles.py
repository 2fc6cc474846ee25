"""Percentiles of any number of values in memory that does not grow with them, with the largest error they can have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_HELD = 65_536
"""Values of a level, thinned out when there are twice as many. The rank of an answer is off by at most 1/131,072 of all
values for each doubling of their number beyond that: by 0.01 % of a billion."""
_COUNTED = ("uint8", "int8", "uint16", "int16")
"""Types with so few values that each is counted."""

Counts = NDArray[np.int64]


def percentiles_of(dtype: str) -> ValueCounts | RankSketch:
    """What suits values of this type: a count of each for 8 and 16 bits, a sketch of ranks for others."""
    return ValueCounts(dtype) if dtype in _COUNTED else RankSketch()


class ValueCounts:
    """Count every value that a small integer type has, so that answers are exact."""

    def __init__(self, dtype: str) -> None:
        limits = np.iinfo(np.dtype(dtype))
        self._least = int(limits.min)
        self._counts = np.zeros(int(limits.max) - self._least + 1, np.int64)

    @property
    def rank_error(self) -> float:
        """By which share of all values the rank of an answer may be off: none, as numpy.percentile has it."""
        return 0.0

    def add(self, values: NDArray[np.generic]) -> None:
        """Count values (n,) of the type."""
        places = np.asarray(values).astype(np.int64) - self._least if self._least else values
        self.include(np.bincount(places, minlength=len(self._counts)))

    def include(self, counts: Counts) -> None:
        """Count so many of each value (256,) or (65536,), from the type's least on."""
        self._counts += counts

    def moments(self) -> tuple[int, float, float, int, int]:
        """How many values there are, their mean, the sum of squared distances from it, the least and the largest.

        From whole numbers, so that no order of adding changes a bit of them.
        """
        (there,) = np.nonzero(self._counts)
        counts, values = self._counts[there], there + self._least
        count = int(counts.sum())
        if not count:
            return 0, 0.0, 0.0, 0, 0
        mean = int(counts @ values) / count
        return count, mean, float(counts @ (values - mean) ** 2), int(values[0]), int(values[-1])

    def at(self, percents: Sequence[float]) -> list[float]:
        """As numpy.percentile of all values, between two of them on the line."""
        below = np.cumsum(self._counts)
        if not below[-1]:
            raise ValueError("no value was counted")

        def value(rank: int) -> int:
            return int(np.searchsorted(below, rank, side="right")) + self._least

        return [_between(value, int(below[-1]), percent) for percent in percents]


class RankSketch:
    """Keep some of the values, each for as many as were thrown away: of every two neighbours one, and again.

    Manku, Rajagopalan and Lindsay (1998), "Approximate medians and other quantiles in one pass and with limited
    memory". Nothing is drawn by chance: equal values in equal order give equal answers.
    """

    def __init__(self, held: int = _HELD) -> None:
        """held: values of one level before it is thinned out."""
        self._held = held
        self._levels: list[list[NDArray[np.float64]]] = [[]]
        self._sizes = [0]
        self._take_odd = [False]
        self._count = 0
        self._error = 0

    @property
    def rank_error(self) -> float:
        """As that of counts. Of all that was thinned out so far: half of a pair's ranks each time, and what one kept
        value stands for.
        """
        if not self._error:
            return 0.0
        largest: int = 1 << (len(self._levels) - 1)
        return (self._error + largest) / self._count

    def add(self, values: NDArray[np.generic]) -> None:
        """Count values (n,)."""
        if not len(values):
            return
        # Its own copy, should the caller go on writing there.
        self._levels[0].append(np.array(values, np.float32 if values.dtype == np.float32 else np.float64))
        self._sizes[0] += len(values)
        self._count += len(values)
        level = 0
        while self._sizes[level] >= 2 * self._held:
            self._thin_out(level)
            level += 1

    def _thin_out(self, level: int) -> None:
        ordered = np.sort(np.concatenate(self._levels[level]))
        stays = ordered[len(ordered) // 2 * 2 :]
        if level + 1 == len(self._levels):
            self._levels.append([])
            self._sizes.append(0)
            self._take_odd.append(False)
        # Now the lower, now the upper of each pair, or all answers would lean to one side.
        kept = ordered[int(self._take_odd[level]) : len(ordered) // 2 * 2 : 2]
        self._take_odd[level] = not self._take_odd[level]
        self._levels[level], self._sizes[level] = [stays], len(stays)
        self._levels[level + 1].append(kept)
        self._sizes[level + 1] += len(kept)
        self._error += 1 << level

    def at(self, percents: Sequence[float]) -> list[float]:
        """Values whose ranks are within rank_error of the wanted; while nothing was thinned out as numpy.percentile."""
        if not self._count:
            raise ValueError("no value was counted")
        parts = [np.concatenate(level) if level else np.empty(0) for level in self._levels]
        values = np.concatenate(parts).astype(np.float64)
        weights = np.concatenate([np.full(len(part), 2**level) for level, part in enumerate(parts)])
        order = np.argsort(values, kind="stable")
        values, ranks = values[order], np.cumsum(weights[order])
        if not self._error:
            return [_between(lambda rank: float(values[rank]), self._count, percent) for percent in percents]
        wanted = [percent / 100 * (self._count - 1) for percent in percents]
        places = np.minimum(np.searchsorted(ranks, wanted, side="right"), len(values) - 1)
        return [float(value) for value in values[places]]


def _between(value: Callable[[int], float], count: int, percent: float) -> float:
    place = (count - 1) * (percent / 100)
    below = int(place)
    share = place - below
    low = float(value(below))
    high = float(value(min(below + 1, count - 1)))
    # numpy's own way to interpolate, exact at both ends.
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)
