"""What validation counts, chip by chip: enough to score the map of any decision threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aerial_seg.intervals import ChipScore
from aerial_seg.legend import IGNORE
from aerial_seg.metrics import ConfusionMatrix
from aerial_seg.training.validation.calibration import ThresholdCurve

Bytes = NDArray[np.uint8]
Count = Callable[[int, int], object]
"""Is told now and then how many chips or images are done, and how many there are."""


def uncounted(done: int, total: int) -> None:
    """Nobody listens."""
    del done, total


class ChipTally:
    """The counts of one chip: by threshold where the classes are two, else by predicted class."""

    def __init__(self, name: str, classes: int) -> None:
        self.name, self._classes = name, classes
        self.curve = ThresholdCurve() if classes == 2 else None
        self._score = ChipScore.of(name, np.zeros((classes, classes), np.int64))

    def add(self, labels: Bytes, said: Bytes, margins: NDArray[np.float32] | None) -> None:
        """Count pixels: their true and predicted channels, or 255.

        margins: of two classes, the logit of channel 1 minus that of channel 0; anything where nothing was predicted.
        """
        matrix = self.matrix()
        matrix.add(labels, said)
        self._score = ChipScore.of(
            self.name, matrix.counts, ignored=matrix.ignored, unpredicted=matrix.unpredicted
        )
        if self.curve is not None:
            assert margins is not None
            self.curve.add(margins, np.where(said == IGNORE, IGNORE, labels))

    def matrix(self, threshold: float = 0.5) -> ConfusionMatrix:
        """Its confusion matrix; threshold: of two classes."""
        matrix = ConfusionMatrix(self._classes)
        matrix.counts += self._score.confusion if self.curve is None else self.curve.confusion(threshold)
        matrix.ignored, matrix.unpredicted = self._score.ignored, self._score.unpredicted
        return matrix


@dataclass(frozen=True, slots=True, eq=False)
class Tallies:
    """All chips' counts. loss: the mean cross-entropy of all labelled pixels, where it was asked for."""

    chips: tuple[ChipTally, ...]
    classes: int
    loss: float | None = None

    def ordered(self, names: Sequence[str]) -> Tallies:
        """The same, the chips in the order of these names."""
        places = {name: k for k, name in enumerate(names)}
        return replace(self, chips=tuple(sorted(self.chips, key=lambda chip: places[chip.name])))

    @property
    def curve(self) -> ThresholdCurve | None:
        """Decisions of all chips at each threshold; None unless the classes are two."""
        if self.classes != 2:
            return None
        curve = ThresholdCurve()
        for chip in self.chips:
            assert chip.curve is not None
            curve.merge(chip.curve)
        return curve

    def matrix(self, threshold: float = 0.5) -> ConfusionMatrix:
        """The confusion matrix of all chips; threshold: of two classes."""
        matrix = ConfusionMatrix(self.classes)
        for chip in self.chips:
            matrix.merge(chip.matrix(threshold))
        return matrix

    def scored(self, threshold: float = 0.5) -> tuple[ChipScore, ...]:
        """What was made of each chip; threshold: of two classes."""
        return tuple(
            ChipScore.of(chip.name, one.counts, ignored=one.ignored, unpredicted=one.unpredicted)
            for chip, one in ((chip, chip.matrix(threshold)) for chip in self.chips)
        )
