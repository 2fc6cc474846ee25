"""A benchmark's own numbers, from the one confusion matrix of all its images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.legend import Legend
from aerial_seg.metrics import ConfusionMatrix, Scores, or_null


@dataclass(frozen=True, slots=True)
class CategoryIoU:
    """One category. iou is NaN where the category is neither in the truth nor predicted."""

    name: str
    iou: float


@dataclass(frozen=True, slots=True)
class BenchmarkScores:
    """The scores of all classes, and apart from them what only this benchmark reports.

    scores: `scores.miou` is the class average, the number that papers print. categories: Cityscapes only, else empty;
    category_miou is their average over the `categories_counted` whose IoU is defined, a far higher number than the
    class average. challenge_score: ADE20K only, (mIoU + pixel accuracy) / 2; else None.
    """

    scores: Scores
    categories: tuple[CategoryIoU, ...] = ()
    challenge_score: float | None = None

    @property
    def category_miou(self) -> float:
        """Mean over the categories whose IoU is defined; NaN without any."""
        defined = [category.iou for category in self.categories if not math.isnan(category.iou)]
        return sum(defined) / len(defined) if defined else math.nan

    @property
    def categories_counted(self) -> int:
        """How many categories `category_miou` is the mean of."""
        return sum(not math.isnan(category.iou) for category in self.categories)

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready document: that of the scores and, where the benchmark has them, its own numbers."""
        document = self.scores.as_json()
        if self.categories:
            document["category_miou"] = or_null(self.category_miou)
            document["categories_counted"] = self.categories_counted
            document["categories"] = [{"name": c.name, "iou": or_null(c.iou)} for c in self.categories]
        if self.challenge_score is not None:
            document["challenge_score"] = or_null(self.challenge_score)
        return document


def benchmark_scores(
    name: str,
    matrix: ConfusionMatrix,
    legend: Legend,
    *,
    categories: Mapping[str, Sequence[int]] | None = None,
) -> BenchmarkScores:
    """All numbers of the benchmark `name`, after every image was counted.

    categories: name → channels; what Cityscapes needs. Absent classes are NaN and not counted, as Cityscapes' script
    has it; ADE20K's divides by 150 whatever occurs, which is the same on its full validation set, where all classes do.

    Source: challenge score: CSAILVision/sceneparsing, README, Evaluation routines.
    """
    scores = matrix.scores(legend.names)
    return BenchmarkScores(
        scores=scores,
        categories=category_ious(matrix.counts, categories or {}),
        challenge_score=(scores.miou + scores.pixel_accuracy) / 2 if name == "ade20k" else None,
    )


def category_ious(
    counts: NDArray[np.int64], categories: Mapping[str, Sequence[int]]
) -> tuple[CategoryIoU, ...]:
    """IoU of each category: its classes are one before the ratio is taken, so mixing them up is a hit.

    counts (K,K), rows = truth.

    Source: cityscapesScripts, evalPixelLevelSemanticLabeling.py, getIouScoreForCategory.
    """
    found = []
    for name, channels in categories.items():
        inside = list(channels)
        hit = int(counts[np.ix_(inside, inside)].sum())
        union = int(counts[inside].sum() + counts[:, inside].sum()) - hit
        found.append(CategoryIoU(name, hit / union if union else math.nan))
    return tuple(found)
