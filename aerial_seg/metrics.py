"""Segmentation scores from one accumulated confusion matrix, never averaged over images or batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from aerial_seg.legend import IGNORE

T = TypeVar("T")


class ConfusionMatrix:
    """Count (true class, predicted class) over any number of images; channels, not pixel values."""

    def __init__(self, classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((classes, classes), np.int64)
        self.ignored = 0
        self.unpredicted = 0

    def add(self, truth: NDArray[np.generic], predicted: NDArray[np.generic]) -> None:
        """Count every pixel whose truth is a class.

        Both are channel arrays of one shape. Truth 255 is ignored; a labelled pixel whose prediction is 255 (not
        predicted) is counted apart in `unpredicted`, not as an error: nodata is no opinion. Raises ValueError for any
        other value that is no channel: a wrong table must not pass as an ignored pixel.
        """
        if truth.shape != predicted.shape:
            raise ValueError(f"truth is {truth.shape}, prediction is {predicted.shape}")
        classes = len(self.counts)
        pairs = _bytes(truth).ravel().astype(np.uint16)
        pairs <<= 8
        pairs |= _bytes(predicted).ravel()
        table = np.bincount(pairs, minlength=1 << 16).reshape(256, 256)
        counts = table[:classes, :classes]
        ignored, unpredicted = int(table[IGNORE].sum()), int(table[:classes, IGNORE].sum())
        if counts.sum() + ignored + unpredicted != pairs.size:
            raise ValueError(f"a value is neither one of {classes} channels nor {IGNORE}")
        self.counts += counts
        self.ignored += ignored
        self.unpredicted += unpredicted

    def add_unpredicted(self, truth: int, pixels: int) -> None:
        """Count so many pixels of one true channel, or of 255, as `add` does where nothing was predicted."""
        if truth == IGNORE:
            self.ignored += pixels
        elif truth < len(self.counts):
            self.unpredicted += pixels
        else:
            raise ValueError(f"{truth} is neither one of {len(self.counts)} channels nor {IGNORE}")

    def merge(self, other: ConfusionMatrix) -> None:
        """The counts of `other`, of the same classes, are among ours: one image's matrix into that of all."""
        if len(other.counts) != len(self.counts):
            raise ValueError(f"{len(other.counts)} classes cannot be added to {len(self.counts)}")
        self.counts += other.counts
        self.ignored += other.ignored
        self.unpredicted += other.unpredicted

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
    """Hold all scores of one confusion matrix. `miou`: the mean over `counted` classes whose IoU is defined.

    mean_accuracy: mean recall over the classes that the truth holds. frequency_weighted_iou: their IoUs, weighted with
    their shares of the true pixels. A class that is only predicted counts in `miou` (IoU 0), not in these two.
    """

    classes: tuple[ClassScores, ...]
    miou: float
    counted: int
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float
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
        iou = class_ious(counts)
        f1 = _ratio(2 * hit, true + said)
        precision, recall = _ratio(hit, said), _ratio(hit, true)
        per_class = tuple(
            ClassScores(
                name, float(iou[k]), float(f1[k]), float(precision[k]), float(recall[k]), int(true[k])
            )
            for k, name in enumerate(names)
        )
        counted = int(np.isfinite(iou).sum())
        present = true > 0
        return cls(
            classes=per_class,
            miou=float(np.nanmean(iou)) if counted else math.nan,
            counted=counted,
            pixel_accuracy=float(_ratio(hit.sum(), counts.sum())),
            mean_accuracy=float(recall[present].mean()) if present.any() else math.nan,
            frequency_weighted_iou=float(_ratio((true * iou)[present].sum(), true.sum())),
            confusion=tuple(tuple(int(n) for n in row) for row in counts),
            ignored=ignored,
            unpredicted=unpredicted,
        )

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Scores:
        """Return the scores that `as_json` wrote, computed anew from their counts. Raises LookupError, ValueError."""
        names = [entry["name"] for entry in document["classes"]]
        counts = np.array(document["confusion"], np.int64).reshape(len(names), len(names))
        ignored, unpredicted = document["pixels_ignored"], document["pixels_labelled_but_not_predicted"]
        return cls.of(counts, names, ignored=ignored, unpredicted=unpredicted)

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready document; NaN becomes null, because JSON has no NaN."""
        return {
            "miou": or_null(self.miou),
            "classes_counted": self.counted,
            "pixel_accuracy": or_null(self.pixel_accuracy),
            "mean_accuracy": or_null(self.mean_accuracy),
            "frequency_weighted_iou": or_null(self.frequency_weighted_iou),
            "classes": [
                {
                    "name": c.name, "iou": or_null(c.iou), "f1": or_null(c.f1), "precision": or_null(c.precision),
                    "recall": or_null(c.recall), "pixels": c.pixels,
                }
                for c in self.classes
            ],
            "confusion": [list(row) for row in self.confusion],
            "confusion_axes": "rows are the truth, columns the prediction, in the order of classes",
            "pixels_ignored": self.ignored,
            "pixels_labelled_but_not_predicted": self.unpredicted,
        }  # fmt: skip


def class_ious(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(K,) IoU of every class of a (K,K) matrix, rows = truth; NaN where it is neither in the truth nor predicted."""
    hit = np.diag(counts).astype(np.float64)
    return _ratio(hit, counts.sum(axis=1) + counts.sum(axis=0) - hit)


def _bytes(channels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """The same numbers as uint8; what does not fit is an error and never wraps around to another channel."""
    narrow = channels.astype(np.uint8, copy=False)
    if channels.dtype != np.uint8 and not np.array_equal(narrow, channels):
        raise ValueError(f"channels lie outside 0–255: {channels.min()} to {channels.max()}")
    return narrow


def _ratio(top: Any, bottom: Any) -> NDArray[np.float64]:
    top, bottom = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    ratio: NDArray[np.float64] = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return ratio


def or_null(value: T) -> T | None:
    """The value itself, or None for a NaN: what a JSON document can hold."""
    return None if isinstance(value, float) and math.isnan(value) else value
