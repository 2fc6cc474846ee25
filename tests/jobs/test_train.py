"""A short run on a scene that colour solves: files, log, card, determinism, and that it learns."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from shapely import box

from aerial_seg.errors import AerialSegError
from aerial_seg.geo.label_rules import LabelSettings
from aerial_seg.jobs.evaluate import evaluate_model_on_chips
from aerial_seg.jobs.tile import tile
from aerial_seg.jobs.tile_settings import TileSettings
from aerial_seg.jobs.train import train
from aerial_seg.models.file import load_model
from aerial_seg.recipe import Recipe, parse_recipe

RECIPE = """
[model]
output_stride = 16
head_channels = 16
[training]
iterations = 12
batch_size = 4
crop = 64
optimizer = "adamw"
learning_rate = 2e-3
validate_every = 6
ema_decay = 0.5
calibrate = true
[prediction]
tile_size = 128
"""


def recipe(**changes: str) -> Recipe:
    text = RECIPE
    for key, value in changes.items():
        before = next(line for line in RECIPE.splitlines() if line.startswith(f"{key} ="))
        text = text.replace(before, f"{key} = {value}")
    return parse_recipe(text, "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 256² image whose bright squares are the buildings."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    image = random.integers(20, 90, (3, 256, 256)).astype(np.uint8)
    squares = [
        box(500000 + x, 5000000 - y - 10, 500000 + x + 12, 5000000 - y)
        for x in range(4, 120, 24)
        for y in range(6, 118, 22)
    ]
    transform = Affine(0.5, 0, 500000, 0, -0.5, 5000000)
    frame = geopandas.GeoDataFrame({"kind": ["building"] * len(squares)}, geometry=squares, crs="EPSG:32633")
    burnt = rasterio.features.rasterize(frame.geometry, out_shape=(256, 256), transform=transform)
    image[:, burnt == 1] += 120
    with rasterio.open(
        folder / "image.tif", "w", driver="GTiff", height=256, width=256, count=3, dtype="uint8",
        crs="EPSG:32633", transform=transform,
    ) as file:  # fmt: skip
        file.write(image)
    frame.to_file(folder / "labels.gpkg")
    settings = TileSettings(
        labels=LabelSettings(class_field="kind"), chip_size=64, block=1, val="0.2", test="0.2"
    )
    tile([str(folder / "image.tif")], [str(folder / "labels.gpkg")], folder / "chips", settings)
    return folder / "chips"


@pytest.fixture(scope="module")
def run(dataset: Path) -> Path:
    return train(dataset, recipe(), dataset.parent / "run").run


def test_a_run_leaves_models_log_curves_and_summary(run: Path) -> None:
    assert {p.name for p in run.iterdir()} == {
        "best.safetensors", "last.safetensors", "log.csv", "curves.png", "run.json",
    }  # fmt: skip
    assert (run / "curves.png").read_bytes()[:4] == b"\x89PNG"
    summary = json.loads((run / "run.json").read_text())
    assert summary["recipe"]["training"]["iterations"] == 12
    assert not run.with_name("run.work").exists()


def test_the_log_holds_every_iteration_and_its_validations(run: Path) -> None:
    rows = list(csv.DictReader((run / "log.csv").open()))
    assert [int(row["iteration"]) for row in rows] == list(range(1, 13))
    assert [i for i, row in enumerate(rows, start=1) if row["miou"]] == [6, 12]
    assert float(rows[0]["learning_rate"]) == pytest.approx(2e-3)
    assert set(rows[0]) == {"iteration", "loss", "learning_rate", "miou", "iou_background", "iou_building"}


def test_it_learns(run: Path) -> None:
    losses = [float(row["loss"]) for row in csv.DictReader((run / "log.csv").open())]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_the_best_model_is_the_best_validation_and_carries_what_predict_needs(
    run: Path, dataset: Path
) -> None:
    rows = [row for row in csv.DictReader((run / "log.csv").open()) if row["miou"]]
    card = load_model(run / "best.safetensors").card
    assert card.validation_miou == pytest.approx(max(float(row["miou"]) for row in rows), abs=1e-5)
    assert load_model(run / "last.safetensors").card.iteration == 12
    assert card.legend.names == ("background", "building")
    assert card.gsd == pytest.approx(0.5, rel=0.01)
    assert card.class_bias[0] == 0
    assert card.recipe == recipe()


def test_the_same_seed_gives_the_same_weights_and_scores(dataset: Path, tmp_path: Path) -> None:
    short = {"iterations": "3", "validate_every": "3", "calibrate": "false"}
    first = train(dataset, recipe(**short), tmp_path / "a", device="cpu")
    again = train(dataset, recipe(**short), tmp_path / "b", device="cpu")
    assert (tmp_path / "a/log.csv").read_text() == (tmp_path / "b/log.csv").read_text()
    weights = [load_model(report.model).network.state_dict() for report in (first, again)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    report = evaluate_model_on_chips(first.model, dataset, split="val", device="cpu")
    assert report.scores.miou == pytest.approx(load_model(first.model).card.validation_miou)


def test_what_cannot_work_is_told_before_training(dataset: Path, tmp_path: Path) -> None:
    for changes, message in (({"crop": "70"}, "try 64 or 80"), ({"tile_size": "100"}, "try 96 or 112")):
        with pytest.raises(AerialSegError, match=message):
            train(dataset, recipe(**changes), tmp_path / "run")
    with pytest.raises(AerialSegError, match=r"no chip dataset|not a chip dataset"):
        train(tmp_path, recipe(), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_explodes_stops_the_run_and_leaves_nothing(dataset: Path, tmp_path: Path) -> None:
    wild = recipe(optimizer='"sgd"', learning_rate="1e30")
    with pytest.raises(AerialSegError, match=r"the loss became .* lower training.learning_rate"):
        train(dataset, wild, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
