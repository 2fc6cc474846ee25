"""The loss and IoU curves of a run as a picture, renewed while it goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aerial_seg.files.durable import settled_file
from aerial_seg.legend import Legend
from aerial_seg.report.sparing import Sparing
from aerial_seg.training.callbacks import Callback, Checkpoint, Step
from aerial_seg.training.log import ValidationRow, read_log

MOST_POINTS = 1000
"""Of a line: more than a picture has columns. Longer runs are drawn as fast as this one."""
_NAMED_CLASSES = 12
"""Lines that a key can name; of more classes they are drawn faintly."""
_SMOOTH = 30
"""The running mean is of this part of all points."""


class LossCurve:
    """The losses and rates of any number of updates as at most MOST_POINTS points.

    Each point stands for `width` updates in a row: their mean, lowest and highest loss and their last rate. When the
    room is full, neighbours become one, so a point costs the same at every length.
    """

    def __init__(self) -> None:
        self.width = 1
        self._first = 0
        # (updates, sum, lowest, highest, last rate) of each point.
        self._points: list[tuple[int, float, float, float, float]] = []

    def __len__(self) -> int:
        return len(self._points)

    def add(self, iteration: int, loss: float, rate: float) -> None:
        """Take in update `iteration`, which follows the one before."""
        if not self._points:
            self._first = iteration
        if len(self._points) * self.width + self._first <= iteration:
            if len(self._points) == MOST_POINTS:
                self._halve()
                self.add(iteration, loss, rate)
                return
            self._points.append((1, loss, loss, loss, rate))
            return
        count, total, low, high, _ = self._points[-1]
        self._points[-1] = (count + 1, total + loss, min(low, loss), max(high, loss), rate)

    def _halve(self) -> None:
        pairs = zip(self._points[::2], self._points[1::2], strict=True)
        self._points = [(a[0] + b[0], a[1] + b[1], min(a[2], b[2]), max(a[3], b[3]), b[4]) for a, b in pairs]
        self.width *= 2

    def lines(self) -> dict[str, NDArray[np.float64]]:
        """Arrays of one length: iteration (in the middle of a point's updates), mean, lowest, highest, rate."""
        table = np.array(self._points, np.float64).reshape(-1, 5)
        before = np.cumsum(table[:, 0]) - table[:, 0]
        return {
            "iteration": self._first + before + (table[:, 0] - 1) / 2,
            "mean": table[:, 1] / table[:, 0],
            "lowest": table[:, 2],
            "highest": table[:, 3],
            "rate": table[:, 4],
        }


class Curves(Callback):
    """Renews a picture of the curves at validations (see report.sparing) and at the end; whole, or as it was.

    log: the run's log.csv, from which a run that goes on takes what was before. monitor: the score that says which
    checkpoint is the best. best: the iteration of the best one before the run goes on.
    """

    def __init__(
        self, legend: Legend, path: Path, *, log: Path, monitor: str = "miou", best: int | None = None
    ) -> None:
        self._legend, self._path, self._log = legend, path, log
        self._monitor, self._best = monitor, best
        self._losses = LossCurve()
        self._validations: list[ValidationRow] = []
        self._sparing = Sparing()
        self._drawn: tuple[int, int] | None = None
        self._iteration = 0

    def on_start(self, iteration: int, iterations: int) -> None:
        """Begin where the run does."""
        del iterations
        self._losses, self._validations, self._iteration = LossCurve(), [], iteration
        if iteration:
            self._read(iteration)

    def _read(self, last: int) -> None:
        history = read_log(self._log)
        for row in history.losses[:last]:
            self._losses.add(*row)
        self._validations = [one for one in history.validations if one.iteration <= last]

    def on_step(self, step: Step) -> None:
        """Take in one update."""
        self._iteration = step.iteration
        # As the log tells them, so that a run which goes on draws what an uninterrupted one does.
        self._losses.add(step.iteration, float(f"{step.loss:.6g}"), float(f"{step.learning_rate:.6g}"))

    def on_validation(self, checkpoint: Checkpoint) -> None:
        """Take in one validation, and draw if that is due."""
        scores = checkpoint.scores
        if scores is not None:
            ious = {one.name: round(one.iou, 6) for one in scores.classes}
            self._validations.append(ValidationRow(checkpoint.iteration, round(scores.miou, 6), ious))
        if checkpoint.is_best:
            self._best = checkpoint.iteration
        if self._sparing.is_due:
            self._draw()

    def on_end(self, iteration: int) -> None:
        """Draw what came since."""
        del iteration
        self._draw()

    def _draw(self) -> None:
        state = self._iteration, len(self._validations)
        if self._losses and state != self._drawn:
            with self._sparing.drawing(), settled_file(self._path) as partial:
                best = None if self._best is None else (self._best, self._monitor)
                draw_curves(self._losses, self._validations, self._legend, partial, best=best)
            self._drawn = state


def draw_curves(
    losses: LossCurve,
    validations: Sequence[ValidationRow],
    legend: Legend,
    path: Path,
    *,
    best: tuple[int, str] | None = None,
) -> None:
    """PNG: the loss with its running mean and the learning rate above, IoU per class and mIoU below.

    best: the iteration of the best checkpoint, which has a star at its mIoU, and the score that says so.
    """
    # Places of our own: to let matplotlib find them takes as long as all the rest.
    figure = Figure(figsize=(8, 7))
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True)
    figure.subplots_adjust(left=0.08, right=0.88, top=0.98, bottom=0.07, hspace=0.06)
    _draw_losses(top, losses)
    if validations:
        _draw_ious(bottom, validations, legend)
        if best is not None:
            _draw_best(bottom, validations, *best)
        bottom.legend(loc="lower right")
    bottom.set(xlabel="iteration", ylabel="validation IoU", ylim=(0, 1))
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110, format="png")


def _draw_losses(axes: Axes, losses: LossCurve) -> None:
    lines = losses.lines()
    at, mean = lines["iteration"], lines["mean"]
    each = "each iteration" if losses.width == 1 else f"mean of {losses.width:,} iterations"
    if losses.width > 1:
        axes.fill_between(
            at, lines["lowest"], lines["highest"], color="#dddddd", linewidth=0, label="lowest to highest"
        )
    axes.plot(at, mean, color="#999999", linewidth=0.7, label=each)
    span = max(1, len(mean) // _SMOOTH)
    smooth = np.convolve(mean, np.ones(span) / span, mode="valid")
    if span > 1:
        axes.plot(at[span - 1 :], smooth, color="#1f4e79", label=f"mean of {span * losses.width:,}")
    # One wild batch would press all others to the ground.
    highest = float(lines["highest"].max())
    if highest > (top := 2 * max(float(np.percentile(mean, 99)), float(smooth.max()))) > 0:
        axes.set_ylim(0, top)
        axes.plot([], [], " ", label=f"highest {highest:.3g}, cut off")
    axes.set(ylabel="training loss")
    rates = axes.twinx()
    rates.plot(at, lines["rate"], color="#b8860b", linewidth=1, linestyle="--")
    rates.set_ylabel("learning rate (dashed)", color="#8b6508")
    rates.set_ylim(bottom=0)
    axes.legend(loc="upper right")


def _draw_ious(axes: Axes, validations: Sequence[ValidationRow], legend: Legend) -> None:
    # The last validation is always among them.
    shown = validations[:: -max(1, math.ceil(len(validations) / MOST_POINTS))][::-1]
    at = [one.iteration for one in shown]
    marker = "o" if len(shown) <= 50 else None
    few = len(legend) <= _NAMED_CLASSES
    for entry in legend.entries:
        values = [one.ious[entry.name] for one in shown]
        axes.plot(
            at,
            values,
            marker=marker if few else None,
            markersize=3,
            color=entry.colour,
            label=entry.name if few else None,
            linewidth=1.5 if few else 0.5,
        )
    label = "mIoU" if few else f"mIoU of {len(legend)} classes"
    axes.plot(
        at, [one.miou for one in shown], marker=marker, markersize=3, color="black", linewidth=2, label=label
    )


def _draw_best(axes: Axes, validations: Sequence[ValidationRow], iteration: int, monitor: str) -> None:
    """A star at the mIoU of the best checkpoint, whatever it is the best by; no mIoU, no star."""
    miou = next((one.miou for one in validations if one.iteration == iteration), math.nan)
    if math.isnan(miou):
        return
    told = f"mIoU {miou:.3f} at {iteration:,}"
    label = f"best {told}" if monitor == "miou" else f"{told}, the best by {monitor}"
    axes.plot([iteration], [miou], marker="*", markersize=12, color="black", linestyle="none", label=label)
