"""Accuracy and areas from a stratified sample: the paper's worked example, its formulas by hand, known truths."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from numpy.typing import NDArray

from aerial_seg.assessment import Z95, Accuracy, allocate, estimate_accuracy, sample_size
from aerial_seg.errors import SettingsError

SHARES = (0.02, 0.015, 0.32, 0.645)
COUNTS = ((66, 0, 5, 4), (0, 55, 8, 12), (1, 0, 153, 11), (2, 1, 9, 313))
"""Olofsson et al. 2014, section 5: deforestation, forest gain, stable forest, stable non-forest."""
HECTARES = 10**7 * 0.09


def test_the_papers_worked_example() -> None:
    found = estimate_accuracy(SHARES, COUNTS)
    lost = found.areas[0].times(HECTARES)
    assert (round(lost.value), round(lost.margin)) == (21_158, 6_158)
    gained, forest, other = (found.areas[k].times(HECTARES) for k in (1, 2, 3))
    assert [round(one.value) for one in (gained, forest, other)] == [11_686, 285_770, 581_386]
    assert [round(one.margin) for one in (gained, forest, other)] == [3_756, 15_510, 16_282]
    told = [(0.88, 0.07), (0.73, 0.10), (0.93, 0.04), (0.96, 0.02)]
    assert [(round(one.value, 2), round(one.margin, 2)) for one in found.users] == told
    assert [round(one.value, 2) for one in found.producers] == [0.75, 0.85, 0.93, 0.96]
    assert (round(found.overall.value, 2), round(found.overall.margin, 2)) == (0.95, 0.02)
    assert found.proportions.sum() == pytest.approx(1)


def test_the_papers_sample() -> None:
    """Section 5.1: user's accuracies of 0.70, 0.60, 0.90, 0.95 and a standard error of 0.01 make 641 points."""
    assert sample_size(SHARES, (0.7, 0.6, 0.9, 0.95), 0.01) == 641
    points = allocate(SHARES, [10**6] * 4, 641, 75)
    assert points.tolist() == [75, 75, 163, 328]  # the paper rounds the last two to 165 and 325


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[float], list[list[int]]]:
    """Shares of up to five classes, and two points of each at least; a class that the map lacks has none."""
    classes = draw(st.integers(1, 5))
    rows, shares = [], []
    for k in range(classes):
        row = draw(st.lists(st.integers(0, 40), min_size=classes, max_size=classes))
        absent = k > 0 and draw(st.booleans())
        row[k] += 0 if absent else 2
        rows.append([0] * classes if absent else row)
        shares.append(0.0 if absent else draw(st.floats(0.01, 1)))
    return shares, rows


@given(tables())
@settings(max_examples=examples(100))
def test_the_formulas_term_by_term(table: tuple[list[float], list[list[int]]]) -> None:
    shares, counts = table
    whole, classes = sum(shares), range(len(shares))
    found = estimate_accuracy(shares, counts)
    weight = [share / whole for share in shares]
    size = [sum(row) for row in counts]
    within = [[counts[i][j] / size[i] if size[i] else 0.0 for j in classes] for i in classes]

    def variance(i: int, j: int) -> float:
        return within[i][j] * (1 - within[i][j]) / (size[i] - 1) if size[i] else 0.0

    assert found.overall.value == pytest.approx(sum(weight[k] * within[k][k] for k in classes))
    assert found.overall.error**2 == pytest.approx(sum(weight[k] ** 2 * variance(k, k) for k in classes))
    for k in classes:
        area = sum(weight[i] * within[i][k] for i in classes)
        assert found.areas[k].value == pytest.approx(area)
        assert found.areas[k].error ** 2 == pytest.approx(
            sum(weight[i] ** 2 * variance(i, k) for i in classes)
        )
        if size[k]:
            assert found.users[k].value == pytest.approx(within[k][k])
            assert found.users[k].error ** 2 == pytest.approx(variance(k, k))
        else:
            assert math.isnan(found.users[k].value)
        if area == 0:
            assert math.isnan(found.producers[k].value)
            continue
        accuracy = weight[k] * within[k][k] / area
        others = sum(weight[i] ** 2 * variance(i, k) for i in classes if i != k)
        mine = weight[k] ** 2 * (1 - accuracy) ** 2 * variance(k, k)
        assert found.producers[k].value == pytest.approx(accuracy)
        assert found.producers[k].error ** 2 == pytest.approx((mine + accuracy**2 * others) / area**2)


def _shares_right(
    draws: int, shares: NDArray[np.float64], truth: NDArray[np.float64], sizes: list[int]
) -> dict[str, float]:
    """How many of the 95 % intervals hold what is true, by figure. truth: (K, K) of each class's ground on the map."""
    random = np.random.default_rng(5)
    joint = shares[:, None] * truth
    met = {"overall": 0, "users": 0, "producers": 0, "areas": 0}
    wanted = {
        "users": np.diag(truth), "producers": np.diag(joint) / joint.sum(axis=0), "areas": joint.sum(axis=0),
    }  # fmt: skip
    for _ in range(draws):
        counts = np.array([random.multinomial(size, row) for size, row in zip(sizes, truth, strict=True)])
        found: Accuracy = estimate_accuracy(shares, counts)
        met["overall"] += abs(found.overall.value - np.trace(joint)) <= found.overall.margin
        for name, true in wanted.items():
            estimates = getattr(found, name)
            met[name] += sum(
                abs(one.value - value) <= one.margin for one, value in zip(estimates, true, strict=True)
            )
    return {name: number / draws / (1 if name == "overall" else len(shares)) for name, number in met.items()}


def test_95_of_100_intervals_hold_the_truth() -> None:
    """2,000 samples of a map whose truth is known."""
    truth = np.array([[0.85, 0.1, 0.05], [0.1, 0.8, 0.1], [0.04, 0.08, 0.88]])
    found = _shares_right(2000, np.array([0.15, 0.25, 0.6]), truth, [200, 200, 400])
    assert found == pytest.approx(dict.fromkeys(found, 0.95), abs=0.02)


def test_what_is_no_sample_is_refused() -> None:
    for shares, counts, wanted in (
        ([0.5, 0.5], [[3, 1], [0, 0]], r"class 1 has 50.00% of the map and no point"),
        ([1, 0], [[3, 1], [1, 2]], "class 1 has points and no share of the map"),
        ([1, -1], [[3, 1], [1, 2]], "wanted numbers from 0 on"),
        ([0, 0], [[3, 1], [1, 2]], "that are not all 0"),
        ([1, 1], [[3, 1.5], [1, 2]], "wanted whole numbers from 0 on"),
        ([1, 1], [[3, 1, 1], [1, 2, 1]], r"wanted \(K, K\) for the 2 shares"),
    ):
        with pytest.raises(SettingsError, match=wanted):
            estimate_accuracy(shares, counts)


def test_one_point_has_no_standard_error() -> None:
    found = estimate_accuracy([0.5, 0.5], [[1, 0], [1, 9]])
    assert found.users[0].value == 1
    assert math.isnan(found.users[0].error)
    assert math.isnan(found.overall.error)
    assert found.users[1].error == pytest.approx(math.sqrt(0.9 * 0.1 / 9))
    assert found.users[1].margin == pytest.approx(Z95 * found.users[1].error)
    assert found.overall.as_json()["low"] is None


@given(
    st.lists(st.tuples(st.floats(0.001, 1), st.integers(0, 500)), min_size=1, max_size=8).filter(
        lambda classes: any(pixels for _, pixels in classes)
    ),
    st.integers(1, 2000),
    st.integers(2, 100),
)
@settings(max_examples=examples(200))
def test_points_are_shared_out(classes: list[tuple[float, int]], total: int, minimum: int) -> None:
    shares, pixels = (np.array(column) for column in zip(*classes, strict=True))
    points = allocate(np.where(pixels > 0, shares, 0), pixels, total, minimum)
    least = np.minimum(np.where(pixels > 0, minimum, 0), pixels)
    assert (points >= least).all()
    assert (points <= pixels).all()
    assert points.sum() == min(max(total, least.sum()), pixels.sum())
    between = (points > least) & (points < pixels)
    if between.any():  # those that nothing holds have points in proportion to their ground, but for one
        low, high = (points[between] - 1) / shares[between], (points[between] + 1) / shares[between]
        assert low.max() <= high.min()
