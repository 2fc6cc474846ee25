"""Which chips a person is shown: some at random, and those that hold the rarest classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_CHIPS = 12
"""On a sheet: as many as one looks at."""


@dataclass(frozen=True, slots=True)
class QaChip:
    """One chip of a dataset. place: its outline in the index's CRS; valid: measured pixels; counts (K,): by channel."""

    name: str
    split: str
    source: str
    place: Any
    valid: int
    counts: NDArray[np.int64]


def random_chips(chips: Sequence[QaChip], seed: int, *, most: int = MOST_CHIPS) -> list[int]:
    """The numbers of chips drawn at random, in the order of the index; of each split at least one, if it has any."""
    order = np.random.default_rng(seed).permutation(len(chips)).tolist()
    first: dict[str, int] = {}
    for k in order:
        first.setdefault(chips[k].split, k)
    drawn = list(dict.fromkeys((*first.values(), *order)))
    return sorted(drawn[:most])


def rare_chips(chips: Sequence[QaChip], seed: int, *, most: int = MOST_CHIPS) -> list[tuple[int, int]]:
    """The numbers of chips to look at for rare classes, each with the channel of the class that it is shown for.

    The rarer half of the classes that have pixels, the rarest first, in turn: of each the chip with most of it, then
    others that hold it, at random. No chip comes twice.
    """
    counts = np.array([chip.counts for chip in chips])
    pixels = counts.sum(axis=0)
    present = [int(k) for k in np.argsort(pixels, kind="stable") if pixels[k]]
    order = np.random.default_rng(seed).permutation(len(chips))
    queues: dict[int, list[int]] = {}
    for channel in present[: (len(present) + 1) // 2][:most]:
        holding = order[counts[order, channel] > 0].tolist()
        fullest = max(holding, key=lambda k: (int(counts[k, channel]), -k))
        queues[channel] = [fullest, *(k for k in holding if k != fullest)]
    found: dict[int, int] = {}
    while len(found) < most and any(queues.values()):
        for channel, queue in queues.items():
            free = next((k for k in queue if k not in found), None)
            queue[:] = [] if free is None else queue[queue.index(free) + 1 :]
            if free is not None and len(found) < most:
                found[free] = channel
    return sorted(found.items(), key=lambda one: (present.index(one[1]), one[0]))
