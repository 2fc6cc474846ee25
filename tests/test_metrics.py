"""scikit-learn is the oracle of every score."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as oracle

from aerial_seg.metrics import ConfusionMatrix

K = 4
labels = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, K - 1)
)


@given(truth=labels, data=st.data())
def test_scores_equal_scikit_learns(truth: np.ndarray, data: st.DataObject) -> None:
    predicted = data.draw(hnp.arrays(np.uint8, truth.shape, elements=st.integers(0, K - 1)))
    matrix = ConfusionMatrix(K)
    matrix.add(truth, predicted)
    scores = matrix.scores([f"c{k}" for k in range(K)])
    t, p = truth.ravel(), predicted.ravel()
    every = list(range(K))
    assert np.array_equal(matrix.counts, oracle.confusion_matrix(t, p, labels=every))
    assert scores.pixel_accuracy == pytest.approx(oracle.accuracy_score(t, p))
    present = sorted(set(t) | set(p))
    for name, ours in (
        ("jaccard", [c.iou for c in scores.classes]),
        ("f1", [c.f1 for c in scores.classes]),
        ("precision", [c.precision for c in scores.classes]),
        ("recall", [c.recall for c in scores.classes]),
    ):
        theirs = getattr(oracle, f"{name}_score")(t, p, labels=every, average=None, zero_division=0)
        for k in present:
            # Where the ratio has no denominator (a class never said has no precision) ours is NaN, theirs a 0.
            assert ours[k] == pytest.approx(theirs[k]) or (math.isnan(ours[k]) and theirs[k] == 0)
    ious = [c.iou for c in scores.classes if not math.isnan(c.iou)]
    assert scores.counted == len(present) == len(ious)
    assert scores.miou == pytest.approx(np.mean(ious))
    true = sorted(set(t))
    assert scores.mean_accuracy == pytest.approx(oracle.recall_score(t, p, labels=true, average="macro"))
    weighted = oracle.jaccard_score(t, p, labels=every, average="weighted", zero_division=0)
    assert scores.frequency_weighted_iou == pytest.approx(weighted)


@given(parts=st.lists(labels, min_size=1, max_size=4), seed=st.integers(0, 99))
def test_counting_in_parts_equals_counting_at_once(parts: list[np.ndarray], seed: int) -> None:
    random = np.random.default_rng(seed)
    predicted = [random.integers(0, K, part.shape).astype(np.uint8) for part in parts]
    piecewise, whole = ConfusionMatrix(K), ConfusionMatrix(K)
    for truth, guess in zip(parts, predicted, strict=True):
        piecewise.add(truth, guess)
    whole.add(np.concatenate([p.ravel() for p in parts]), np.concatenate([p.ravel() for p in predicted]))
    assert np.array_equal(piecewise.counts, whole.counts)


def test_unlabelled_and_unpredicted_pixels_are_counted_apart() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(np.array([0, 1, 1, 255, 255]), np.array([0, 1, 255, 0, 255]))
    assert matrix.counts.tolist() == [[1, 0], [0, 1]]
    assert (matrix.ignored, matrix.unpredicted) == (2, 1)


def test_an_absent_class_is_nan_and_null_and_not_counted() -> None:
    matrix = ConfusionMatrix(3)
    matrix.add(np.array([0, 0, 1]), np.array([0, 1, 1]))
    scores = matrix.scores(["a", "b", "absent"])
    assert math.isnan(scores.classes[2].iou)
    assert scores.counted == 2
    assert scores.miou == pytest.approx(0.5)
    document = json.loads(json.dumps(scores.as_json(), allow_nan=False))
    assert document["classes"][2]["iou"] is None
    assert document["classes_counted"] == 2


def test_nothing_labelled_scores_nan() -> None:
    scores = ConfusionMatrix(2).scores(["a", "b"])
    assert math.isnan(scores.miou)
    assert math.isnan(scores.mean_accuracy)
    assert math.isnan(scores.frequency_weighted_iou)
    assert scores.counted == 0


def test_mean_accuracy_and_weighted_iou_leave_out_what_the_truth_does_not_hold() -> None:
    # By hand: class 0: 2 of 4 right, IoU 2/4; class 1: 2 of 2, IoU 2/3; class 2 is predicted once, never true.
    matrix = ConfusionMatrix(3)
    matrix.add(np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 1, 2, 1, 1]))
    scores = matrix.scores(["a", "b", "never true"])
    assert scores.mean_accuracy == pytest.approx((2 / 4 + 1) / 2)
    assert scores.frequency_weighted_iou == pytest.approx(4 / 6 * 2 / 4 + 2 / 6 * 2 / 3)
    assert scores.miou == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)
    document = scores.as_json()
    assert document["mean_accuracy"] == scores.mean_accuracy
    assert document["frequency_weighted_iou"] == scores.frequency_weighted_iou


@given(
    classes=st.integers(1, 255),
    dtype=st.sampled_from([np.uint8, np.int64, np.int32]),
    seed=st.integers(0, 99),
)
def test_counting_equals_a_loop_for_any_number_of_classes(classes: int, dtype: type, seed: int) -> None:
    random = np.random.default_rng(seed)
    truth, predicted = random.choice([*range(classes), 255], (2, 5, 7)).astype(dtype)
    matrix = ConfusionMatrix(classes)
    matrix.add(truth, np.asfortranarray(predicted))
    counts, ignored, unpredicted = np.zeros((classes, classes), int), 0, 0
    for t, p in zip(truth.flat, predicted.flat, strict=True):
        if t == 255:
            ignored += 1
        elif p == 255:
            unpredicted += 1
        else:
            counts[t, p] += 1
    assert np.array_equal(matrix.counts, counts)
    assert (matrix.ignored, matrix.unpredicted) == (ignored, unpredicted)


@pytest.mark.parametrize(("truth", "predicted"), [(3, 0), (0, 3), (254, 255), (-1, 0), (0, 256), (0, -1)])
def test_a_value_that_is_no_channel_is_an_error_and_counts_nothing(truth: int, predicted: int) -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match="channels"):
        matrix.add(np.array([0, truth]), np.array([0, predicted]))
    assert (matrix.counts.sum(), matrix.ignored, matrix.unpredicted) == (0, 0, 0)


@given(parts=st.lists(labels, min_size=1, max_size=4), seed=st.integers(0, 99))
def test_merging_matrices_equals_counting_at_once(parts: list[np.ndarray], seed: int) -> None:
    random = np.random.default_rng(seed)
    merged, whole = ConfusionMatrix(K), ConfusionMatrix(K)
    for part in parts:
        truth = np.where(random.random(part.shape) < 0.2, 255, part)
        guess = random.choice([*range(K), 255], part.shape)
        one = ConfusionMatrix(K)
        one.add(truth, guess)
        merged.merge(one)
        whole.add(truth, guess)
    assert np.array_equal(merged.counts, whole.counts)
    assert (merged.ignored, merged.unpredicted) == (whole.ignored, whole.unpredicted)


def test_matrices_of_other_classes_do_not_merge() -> None:
    with pytest.raises(ValueError, match="1 classes cannot be added to 2"):
        ConfusionMatrix(2).merge(ConfusionMatrix(1))
