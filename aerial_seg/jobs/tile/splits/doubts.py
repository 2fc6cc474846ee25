"""What to say of splits whose scores will mean little."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import InputError
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.tile.splits.assign import FEWEST_UNITS, Assigned
from aerial_seg.mentions import setting
from aerial_seg.training.validation.ground import count_pieces

_TOLD = {"val": "validation", "test": "test", "train": "training"}
_FEWEST_PIXELS = 10_000
"""Labelled pixels from which on a score is worth its digits; calibration asks for as many of each class."""


@dataclass(frozen=True, slots=True)
class KeptChips:
    """The chips that stay: split, unit, outline, and pixels (n, classes) of each class of `names`."""

    splits: Sequence[str]
    units: Sequence[Hashable]
    places: Sequence[Any]
    counts: NDArray[np.int64]
    names: Sequence[str]

    def of(self, split: str) -> NDArray[np.intp]:
        """Numbers of the chips of a split."""
        return np.flatnonzero(np.array(self.splits, object) == split)


def split_notes(kept: KeptChips, assigned: Assigned, settings: TileSettings) -> Iterator[str]:
    """What is odd about the splits. Raises InputError where nothing is left for training."""
    if not len(kept.of("train")):
        raise InputError(
            f"no chip is left for training after the splits; use smaller {setting('val')} and {setting('test')} "
            f"shares, smaller chips ({setting('chip_size')}) or smaller blocks ({setting('block')})"
        )
    for split in assigned.wanted:
        if not len(kept.of(split)):
            yield (
                f"no chip is left for {split}: there are too few {assigned.of_what}s; "
                f"use smaller chips ({setting('chip_size')}) or smaller blocks ({setting('block')})"
            )
        else:
            yield from _small(kept, split, assigned, settings)
    yield from _classes(kept, assigned, settings)


def _small(kept: KeptChips, split: str, assigned: Assigned, settings: TileSettings) -> Iterator[str]:
    """A split that lies in one place says little of the others, and a small one says little at all."""
    own = kept.of(split)
    name = _TOLD[split]
    more = _more_ground(split, assigned, settings)
    units, pixels = len({kept.units[i] for i in own}), int(kept.counts[own].sum())
    if len(own) < len(kept.splits) and count_pieces([kept.places[i] for i in own]) == 1:
        yield (
            f"all {name} chips ({len(own)}) are one adjacent piece of ground: a score on it can be far off on "
            f"ground that looks different; {more}, or keep another raster for it"
        )
    elif units < FEWEST_UNITS or pixels < _FEWEST_PIXELS:
        yield (
            f"{name} is {len(own)} chips in {units} {assigned.of_what}s with {pixels:,} labelled pixels, too small "
            f"for its score to mean much (wanted {FEWEST_UNITS} {assigned.of_what}s and {_FEWEST_PIXELS:,} pixels at "
            f"least); {more}, or label more ground"
        )


def _more_ground(split: str, assigned: Assigned, settings: TileSettings) -> str:
    """How a split gets more ground, or ground in more places."""
    if split in assigned.in_areas:
        return "draw more areas for it"
    if settings.folds is not None and split == "val":
        return f"use fewer {setting('folds')}"
    if settings.shares()[split].pattern is not None:
        return (
            f"name more {assigned.of_what if assigned.of_what == 'group' else 'source'}s in {setting(split)}"
        )
    block = f", smaller {setting('block')}" if assigned.of_what == "block" else ""
    return f"use more {setting(split)}{block}"


def _classes(kept: KeptChips, assigned: Assigned, settings: TileSettings) -> Iterator[str]:
    """A class that one split has and another lacks."""
    pixels = {split: kept.counts[kept.of(split)].sum(axis=0) for split in _TOLD if len(kept.of(split))}
    held = {
        split: [name for name, count in zip(kept.names, row, strict=True) if count]
        for split, row in pixels.items()
    }
    unseen = [name for name in kept.names if name not in held["train"]]
    if unseen:
        elsewhere = [
            f"{name} ({_TOLD[split]}, {int(pixels[split][kept.names.index(name)]):,} px)"
            for split in held if split != "train" for name in unseen if name in held[split]
        ]  # fmt: skip
        also = f"; other splits have {', '.join(elsewhere)}, which counts as error there" if elsewhere else ""
        yield f"no training chip holds class {', '.join(unseen)}: it cannot be learnt from these labels{also}"
    for split, own in held.items():
        lacking = [name for name in held["train"] if name not in own]
        if lacking:
            other = "" if split in assigned.in_areas else f"; or take another {setting('seed')}"
            yield (
                f"no {_TOLD[split]} chip holds class {', '.join(lacking)}, which training has: it gets no score there; "
                f"{_more_ground(split, assigned, settings)}{other}"
            )
