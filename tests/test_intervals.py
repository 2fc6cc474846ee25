"""Bootstrap intervals: scipy's own bootstrap as the oracle, coverage as the law, and what is said of doubtful ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from scipy.stats import bootstrap

from aerial_seg.intervals import ChipScore, Intervals, bootstrap_intervals, doubts
from aerial_seg.metrics import ConfusionMatrix

NAMES = ("background", "road", "water")


def chip(name: str, counts: np.ndarray) -> ChipScore:
    return ChipScore.of(name, counts.astype(np.int64))


def some_chips(count: int, seed: int, classes: int = 3) -> list[ChipScore]:
    """Chips whose share of right pixels differs from one to the next."""
    random = np.random.default_rng(seed)
    made = []
    for k in range(count):
        right = random.beta(6, 2)
        truth = random.multinomial(400, random.dirichlet(np.ones(classes)))
        counts = np.zeros((classes, classes), np.int64)
        for t, pixels in enumerate(truth):
            wrong = (1 - right) / (classes - 1)
            counts[t] = random.multinomial(pixels, [right if s == t else wrong for s in range(classes)])
        made.append(chip(f"c{k}", counts))
    return made


def test_the_intervals_are_those_of_scipy() -> None:
    chips = some_chips(40, seed=0)
    ours = bootstrap_intervals(chips, [one.name for one in chips], NAMES, unit="chip")

    def of(name: str, *index: np.ndarray) -> float:
        matrix = ConfusionMatrix(3)
        matrix.counts += sum(chips[k].confusion for k in index[0])
        scores = matrix.scores(NAMES)
        if name == "miou":
            return scores.miou
        score, _, which = name.partition("_")
        return float(getattr(next(one for one in scores.classes if one.name == which), score))

    for name in ("miou", "iou_road", "f1_water", "precision_background", "recall_road"):
        theirs = bootstrap(
            (np.arange(40),), lambda index, name=name: of(name, index), vectorized=False, method="percentile",
            n_resamples=1000, confidence_level=0.95, rng=np.random.default_rng(1),
        ).confidence_interval  # fmt: skip
        width = theirs.high - theirs.low
        assert ours.of(name) == pytest.approx((theirs.low, theirs.high), abs=0.12 * width), name


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Blocks of 4 chips that are alike: drawn as blocks the interval covers, drawn as chips it covers far less."""
    truth = 0.75
    covered = {"block": 0, "chip": 0}
    trials = 120
    for trial in range(trials):
        random = np.random.default_rng(trial)
        chips, blocks = [], []
        for block in range(20):
            right = np.clip(random.normal(truth, 0.12), 0.05, 0.999)
            for part in range(4):
                hit = int(random.binomial(1000, right))
                chips.append(chip(f"{block}-{part}", np.array([[hit, 1000 - hit], [0, 0]])))
                blocks.append(str(block))
        for unit, units in (("block", blocks), ("chip", [one.name for one in chips])):
            made = bootstrap_intervals(chips, units, ("a", "b"), unit=unit)
            low, high = made.of("recall_a")
            covered[unit] += low <= truth <= high
    assert covered["block"] / trials > 0.86
    assert covered["chip"] / trials < 0.75


@given(st.integers(1, 30), st.integers(0, 5), st.integers(1, 9))
@settings(max_examples=examples(25), deadline=None)
def test_equal_chips_have_equal_intervals_which_hold_the_score(count: int, seed: int, blocks: int) -> None:
    chips = some_chips(count, seed)
    units = [str(k % blocks) for k in range(count)]
    made = bootstrap_intervals(chips, units, NAMES, unit="split block")
    assert made == bootstrap_intervals(chips, units, NAMES, unit="split block")
    assert made.units == min(blocks, count)
    whole = ConfusionMatrix(3)
    whole.counts += sum(one.confusion for one in chips)
    low, high = made.of("pixel_accuracy")
    assert 0 <= low <= high <= 1
    if made.units == 1:
        assert low == high == pytest.approx(whole.scores(NAMES).pixel_accuracy)
    else:
        assert low - 0.05 <= whole.scores(NAMES).pixel_accuracy <= high + 0.05


def test_a_chip_keeps_its_whole_matrix() -> None:
    counts = np.random.default_rng(0).integers(0, 3, (150, 150))
    one = ChipScore.of("a", counts, ignored=4, unpredicted=5)
    np.testing.assert_array_equal(one.confusion, counts)
    assert (one.name, one.ignored, one.unpredicted) == ("a", 4, 5)


def test_a_class_that_is_nowhere_has_no_interval() -> None:
    chips = [chip(str(k), np.diag([5, 7, 0])) for k in range(4)]
    made = bootstrap_intervals(chips, [one.name for one in chips], NAMES, unit="chip")
    assert all(math.isnan(end) for end in made.of("iou_water"))
    assert made.as_json()["intervals"]["iou_water"] == [None, None]
    assert made.of("miou") == (1.0, 1.0)


@pytest.mark.parametrize(
    ("ends", "units", "pieces", "said"),
    [
        ((0.60, 0.80), 12, 3, ["miou is uncertain: other chips of the same ground would say 0.600 to 0.800"]),
        ((0.70, 0.75), 12, 3, []),
        ((0.70, 0.75), 3, 3, ["miou comes from 3 split blocks, too few for an interval to mean much"]),
        ((0.70, 0.75), 12, 1, ["all of these chips are one adjacent piece of ground"]),
        ((0.60, 0.80), 1, 1, ["miou is uncertain", "all of these chips are one adjacent piece of ground"]),
        ((0.70, 0.75), 12, None, []),
    ],
)
def test_what_is_doubtful_is_said(
    ends: tuple[float, float], units: int, pieces: int | None, said: list[str]
) -> None:
    told = doubts(Intervals("split block", units, {"miou": ends}), "miou", pieces=pieces, more="cut more")
    assert len(told) == len(said)
    for note, start in zip(told, said, strict=True):
        assert note.startswith(start)
        assert note.endswith("cut more")
