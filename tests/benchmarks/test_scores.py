"""A benchmark's numbers against matrices that were worked out by hand, and the silent errors of averaging."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as oracle

from aerial_seg.benchmarks.published import Match, PublishedResult, comparison_rows
from aerial_seg.benchmarks.scores import benchmark_scores, category_ious
from aerial_seg.legend import make_legend
from aerial_seg.metrics import ConfusionMatrix

ROAD, CAR, TRUCK, SKY = range(4)
LEGEND = make_legend({ROAD: "road", CAR: "car", TRUCK: "truck", SKY: "sky"})
CATEGORIES = {"flat": (ROAD,), "vehicle": (CAR, TRUCK), "sky": (SKY,)}


def matrix_of(counts: list[list[int]]) -> ConfusionMatrix:
    matrix = ConfusionMatrix(len(counts))
    matrix.counts += np.array(counts)
    return matrix


def test_miou_is_of_all_images_together_and_no_average_over_images() -> None:
    # By hand. Image one is right: 8 px road, 2 px car. Image two: its 4 px of car are called road. Image three: 4 px of
    # road, right. Together road is 12 of 16 and car 2 of 6; the images alone have mIoU 1, 0 and 1.
    images = [([0] * 8 + [1] * 2, [0] * 8 + [1] * 2), ([1] * 4, [0] * 4), ([0] * 4, [0] * 4)]
    matrix = ConfusionMatrix(2)
    alone = []
    for truth, predicted in images:
        one = ConfusionMatrix(2)
        one.add(np.array(truth, np.uint8), np.array(predicted, np.uint8))
        alone.append(one.scores(["road", "car"]).miou)
        matrix.merge(one)
    scores = benchmark_scores("voc", matrix, make_legend({0: "road", 1: "car"})).scores
    assert [c.iou for c in scores.classes] == pytest.approx([12 / 16, 2 / 6])
    assert scores.miou == pytest.approx(float((Fraction(3, 4) + Fraction(1, 3)) / 2))
    assert np.mean(alone) == pytest.approx(2 / 3), (
        "the wrong average gives another number, so this test can fail"
    )


def test_an_absent_class_is_nan_and_the_mean_says_how_many_were_counted() -> None:
    # truck: neither true nor predicted; sky: predicted only, so its IoU is 0 and counts.
    matrix = matrix_of([[6, 0, 0, 2], [0, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = benchmark_scores("cityscapes", matrix, LEGEND, categories=CATEGORIES).scores
    assert math.isnan(scores.classes[TRUCK].iou)
    assert scores.classes[SKY].iou == 0
    assert scores.counted == 3
    assert scores.miou == pytest.approx((6 / 8 + 1 + 0) / 3)
    assert scores.miou != pytest.approx((6 / 8 + 1 + 0 + 0) / 4), "a silent 0 gives another number"


def test_the_category_average_is_no_class_average() -> None:
    # By hand: every truck is called a car. Classes: road 1, car 4/8, truck 0/4, sky 1, mean 2.5/4.
    # Categories: a truck called car is a hit of `vehicle`, so all three are 1.
    matrix = matrix_of([[8, 0, 0, 0], [0, 4, 0, 0], [0, 4, 0, 0], [0, 0, 0, 2]])
    found = benchmark_scores("cityscapes", matrix, LEGEND, categories=CATEGORIES)
    assert found.scores.miou == pytest.approx(2.5 / 4)
    assert (found.category_miou, found.categories_counted) == (1, 3)
    document = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert document["miou"] == pytest.approx(2.5 / 4)
    assert document["category_miou"] == 1
    printed = PublishedResult(
        architecture="fcn",
        encoder="resnet50",
        protocol="fcn",
        split="val",
        value=60,
        source="x",
        evidence="read",
    )
    (row,) = comparison_rows(found.scores, [Match(printed, ())])
    assert (row.measured, row.difference) == pytest.approx((62.5, 2.5)), "papers print the class average"


def test_categories_are_merged_before_the_ratio() -> None:
    # By hand: vehicle: hits 3 + 1 + 2 + 0 = 6; true 9, said 8 → 6 / (9 + 8 − 6). The mean of the IoUs of car and truck
    # would be (3/8 + 0) / 2.
    matrix = matrix_of([[5, 2, 0, 0], [1, 3, 1, 0], [2, 2, 0, 0], [0, 0, 0, 0]])
    found = {c.name: c.iou for c in category_ious(matrix.counts, CATEGORIES)}
    assert found["vehicle"] == pytest.approx(6 / 11)
    assert found["flat"] == pytest.approx(5 / 10)
    assert math.isnan(found["sky"])
    scores = benchmark_scores("cityscapes", matrix, LEGEND, categories=CATEGORIES)
    assert scores.categories_counted == 2
    assert scores.category_miou == pytest.approx((6 / 11 + 5 / 10) / 2)
    assert scores.as_json()["categories"][2] == {"name": "sky", "iou": None}


@given(
    truth=hnp.arrays(np.uint8, st.integers(1, 40), elements=st.integers(0, 3)),
    data=st.data(),
)
def test_category_ious_are_those_of_relabelled_pixels(truth: np.ndarray, data: st.DataObject) -> None:
    predicted = data.draw(hnp.arrays(np.uint8, truth.shape, elements=st.integers(0, 3)))
    matrix = ConfusionMatrix(4)
    matrix.add(truth, predicted)
    category_of = np.array([0, 1, 1, 2])
    t, p = category_of[truth], category_of[predicted]
    theirs = oracle.jaccard_score(t, p, labels=[0, 1, 2], average=None, zero_division=0)
    ours = [c.iou for c in category_ious(matrix.counts, CATEGORIES)]
    present = sorted(set(t) | set(p))
    assert [ours[k] for k in present] == pytest.approx([theirs[k] for k in present])
    assert all(math.isnan(ours[k]) for k in range(3) if k not in present)


def test_ades_score_is_the_mean_of_miou_and_pixel_accuracy() -> None:
    # By hand: IoUs 3/4 and 4/5, pixel accuracy 7/8.
    matrix = matrix_of([[3, 1], [0, 4]])
    legend = make_legend({0: "wall", 1: "sky"})
    found = benchmark_scores("ade20k", matrix, legend)
    assert found.challenge_score == pytest.approx(((3 / 4 + 4 / 5) / 2 + 7 / 8) / 2)
    assert found.as_json()["challenge_score"] == found.challenge_score
    other = benchmark_scores("voc", matrix, legend)
    assert other.challenge_score is None
    assert other.as_json() == other.scores.as_json()


def test_nothing_counted_is_null_everywhere() -> None:
    found = benchmark_scores("ade20k", ConfusionMatrix(4), LEGEND, categories=CATEGORIES)
    document = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert document["challenge_score"] is None
    assert document["category_miou"] is None
    assert document["categories_counted"] == 0
