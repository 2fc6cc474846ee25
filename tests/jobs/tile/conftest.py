"""A raster of the drawn town, and polygons on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from shapely import box

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile
from added_town import FAR, Town
from tile_town import X, Y, at, scene


@pytest.fixture
def image(raster_file: RasterFile) -> Path:
    pixels = scene()
    pixels[:, :, :25] = 0
    return raster_file("scene/ortho.tif", pixels, nodata=0)


@pytest.fixture
def polygons(polygon_file: PolygonFile) -> Path:
    boxes = [box(X + 9 * i, Y - 8 * j - 5, X + 9 * i + 4, Y - 8 * j) for i in range(8) for j in range(6)]
    return polygon_file("l.gpkg", boxes, {"kind": ["road", "roof", "roof"] * 16})


@pytest.fixture
def town(raster_file: RasterFile) -> Town:
    def make(name: str, east: float = 0.0, *, seed: int = 0, pixel: float = 0.5, **facts: Any) -> Path:
        pixels = facts.pop("pixels", None)
        transform = facts.pop("transform", at(east, 0, pixel))
        return raster_file(name, scene(seed=seed) if pixels is None else pixels, transform=transform, **facts)

    return make


@pytest.fixture
def town_labels(polygon_file: PolygonFile) -> Path:
    """Roads and roofs wherever a test puts a raster."""
    boxes = [
        box(X + east + 9 * i, Y - 8 * j - 5, X + east + 9 * i + 4, Y - 8 * j)
        for east in (0.0, FAR, 2 * FAR)
        for i in range(8)
        for j in range(6)
    ]
    return polygon_file("l.gpkg", boxes, {"kind": ["road", "roof", "roof"] * 48})
