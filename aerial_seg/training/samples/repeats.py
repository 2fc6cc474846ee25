"""Images that hold rare or hard classes, taken more often: so many times in a turn as one of their classes asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.recipe.crops import SamplingSettings


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


def repeats_of(sampling: SamplingSettings, names: Sequence[str], pixels: NDArray[np.int64]) -> Repeats:
    """How often each image comes. pixels: (images, classes) labelled pixels, the classes called `names`.

    Raises SettingsError for a class that there is not.
    """
    require_classes(sampling, names)
    factors = repeat_factors(pixels, sampling.repeat_threshold)
    for name, factor in sampling.repeat_classes.items():
        held = pixels[:, names.index(name)] > 0
        factors = np.where(held, np.maximum(factors, factor), factors)
    return Repeats.of(factors)


def require_classes(sampling: SamplingSettings, names: Sequence[str]) -> None:
    """Raises SettingsError where images of a class are to be repeated that is none of `names`."""
    for name in sampling.repeat_classes:
        if name not in names:
            raise SettingsError(
                f"sampling.repeat_classes names '{name}', which is no class of the dataset"
                f"{did_you_mean(name, names)}; known: {', '.join(names)}"
            )


def counted_pixels(
    pixels: Sequence[Sequence[int] | None], sampling: SamplingSettings, root: Path
) -> NDArray[np.int64]:
    """(chips, classes) labelled pixels of each chip of `root`. Raises InputError where the index counts none."""
    counted = [own for own in pixels if own is not None]
    if len(counted) < len(pixels):
        said = "sampling.repeat_classes names classes"
        if sampling.repeat_threshold:
            said = f"sampling.repeat_threshold is {sampling.repeat_threshold:g}"
        elif not sampling.repeat_classes:
            said = f'sampling.balanced_by is "{sampling.balanced_by}"'
        raise InputError(
            f"{said}, but the index of {root} does not "
            f"count the classes of {len(pixels) - len(counted)} training chips; run `aerial-seg tile` again, or leave "
            "it out"
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


def rarity_weights(pixels: NDArray[np.int64]) -> tuple[float, ...]:
    """Of each class 1 / its share of the labelled pixels of all images, (images, classes); of one without any, 0."""
    counts = pixels.sum(axis=0)
    whole = int(counts.sum())
    return tuple(whole / count if count else 0.0 for count in counts.tolist())


def rarity_note(names: Sequence[str], weights: Sequence[float], share: float) -> str:
    """Say which class is drawn how often where an image shows all of them. share: of the crops that are balanced."""
    told = ", ".join(
        f"{name} {100 * one / sum(weights):.3g} %" for name, one in zip(names, weights, strict=True) if one
    )
    return (
        f"{100 * share:.3g} % of the crops hold a pixel of a class that is drawn by rarity (sampling.balanced_by); "
        f"where an image shows all classes: {told}"
    )


def repeat_notes(
    sampling: SamplingSettings, names: Sequence[str], pixels: NDArray[np.int64], *, crops: int, what: str
) -> tuple[str, ...]:
    """Say which classes' images come more often, and how many times all are seen. crops: of the recipe."""
    turn = repeats_of(sampling, names, pixels).turn
    shares = (pixels > 0).mean(axis=0)
    turns = (
        f"{len(pixels):,} {what} make {turn:,} samples a turn, and the recipe's {crops:,} crops are "
        f"{crops / turn:.3g} turns"
    )
    notes = []
    if sampling.repeat_threshold:
        notes.append(_of_threshold(sampling.repeat_threshold, names, shares, what, turns))
    if sampling.repeat_classes:
        notes += _of_classes(sampling.repeat_classes, names, pixels, what, turns)
    return tuple(notes)


def _of_threshold(
    threshold: float, names: Sequence[str], shares: NDArray[np.float64], what: str, turns: str
) -> str:
    often = [
        f"{name} ({100 * share:.3g} % of them) {math.sqrt(threshold / share):.3g} times"
        for name, share in zip(names, shares.tolist(), strict=True)
        if 0 < share < threshold
    ]
    if not often:
        return (
            f"sampling.repeat_threshold is {threshold:g}, but every class is in at least that share of the training "
            f"{what}: all are taken equally often"
        )
    return f"training {what} that hold {', '.join(often)} as often as others: {turns}"


def _of_classes(
    factors: Mapping[str, float], names: Sequence[str], pixels: NDArray[np.int64], what: str, turns: str
) -> list[str]:
    held = {name: pixels[:, names.index(name)] > 0 for name in factors}
    there = {name: own for name, own in held.items() if own.any()}
    absent = [name for name in factors if name not in there]
    notes = []
    if there:
        told = [f"{name} ({own.sum():,}) {factors[name]:.3g} times" for name, own in there.items()]
        several = int(np.any(list(there.values()), axis=0).sum())
        notes.append(
            f"training {what} that hold {', '.join(told)} as often as others, by sampling.repeat_classes: {several:,} "
            f"of {turns}"
        )
    if absent:
        notes.append(
            f"no training {_one(what)} holds {', '.join(absent)} of sampling.repeat_classes: nothing is repeated for it"
        )
    return notes


def _one(what: str) -> str:
    return what.removesuffix("s")
