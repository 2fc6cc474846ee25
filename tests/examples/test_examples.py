"""The scripts that people copy run as they are written, on imagery that they never saw."""

from __future__ import annotations

import json
import re
import runpy
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

import aerial_seg
from aerial_seg.synthetic.town import TownPaths, make_town, write_town

EXAMPLES = Path(__file__).parents[2] / "examples"
RECIPE = """
[model]
architecture = "Unet"
encoder = "mobilenet_v2"
options = { decoder_channels = [16, 16, 8, 8, 8] }
[training]
iterations = 3
batch_size = 2
crop = 64
optimizer = "adamw"
learning_rate = 3e-3
warmup = 0
validate_every = 3
[prediction]
tile_size = 256
"""


def run_script(name: str, *arguments: str | Path) -> list[str]:
    """What the script printed, line by line, run with these arguments as `python NAME …` would."""
    before, printed = sys.argv, StringIO()
    sys.argv = [name, *map(str, arguments)]
    try:
        with redirect_stdout(printed):
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    finally:
        sys.argv = before
    return printed.getvalue().splitlines()


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> TownPaths:
    return write_town(make_town(1, height=512, width=512), tmp_path_factory.mktemp("town"))


def test_every_example_is_run_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in sorted(EXAMPLES.glob("*.py")) if f'"{path.name}"' not in source] == []


@pytest.fixture(scope="module")
def trained(town: TownPaths, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder that train_on_own_labels.py leaves behind, and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = folder / "small.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    arguments = (town.image, town.labels, folder / "work", recipe)
    return folder / "work", run_script("train_on_own_labels.py", *arguments)


@pytest.mark.slow
def test_a_sweep_goes_on_and_stops_trials_that_fall_behind(
    trained: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optuna = pytest.importorskip("optuna", reason="NOT PROVED: optuna is not installed")
    chips, recipe, sweep = trained[0] / "chips", tmp_path / "small.toml", tmp_path / "sweep"
    recipe.write_text(RECIPE.replace("validate_every = 3", "validate_every = 1"), encoding="utf-8")
    printed = run_script("sweep.py", chips, recipe, sweep, "2")
    assert re.fullmatch(r"best: trial [01], mIoU 0\.\d{4}", printed[0])
    assert [line.split(" = ")[0].strip() for line in printed[1:]] == [
        "training.learning_rate", "training.weight_decay", "training.dice_weight",
    ]  # fmt: skip
    # The third trial is the same sweep's, and worse than all before.
    monkeypatch.setattr(optuna.pruners.MedianPruner, "prune", lambda self, study, trial: trial.number == 2)
    run_script("sweep.py", chips, recipe, sweep, "3")
    assert {path.name for path in sweep.iterdir()} == {"sweep.log", "trial-0000", "trial-0001", "trial-0002"}
    states = [json.loads((sweep / f"trial-000{k}" / "run.json").read_text()) for k in range(3)]
    assert [run["state"] for run in states] == ["finished", "finished", "stopped"]
    rates = [run["recipe"]["training"]["learning_rate"] for run in states]
    assert len(set(rates)) == 3
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)


def test_train_on_own_labels_scores_the_model_on_ground_of_its_own(trained: tuple[Path, list[str]]) -> None:
    work, printed = trained
    chips = geopandas.read_file(work / "chips" / "chips.gpkg", layer="chips").dissolve("split").geometry
    assert set(chips.index) == {"train", "val", "test"}
    assert chips["train"].intersection(chips["test"]).area == 0
    pattern = r"(\w+) +IoU (\d\.\d{3})  F1 (\d\.\d{3})"
    scores = {found[1]: float(found[2]) for line in printed if (found := re.fullmatch(pattern, line))}
    assert set(scores) == {"background", "labels"}
    assert printed[-1].endswith("the mean of 2 classes")
    assert float(printed[-1].split()[1].rstrip(",")) == pytest.approx(
        np.mean(list(scores.values())), abs=1e-3
    )
    model = aerial_seg.load_model(work / "run" / "best.safetensors")
    assert model.card.legend.names == ("background", "labels")


def test_predict_a_folder_to_shapefiles(
    trained: tuple[Path, list[str]], town: TownPaths, tmp_path: Path
) -> None:
    photos, maps = tmp_path / "photos", tmp_path / "maps"
    photos.mkdir()
    with rasterio.open(town.image) as image:
        for name, column in (("east", 256), ("west", 0)):
            window = Window(column, 0, 256, 256)
            profile = image.profile | {
                "width": 256,
                "height": 256,
                "transform": image.window_transform(window),
            }
            with rasterio.open(photos / f"{name}.tif", "w", **profile) as part:
                part.write(image.read(window=window))
    (photos / "broken.tif").write_bytes(b"no raster")
    model = trained[0] / "run" / "best.safetensors"

    broken, *told = run_script("predict_folder_to_shapefiles.py", model, photos, maps)
    assert broken.startswith("broken.tif: not mapped: ")
    for name, line in zip(("east", "west"), told, strict=True):
        polygons = geopandas.read_file(maps / f"{name}.shp")
        assert line == f"{name}.tif: {len(polygons)} polygons in {maps / name}.shp"
        assert set(polygons.class_name) <= {"labels"}
        assert (polygons.area >= 25).all()
        with rasterio.open(maps / f"{name}.tif") as mask, rasterio.open(photos / f"{name}.tif") as photo:
            assert (mask.shape, mask.transform, mask.crs) == (photo.shape, photo.transform, photo.crs)
            assert polygons.crs == mask.crs
            assert polygons.n_px.sum() <= mask.read(1).size

    before = {path: path.read_bytes() for path in maps.iterdir()}
    again = run_script("predict_folder_to_shapefiles.py", model, photos, maps)
    assert again == [broken, "east.tif: there already", "west.tif: there already"]
    assert {path: path.read_bytes() for path in maps.iterdir()} == before


def test_array_to_polygons(trained: tuple[Path, list[str]], town: TownPaths, tmp_path: Path) -> None:
    model, out = trained[0] / "run" / "best.safetensors", tmp_path / "polygons.gpkg"
    (line,) = run_script("array_to_polygons.py", model, town.image, out)
    polygons = geopandas.read_file(out)
    assert line == f"{len(polygons)} polygons in {out}"
    assert len(polygons) > 0
    assert polygons.geometry.is_valid.all()
    west, south, east, north = polygons.total_bounds
    with rasterio.open(town.image) as image:
        assert (east - west, north - south) <= (image.width, image.height)
        measured = int((image.dataset_mask() > 0).sum())
    # In pixels, and each pixel once at most.
    covered = polygons.union_all().area
    assert covered == pytest.approx(polygons.area.sum())
    assert 0 < covered <= measured
