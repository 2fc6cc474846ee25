"""Which rows go to one worker: few tiles are to be computed twice, and no worker is to wait long for another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from aerial_seg.geo.raster.covered import BLOCK

_SLACK = 0.1
"""Of a group: how much of it is lost in the end to workers that are slower or were lost, as a guess."""
_MOST_ROUNDS = 64


@dataclass(frozen=True, slots=True)
class Cut:
    """Say into how many groups rows are cut: rows of blocks each, how many rows more are computed, and how long it
    takes, in rows of one worker, everything counted.
    """

    groups: int
    blocks: int
    again: int
    cost: float


def choose_cut(rows: int, *, workers: int, again: int) -> Cut:
    """Return the cut of so many rows that takes the least time.

    again: rows that a border between two groups adds to be computed: those of the tiles that both need.
    """
    return min(cuts(rows, workers=workers, again=again), key=lambda cut: (cut.cost, cut.groups))


def cuts(rows: int, *, workers: int, again: int) -> list[Cut]:
    """List what there is to choose from: a few groups for each worker, each of whole rows of blocks."""
    blocks = ceil(rows / BLOCK)
    found = dict[int, Cut]()
    for rounds in range(1, _MOST_ROUNDS + 1):
        each = ceil(blocks / (rounds * workers))
        groups = ceil(blocks / each)
        height = min(each * BLOCK, rows) + (again if groups > 1 else 0)
        cost = ceil(groups / workers) * height + _SLACK * height
        found[groups] = Cut(groups, each, (groups - 1) * again, cost)
        if each == 1:
            break
    return list(found.values())


def grouped(gaps: Sequence[range], blocks: int) -> list[range]:
    """Cut ranges of missing rows, which begin at borders of blocks, into groups of so many rows of blocks each."""
    return [
        range(start, min(start + blocks * BLOCK, gap.stop))
        for gap in gaps
        for start in range(gap.start, gap.stop, blocks * BLOCK)
    ]
