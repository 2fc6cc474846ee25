"""Pixels drawn at random from each class of a map, every piece of its ground as likely as any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aerial_seg.jobs.assess.strata import Strata
from aerial_seg.progress import Progress
from aerial_seg.vectors.class_raster import ClassRaster

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sample:
    """Hold the pixels that were drawn, in an order that says nothing of their classes.

    rows, cols: (n,) in the map. classes: (n,) places in the legend.
    """

    rows: Ints
    cols: Ints
    classes: Ints


def draw_sample(
    strata: Strata, mask: ClassRaster, points: Sequence[int], seed: int, progress: Progress
) -> Sample:
    """Draw so many different pixels of each class; equal seeds draw equal pixels.

    Where pixels of a map differ in size, one of twice the ground is twice as likely. The pixels of one class do not
    depend on how many another has.
    """
    drawn = [_ranks(strata, k, number, seed) for k, number in enumerate(points)]
    window, rank, classes = (
        np.concatenate(parts)
        for parts in zip(
            *((w, r, np.full(len(w), k, np.int64)) for k, (w, r) in enumerate(drawn)), strict=True
        )
    )
    rows, cols = _places(strata, mask, window, rank, classes, progress)
    order = np.random.default_rng((seed, len(strata.legend))).permutation(len(rows))
    return Sample(rows[order], cols[order], classes[order])


def _ranks(strata: Strata, k: int, number: int, seed: int) -> tuple[Ints, Ints]:
    """Of class k: (number,) windows, and which of the class's pixels there, counted along its rows."""
    random = np.random.default_rng((seed, strata.legend.values[k] % 2**32, 1))
    pixels = strata.counts[:, k]
    ends = np.cumsum(pixels * strata.pixel_areas)
    if 2 * number > strata.pixels[k]:
        return _of_few(strata, k, number, random)
    found = np.zeros((0, 2), np.int64)
    while len(found) < number:
        ground = random.random(number - len(found)) * ends[-1]
        window = np.searchsorted(ends, ground, side="right").clip(max=len(ends) - 1)
        before = ends[window] - pixels[window] * strata.pixel_areas[window]
        rank = ((ground - before) / strata.pixel_areas[window]).astype(np.int64)
        rank = rank.clip(0, pixels[window] - 1)
        met = np.concatenate([found, np.column_stack([window, rank])])
        _, first = np.unique(met, axis=0, return_index=True)
        found = met[np.sort(first)]
    return found[:, 0], found[:, 1]


def _of_few(strata: Strata, k: int, number: int, random: np.random.Generator) -> tuple[Ints, Ints]:
    """The same where most of the class's pixels are drawn: there are few of them."""
    pixels = strata.counts[:, k]
    window = np.repeat(np.arange(len(pixels)), pixels)
    rank = np.arange(len(window)) - np.repeat(np.cumsum(pixels) - pixels, pixels)
    weights = strata.pixel_areas[window]
    chosen = random.choice(len(window), number, replace=False, p=weights / weights.sum())
    return window[chosen], rank[chosen]


def _places(
    strata: Strata, mask: ClassRaster, window: Ints, rank: Ints, classes: Ints, progress: Progress
) -> tuple[Ints, Ints]:
    """(n,) rows and columns: each window that holds a point is read once more."""
    rows, cols = np.zeros(len(window), np.int64), np.zeros(len(window), np.int64)
    wanted = np.unique(window)
    values = np.array(strata.legend.values)
    with progress("draw", total=len(wanted), unit="window") as bar:
        for one in wanted:
            where = strata.extents[one]
            pixels, valid = mask.window(where)
            here = np.flatnonzero(window == one)
            for k in np.unique(classes[here]):
                of_class = here[classes[here] == k]
                flat = np.flatnonzero((pixels == values[k]) & valid)[rank[of_class]]
                rows[of_class] = where.rows.start + flat // len(where.cols)
                cols[of_class] = where.cols.start + flat % len(where.cols)
            bar.update(1)
    return rows, cols
