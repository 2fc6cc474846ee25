"""How far a score would move with other chips of the same ground: a bootstrap interval over chips or split blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.metrics import or_null

LEVEL = 0.95
RESAMPLES = 1000
SEED = 0
WIDE = 0.1
"""An interval wider than this, ten points of IoU, is worth a warning: networks and recipes differ by less."""
FEW = 5
"""Fewer units than this span less than the scores' true spread: their percentiles come out too narrow."""

_AT_ONCE = 4_000_000
"""Numbers drawn at a time, so that memory does not grow with the chips."""

Interval = tuple[float, float]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ChipScore:
    """What a model made of one chip, or of one image of a benchmark.

    classes: their number. pairs, pixels: (true · classes + predicted) that occur, and how often: with 150 classes most
    of the matrix is 0. ignored: unlabelled pixels. unpredicted: labelled ones that got no class.
    """

    name: str
    classes: int
    pairs: NDArray[np.int32]
    pixels: NDArray[np.int64]
    ignored: int = 0
    unpredicted: int = 0

    @classmethod
    def of(
        cls, name: str, confusion: NDArray[np.int64], *, ignored: int = 0, unpredicted: int = 0
    ) -> ChipScore:
        """Keep a (K,K) confusion matrix, rows = truth."""
        flat = confusion.ravel()
        pairs = np.flatnonzero(flat).astype(np.int32)
        return cls(name, len(confusion), pairs, flat[pairs], ignored, unpredicted)

    @property
    def confusion(self) -> NDArray[np.int64]:
        """The (K,K) confusion matrix, rows = truth, columns = prediction."""
        flat = np.zeros(self.classes * self.classes, np.int64)
        flat[self.pairs] = self.pixels
        return flat.reshape(self.classes, self.classes)


@dataclass(frozen=True, slots=True)
class Intervals:
    """The 95 % interval of every score: `of("miou")`, `of("iou_building")`, named as a monitor names them.

    unit: what was drawn, "split block", "chip" or "image"; units: how many there are. NaN where no draw has the score.
    """

    unit: str
    units: int
    of_all: Mapping[str, Interval]

    def of(self, name: str) -> Interval:
        """The interval of a score. Raises KeyError for one that has none (the loss)."""
        return self.of_all[name]

    def width(self, name: str) -> float:
        """How wide it is; NaN where the score is not defined."""
        low, high = self.of_all.get(name, (math.nan, math.nan))
        return high - low

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready document; NaN becomes null."""
        return {
            "level": LEVEL,
            "resamples": RESAMPLES,
            "unit": self.unit,
            "units": self.units,
            "intervals": {name: [or_null(end) for end in ends] for name, ends in self.of_all.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Intervals:
        """Return what `as_json` wrote. Raises LookupError, TypeError or ValueError for other documents."""
        found = {
            str(name): (math.nan if low is None else float(low), math.nan if high is None else float(high))
            for name, (low, high) in document["intervals"].items()
        }
        return cls(str(document["unit"]), int(document["units"]), found)


def bootstrap_intervals(
    chips: Sequence[ChipScore], units: Sequence[str], names: Sequence[str], *, unit: str
) -> Intervals:
    """Draw the units with replacement 1,000 times and score each draw: the 2.5th and 97.5th percentile of each score.

    units: of each chip, what it is drawn with; neighbours are alike, so a split block is drawn as a whole. The seed is
    fixed: equal chips have equal intervals.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentiles); Davison and Hinkley
    1997, Bootstrap Methods and their Application, section 3.8 (groups as a whole); Roberts et al. 2017, Ecography 40
    (blocks of dependent ground).
    """
    if len(chips) != len(units):
        raise ValueError(f"{len(chips)} chips, {len(units)} units")
    keys = {key: k for k, key in enumerate(dict.fromkeys(units))}
    parts = np.zeros((len(keys), 3, len(names)))
    for chip, key in zip(chips, units, strict=True):
        true, said = np.divmod(chip.pairs, chip.classes)
        hit = true == said
        for row, classes, pixels in (
            (0, true[hit], chip.pixels[hit]), (1, true, chip.pixels), (2, said, chip.pixels)
        ):  # fmt: skip
            np.add.at(parts[keys[key], row], classes, pixels)
    drawn = _drawn(parts)
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    found = {name: _percentiles(values, ends) for name, values in _scores(drawn, names).items()}
    return Intervals(unit, len(keys), found)


def _drawn(parts: Floats) -> Floats:
    """Hits, true and said pixels (draws, 3, K) of each draw of units; parts (units, 3, K)."""
    units = len(parts)
    random = np.random.default_rng(SEED)
    flat = parts.reshape(units, -1)
    at_once = max(1, _AT_ONCE // units)
    drawn = []
    for start in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - start)
        times = random.multinomial(units, np.full(units, 1 / units), size=size)
        drawn.append(times @ flat)
    return np.concatenate(drawn).reshape(RESAMPLES, *parts.shape[1:])


def _scores(drawn: Floats, names: Sequence[str]) -> dict[str, Floats]:
    """Every score of every draw, named as monitors name them: (draws,) each."""
    hit, true, said = drawn[:, 0], drawn[:, 1], drawn[:, 2]
    iou, recall = _ratio(hit, true + said - hit), _ratio(hit, true)
    found = {
        "miou": _mean(iou),
        "pixel_accuracy": _ratio(hit.sum(axis=1), true.sum(axis=1)),
        "mean_accuracy": _mean(recall),
        "frequency_weighted_iou": _ratio((true * np.nan_to_num(iou)).sum(axis=1), true.sum(axis=1)),
    }
    of_class = {
        "iou": iou,
        "f1": _ratio(2 * hit, true + said),
        "precision": _ratio(hit, said),
        "recall": recall,
    }
    return found | {
        f"{score}_{name}": values[:, k] for score, values in of_class.items() for k, name in enumerate(names)
    }


def _mean(values: Floats) -> Floats:
    """Of each row over what is defined; NaN where nothing is."""
    defined = np.isfinite(values)
    return _ratio(np.where(defined, values, 0).sum(axis=1), defined.sum(axis=1))


def _ratio(top: Floats, bottom: NDArray[Any]) -> Floats:
    ratio: Floats = np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)
    return ratio


def _percentiles(values: Floats, ends: Sequence[float]) -> Interval:
    defined = values[np.isfinite(values)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, ends)
    return float(low), float(high)


def doubts(intervals: Intervals, name: str, *, pieces: int | None, more: str) -> tuple[str, ...]:
    """What keeps the score `name` from being believed: few units, a wide interval, one piece of ground.

    pieces: of adjacent ground that the chips lie in; None where that is not known. more: how to have more of them.
    """
    found = []
    what = intervals.unit + ("s" if intervals.units != 1 else "")
    low, high = intervals.of_all.get(name, (math.nan, math.nan))
    if high - low > WIDE:
        found.append(
            f"{name} is uncertain: other chips of the same ground would say {low:.3f} to {high:.3f} (95 %, from "
            f"{intervals.units} {what}); differences smaller than that mean nothing: {more}"
        )
    elif intervals.units < FEW:
        found.append(
            f"{name} comes from {intervals.units} {what}, too few for an interval to mean much: {more}"
        )
    if pieces == 1:
        found.append(
            "all of these chips are one adjacent piece of ground: no interval can tell how far the score falls on "
            f"ground that looks different, and it may fall by a quarter; {more}"
        )
    return tuple(found)
