"""The decision threshold: the best one by counting, and one half where counting would say nothing."""

from __future__ import annotations

import numpy as np
import pytest

from aerial_seg.training.validation.calibration import (
    FEWEST_PIXELS,
    THRESHOLDS,
    ThresholdCurve,
    threshold_bias,
)

NAMES = ("background", "building")


def curve_of(probabilities: np.ndarray, truth: np.ndarray) -> ThresholdCurve:
    curve = ThresholdCurve()
    curve.add(np.log(probabilities / (1 - probabilities)).astype(np.float32), truth.astype(np.uint8))
    return curve


def separated(
    pixels: int, share: float, *, shift: float = 0.0, apart: float = 3.0, seed: int = 0
) -> ThresholdCurve:
    """Logits of two normal distributions, `apart` from each other; `shift` moves both."""
    random = np.random.default_rng(seed)
    truth = random.random(pixels) < share
    margins = random.normal(size=pixels) + apart * (truth - 0.5) + shift
    return curve_of(1 / (1 + np.exp(-margins)), truth)


def test_a_threshold_is_chosen_where_pixels_are_many_and_classes_told_apart() -> None:
    made = separated(200_000, 0.3, shift=-1.0).calibrate(NAMES)
    assert made.note is None
    assert 0.15 < made.threshold < 0.45


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_few_pixels_of_a_class_choose_nothing(share: float) -> None:
    pixels = 60 * FEWEST_PIXELS
    rare = NAMES[int(share < 0.5)]
    made = separated(pixels, share, shift=-1.0).calibrate(NAMES)
    assert made.threshold == 0.5
    assert made.note is not None
    assert f"validation pixels are {rare}, and fewer than 10,000 of a class are too few" in made.note
    assert separated(pixels, 0.02 if share < 0.5 else 0.98, shift=-1.0).calibrate(NAMES).note is None


def test_a_network_that_tells_nothing_apart_keeps_one_half() -> None:
    """Seen: after 12 iterations 0.05 shipped, because a map that is all building has the largest IoU there is then."""
    curve = separated(100_000, 0.45, shift=-0.5, apart=0.02)
    ious = [curve.confusion(t)[1, 1] / (curve.counts.sum() - curve.confusion(t)[0, 0]) for t in THRESHOLDS]
    assert THRESHOLDS[int(np.argmax(ious))] < 0.1
    made = curve.calibrate(NAMES)
    assert made.threshold == 0.5
    assert made.note is not None
    assert "does not tell building from background yet" in made.note


@pytest.mark.parametrize(("shift", "end"), [(-6.0, "0.05"), (3.5, "0.95")])
def test_the_end_of_what_is_tried_is_no_maximum(shift: float, end: str) -> None:
    made = separated(100_000, 0.3, shift=shift).calibrate(NAMES)
    assert made.threshold == 0.5
    assert made.note is not None
    assert f"still rises at {end}, the last threshold that is tried" in made.note


def test_of_equally_good_thresholds_the_one_next_to_one_half_is_taken() -> None:
    """A network that is sure of every pixel is equally good at all of them: chance would ship 0.05."""
    random = np.random.default_rng(0)
    truth = random.random(60_000) < 0.4
    wrong = random.random(60_000) < 0.02
    probabilities = np.where(truth ^ wrong, 0.99, 0.01)
    probabilities[np.flatnonzero(truth & wrong)[:10]] = 0.2  # 0.05 is better by 10 pixels
    curve = curve_of(probabilities, truth)
    assert int(np.argmax(curve.confusion(0.05)[1, 1] > curve.confusion(0.5)[1, 1])) == 0
    assert curve.best()[0] == 0.5
    assert curve.calibrate(NAMES).threshold == 0.5


def test_the_counts_at_a_threshold_are_those_of_the_argmax_with_its_bias() -> None:
    random = np.random.default_rng(3)
    margins = random.normal(size=5_000).astype(np.float32)
    margins[:7] = 0.0  # a tie is channel 0
    truth = random.choice(np.array([0, 1, 255], np.uint8), 5_000)
    curve = ThresholdCurve()
    curve.add(margins[:2_000], truth[:2_000])
    other = ThresholdCurve()
    other.add(margins[2_000:], truth[2_000:])
    curve.merge(other)
    for threshold in (0.05, 0.31, 0.5, 0.95):
        said = margins + np.float32(threshold_bias(threshold)[1]) > 0
        wanted = [[int(((truth == t) & (said == s)).sum()) for s in (0, 1)] for t in (0, 1)]
        assert curve.confusion(threshold).tolist() == wanted
    assert len(THRESHOLDS) == 91
    with pytest.raises(ValueError, match="none of the thresholds"):
        curve.confusion(0.555)
