"""Chips that hold rare classes, taken more often: each chip so many times in a turn as its rarest class asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import InputError, SettingsError


@dataclass(frozen=True, slots=True)
class Repeats:
    """How often each chip is taken in a turn, on average; in each turn that number rounded down or up.

    Chips lie side by side on a line, each as long as it is often taken, at least 1; a turn takes a chip at every whole
    number from a start below 1, which differs from turn to turn. ends: (chips,) where each ends; the last is the turn's
    length. first: (turn,) the chip that each whole number lies in, so that none has to be sought.
    """

    ends: NDArray[np.float64]
    first: NDArray[np.int64]

    @classmethod
    def of(cls, factors: Sequence[float] | NDArray[np.float64]) -> Repeats:
        """From how many times as often as usual each chip is to be taken. Raises SettingsError for one below 1."""
        given = np.asarray(factors, np.float64)
        if not len(given) or not (given >= 1).all() or not np.isfinite(given).all():
            raise SettingsError(
                "a chip that is repeated less than once would never be seen; wanted factors from 1 on"
            )
        total = float(given.sum())
        turn = math.ceil(total)
        ends = np.cumsum(given * (turn / total))
        ends[-1] = turn
        return cls(ends, np.searchsorted(ends, np.arange(turn), side="right").astype(np.int64))

    @property
    def turn(self) -> int:
        """Samples of a turn, in which every chip is taken once at least."""
        return len(self.first)

    def chip_at(self, place: int, start: float) -> int:
        """The chip at this whole number, in a turn with this start."""
        chip, last = int(self.first[place]), len(self.ends) - 1
        # A start so near to 1 that the sum is rounded to the turn's end belongs to the last chip.
        while chip < last and self.ends[chip] <= place + start:
            chip += 1  # chips are 1 long at least: twice at the most
        return chip


def counted_pixels(pixels: Sequence[Sequence[int] | None], threshold: float, root: Path) -> NDArray[np.int64]:
    """(chips, classes) labelled pixels of each chip of `root`. Raises InputError where the index counts none."""
    counted = [own for own in pixels if own is not None]
    if len(counted) < len(pixels):
        raise InputError(
            f"sampling.repeat_threshold is {threshold:g}, but the index of {root} does not count the classes of "
            f"{len(pixels) - len(counted)} training chips; run `aerial-seg tile` again, or leave it out"
        )
    return np.array(counted, np.int64)


def repeat_factors(pixels: NDArray[np.int64], threshold: float) -> NDArray[np.float64]:
    """(chips,) how many times as often each chip is taken: max over its classes of √(threshold / share), at least 1.

    pixels: (chips, classes) labelled pixels. share: of the chips that hold the class. Source: Gupta, Dollár, Girshick
    2019, LVIS, section 5.2, repeat factor sampling; in detectron2 REPEAT_THRESHOLD.
    """
    held = pixels > 0
    shares = held.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_class = np.where(shares > 0, np.maximum(1.0, np.sqrt(threshold / shares)), 1.0)
    factors: NDArray[np.float64] = np.where(held, of_class, 1.0).max(axis=1, initial=1.0)
    return factors


def repeat_note(
    names: Sequence[str], pixels: NDArray[np.int64], threshold: float, *, crops: int, turn: int
) -> str:
    """Say which classes' chips come more often, and how many times all are seen. crops: of the recipe."""
    shares = (pixels > 0).mean(axis=0)
    often = [
        f"{name} ({100 * share:.3g} % of them) {math.sqrt(threshold / share):.3g} times"
        for name, share in zip(names, shares.tolist(), strict=True)
        if 0 < share < threshold
    ]
    if not often:
        return (
            f"sampling.repeat_threshold is {threshold:g}, but every class is in at least that share of the training "
            "chips: all are taken equally often"
        )
    return (
        f"training chips that hold {', '.join(often)} as often as others: {len(pixels):,} chips make {turn:,} samples "
        f"a turn, and the recipe's {crops:,} crops are {crops / turn:.3g} turns"
    )
