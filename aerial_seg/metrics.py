"""Segmentation scores from one accumulated confusion matrix, never averaged over images or batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.legend import IGNORE


class ConfusionMatrix:
    """Counts of (true class, predicted class) over any number of images; channels, not pixel values."""

    def __init__(self, classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((classes, classes), np.int64)
        self.ignored = 0
        self.unpredicted = 0

    def add(self, truth: NDArray[np.generic], predicted: NDArray[np.generic]) -> None:
        """Count every pixel whose truth is a class.

        Both are channel arrays of one shape. Truth 255 is ignored; a labelled pixel whose prediction is 255 (not
        predicted) is counted apart in `unpredicted`, not as an error: nodata is no opinion.
        """
        if truth.shape != predicted.shape:
            raise ValueError(f"truth is {truth.shape}, prediction is {predicted.shape}")
        classes = len(self.counts)
        labelled = truth != IGNORE
        opinion = predicted != IGNORE
        self.ignored += int(truth.size - labelled.sum())
        self.unpredicted += int((labelled & ~opinion).sum())
        both = labelled & opinion
        pairs = truth[both].astype(np.int64) * classes + predicted[both].astype(np.int64)
        self.counts += np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)

    def scores(self, names: Sequence[str]) -> Scores:
        """Every score of the counts so far."""
        return Scores.of(self.counts, names, ignored=self.ignored, unpredicted=self.unpredicted)


@dataclass(frozen=True, slots=True)
class ClassScores:
    """One class. A ratio whose denominator is 0 is NaN: absent is not wrong."""

    name: str
    iou: float
    f1: float
    precision: float
    recall: float
    pixels: int


@dataclass(frozen=True, slots=True)
class Scores:
    """All scores of one confusion matrix. `miou` is the mean over the `counted` classes whose IoU is defined."""

    classes: tuple[ClassScores, ...]
    miou: float
    counted: int
    pixel_accuracy: float
    confusion: tuple[tuple[int, ...], ...]
    ignored: int
    unpredicted: int

    @classmethod
    def of(
        cls, counts: NDArray[np.int64], names: Sequence[str], *, ignored: int = 0, unpredicted: int = 0
    ) -> Scores:
        """Scores of a (K,K) matrix, rows = truth, columns = prediction."""
        hit = np.diag(counts).astype(np.float64)
        true, said = counts.sum(axis=1), counts.sum(axis=0)
        iou = _ratio(hit, true + said - hit)
        f1 = _ratio(2 * hit, true + said)
        precision, recall = _ratio(hit, said), _ratio(hit, true)
        per_class = tuple(
            ClassScores(
                name, float(iou[k]), float(f1[k]), float(precision[k]), float(recall[k]), int(true[k])
            )
            for k, name in enumerate(names)
        )
        counted = int(np.isfinite(iou).sum())
        return cls(
            classes=per_class,
            miou=float(np.nanmean(iou)) if counted else math.nan,
            counted=counted,
            pixel_accuracy=float(_ratio(hit.sum(), counts.sum())),
            confusion=tuple(tuple(int(n) for n in row) for row in counts),
            ignored=ignored,
            unpredicted=unpredicted,
        )

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready document; NaN becomes null, because JSON has no NaN."""
        return {
            "miou": _null(self.miou),
            "classes_counted": self.counted,
            "pixel_accuracy": _null(self.pixel_accuracy),
            "classes": [
                {
                    "name": c.name, "iou": _null(c.iou), "f1": _null(c.f1), "precision": _null(c.precision),
                    "recall": _null(c.recall), "pixels": c.pixels,
                }
                for c in self.classes
            ],
            "confusion": [list(row) for row in self.confusion],
            "confusion_axes": "rows are the truth, columns the prediction, in the order of classes",
            "pixels_ignored": self.ignored,
            "pixels_labelled_but_not_predicted": self.unpredicted,
        }  # fmt: skip


def _ratio(top: Any, bottom: Any) -> NDArray[np.float64]:
    top, bottom = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    ratio: NDArray[np.float64] = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return ratio


def _null(number: float) -> float | None:
    return None if math.isnan(number) else number
