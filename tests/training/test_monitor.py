"""Which checkpoint is the best, whatever it is chosen by, and when the search ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.errors import SettingsError
from aerial_seg.metrics import Scores
from aerial_seg.training.validation.monitor import (
    BestSoFar,
    Monitor,
    monitor_names,
    require_validation,
)

NAMES = ("background", "building_roof")
VALUES = st.lists(st.none() | st.floats(0, 1).map(lambda value: round(value, 2)), min_size=1, max_size=30)


def walk(values: list[float | None], monitor: Monitor, patience: int | None = None) -> list[BestSoFar]:
    best, steps = BestSoFar(), []
    for iteration, value in enumerate(values, start=1):
        best = best.after(iteration, value, monitor)
        steps.append(best)
        if best.is_patience_over(patience):
            break
    return steps


@given(VALUES)
@settings(max_examples=examples(200))
def test_the_best_is_the_first_of_the_largest_and_without_any_value_the_last(
    values: list[float | None],
) -> None:
    """A value of −1 for "none" made the first checkpoint the best where none had one."""
    known = [(value, -k) for k, value in enumerate(values, start=1) if value is not None]
    last = walk(values, Monitor("miou", NAMES))[-1]
    if known:
        value, place = max(known)
        assert (last.value, last.iteration, last.since) == (value, -place, len(values) + place)
    else:
        assert (last.value, last.iteration) == (None, len(values))


@given(VALUES)
@settings(max_examples=examples(100))
def test_of_losses_the_smallest_is_the_best(values: list[float | None]) -> None:
    turned = [None if value is None else -value for value in values]
    by_loss, by_iou = walk(turned, Monitor("loss", NAMES)), walk(values, Monitor("miou", NAMES))
    assert [step.iteration for step in by_loss] == [step.iteration for step in by_iou]


@given(VALUES, st.integers(1, 5))
@settings(max_examples=examples(200))
def test_a_run_stops_after_so_many_validations_without_a_better_one(
    values: list[float | None], patience: int
) -> None:
    monitor = Monitor("miou", NAMES)
    free, steps = walk(values, monitor), walk(values, monitor, patience)
    assert steps == free[: len(steps)]
    if len(steps) < len(values):
        assert steps[-1].since == patience
        assert steps[-1].iteration == len(steps) - patience
    assert all(step.since < patience or step.value is None for step in steps[:-1])


@given(VALUES, st.integers(0, 30))
@settings(max_examples=examples(50))
def test_what_is_remembered_goes_through_a_file(values: list[float | None], stop: int) -> None:
    monitor = Monitor("miou", NAMES)
    best = BestSoFar()
    for iteration, value in enumerate(values, start=1):
        if iteration == stop:
            best = BestSoFar.of_json(best.as_json())
        best = best.after(iteration, value, monitor)
    assert best == walk(values, monitor)[-1]


def test_every_name_tells_its_own_score() -> None:
    scores = Scores.of(np.array([[50, 10], [5, 35]]), NAMES)
    wanted = {
        "miou": scores.miou,
        "pixel_accuracy": 0.85,
        "mean_accuracy": (50 / 60 + 35 / 40) / 2,
        "frequency_weighted_iou": scores.frequency_weighted_iou,
        "iou_background": 50 / 65,
        "iou_building_roof": 35 / 50,
        "f1_background": 100 / 115,
        "f1_building_roof": 70 / 85,
        "precision_background": 50 / 55,
        "precision_building_roof": 35 / 45,
        "recall_background": 50 / 60,
        "recall_building_roof": 35 / 40,
        "loss": 0.25,
    }
    assert set(monitor_names(NAMES)) == set(wanted)
    for name, value in wanted.items():
        assert Monitor(name, NAMES).value(scores, 0.25) == pytest.approx(value), name


def test_an_absent_class_has_no_value() -> None:
    scores = Scores.of(np.array([[5, 0], [0, 0]]), NAMES)
    assert math.isnan(scores.classes[1].iou)
    assert Monitor("iou_building_roof", NAMES).value(scores, None) is None
    assert Monitor("loss", NAMES).value(scores, None) is None


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("iou_bilding_roof", "iou_building_roof"), ("mIoU", "miou"), ("f1_backgrund", "f1_background")],
)
def test_an_unknown_one_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(SettingsError, match=f"training.monitor is '{name}'.*did you mean '{nearest}'"):
        Monitor(name, NAMES)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"monitor": "iou_road"}, "training.monitor is iou_road"),
        ({"patience": 3}, "training.patience is 3"),
        ({"validate_on": "scenes"}, "training.validate_on is scenes"),
    ],
)
def test_what_needs_validation_ground_is_refused_without_it(changes: dict, key: str) -> None:
    usual = {"monitor": "miou", "patience": None, "validate_on": "chips"}
    require_validation(**usual)
    with pytest.raises(SettingsError, match=f"{key}, but the dataset has no validation chips"):
        require_validation(**(usual | changes))
