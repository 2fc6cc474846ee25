"""What a run's network makes of its validation chips, as a picture: the worst chips and typical ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aerial_seg.files.durable import settled_file
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.metrics import class_ious
from aerial_seg.report.benchmark_page import overlay_panels
from aerial_seg.report.chip_sheet import Column, Row, channel_colours, draw_sheet, smaller
from aerial_seg.report.chip_views import ChipViews
from aerial_seg.report.sparing import Sparing
from aerial_seg.training.callbacks import Callback, Checkpoint

Pixels = NDArray[np.uint8]

MOST_CHIPS = 4
"""Of the worst, and as many of the typical."""
_RED = (255, 40, 40)


@dataclass(frozen=True, slots=True)
class Shown:
    """One chip of the picture. image (H,W,3), truth and predicted (H,W) channels, 255 = unlabelled in the truth."""

    caption: str
    image: Pixels
    truth: Pixels
    predicted: Pixels


@dataclass(frozen=True, slots=True)
class Choice:
    """The numbers of the chips to show: those that cost most, the worst first, and some around the median."""

    worst: tuple[int, ...]
    typical: tuple[int, ...]


def choose_chips(confusions: Sequence[NDArray[np.int64]], *, most: int = MOST_CHIPS) -> Choice:
    """The chips to look at, from the (K,K) confusion matrix of each, rows = truth.

    The cost of a chip is what the mIoU over all chips loses by it: its wrong pixels of each class as a share of the
    union of that class over all chips. (By its own IoU the worst would be chips that hold three pixels of a class.)
    Chips without a labelled pixel are never shown, and no chip is shown twice.
    """
    known = [k for k, counts in enumerate(confusions) if counts.sum()]
    if not known:
        return Choice((), ())
    wrong = np.array([_wrong(confusions[k]) for k in known], np.float64)
    union = sum(_wrong(confusions[k]) + np.diag(confusions[k]) for k in known)
    costs = (wrong / np.maximum(union, 1)).sum(axis=1)
    order = [known[k] for k in np.argsort(-costs, kind="stable")]
    half = min(most, (len(order) + 1) // 2)
    rest = order[half:]
    begin = max(0, min(len(order) // 2 - half - most // 2, len(rest) - most))
    return Choice(tuple(order[:half]), tuple(rest[begin : begin + most]))


def _wrong(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(K,) pixels that are of the class or called so, but not both."""
    wrong: NDArray[np.int64] = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    return wrong


def caption(name: str, counts: NDArray[np.int64], legend: Legend, *, most: int = 3) -> str:
    """The chip's name, and the IoU of its classes: of the worst of them, if there are many."""
    ious = class_ious(counts)
    there = sorted((k for k in range(len(legend)) if not np.isnan(ious[k])), key=lambda k: ious[k])
    told = ", ".join(f"{legend.entries[k].name} {ious[k]:.2f}" for k in there[:most])
    more = f" and {len(there) - most} better" if len(there) > most else ""
    return f"{name}: IoU {told}{more}"


def draw_samples(
    worst: Sequence[Shown], typical: Sequence[Shown], legend: Legend, path: Path, *, title: str
) -> None:
    """PNG: on the left the worst chips, on the right typical ones; of each its image, labels, map and errors."""
    names = ("image", "labels", "map", "errors")
    columns = [
        Column(head, names, [_row(chip, legend) for chip in chips])
        for head, chips in (("the chips that cost most mIoU", worst), ("typical chips", typical))
    ]
    shown = {
        int(k)
        for chip in (*worst, *typical)
        for mask in (chip.truth, chip.predicted)
        for k in np.unique(mask)
    }
    more = (((255, 255, 255), "unlabelled"), (_RED, "wrong"))
    draw_sheet(columns, shown, legend, path, title=title, more=more)


def _row(chip: Shown, legend: Legend) -> Row:
    image, truth, predicted = smaller(chip.image, chip.truth, chip.predicted)
    panels = overlay_panels(image, truth, predicted, channel_colours(legend)).values()
    known = chip.truth != IGNORE
    share = ((chip.truth != chip.predicted) & known).sum() / max(1, known.sum())
    return Row(f"{chip.caption}; {share:.1%} wrong", tuple(panels))


class SamplesPicture(Callback):
    """Renews the picture at validations (see report.sparing) and at the end; whole, or as it was.

    Without scores of chips there is none. of_scenes: the scores are those of whole scenes' maps, which the title says:
    the maps that are drawn see no further than their chip.
    """

    def __init__(self, chips: ChipViews, path: Path, *, of_scenes: bool = False) -> None:
        self._chips, self._path, self._of_scenes = chips, path, of_scenes
        self._sparing = Sparing()
        self._iterations = 0
        self._waiting: Checkpoint | None = None

    def on_start(self, iteration: int, iterations: int) -> None:
        """Take note of the run's length."""
        del iteration
        self._iterations = iterations

    def on_validation(self, checkpoint: Checkpoint) -> None:
        """Draw what this checkpoint makes of the chips, if that is due."""
        self._waiting = checkpoint if checkpoint.chips else None
        if self._sparing.is_due:
            self._draw()

    def on_end(self, iteration: int) -> None:
        """Draw the last checkpoint."""
        del iteration
        self._draw()

    def _draw(self) -> None:
        checkpoint, self._waiting = self._waiting, None
        if checkpoint is None:
            return
        with self._sparing.drawing(), settled_file(self._path) as partial:
            choice = choose_chips([chip.confusion for chip in checkpoint.chips])
            worst, typical = (self._views(checkpoint, chosen) for chosen in (choice.worst, choice.typical))
            scores = checkpoint.scores
            miou = "" if scores is None else f": mIoU {scores.miou:.3f}"
            title = f"Validation chips at iteration {checkpoint.iteration:,} of {self._iterations:,}{miou}"
            if self._of_scenes:
                title += "; mIoU and IoU are of whole scenes, the maps here of each chip alone"
            draw_samples(worst, typical, self._chips.legend, partial, title=title)

    def _views(self, checkpoint: Checkpoint, chosen: Sequence[int]) -> list[Shown]:
        chips = self._chips
        numbers = [chips.names.index(checkpoint.chips[k].name) for k in chosen]
        shown = []
        for k, number, predicted in zip(chosen, numbers, chips.maps(checkpoint, numbers), strict=True):
            image, truth = chips.picture(number)
            score = checkpoint.chips[k]
            shown.append(Shown(caption(score.name, score.confusion, chips.legend), image, truth, predicted))
        return shown
