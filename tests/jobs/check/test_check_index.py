"""A dataset of an index and labels is checked, drawn and foretold as one that holds its images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from shapely import box

from aerial_seg.jobs.check.job import check
from aerial_seg.jobs.tile.dry_run import forecast_tiling
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings

SETTINGS = TileSettings(chip_size=20)


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path]:
    """An image of 90 × 110 px, whose last chips reach beyond it, with roofs."""
    place = {"crs": "EPSG:32645", "transform": from_origin(300_000, 3_060_000, 0.5, 0.5)}
    with rasterio.open(
        tmp_path / "o.tif", "w", driver="GTiff", height=90, width=110, count=3, dtype="uint8", **place
    ) as file:
        file.write(np.random.default_rng(0).integers(1, 255, (3, 90, 110)).astype(np.uint8))
    roofs = [
        box(x, y, x + 4, y + 4) for x in range(300_000, 300_054, 9) for y in range(3_059_956, 3_060_000, 8)
    ]
    geopandas.GeoDataFrame(geometry=roofs, crs="EPSG:32645").to_file(tmp_path / "roofs.gpkg")
    return tmp_path / "o.tif", tmp_path / "roofs.gpkg"


def test_an_index_is_drawn_and_has_no_error(scene: tuple[Path, Path], tmp_path: Path) -> None:
    whole, index = tmp_path / "whole", tmp_path / "index"
    tile(*scene, whole, SETTINGS)
    tile(*scene, index, replace(SETTINGS, index_only=True))
    assert check(index).errors == ()
    assert check(index).class_pixels == check(whole).class_pixels
    pictures = sorted(path.relative_to(whole) for path in (whole / "qa").rglob("*.png"))
    assert pictures
    for name in pictures:
        assert (index / name).read_bytes() == (whole / name).read_bytes()


def test_a_raster_that_was_replaced_or_labels_that_were_changed_are_told(
    scene: tuple[Path, Path], tmp_path: Path
) -> None:
    image, index = scene[0], tmp_path / "index"
    tile(*scene, index, replace(SETTINGS, index_only=True))
    labels = sorted((index / "labels").glob("*.tif"))[3]
    with rasterio.open(labels, "r+") as file:
        kept = file.read(1)
        file.write(1 - kept, 1)
    assert [one.kind for one in check(index).errors] == ["labels-changed", "document-counts"]
    with rasterio.open(labels, "r+") as file:
        file.write(kept, 1)
    assert check(index).errors == ()
    with rasterio.open(image, "r+") as file:
        file.write(np.zeros((3, 90, 110), np.uint8))
    (error,) = check(index).errors
    assert error.kind == "sources"
    assert "o.tif" in error.problem


def test_a_dry_run_foretells_that_no_image_is_written(scene: tuple[Path, Path], tmp_path: Path) -> None:
    whole = forecast_tiling(*scene, tmp_path / "new", SETTINGS)
    index = forecast_tiling(*scene, tmp_path / "new", replace(SETTINGS, index_only=True))
    assert whole.bytes is not None
    assert index.bytes is not None
    assert whole.bytes - index.bytes > 30 * 3 * 20 * 20 * 0.9
    assert index.chips == whole.chips
    assert not (tmp_path / "new").exists()
