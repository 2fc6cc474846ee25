"""A mask that is there in a few places only is compared there, and no count depends on what is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.windows import Window
from shapely import box

from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import Extent
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.jobs.evaluate import EvaluateReport, evaluate_mask
from aerial_seg.jobs.settings import ErrorMapSettings
from aerial_seg.labels.from_raster import RasterLabels
from aerial_seg.labels.from_vector import VectorLabels
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import Legend, make_legend
from aerial_seg.outputs.mask import LEGEND_TAG

SIDE, WEST, NORTH = 4_500, 500_000.0, 5_200_000.0
PLACE = {"crs": "EPSG:32633", "dtype": "uint8", "count": 1, "driver": "GTiff", "nodata": 255}
VALUES = np.random.default_rng(0).choice(np.array([0, 3, 255], np.uint8), (700, 900))
TOP, LEFT = 2300, 3100
WITH_BACKGROUND = make_legend({0: "background", 3: "road"}, background=[0])
WITHOUT = make_legend({0: "field", 3: "road"})


def write_mask(path: Path, legend: Legend) -> Path:
    """VALUES in the middle of 4,500² px of which no other block is there."""
    options = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "SPARSE_OK": True}
    place = from_origin(WEST, NORTH, 1, 1)
    with rasterio.open(path, "w", height=SIDE, width=SIDE, transform=place, **options, **PLACE) as file:
        file.write(VALUES, 1, window=Window(LEFT, TOP, 900, 700))
        file.update_tags(**{LEGEND_TAG: legend.model_dump_json()})
    return path


def write_polygons(folder: Path) -> Path:
    """A road through the mask, and one far off on ground that the mask says nothing of: 300 × 40 px."""
    near = box(WEST + LEFT + 100, NORTH - TOP - 500, WEST + LEFT + 400, NORTH - TOP - 200)
    far = box(WEST + 200, NORTH - 4340, WEST + 500, NORTH - 4300)
    layer = geopandas.GeoDataFrame({"class": [3, 3]}, geometry=[near, far], crs="EPSG:32633")
    layer.to_file(folder / "roads.gpkg")
    return folder / "roads.gpkg"


def write_label_raster(folder: Path) -> Path:
    """Of the mask's south-east and some ground beyond."""
    values = np.random.default_rng(1).choice(np.array([0, 3], np.uint8), (800, 800))
    place = from_origin(WEST + LEFT + 500, NORTH - TOP - 300, 1, 1)
    with rasterio.open(folder / "labels.tif", "w", height=800, width=800, transform=place, **PLACE) as file:
        file.write(values, 1)
    return folder / "labels.tif"


@pytest.mark.parametrize("legend", [WITH_BACKGROUND, WITHOUT], ids=["background", "no background"])
@pytest.mark.parametrize("kind", ["polygons", "raster"])
def test_only_what_the_mask_or_the_labels_hold_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, legend: Legend
) -> None:
    mask = write_mask(tmp_path / "mask.tif", legend)
    write = write_polygons if kind == "polygons" else write_label_raster
    labels = write(tmp_path)
    settings = LabelSettings(class_field="class" if kind == "polygons" else None)
    pixels = watch_burning(monkeypatch)

    def score(name: str) -> tuple[EvaluateReport, bytes]:
        pixels.clear()
        error_map = ErrorMapSettings(tmp_path / name / "errors.tif")
        error_map.path.parent.mkdir()
        report = evaluate_mask(mask, [str(labels)], settings, error_map=error_map)
        return replace(report, error_map=None), error_map.path.read_bytes()

    sparse = score("sparse")
    assert sum(pixels) < 0.5 * SIDE**2, "the mask's blocks, and rows of pieces with labels in them"
    monkeypatch.setattr(Raster, "measured_extent", lambda raster: Extent.whole(*raster.info.grid.shape))
    full = score("full")
    assert sum(pixels) == SIDE**2
    # As texts: what is in no class has no number, and no NaN is equal to another.
    assert repr(sparse) == repr(full)
    scores = sparse[0].scores
    said = VALUES != 255
    if kind == "raster":
        assert scores.unpredicted == 800 * 800 - said[300:, 500:].sum()
        assert scores.ignored == SIDE**2 - 800 * 800
    elif legend == WITH_BACKGROUND:
        assert scores.ignored == 0
        assert scores.unpredicted == SIDE**2 - said.sum()
    else:
        assert scores.unpredicted == 300 * 40 + 300 * 300 - said[200:500, 100:400].sum()
        assert scores.ignored == SIDE**2 - 300 * 40 - 300 * 300


def watch_burning(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pixels of every grid that labels are burnt on from now on."""
    pixels: list[int] = []

    def watched(burn: Callable[..., NDArray[np.uint8]]) -> Callable[..., NDArray[np.uint8]]:
        def burn_and_tell(labels: object, grid: Grid) -> NDArray[np.uint8]:
            pixels.append(grid.height * grid.width)
            return burn(labels, grid)

        return burn_and_tell

    for kind in (RasterLabels, VectorLabels):
        monkeypatch.setattr(kind, "burn", watched(kind.burn))
    return pixels
