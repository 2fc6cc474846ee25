"""What `info` tells of each kind of thing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from aerial_seg.errors import InputError
from aerial_seg.jobs.info.job import info
from aerial_seg.jobs.predict.job import PredictSettings, predict
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, save_model
from aerial_seg.recipe.document import PredictionSettings, Recipe
from aerial_seg.recipe.model import ModelSettings


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 64, 96), dtype=np.uint8)


def test_a_raster(write_raster: Callable[..., Path], tmp_path: Path) -> None:
    document = info(write_raster(tmp_path / "in.tif", image(), gsd=0.5, nodata=3))
    assert document["kind"] == "raster"
    assert (document["width"], document["height"]) == (96, 64)
    assert document["crs"] == "EPSG:32633"
    assert document["nodata"] == 3
    assert document["dtype"] == "uint8"
    assert len(document["bands"]) == 2
    assert document["bands"][1] == {
        "number": 2, "name": "band 2", "colour": "undefined", "dtype": "uint8", "nodata": 3, "mask": ("nodata",),
        "scale": 1.0, "offset": 0.0,
    }  # fmt: skip
    assert "numbers" not in document
    # At the central meridian UTM shrinks the ground by 0.9996.
    assert document["gsd_m"]["across"] == pytest.approx(0.5 / 0.9996, rel=1e-4)
    json.dumps(document)


def test_a_raster_without_crs(write_raster: Callable[..., Path], tmp_path: Path) -> None:
    document = info(write_raster(tmp_path / "in.tif", image(), crs=None))
    assert document["crs"] is document["gsd_m"] is document["extent"] is None


def test_what_a_raster_says_of_its_numbers(write_raster: Callable[..., Path], tmp_path: Path) -> None:
    path = write_raster(tmp_path / "in.tif", image())
    with rasterio.open(path, "r+") as file:
        file.update_tags(BOA_ADD_OFFSET="-1000")
    assert "BOA_ADD_OFFSET -1000 in" in info(path)["numbers"]
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (1e-4, 1e-4), (-0.1, -0.1)
    document = info(path)
    assert document["numbers"].startswith("scale 0.0001, offset -0.1: tile applies that, and predict where")
    assert [(band["scale"], band["offset"]) for band in document["bands"]] == [(1e-4, -0.1)] * 2


def test_a_raster_of_another_planet_says_why_it_has_no_gsd(
    write_raster: Callable[..., Path], tmp_path: Path
) -> None:
    mars = "+proj=eqc +R=3396190 +units=m +no_defs"
    document = info(write_raster(tmp_path / "in.tif", image(), crs=mars, corner=(0.0, 9e9)))
    assert document["width"] == 96
    assert document["gsd_m"] is None
    assert "CRS" in document["problem"]


def test_a_mask_a_dataset_and_a_model(
    write_raster: Callable[..., Path], pointwise: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_raster(tmp_path / "in.tif", image())
    small = pointwise(stride=8, origin_step=8)
    monkeypatch.setattr("aerial_seg.jobs.predict.plan.load_model", lambda path: small)
    predict(Path("m"), [str(source)], tmp_path / "mask.tif", PredictSettings())
    mask = info(tmp_path / "mask.tif")
    assert mask["kind"] == "mask"
    assert mask["classes"] == {"0": "background", "10": "road", "20": "water"}

    labels = write_raster(tmp_path / "labels.tif", np.repeat([[[1, 2]]], 48, axis=2).repeat(64, axis=1))
    settings = TileSettings(chip_size=32, block=1, val="0", test="0.4")
    report = tile([str(source)], [str(labels)], tmp_path / "chips", settings)
    dataset = info(tmp_path / "chips")
    assert dataset["kind"] == "chip dataset"
    assert dataset["chips"] == report.chips
    assert dataset["class_pixels"] == report.class_pixels
    assert (dataset["stride"], dataset["folds"], dataset["fold"]) == (32, None, None)
    strided = TileSettings(chip_size=16, block=1, test="0", stride=8, folds=2, fold=1)
    tile([str(source)], [str(labels)], tmp_path / "strided", strided)
    dataset = info(tmp_path / "strided")
    assert (dataset["stride"], dataset["folds"], dataset["fold"]) == (8, 2, 1)

    recipe = Recipe(
        model=ModelSettings(architecture="fcn", head_channels=8, output_stride=16),
        prediction=PredictionSettings(tile_size=64),
    )
    card: ModelCard = small.card.model_copy(update={"recipe": recipe})
    save_model(build_network(recipe.model, bands=2, classes=3).state_dict(), card, tmp_path / "m.safetensors")
    model = info(tmp_path / "m.safetensors")
    assert model["kind"] == "model"
    assert model["architecture"] == "fcn"
    assert (model["output_stride"], model["logit_stride"]) == (16, 16)
    assert model["tile_sides"] == "multiples of 16"
    for document in (mask, dataset, model):
        json.dumps(document)


@pytest.mark.parametrize("name", ["nothing.tif", "nothing", "text.tif", "text.safetensors", "folder"])
def test_what_is_nothing_of_ours_is_refused(name: str, tmp_path: Path) -> None:
    for text in ("text.tif", "text.safetensors"):
        (tmp_path / text).write_text("just some text, no raster at all", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=name):
        info(tmp_path / name)
