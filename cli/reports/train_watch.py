"""What `train` tells while it trains: a bar or lines, and the scores of every validation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType

from aerial_seg.metrics import ClassScores, Scores
from aerial_seg.report.pace import Pace
from aerial_seg.training.callbacks import Callback, Checkpoint, Step

from .. import console

_SECONDS_BETWEEN_STATES = 0.1
_MOST_CLASSES = 20


class Watch(Callback):
    """Shows on stderr how far a run is, with its loss (a running mean), learning rate and images per second.

    On a terminal that is a bar, elsewhere a line every half minute, also while a validation takes longer; every
    validation is told in a line of its own. To be used as a context manager, which takes the bar away however the run
    ends.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open = ExitStack()
        self._pace = Pace(clock=clock)
        self._best: str | None = None
        self._label = "train"
        self._iterations = 0
        self._stated = -math.inf

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def on_stage(self, number: int, of: int, name: str) -> None:
        """Say which stage of a run of several begins or goes on."""
        self._label = f"stage {number} of {of}" + (f" ({name})" if name else "")
        self._best = None
        console.say_beside_bars(self._label)

    def on_start(self, iteration: int, iterations: int) -> None:
        """Begin the bar where the run goes on."""
        self._iterations = iterations
        if iteration:
            console.say_beside_bars(f"the run goes on after iteration {iteration:,} of {iterations:,}")
        bar = console.bar(self._label, total=iterations, unit="iteration", done=iteration)
        self._bar = self._open.enter_context(bar)

    def on_step(self, step: Step) -> None:
        """Move the bar on; its numbers are renewed now and then."""
        self._pace.add(step)
        now = self._clock()
        if now - self._stated >= _SECONDS_BETWEEN_STATES or step.iteration == self._iterations:
            self._stated = now
            self._bar.set_postfix_str(self._state(step), refresh=False)
        self._bar.update()

    def on_validating(self, done: int, total: int, unit: str) -> None:
        """Show at the bar how far a validation is, or in a line where one is due."""
        now = self._clock()
        if now - self._stated >= _SECONDS_BETWEEN_STATES:
            self._stated = now
            self._bar.set_postfix_str(f"validating: {done:,} of {total:,} {unit}s done")
            self._bar.update(0)

    def _state(self, step: Step) -> str:
        speed = self._pace.images_per_second
        told = "" if math.isnan(speed) else f", {speed:.3g} images/s"
        return f"loss {self._pace.loss:.4g}, rate {step.learning_rate:.3g}{told}"

    def on_validation(self, checkpoint: Checkpoint) -> None:
        """Tell the scores in one line."""
        scores = checkpoint.scores
        if scores is not None:
            place = f"iteration {checkpoint.iteration:,} of {self._iterations:,}"
            console.say_beside_bars(f"{place}: {scores_line(scores)}; {self._rank(checkpoint, scores)}")
        self._pace.pause()
        self._stated = -math.inf

    def _rank(self, checkpoint: Checkpoint, scores: Scores) -> str:
        """Whether it is the best so far by the score that decides; of a run that went on, the best may be of before."""
        outcome = checkpoint.outcome
        told, by, value = "", "", scores.miou
        if outcome is not None and outcome.monitor != "miou":
            told, by = f"{outcome.monitor} ", f" by {outcome.monitor}"
            value = math.nan if outcome.value is None else outcome.value
        if checkpoint.is_best:
            self._best = f"{told}{console.number(value)} at iteration {checkpoint.iteration:,}"
            return f"the best so far{by}"
        if self._best is None:
            return f"not the best so far{by}"
        return f"the best so far is {self._best}"

    def on_end(self, iteration: int) -> None:
        """Leave the bar as it is."""
        del iteration
        self._open.close()


def scores_line(scores: Scores) -> str:
    """The mIoU and the IoU of each class in one line; of very many classes, of those that are worst."""
    classes: list[ClassScores] = list(scores.classes)
    if len(classes) <= _MOST_CLASSES:
        told = f"IoU {', '.join(map(_iou, classes))}"
    else:
        known = sorted((one for one in classes if not math.isnan(one.iou)), key=lambda one: one.iou)
        lowest = known[: _MOST_CLASSES // 2]
        told = f"lowest IoU {', '.join(map(_iou, lowest))}; all {len(classes)} classes are in log.csv"
    return f"mIoU {console.number(scores.miou)}, {told}"


def _iou(one: ClassScores) -> str:
    return f"{one.name} {console.number(one.iou)}"
