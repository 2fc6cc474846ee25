"""What `train` tells while it trains, to whoever looks at a terminal and to whoever reads a log."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from run_watched import NAMES, drive, loss_of, scores

from aerial_seg.cli import console
from aerial_seg.cli.reports.train_watch import Watch, scores_line
from aerial_seg.training.callbacks import Callback, Checkpoint, Step
from aerial_seg.training.validation.monitor import Monitor
from aerial_seg.training.validation.outcome import Outcome, ValidationGround, judge
from aerial_seg.training.validation.tallies import ChipTally, Tallies


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


class Clock(Callback):
    """An update takes two seconds, a validation ten."""

    def __init__(self, now: list[float]) -> None:
        self._now = now

    def on_step(self, step: Step) -> None:
        self._now[0] += 2

    def on_validation(self, checkpoint: Checkpoint) -> None:
        self._now[0] += 10


def running_mean(iterations: int) -> float:
    """Of the losses of `drive`, one in 50 newer."""
    weights = 0.98 ** np.arange(iterations)[::-1]
    return float(np.average([loss_of(k) for k in range(1, iterations + 1)], weights=weights))


def test_a_log_gets_a_line_every_half_minute_and_one_for_each_validation(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Watch(clock=lambda: clock[0]) as watch:
        drive([Clock(clock), watch], last=50, iterations=100, every=25)
    told, lines = capsys.readouterr()
    assert told == ""
    loss = {n: f"loss {running_mean(n):.4g}" for n in (15, 26, 41)}
    assert lines.splitlines() == [
        f"train: 15 of 100 iterations after 0 min 30 s, about 2 min 50 s to go; {loss[15]}, rate 0.086, 2 images/s",
        "iteration 25 of 100: mIoU 0.3423, IoU background 0.3423, building 0.3423; the best so far",
        f"train: 26 of 100 iterations after 1 min 02 s, about 2 min 56 s to go; {loss[26]}, rate 0.075, 2 images/s",
        f"train: 41 of 100 iterations after 1 min 32 s, about 2 min 12 s to go; {loss[41]}, rate 0.06, 2 images/s",
        "iteration 50 of 100: mIoU 0.3514, IoU background 0.3514, building 0.3514; the best so far",
    ]


def test_a_long_validation_is_told_by_the_same_clock(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """It printed nothing until its end."""
    with Watch(clock=lambda: clock[0]) as watch:
        watch.on_start(0, 10)
        clock[0] += 20
        watch.on_step(Step(1, 0.5, 0.1, 4))
        for done in range(1, 9):
            clock[0] += 5
            watch.on_validating(done, 8, "chip")
        watch.on_validation(Checkpoint(1, {}, None))
        clock[0] += 35
        watch.on_step(Step(2, 0.5, 0.1, 4))
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == (
        "train: 1 of 10 iterations after 0 min 30 s, about 4 min 30 s to go; validating: 2 of 8 chips done"
    )
    assert second.startswith("train: 1 of 10 iterations after 1 min 00 s")
    assert second.endswith("; validating: 8 of 8 chips done")
    # It is over: none of its words stay.
    assert third.startswith("train: 2 of 10 iterations after 1 min 35 s")
    assert "; loss 0.5, rate 0.1" in third


def test_a_run_that_goes_on_says_where_and_counts_its_own_time(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Watch(clock=lambda: clock[0]) as watch:
        drive([Clock(clock), watch], first=60, last=80, iterations=100, every=50)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "the run goes on after iteration 60 of 100"
    assert lines[1].startswith("train: 75 of 100 iterations after 0 min 30 s, about 0 min 50 s to go; loss ")


def test_what_is_not_the_best_names_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = Checkpoint(4, {}, scores(60), is_best=False)
    with Watch() as watch:
        watch.on_start(3, 10)
        watch.on_validation(checkpoint)
        watch.on_validation(replace(checkpoint, iteration=5, is_best=True))
        watch.on_validation(replace(checkpoint, iteration=6))
        watch.on_validation(Checkpoint(7, {}, None))
    ends = [line.rpartition("; ")[2] for line in capsys.readouterr().err.splitlines()[1:]]
    assert ends == ["not the best so far", "the best so far", "the best so far is 0.4286 at iteration 5"]


def test_the_best_is_told_by_the_score_that_decides(capsys: pytest.CaptureFixture[str]) -> None:
    """Its mIoU was told as if that had been the reason."""
    monitor = Monitor("recall_building", NAMES)

    def checkpoint(iteration: int, right: int, *, is_best: bool) -> Checkpoint:
        matrix = Tallies((tally(right),), 2)
        ground = ValidationGround.of_images(("chip",))
        outcome = judge(matrix, ground, NAMES, calibrate=False, monitor=monitor)
        assert Outcome.from_json(outcome.as_json()).monitor == "recall_building"
        return Checkpoint(iteration, {}, outcome.scores, is_best=is_best, outcome=outcome)

    with Watch() as watch:
        watch.on_start(3, 10)
        watch.on_validation(checkpoint(4, 60, is_best=False))
        watch.on_validation(checkpoint(5, 70, is_best=True))
        watch.on_validation(checkpoint(6, 60, is_best=False))
    ends = [line.rpartition("; ")[2] for line in capsys.readouterr().err.splitlines()[1:]]
    assert ends == [
        "not the best so far by recall_building",
        "the best so far by recall_building",
        "the best so far is recall_building 0.7000 at iteration 5",
    ]


def tally(right: int) -> ChipTally:
    """A hundred pixels of each class, of which so many are called so."""
    truth = np.repeat(np.array([0, 1], np.uint8), 100)
    said = np.where(np.tile(np.arange(100), 2) < right, truth, 1 - truth).astype(np.uint8)
    made = ChipTally("chip", 2)
    made.add(truth, said, said.astype(np.float32) - 0.5)
    return made


def test_of_many_classes_the_worst_are_told_and_where_the_others_are() -> None:
    many = scores(60, names=tuple(f"c{k}" for k in range(30)))
    classes = tuple(replace(one, iou=math.nan if k == 3 else k / 100) for k, one in enumerate(many.classes))
    line = scores_line(replace(many, classes=classes))
    assert line == (
        "mIoU 0.4286, lowest IoU c0 0.0000, c1 0.0100, c2 0.0200, c4 0.0400, c5 0.0500, c6 0.0600, c7 0.0700, "
        "c8 0.0800, c9 0.0900, c10 0.1000; all 30 classes are in log.csv"
    )


def test_a_classs_name_steers_no_terminal_and_names_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    odd = scores(60, names=("a\x1b[31m\nb", "`overwrite=True`"))
    with Watch() as watch:
        watch.on_start(0, 10)
        watch.on_validation(Checkpoint(1, {}, odd, is_best=True))
    (line,) = capsys.readouterr().err.splitlines()
    assert "a\\x1b[31m\\x0ab 0.4286, `overwrite=True` 0.4286" in line


def test_on_a_terminal_it_is_a_bar_that_begins_where_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Watch() as watch:
        drive([watch], first=60, last=100, iterations=100, every=20)
    told = capsys.readouterr().err
    drawn = [part for part in told.replace("\n", "\r").split("\r") if part.startswith("train:")]
    assert "60/100" in drawn[0]
    assert "100/100" in drawn[-1]
    assert "loss 0.01" in drawn[-1]
    assert "images/s" in drawn[-1]
    assert "iteration 80 of 100: mIoU" in told


def test_an_error_takes_the_bar_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line of the error begins at the left, and nothing is drawn after it."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    class Stopping(Callback):
        def on_step(self, step: Step) -> None:
            if step.iteration == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Watch() as watch:
        drive([watch, Stopping()], last=50, iterations=100, every=20)
    assert capsys.readouterr().err.endswith("\n")
    console.note_beside_bars("later")
    assert capsys.readouterr().err == "later\n"
