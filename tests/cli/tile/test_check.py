"""`aerial-seg check`: problems on stdout, errors first, and an exit code that a script can ask."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas
import pytest
import rasterio
from shapely import box


@pytest.fixture
def chips(run: Callable, raster: Callable, labels: Path) -> Path:
    made = run("tile", raster("in.tif"), "--labels", labels, "--chip-size", 32, "--block", 1, "-o", "chips")
    assert made.code == 0, made.err
    return Path("chips")


def test_a_good_dataset_ends_with_0_and_a_damaged_one_with_1(run: Callable, chips: Path) -> None:
    good = run("check", chips)
    assert (good.code, good.err) == (0, "")
    assert "chips: " in good.out.splitlines()[-1]
    assert "no errors" in good.out.splitlines()[-1]
    first, second = sorted((chips / "labels").glob("*.tif"))[:2]
    first.unlink()
    second.write_bytes(b"II*\0")
    bad = run("check", chips)
    assert (bad.code, bad.err) == (1, "")
    lines = bad.out.splitlines()
    assert lines[0].startswith(f"error: {first} is gone; put it back, or run")
    assert lines[1].startswith(f"error: {second}")
    assert ": no " not in lines[-1]
    assert "2 errors" in lines[-1]


def test_json_is_one_document_with_every_problem(run: Callable, chips: Path) -> None:
    sorted((chips / "images").glob("*.tif"))[0].unlink()
    result = run("check", chips, "--json")
    assert (result.code, result.err) == (1, "")
    document = json.loads(result.out)
    assert document["errors"] == 1
    assert document["problems"][0]["kind"] == "image-missing"
    assert document["problems"][0]["where"] == ["in_0000_0000"]
    assert document["warnings"] == len(document["problems"]) - 1


def test_what_is_no_dataset_is_refused_in_one_line(run: Callable, tmp_path: Path) -> None:
    assert run("check", "gone").err == "Error: gone does not exist; check the path\n"
    (tmp_path / "empty").mkdir()
    result = run("check", "empty")
    assert result.code == 1
    assert result.err.startswith("Error: empty is not a chip dataset (no dataset.json); make one with ")


def test_notes_of_tile_name_the_options_of_tile(run: Callable, raster: Callable, tmp_path: Path) -> None:
    image = raster("in.tif")
    with rasterio.open(image) as file:
        west, south, east, north = file.bounds
        crs = file.crs
    half = box(west, south, (west + east) / 2, north)
    geopandas.GeoDataFrame(geometry=[half], crs=crs).to_file(tmp_path / "roof.gpkg")
    made = run("tile", image, "--labels", "roof.gpkg", "--chip-size", 16, "--block", 1, "-o", "chips")
    assert made.code == 0, made.err
    result = run("check", "chips")
    assert result.code == 0
    assert "or pass tile --outside unlabelled" in result.out
