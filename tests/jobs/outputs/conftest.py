"""Something to cut, to train on, to map and to vectorize."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from outputs_of_jobs import TILE
from shapely import box

from aerial_seg.jobs.tile.job import tile


@pytest.fixture
def image(tmp_path: Path, write_raster: Callable) -> Path:
    pixels = np.random.default_rng(1).integers(8, 255, (2, 96, 128), dtype=np.uint8)
    return write_raster(tmp_path / "in.tif", pixels)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    squares = [box(500_000 + 20 * k, 5_199_920, 500_010 + 20 * k, 5_199_990) for k in range(6)]
    path = tmp_path / "labels.gpkg"
    gpd.GeoDataFrame({"kind": ["roof", "road"] * 3}, geometry=squares, crs="EPSG:32633").to_file(path)
    return path


@pytest.fixture
def chips(image: Path, labels: Path, tmp_path: Path) -> Path:
    tile([str(image)], [str(labels)], tmp_path / "chips", TILE)
    return tmp_path / "chips"


@pytest.fixture
def mask(tmp_path: Path, write_raster: Callable) -> Path:
    values = np.zeros((1, 60, 80), np.uint8)
    values[0, 10:30, 10:50] = 1
    return write_raster(tmp_path / "mask.tif", values, nodata=255)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, pointwise: Callable) -> None:
    model = pointwise(stride=8, origin_step=8, tile_size=128)
    monkeypatch.setattr("aerial_seg.jobs.predict.plan.load_model", lambda path: model)
