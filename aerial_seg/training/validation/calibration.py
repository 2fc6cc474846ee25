"""The decision threshold of two-class models: chosen on validation pixels, or left at 0.5 with the reason."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aerial_seg.legend import IGNORE

Counts = NDArray[np.int64]

THRESHOLDS = np.arange(5, 96) / 100
"""On the probability of channel 1, that are tried."""
_LOGITS = np.log(THRESHOLDS / (1 - THRESHOLDS)).astype(np.float32)
"""The same on the difference of the two logits, as a class bias shifts it: exactly 0 at one half."""
_SAME = 1e-9
_HALF = int(np.flatnonzero(THRESHOLDS == 0.5)[0])
BINS = len(THRESHOLDS) + 1

FEWEST_PIXELS = 10_000
"""Of each class. Pixels of one object agree with each other: a house at 0.3 m has about a thousand, so this is some ten
houses, on which the IoU at neighbouring thresholds differs by chance more than by merit."""
_AS_GOOD = 0.001
"""IoU. Thresholds within this of the best are equally good: the one next to one half is taken."""
_SEPARATES = 0.02
"""Of the IoU that a map of nothing but channel 1 misses. A network whose best map is not better by so much does not
tell the classes apart: its best threshold says only that."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The threshold that ships. note: why it stayed one half, where calibrating was asked for."""

    threshold: float = 0.5
    note: str | None = None


class ThresholdCurve:
    """Count two-class decisions at each threshold: a pixel is channel 1 where its probability is above."""

    def __init__(self) -> None:
        self.counts: Counts = np.zeros((2, BINS), np.int64)
        """Pixels by truth and by how many of the thresholds their probability exceeds."""

    def add(self, margins: NDArray[np.float32], labels: NDArray[np.uint8]) -> None:
        """margins: logit of channel 1 minus that of channel 0. labels: 0, 1 or 255, of the same shape."""
        known = labels != IGNORE
        bins = np.searchsorted(_LOGITS, margins[known], side="left")
        flat = labels[known].astype(np.int64) * BINS + bins
        self.counts += np.bincount(flat, minlength=2 * BINS).reshape(2, -1)

    def merge(self, other: ThresholdCurve) -> None:
        """The pixels of `other` are counted here too."""
        self.counts += other.counts

    def confusion(self, threshold: float = 0.5) -> Counts:
        """The (2,2) confusion matrix at one of the thresholds, rows = truth. Raises ValueError for another one."""
        k = _number(threshold)
        above = self.counts[:, k + 1 :].sum(axis=1)
        return np.stack([self.counts.sum(axis=1) - above, above], axis=1)

    def best(self) -> tuple[float, float]:
        """(threshold, IoU of channel 1) with the largest IoU; of equally good ones the nearest to one half."""
        iou = self._ious()
        good = np.flatnonzero(iou >= iou.max() - _AS_GOOD)
        k = int(good[np.argmin(np.abs(good - _HALF))])
        return float(THRESHOLDS[k]), float(iou[k])

    def calibrate(self, names: tuple[str, ...]) -> Calibration:
        """Choose the threshold with the largest IoU of channel 1, or say why one half stays.

        One half stays on few pixels of a class, where the IoU still rises at the end of the thresholds that are tried,
        and where the network does not tell the classes apart yet. names: of the two classes, for the note.
        """
        pixels = self.counts.sum(axis=1)
        k = int(np.argmin(pixels))
        if pixels[k] < FEWEST_PIXELS:
            return self._half(
                f"only {pixels[k]:,} validation pixels are {names[k]}, and fewer than {FEWEST_PIXELS:,} of a class are "
                "too few to choose another by"
            )
        threshold, iou = self.best()
        if threshold in (THRESHOLDS[0], THRESHOLDS[-1]):
            return self._half(
                f"the IoU of {names[1]} still rises at {threshold:.2f}, the last threshold that is tried: the "
                "network's probabilities are far from true ones yet"
            )
        blind = float(pixels[1] / pixels.sum())
        if iou < blind + _SEPARATES * (1 - blind):
            return self._half(
                f"the network does not tell {names[1]} from {names[0]} yet: at its best threshold its IoU is "
                f"{iou:.3f}, and a map that is all {names[1]} has {blind:.3f}"
            )
        return Calibration(threshold)

    def _half(self, why: str) -> Calibration:
        return Calibration(note=f"the decision threshold stayed 0.5: {why}")

    def _ious(self) -> NDArray[np.float64]:
        above = self.counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
        union = above[0] + self.counts[1].sum()
        return np.asarray(above[1] / np.maximum(union, 1))


def is_above(margins: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Where `ThresholdCurve` counts pixels as channel 1 at one of the thresholds. margins: as it takes them."""
    return np.asarray(margins > _LOGITS[_number(threshold)])


def _number(threshold: float) -> int:
    """Which of the thresholds it is. Raises ValueError for another one."""
    k = int(np.argmin(np.abs(THRESHOLDS - threshold)))
    if abs(THRESHOLDS[k] - threshold) > _SAME:
        raise ValueError(f"{threshold} is none of the thresholds that were counted")
    return k


def threshold_bias(threshold: float) -> tuple[float, float]:
    """What to add to two logits so that their argmax is 1 exactly where p(1) > threshold."""
    return 0.0, -math.log(threshold / (1 - threshold))
