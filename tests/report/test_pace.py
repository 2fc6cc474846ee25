"""The numbers that are told of a run while it goes on."""

from __future__ import annotations

import math

import pytest

from aerial_seg.report.pace import Pace
from aerial_seg.training.callbacks import Step


def step(iteration: int, loss: float = 1.0, images: int = 8) -> Step:
    return Step(iteration, loss, 0.1, images)


def test_before_there_is_anything_to_tell_it_is_nan() -> None:
    pace = Pace()
    assert math.isnan(pace.loss)
    assert math.isnan(pace.images_per_second)
    pace.add(step(1))
    assert pace.loss == 1.0
    assert math.isnan(pace.images_per_second)


def test_validation_is_no_part_of_the_pace() -> None:
    """8 images in half a second each, and minutes of validation between."""
    now = [100.0]
    pace = Pace(clock=lambda: now[0])
    for iteration in range(1, 31):
        now[0] += 0.5
        pace.add(step(iteration))
        if iteration % 10 == 0:
            now[0] += 300
            pace.pause()
            now[0] += 100
    assert pace.images_per_second == pytest.approx(16.0)


def test_recent_updates_count_more() -> None:
    now = [0.0]
    pace = Pace(clock=lambda: now[0])
    losses = [5.0] * 200 + [1.0] * 200
    for iteration, loss in enumerate(losses, start=1):
        now[0] += 1.0 if iteration <= 200 else 0.1
        pace.add(step(iteration, loss))
    old = (1 - 1 / 50) ** 200
    assert pace.loss == pytest.approx((5 * old + 1) / (old + 1))
    # 20 seconds at 80 images/s after a long time at 8.
    assert 40 < pace.images_per_second < 80
