"""Training, validation and test ground that never overlap: whole blocks or whole sources go to one split."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import STRtree

from aerial_seg.errors import SettingsError
from aerial_seg.mentions import setting

_ORDERINGS_TRIED = 64
_AS_BALANCED = 0.05
"""Orders whose largest difference of a class's share is within this of the best are equally balanced: of them the one
is taken whose blocks lie most scattered."""
_TOUCHING = 1e-3
"""Chips whose shared ground is nowhere wider than this part of their side only touch: half a pixel of 512."""


@dataclass(frozen=True, slots=True)
class Share:
    """Say what goes into one split: a fraction of the chips, or the sources whose file name matches a glob."""

    fraction: float = 0.0
    pattern: str | None = None


def parse_share(text: str, setting_name: str) -> Share:
    """Read `0.15` or `15%` as a fraction of the chips, anything else as a glob on source file names."""
    number = text.removesuffix("%")
    try:
        fraction = float(number) / (100 if text.endswith("%") else 1)
    except ValueError:
        return Share(pattern=text)
    if not 0 <= fraction < 1:
        raise SettingsError(
            f"{setting(setting_name)} {text} is not a fraction from 0 to below 1; try 0.15, or a glob on file names"
        )
    return Share(fraction=fraction)


def match_sources(sources: Sequence[str], *, val: Share, test: Share) -> list[str]:
    """Return the split of each source by the globs alone; `train` where none matches.

    Raises SettingsError for globs that match nothing, the same source or everything, and for fractions that leave
    nothing for training: all that can be said before any chip is cut.
    """
    splits = ["train"] * len(sources)
    for name, share in (("test", test), ("val", val)):
        if share.pattern is None:
            continue
        matched = [i for i, source in enumerate(sources) if fnmatchcase(source, share.pattern)]
        if not matched:
            raise SettingsError(
                f"{setting(name)} '{share.pattern}' matches none of the {len(set(sources))} sources "
                f"(first: {sources[0]}); the glob is matched against file names"
            )
        for i in matched:
            if splits[i] != "train":
                raise SettingsError(
                    f"{setting('val')} '{val.pattern}' and {setting('test')} '{test.pattern}' both match {sources[i]}; "
                    "give every source to one of them"
                )
            splits[i] = name
    if "train" not in splits:
        raise SettingsError(
            f"{setting('val')} and {setting('test')} match every source; leave at least one for training"
        )
    if val.fraction + test.fraction >= 1:
        raise SettingsError(
            f"{setting('val', val.fraction)} and {setting('test', test.fraction)} leave nothing for training; "
            "use fractions that sum to less than 1"
        )
    return splits


def assign_splits(
    units: Sequence[Hashable],
    sources: Sequence[str],
    counts: NDArray[np.int64],
    *,
    val: Share,
    test: Share,
    seed: int,
    touching: Iterable[tuple[int, int]] = (),
) -> list[str]:
    """Give each chip a split, such that all chips of a unit (spatial block or source) share one.

    units, sources: per chip, its unit and its source's file name. counts (chips, classes): labelled pixels. touching:
    pairs of chips that lie beside each other. Of a fixed number of seeded orders those are compared whose splits have
    the most equal class shares, and the one is taken whose validation and test units touch least: one adjacent piece
    of ground says little of another. Every split that was asked for gets a unit while there are enough, training
    first. Raises SettingsError as `match_sources`.
    """
    splits = match_sources(sources, val=val, test=test)
    free = [i for i, split in enumerate(splits) if split == "train"]
    wanted = {name: share.fraction for name, share in (("val", val), ("test", test)) if share.fraction > 0}
    if wanted:
        beside = {(units[a], units[b]) for a, b in touching}
        chosen = _choose_units([units[i] for i in free], counts[free], wanted, seed, beside)
        for i in free:
            splits[i] = chosen.get(units[i], "train")
    return splits


def _choose_units(
    units: Sequence[Hashable],
    counts: NDArray[np.int64],
    wanted: dict[str, float],
    seed: int,
    beside: Set[tuple[Hashable, Hashable]],
) -> dict[Hashable, str]:
    names = list(dict.fromkeys(units))
    index = {unit: k for k, unit in enumerate(names)}
    chips = np.bincount([index[unit] for unit in units], minlength=len(names))
    pixels = np.zeros((len(names), counts.shape[1]))
    for unit, row in zip(units, counts, strict=True):
        pixels[index[unit]] += row
    known = [(index[a], index[b]) for a, b in beside if a != b and {a, b} <= index.keys()]
    pairs = np.array(known, np.int64).reshape(-1, 2)
    random = np.random.default_rng(seed)
    tried = [_take(random.permutation(len(names)), chips, wanted) for _ in range(_ORDERINGS_TRIED)]
    badness = [_imbalance(pixels, taken, list(wanted)) for taken in tried]
    good = [k for k, bad in enumerate(badness) if bad <= min(badness) + _AS_BALANCED]
    best = min(good, key=lambda k: (_crowding(pairs, tried[k], units=len(names)), badness[k], k))
    return {names[k]: split for k, split in tried[best].items()}


def _crowding(pairs: NDArray[np.int64], taken: dict[int, str], *, units: int) -> int:
    """How many pairs of units that touch are in one and the same split, training apart."""
    splits = {name: k for k, name in enumerate(sorted(set(taken.values())), start=1)}
    of_unit = np.zeros(units, np.int64)
    for unit, split in taken.items():
        of_unit[unit] = splits[split]
    first, second = of_unit[pairs[:, 0]], of_unit[pairs[:, 1]]
    return int(((first == second) & (first > 0)).sum())


def _take(order: NDArray[np.int64], chips: NDArray[np.int64], wanted: dict[str, float]) -> dict[int, str]:
    """Walk the order, filling each split to its fraction; a unit stays for training and for each split to come."""
    taken: dict[int, str] = {}
    remaining = deque(map(int, order))
    for to_come, (name, fraction) in zip(reversed(range(len(wanted))), wanted.items(), strict=True):
        goal, filled = fraction * chips.sum(), 0
        while len(remaining) > 1 and (filled == 0 or filled + chips[remaining[0]] / 2 <= goal):
            if filled and len(remaining) <= 1 + to_come:
                break
            unit = remaining.popleft()
            taken[unit] = name
            filled += int(chips[unit])
    return taken


def _imbalance(pixels: NDArray[np.float64], taken: dict[int, str], names: list[str]) -> float:
    """The largest difference of a class's share between a split and the whole; an empty class counts most."""
    whole = pixels.sum(axis=0) / max(1.0, pixels.sum())
    worst = 0.0
    for name in [*names, "train"]:
        rows = [k for k in range(len(pixels)) if taken.get(k, "train") == name]
        part = pixels[rows].sum(axis=0) if rows else np.zeros(pixels.shape[1])
        share = part / max(1.0, part.sum())
        lost = ((part == 0) & (whole > 0)).sum()
        worst = max(worst, float(np.abs(share - whole).max()) + float(lost))
    return worst


def overlapping(footprints: Sequence[Any], splits: Sequence[str]) -> list[int]:
    """Return the chips to leave out so that no ground is in two splits: training gives way to val, both to test."""
    tree = STRtree(list(footprints))
    area = shapely.area(np.asarray(footprints, dtype=object))
    rank = {"train": 0, "val": 1, "test": 2}
    left_out: set[int] = set()
    first, second = tree.query(list(footprints), predicate="intersects")
    for a, b in zip(map(int, first), map(int, second), strict=True):
        if rank[splits[a]] < rank[splits[b]] and a not in left_out:
            shared = shapely.intersection(footprints[a], footprints[b])
            thin = _TOUCHING * math.sqrt(min(area[a], area[b]))
            # A corner of 16 × 16 pixels is a small part of a chip, and ground in two splits all the same.
            if not shapely.buffer(shared, -thin / 2).is_empty:
                left_out.add(a)
    return sorted(left_out)
