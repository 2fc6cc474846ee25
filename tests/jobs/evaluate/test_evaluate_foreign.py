"""Masks of other programs are scored as soon as somebody says what their values mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio

from aerial_seg.errors import InputError
from aerial_seg.jobs.evaluate import evaluate_mask
from aerial_seg.labels.settings import LabelSettings

if TYPE_CHECKING:
    from tests.conftest import RasterFile

RANDOM = np.random.default_rng(5)
TRUE = RANDOM.integers(0, 2, (30, 40))
SAID = np.where(RANDOM.random((30, 40)) < 0.2, 1 - TRUE, TRUE)
CLASSES = {0: "background", 255: "building"}


def confusion() -> list[list[int]]:
    return [[int(((t == TRUE) & (p == SAID)).sum()) for p in (0, 1)] for t in (0, 1)]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
@pytest.mark.parametrize("truth", [1, 255])
def test_a_0_255_mask(raster_file: RasterFile, dtype: str, truth: int) -> None:
    mask = raster_file("theirs.tif", (SAID[None] * 255).astype(dtype))
    labels = raster_file("truth.tif", (TRUE[None] * truth).astype(np.uint8))
    report = evaluate_mask(mask, [str(labels)], LabelSettings(classes=CLASSES))
    assert report.legend.names == ("background", "building")
    np.testing.assert_array_equal(report.scores.confusion, confusion())


def test_colours(raster_file: RasterFile, tmp_path: Path) -> None:
    def coloured(values: np.ndarray) -> np.ndarray:
        return np.stack([np.where(values, 0, 255), np.where(values, 0, 255), np.full(values.shape, 255)])

    mask = raster_file("theirs.tif", coloured(SAID).astype(np.uint8))
    labels = raster_file("truth.tif", coloured(TRUE).astype(np.uint8))
    report = evaluate_mask(mask, [str(labels)], LabelSettings(preset="isprs"))
    used = [report.legend.names.index(name) for name in ("impervious surface", "building")]
    np.testing.assert_array_equal(np.array(report.scores.confusion)[np.ix_(used, used)], confusion())


def test_nodata_of_the_mask_is_not_predicted(raster_file: RasterFile) -> None:
    said = (SAID * 200).astype(np.uint8)
    said[:5] = 9
    mask = raster_file("theirs.tif", said[None], nodata=9)
    labels = raster_file("truth.tif", TRUE[None].astype(np.uint8))
    how = LabelSettings(classes={0: "background", 1: "building", 200: "building"})
    report = evaluate_mask(mask, [str(labels)], how)
    counted: Any = np.array(report.scores.confusion)
    assert counted.sum() == 25 * 40


def test_values_that_are_not_named_are_refused(raster_file: RasterFile) -> None:
    mask = raster_file("theirs.tif", (SAID[None] * 255).astype(np.uint8))
    with pytest.raises(
        InputError, match=r"theirs.tif tells no class names .*say what its values mean with `classes`"
    ):
        evaluate_mask(mask, [str(mask)])
    with pytest.raises(InputError, match=r"theirs.tif holds the unknown class values 0"):
        evaluate_mask(mask, [str(mask)], LabelSettings(classes={255: "a", 7: "b"}))


def test_an_unnamed_255_is_told(raster_file: RasterFile) -> None:
    mask = raster_file("theirs.tif", (SAID[None] * 255).astype(np.uint8))
    labels = raster_file("truth.tif", TRUE[None].astype(np.uint8))
    report = evaluate_mask(mask, [str(labels)], LabelSettings(classes={0: "a", 1: "b"}))
    assert any(
        f"{int(SAID.sum())} pixels of {mask} are 255, which counts as unlabelled" in n for n in report.notes
    )
    np.testing.assert_array_equal(np.array(report.scores.confusion)[:, 1], 0)


def test_our_own_mask_keeps_its_legend(raster_file: RasterFile) -> None:
    from aerial_seg.legend import make_legend

    mask = raster_file("ours.tif", SAID[None].astype(np.uint8))
    legend = make_legend({0: "background", 1: "building"}, background=[0])
    with rasterio.open(mask, "r+") as file:
        file.update_tags(AERIAL_SEG_LEGEND=legend.model_dump_json())
    labels = raster_file("truth.tif", (TRUE[None] * 255).astype(np.uint8))
    report = evaluate_mask(mask, [str(labels)], LabelSettings(classes=CLASSES))
    np.testing.assert_array_equal(report.scores.confusion, confusion())
