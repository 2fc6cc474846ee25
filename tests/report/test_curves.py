"""Curves of runs of any length: the same losses in few points, and a picture that a resumed run draws alike."""

from __future__ import annotations

import errno
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from matplotlib.axes import Axes
from PIL import Image
from run_watched import NAMES, drive, scores

from aerial_seg.errors import OutputError
from aerial_seg.legend import Legend, make_legend
from aerial_seg.report import sparing
from aerial_seg.report.curves import MOST_POINTS, Curves, LossCurve, draw_curves
from aerial_seg.training.callbacks import Callback, Checkpoint, Step
from aerial_seg.training.log import Log, ValidationRow

LEGEND = make_legend(dict(enumerate(NAMES)))


@given(length=st.integers(1, 5 * MOST_POINTS), first=st.integers(1, 50), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=examples(20))
def test_points_hold_the_losses_of_a_run_of_any_length(length: int, first: int, seed: int) -> None:
    values = np.random.default_rng(seed).exponential(1.0, length)
    curve = LossCurve()
    for k, value in enumerate(values):
        curve.add(first + k, float(value), first + k)
    assert len(curve) <= MOST_POINTS
    assert len(curve) == -(-length // curve.width)
    assert curve.width == 1 or len(curve) > MOST_POINTS // 2 - 1
    lines = curve.lines()
    for j in range(len(curve)):
        part = values[j * curve.width : (j + 1) * curve.width]
        at = np.arange(length)[j * curve.width : (j + 1) * curve.width] + first
        expected = (at.mean(), part.mean(), part.min(), part.max(), at[-1])
        assert [float(lines[key][j]) for key in lines] == pytest.approx(expected)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_a_run_that_goes_on_draws_what_an_uninterrupted_one_does(tmp_path: Path) -> None:

    def watched(name: str, *, first: int, last: int) -> Path:
        log = Log(tmp_path / f"{name}.csv", NAMES)
        log.begin(first)
        picture = tmp_path / f"{name}.png"
        curves = Curves(LEGEND, picture, log=tmp_path / f"{name}.csv")
        drive([log, curves], first=first, last=last, iterations=40, every=10, ends=last == 40)
        log.sync()
        return picture

    whole = watched("whole", first=0, last=40)
    watched("halves", first=0, last=27)
    halves = watched("halves", first=20, last=40)
    assert np.array_equal(pixels(whole), pixels(halves))


def test_the_first_validation_draws_and_then_what_is_worth_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update takes a second, and so does a drawing, which is due again after 19 seconds more."""
    now = [0.0]
    drawn: list[int] = []
    monkeypatch.setattr(sparing.time, "monotonic", lambda: now[0])

    def draw(
        losses: LossCurve, validations: Sequence[ValidationRow], legend: Legend, path: Path, *, best: object
    ) -> None:
        del validations, legend, best
        drawn.append(int(losses.lines()["iteration"][-1]))
        path.write_bytes(b"png")
        now[0] += 1

    class Clock(Callback):
        def on_step(self, step: Step) -> None:
            now[0] += 1

    monkeypatch.setattr("aerial_seg.report.curves.draw_curves", draw)
    path = tmp_path / "curves.png"
    drive([Clock(), Curves(LEGEND, path, log=tmp_path / "log.csv")], last=53, iterations=53, every=5)
    assert drawn == [5, 25, 45, 53]
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_takes_no_picture_is_told_and_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object, best: object) -> None:
        del best
        Path(str(given[-1])).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "curves.png"
    path.write_bytes(b"whole")
    monkeypatch.setattr("aerial_seg.report.curves.draw_curves", full)
    with pytest.raises(OutputError, match=r"curves\.png could not be written.*free"):
        drive([Curves(LEGEND, path, log=tmp_path / "log.csv")], last=5, iterations=5, every=5)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"curves.png": b"whole"}


def test_the_star_is_at_the_checkpoint_that_is_kept_as_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was where mIoU is highest, whatever score decided; a run that goes on knows the best of before."""
    stars: list[tuple[float, float, str]] = []
    plot = Axes.plot

    def watched(self: Axes, *given: Any, **how: Any) -> Any:
        if how.get("marker") == "*":
            stars.append((given[0][0], given[1][0], how["label"]))
        return plot(self, *given, **how)

    monkeypatch.setattr(Axes, "plot", watched)
    log = Log(tmp_path / "log.csv", NAMES)
    log.begin(0)
    first = Curves(LEGEND, tmp_path / "a.png", log=tmp_path / "log.csv", monitor="recall_building")
    for one in (log, first):
        one.on_start(0, 40)
        for iteration, right, is_best in ((10, 60, True), (20, 90, False)):
            one.on_step(Step(iteration, 1.0, 0.1, 4))
            one.on_validation(Checkpoint(iteration, {}, scores(right), is_best=is_best))
        one.on_end(20)
    log.sync()
    later = Curves(LEGEND, tmp_path / "b.png", log=tmp_path / "log.csv", monitor="recall_building", best=10)
    later.on_start(20, 40)
    later.on_step(Step(30, 1.0, 0.1, 4))
    later.on_end(30)
    miou = scores(60).miou
    assert (
        stars[-2:]
        == [(10, pytest.approx(miou, abs=1e-6), "mIoU 0.429 at 10, the best by recall_building")] * 2
    )


def test_many_classes_and_undefined_scores_are_drawn(tmp_path: Path) -> None:
    """150 classes get no key of 150 lines: the picture keeps its size, and a run without any score its losses."""
    many = make_legend({k: f"c{k}" for k in range(150)})
    row = ValidationRow(1, math.nan, dict.fromkeys(many.names, math.nan))
    scored = ValidationRow(2, 0.5, dict.fromkeys(many.names, 0.5))
    curve = LossCurve()
    for iteration in (1, 2):
        curve.add(iteration, 0.0, 0.1)
    for name, rows, legend in (("many", [row, scored], many), ("none", [row], many), ("bare", [], LEGEND)):
        draw_curves(curve, rows, legend, tmp_path / name, best=(len(rows), "miou"))
        assert pixels(tmp_path / name).shape[:2] == (770, 880)
