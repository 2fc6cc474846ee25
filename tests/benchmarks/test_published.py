"""Published numbers: spot checks against their sources, and what is comparable with what."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from torchvision.models import segmentation

from aerial_seg.benchmarks.protocol import protocol_names
from aerial_seg.benchmarks.published import comparison_rows, matching, published
from aerial_seg.errors import SettingsError
from aerial_seg.metrics import ConfusionMatrix, Scores
from aerial_seg.recipe.loading import recipe_names

DATASETS = ("voc", "cityscapes", "ade20k", "coco")


def scores(right: int, wrong: int) -> Scores:
    matrix = ConfusionMatrix(2)
    matrix.counts += np.array([[right, wrong], [wrong, right]])
    return matrix.scores(["a", "b"])


# Typed in again from the papers and projects: dataset, architecture, encoder, stride, protocol, split → value.
PRINTED = [
    ("voc", "fcn", "resnet50", 8, "fcn", "val", 66.86),
    ("voc", "fcn", "resnet101", 16, "fcn", "val", 69.39),
    ("voc", "fcn", "resnet101", 8, "mmseg", "val", 71.16),
    ("voc", "deeplabv2", "resnet101", 8, "deeplabv2", "val", 76.35),
    ("voc", "deeplabv2", "resnet101", 8, "deeplabv2-crf", "val", 77.93),
    ("voc", "deeplabv3", "resnet101", 16, "deeplabv3-os16", "val", 77.21),
    ("voc", "deeplabv3", "resnet101", 8, "deeplabv3-os8", "val", 78.51),
    ("voc", "deeplabv3", "resnet101", 8, "deeplabv3-os8-ms-flip", "val", 79.77),
    ("voc", "deeplabv3", "resnet101", 8, "deeplabv3-os8-ms-flip", "test", 85.7),
    ("voc", "deeplabv3", "resnet50", 8, "mmseg", "val", 77.68),
    ("voc", "pspnet", "resnet101", 8, "psp-ms", "test", 82.6),
    ("voc", "pspnet", "resnet50", 8, "semseg", "val", 77.05),
    ("cityscapes", "fcn", "resnet101", 8, "fcn", "val", 76.31),
    ("cityscapes", "deeplabv3", "resnet101", 16, "deeplabv3-os16", "val", 77.23),
    ("cityscapes", "deeplabv3", "resnet101", 8, "deeplabv3-os8-ms-flip", "val", 79.30),
    ("cityscapes", "deeplabv3", "resnet101", 4, "deeplabv3-cityscapes-test", "test", 81.3),
    ("cityscapes", "pspnet", "resnet101", 8, "psp-ms", "test", 80.2),
    ("cityscapes", "pspnet", "resnet101", 8, "semseg", "val", 78.63),
    ("coco", "deeplabv3", "resnet101", 8, "other", "val", 67.4),
    ("ade20k", "fcn", "resnet50", 16, "fcn", "val", 36.50),
    ("ade20k", "deeplabv3", "resnet101", 8, "mmseg", "val", 45.00),
    ("ade20k", "pspnet", "resnet50", 8, "psp-ss", "val", 41.68),
    ("ade20k", "pspnet", "resnet269", 8, "psp-ms", "val", 44.94),
    ("ade20k", "pspnet", "resnet101", 8, "semseg", "val", 43.10),
]


@pytest.mark.parametrize("printed", PRINTED, ids=lambda row: "-".join(map(str, row)))
def test_what_papers_print_is_found_under_its_system(
    printed: tuple[str, str, str, int, str, str, float],
) -> None:
    dataset, architecture, encoder, stride, protocol, split, value = printed
    found = matching(
        dataset, architecture, encoder=encoder, output_stride=stride, protocol=protocol, split=split
    )
    assert all(match.comparable for match in found)
    assert value in [match.result.value for match in found if match.result.metric == "miou"]


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_tables_name_protocols_that_ship_and_repeat_nothing(dataset: str) -> None:
    results = published(dataset)
    assert {result.protocol for result in results} <= {*protocol_names(), "other"}
    assert all(result.note for result in results if result.protocol == "other")
    keys = [result.model_dump_json() for result in results]
    assert len(set(keys)) == len(keys)


def test_tables_of_results_are_no_recipes() -> None:
    assert not [name for name in recipe_names() if name.startswith("published/")]


def test_torchvisions_numbers_are_cocos_and_not_taken_for_voc() -> None:
    """Its own metadata are the oracle."""
    wanted = set()
    for name, weights in {
        ("fcn", "resnet50"): segmentation.FCN_ResNet50_Weights,
        ("fcn", "resnet101"): segmentation.FCN_ResNet101_Weights,
        ("deeplabv3", "resnet50"): segmentation.DeepLabV3_ResNet50_Weights,
        ("deeplabv3", "resnet101"): segmentation.DeepLabV3_ResNet101_Weights,
    }.items():
        (told,) = weights.COCO_WITH_VOC_LABELS_V1.meta["_metrics"].values()
        wanted |= {(*name, "miou", told["miou"]), (*name, "pixel_accuracy", told["pixel_acc"])}
    assert {(r.architecture, r.encoder, r.metric, r.value) for r in published("coco")} == wanted
    assert not {60.5, 66.4, 67.4} & {result.value for result in published("voc")}


def test_another_protocol_is_shown_and_marked_as_not_comparable() -> None:
    system = {"encoder": "resnet101", "output_stride": 8, "split": "val"}
    found = matching("voc", "deeplabv3", **system, protocol="fcn")
    assert found
    assert not any(match.comparable for match in found)
    paper = next(match for match in found if match.result.value == 79.77)
    assert paper.differs == ("protocol deeplabv3-os8-ms-flip, here fcn",)
    at_16 = next(match for match in found if match.result.value == 77.21)
    assert "output stride 16, here 8" in at_16.differs
    test = next(match for match in found if match.result.value == 85.7)
    assert "split test, here val" in test.differs
    assert not any(row.comparable for row in comparison_rows(scores(3, 1), found))


def test_the_same_protocol_at_another_stride_is_not_comparable() -> None:
    found = matching("voc", "fcn", encoder="resnet50", output_stride=32, protocol="fcn", split="val")
    assert found
    assert not any(match.comparable for match in found)


def test_a_system_that_nobody_published_has_one_row_without_a_number() -> None:
    found = matching("voc", "fcn", encoder="resnet18", output_stride=8, protocol="fcn", split="val")
    assert found == ()
    (row,) = comparison_rows(scores(3, 1), found)
    assert (row.metric, row.published, row.difference) == ("miou", None, None)
    assert row.measured == pytest.approx(60)


def test_rows_hold_the_metric_that_was_published() -> None:
    found = matching("ade20k", "pspnet", encoder="resnet50", output_stride=8, protocol="psp-ss", split="val")
    rows = {row.metric: row for row in comparison_rows(scores(3, 1), found)}
    assert rows["miou"].measured == pytest.approx(60)
    assert rows["miou"].difference == pytest.approx(60 - 41.68)
    assert rows["pixel_accuracy"].measured == pytest.approx(75)
    assert rows["pixel_accuracy"].difference == pytest.approx(75 - 80.04)
    assert all(row.comparable and row.source for row in rows.values())


def test_rows_without_a_score_are_json() -> None:
    found = matching("voc", "fcn", encoder="resnet50", output_stride=8, protocol="fcn", split="val")
    rows = comparison_rows(scores(0, 0), found)
    assert all(math.isnan(row.measured) for row in rows)
    document = json.loads(json.dumps([row.as_json() for row in rows], allow_nan=False))
    assert all(row["measured"] is None and row["difference"] is None for row in document)
    assert document[0]["published"] == 66.86


def test_an_unknown_benchmark_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"did you mean 'cityscapes'"):
        published("cityscape")
