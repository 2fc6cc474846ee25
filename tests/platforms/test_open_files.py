"""No command replaces, renames or deletes what it has open itself: Windows would refuse each of these steps.

Nor does one need what Windows has not: folders that can be synced, links without a privilege, flock.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from shapely import box

from aerial_seg.cli.main import main
from aerial_seg.jobs import demo as demo_room
from aerial_seg.jobs.demo import demo
from aerial_seg.recipe.loading import load_recipe

RECIPE = """
[model]
encoder = "tu-mobilenetv3_small_050"
output_stride = 16
head_channels = 8
auxiliary = false
[training]
iterations = 2
batch_size = 2
crop = 64
validate_every = 1
[prediction]
tile_size = 64
overlap = 16
batch_size = 2
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: Any) -> Callable[..., int]:
    """Runs `aerial-seg …` in this process by Windows' rules; no step of it may be refused, nothing unfinished stay."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object, kept: bool = False) -> int:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        assert windows.refused == []
        assert kept or [path.name for path in tmp_path.rglob("*.work")] == []
        return code

    return command


@pytest.fixture
def imagery(tmp_path: Path) -> Path:
    """image.tif, 192 × 160 px with bright squares, and labels.gpkg that outlines these."""
    transform = Affine(1, 0, 500_000, 0, -1, 5_000_000)
    image = np.random.default_rng(0).integers(20, 90, (3, 160, 192)).astype(np.uint8)
    squares = []
    for x in range(8, 180, 24):
        for y in range(8, 150, 24):
            image[:, y : y + 10, x : x + 10] += 120
            squares.append(box(500_000 + x, 5_000_000 - y - 10, 500_000 + x + 10, 5_000_000 - y))
    for name in ("image.tif", "other.tif"):
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", height=160, width=192, count=3, dtype="uint8",
            crs="EPSG:32633", transform=transform,
        ) as file:  # fmt: skip
            file.write(image)
    frame = geopandas.GeoDataFrame({"kind": ["building"] * len(squares)}, geometry=squares, crs="EPSG:32633")
    frame.to_file(tmp_path / "labels.gpkg")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def test_the_whole_work_runs_by_windows_rules(run: Callable[..., int], imagery: Path) -> None:
    """Each output is made, and then replaced by the same command."""
    chips = ("--class-field", "kind", "--chip-size", 64, "--block", 1, "--val", 0.2, "--test", 0.2)
    steps: tuple[tuple[object, ...], ...] = (
        ("tile", "image.tif", "--labels", "labels.gpkg", "-o", "chips", *chips),
        ("train", "chips", "--recipe", "recipe.toml", "-o", "run", "--device", "cpu"),
        ("predict", "run/best.safetensors", "image.tif", "-o", "map.tif", "--vectors", "map.gpkg", "--confidence",
         "--probabilities", "--stac", "--device", "cpu"),
        ("predict", "run/best.safetensors", "image.tif", "other.tif", "-o", "maps", "--device", "cpu"),
        ("predict", "run/best.safetensors", "image.tif", "other.tif", "--mosaic", "-o", "one.tif", "--device", "cpu"),
        ("vectorize", "map.tif", "map.shp"),
        ("evaluate", "map.tif", "labels.gpkg", "--class-field", "kind", "-o", "scores.json",
         "--error-map", "errors.tif"),
    )  # fmt: skip
    for step in steps:
        assert run(*step) == 0
        assert run(*step) == 1, "an existing output needs --overwrite"
        assert run(*step, "--overwrite") == 0
    assert run("vectorize", "map.tif", "map.gpkg", "--layer", "again", "--append") == 0
    assert run("vectorize", "map.tif", "map.shp", "--append") == 0
    made = {path.name for path in imagery.iterdir()}
    assert made >= {
        "map.tif", "map.tif.vat.dbf", "map_confidence.tif", "map_probabilities.tif", "map.json", "map.gpkg",
        "map.shp", "map.dbf", "one.tif", "errors.tif", "scores.json",
    }  # fmt: skip
    assert (imagery / "maps" / "other_mask.tif").is_file()
    assert [name for name in made if name.endswith((".partial", ".work"))] == []
    with (
        rasterio.open(imagery / "map.tif") as mask,
        rasterio.open(imagery / "map_confidence.tif") as confidence,
    ):
        assert mask.shape == confidence.shape == (160, 192)
    assert len(geopandas.read_file(imagery / "map.gpkg")) == len(
        geopandas.read_file(imagery / "map.gpkg", layer="again")
    )
    assert json.loads((imagery / "scores.json").read_text())


def test_the_rules_find_what_windows_would_refuse(windows: Any, tmp_path: Path) -> None:
    """The check itself: each of these is refused, and none of the same on closed files."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_text("")
    with (tmp_path / "a").open(), (tmp_path / "folder" / "inside").open():
        for step in (
            lambda: (tmp_path / "a").unlink(),
            lambda: (tmp_path / "b").replace(tmp_path / "a"),
            lambda: (tmp_path / "a").rename(tmp_path / "c"),
            lambda: (tmp_path / "folder").replace(tmp_path / "moved"),
            lambda: shutil.rmtree(tmp_path / "folder"),
            lambda: os.open(tmp_path, os.O_RDONLY),
        ):
            with pytest.raises(PermissionError):
                step()
    assert len(windows.refused) == 5
    mapped = np.memmap(tmp_path / "a", mode="r")
    with pytest.raises(PermissionError):
        (tmp_path / "a").unlink()
    del mapped
    with pytest.raises(OSError, match="privilege"):
        (tmp_path / "link").symlink_to(tmp_path / "a")
    windows.refused.clear()
    (tmp_path / "b").replace(tmp_path / "a")
    (tmp_path / "folder").replace(tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved")
    (tmp_path / "a").unlink()
    assert windows.refused == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_exported_model_is_written_and_replaced(run: Callable[..., int], imagery: Path) -> None:
    pytest.importorskip("onnxruntime")
    chips = ("--class-field", "kind", "--chip-size", 64, "--block", 1)
    assert run("tile", "image.tif", "--labels", "labels.gpkg", "-o", "chips", *chips) == 0
    assert run("train", "chips", "--recipe", "recipe.toml", "-o", "run", "--device", "cpu") == 0
    for more in ((), ("--overwrite",)):
        assert run("export", "run/best.safetensors", "-o", "model.onnx", *more) == 0


@pytest.mark.slow
def test_the_demo_runs_by_windows_rules_and_again_over_itself(
    windows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_room, "SIDE", 512)
    recipe = load_recipe("demo")
    short = {"iterations": 2, "validate_every": 1, "crop": 64, "warmup": 0}
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update=short)})
    for overwrite in (False, True):
        demo(tmp_path / "out", device="cpu", recipe=recipe, overwrite=overwrite)
    assert windows.refused == []
    assert list(tmp_path.rglob("*.work")) == []
