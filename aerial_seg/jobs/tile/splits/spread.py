"""Units of ground dealt to splits: each split many pieces all over the ground, with classes like those of the whole.

A unit (split block, source, group) is never divided. What is chosen follows from the seed and from what the units are
and where they lie, never from the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

Order = NDArray[np.int64]
"""(units,) the numbers of all units, one after another."""
Dealt = NDArray[np.int64]
"""(units,) number of the part that each unit is in; 0 is what no part took."""

_CURVES, _TRIED = 8, 64
_AS_BALANCED = 0.05
"""Of what was tried, those whose largest difference of a class's share is within this of the least are equally
balanced: of them the one is taken whose parts touch themselves least."""
_BITS = 10
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, slots=True)
class Units:
    """Hold what is dealt, in an order of its own.

    names: (n,) of the units, sorted. chips: (n,) how many chips each has. pixels (n, classes): its labelled pixels.
    places (n, 2): the middle of its ground. pairs (m, 2): units that touch each other, by number.
    """

    names: tuple[Hashable, ...]
    chips: NDArray[np.int64]
    pixels: NDArray[np.float64]
    places: NDArray[np.float64]
    pairs: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        units: Sequence[Any],
        counts: NDArray[np.int64],
        places: Sequence[Any],
        touching: Sequence[tuple[int, int]],
    ) -> Units:
        """Gather chips to their units. units: of each chip, all of one sortable kind. places: the chips' outlines."""
        names = sorted(set(units))
        number = {unit: k for k, unit in enumerate(names)}
        own = np.array([number[unit] for unit in units], np.int64)
        pixels = np.zeros((len(names), counts.shape[1]))
        np.add.at(pixels, own, counts)
        # Not the mean, whose last digits follow from the order of the chips.
        box = shapely.bounds(np.asarray(places, dtype=object)).reshape(-1, 4)
        low, high = np.full((len(names), 2), np.inf), np.full((len(names), 2), -np.inf)
        np.minimum.at(low, own, box[:, :2])
        np.maximum.at(high, own, box[:, 2:])
        pairs = np.array(touching, np.int64).reshape(-1, 2)
        beside = np.unique(own[pairs], axis=0) if len(pairs) else pairs
        return cls(
            tuple(names),
            np.bincount(own, minlength=len(names)).astype(np.int64),
            pixels,
            (low + high) / 2,
            beside[beside[:, 0] != beside[:, 1]],
        )

    def __len__(self) -> int:
        return len(self.names)

    def without(self, gone: NDArray[np.bool_]) -> Units:
        """The other units."""
        stay = ~gone
        number = np.cumsum(stay) - 1
        pairs = self.pairs[stay[self.pairs].all(axis=1)] if len(self.pairs) else self.pairs
        names = tuple(name for name, there in zip(self.names, stay.tolist(), strict=True) if there)
        return Units(names, self.chips[stay], self.pixels[stay], self.places[stay], number[pairs])


def choose_parts(units: Units, wanted: Mapping[str, float], *, seed: int) -> dict[Hashable, str]:
    """Give each part its fraction of the chips; the units in none of them are left out of what is returned.

    Every part gets a unit while there are enough, what is left first. A unit that would bring a part further from its
    fraction goes to another; where all would, the smallest is taken.
    """
    fractions = list(wanted.values())
    dealt = _best(units, lambda curve, random: _take(_scattered(curve, random), units.chips, fractions), seed)
    names = list(wanted)
    return {units.names[k]: names[part - 1] for k, part in enumerate(dealt.tolist()) if part}


def choose_folds(units: Units, folds: int, *, seed: int) -> dict[Hashable, int]:
    """Give each unit a fold from 1 to `folds`, each of about as many chips; there are as many units at least."""
    dealt = _best(units, lambda curve, random: _deal(curve, units.chips, folds, random), seed)
    return {units.names[k]: fold for k, fold in enumerate(dealt.tolist())}


def _best(units: Units, deal: Callable[[Order, np.random.Generator], Dealt], seed: int) -> Dealt:
    random = np.random.default_rng(seed)
    curves = [_along_curve(units, random) for _ in range(_CURVES)]
    tried = [deal(curves[k % _CURVES], random) for k in range(_TRIED)]
    badness = [_imbalance(units.pixels, dealt) for dealt in tried]
    good = [k for k, bad in enumerate(badness) if bad <= min(badness) + _AS_BALANCED]
    return tried[min(good, key=lambda k: (_crowding(units.pairs, tried[k]), badness[k], k))]


def _crowding(pairs: NDArray[np.int64], dealt: Dealt) -> int:
    """How many pairs of units that touch are in one and the same part, what is left apart."""
    first, second = dealt[pairs[:, 0]], dealt[pairs[:, 1]]
    return int(((first == second) & (first > 0)).sum())


def _imbalance(pixels: NDArray[np.float64], dealt: Dealt) -> float:
    """The largest difference of a class's share between a part and the whole; an empty class counts most."""
    whole = pixels.sum(axis=0) / max(1.0, pixels.sum())
    parts = np.zeros((int(dealt.max(initial=0)) + 1, pixels.shape[1]))
    np.add.at(parts, dealt, pixels)
    parts = parts[np.bincount(dealt, minlength=len(parts)) > 0]
    shares = parts / np.maximum(1.0, parts.sum(axis=1, keepdims=True))
    lost = ((parts == 0) & (whole > 0)).sum(axis=1)
    worst = np.abs(shares - whole).max(axis=1, initial=0.0) + lost
    return float(worst.max(initial=0.0))


def _take(order: Order, chips: NDArray[np.int64], fractions: Sequence[float]) -> Dealt:
    """Walk the order, filling each part to its fraction; a unit stays for what is left and for each part to come."""
    dealt = np.zeros(len(chips), np.int64)
    least, whole, free = int(chips.min(initial=1)), int(chips.sum()), len(chips)
    for part, fraction in enumerate(fractions, start=1):
        goal, filled, to_come = fraction * whole, 0, len(fractions) - part
        for unit in map(int, order):
            if filled + least / 2 > goal or free <= 1 + (to_come if filled else 0):
                break
            if not dealt[unit] and filled + chips[unit] / 2 <= goal:
                dealt[unit], filled, free = part, filled + int(chips[unit]), free - 1
        if not filled and free > 1:
            smallest = min((int(unit) for unit in order if not dealt[unit]), key=lambda unit: chips[unit])
            dealt[smallest], free = part, free - 1
    return dealt


def _deal(order: Order, chips: NDArray[np.int64], folds: int, random: np.random.Generator) -> Dealt:
    """Neighbours on the curve go to different folds, the larger ones to those that have least."""
    dealt, filled = np.zeros(len(chips), np.int64), np.zeros(folds, np.int64)
    for begin in range(0, len(order), folds):
        group = order[begin : begin + folds]
        chance = random.permutation(folds)
        poorest = np.lexsort((chance, filled))[: len(group)]
        for unit, fold in zip(group[np.argsort(-chips[group], kind="stable")], poorest, strict=True):
            dealt[unit], filled[fold] = fold + 1, filled[fold] + chips[unit]
    return dealt


def _scattered(curve: Order, random: np.random.Generator) -> Order:
    """All units in an order whose every part lies all over the ground: steps of the golden ratio along a curve.

    Source: Roberts 2018, The Unreasonable Effectiveness of Quasirandom Sequences.
    """
    steps = (random.random() + _GOLDEN * np.arange(len(curve))) % 1
    return curve[np.argsort(np.argsort(steps, kind="stable"), kind="stable")]


def _along_curve(units: Units, random: np.random.Generator) -> Order:
    """All units along Hilbert's curve, laid over the ground another way each time: neighbours on it are neighbours."""
    low, high = units.places.min(axis=0), units.places.max(axis=0)
    side = float((high - low).max()) or 1.0
    cells = np.floor((units.places - low) / side * (2**_BITS - 1)).astype(np.int64)
    cells = cells + random.integers(0, 2**_BITS, 2)
    if random.random() < 0.5:
        cells = cells[:, ::-1]
    return np.argsort(_hilbert(cells), kind="stable")


def _hilbert(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) how far along Hilbert's curve each cell (n, 2) lies, of a square of 2^(bits + 1) cells.

    Source: Warren 2012, Hacker's Delight, chapter 16.
    """
    x, y = cells[:, 0].copy(), cells[:, 1].copy()
    along = np.zeros(len(cells), np.int64)
    for bit in range(_BITS, -1, -1):
        side = 1 << bit
        right, up = (x & side) > 0, (y & side) > 0
        along += side * side * ((3 * right) ^ up)
        turned = ~up
        mirrored = turned & right
        x, y = x & (side - 1), y & (side - 1)
        x, y = np.where(mirrored, side - 1 - x, x), np.where(mirrored, side - 1 - y, y)
        x, y = np.where(turned, y, x), np.where(turned, x, y)
    return along
