"""What a page tells, as plain numbers and pictures: whoever has measured a map fills it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.intervals import Intervals
from aerial_seg.legend import Legend
from aerial_seg.metrics import Scores
from aerial_seg.training.log import History

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class View:
    """A part of the map and its pictures, all of one size (h, w); None for what there is not.

    top, left, height, width: in pixels of the map. image (h, w, 3); classes and truth channels, 255 = none; confidence
    in levels of which 250 is 1, 255 = none; errors: share of wrong pixels, of which 250 is all, 255 = unlabelled.
    """

    top: int
    left: int
    height: int
    width: int
    classes: Pixels
    image: Pixels | None = None
    truth: Pixels | None = None
    confidence: Pixels | None = None
    errors: Pixels | None = None

    def smaller(self, side: int) -> View:
        """The same in at most so many pixels a side: every n-th of them."""
        step = -(-max(self.classes.shape) // side)
        if step == 1:
            return self

        def fewer(pixels: Pixels | None) -> Pixels | None:
            return None if pixels is None else pixels[::step, ::step]

        return View(
            *(self.top, self.left, self.height, self.width),
            self.classes[::step, ::step],
            fewer(self.image),
            fewer(self.truth),
            fewer(self.confidence),
            fewer(self.errors),
        )


@dataclass(frozen=True, slots=True)
class Place:
    """A place that is worth a look: top, left, height, width in pixels of the map, and what is to be said of it."""

    top: int
    left: int
    height: int
    width: int
    told: str
    known: int = 0
    wrong: int = 0
    cost: float = 0.0
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Areas:
    """Ground by class: pixels (K,), areas (K,) in square metres or in pixels (`unit`), and pixels of no class."""

    pixels: Sequence[int]
    areas: Sequence[float]
    unit: str
    nodata: int


@dataclass(frozen=True, slots=True)
class Training:
    """A run: its log, the picture of its worst chips as bytes, and what it is called."""

    name: str
    history: History
    samples: bytes | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """All of a page.

    transform: of pixel corners (column, row) to the CRS, six numbers; None where there is no CRS. bins: (256, 2) pixels
    by confidence level, wrong and right. facts: what is known of where the map comes from. square: pixels a side of the
    squares that intervals are drawn over. assessment: what `assess report` wrote.
    """

    title: str
    height: int
    width: int
    legend: Legend
    views: Sequence[View]
    areas: Areas
    transform: tuple[float, ...] | None = None
    crs: str | None = None
    scores: Scores | None = None
    intervals: Intervals | None = None
    square: int = 0
    bins: NDArray[np.int64] | None = None
    places: Sequence[Place] = ()
    training: Training | None = None
    assessment: Mapping[str, Any] | None = None
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()

    def smaller(self, side: int) -> Content:
        """The same with pictures of at most so many pixels a side."""
        return replace(self, views=[view.smaller(side) for view in self.views])
