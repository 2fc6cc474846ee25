"""A raster of the drawn town, and polygons on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shapely import box

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile
from tile_town import X, Y, scene


@pytest.fixture
def image(raster_file: RasterFile) -> Path:
    pixels = scene()
    pixels[:, :, :25] = 0
    return raster_file("scene/ortho.tif", pixels, nodata=0)


@pytest.fixture
def polygons(polygon_file: PolygonFile) -> Path:
    boxes = [box(X + 9 * i, Y - 8 * j - 5, X + 9 * i + 4, Y - 8 * j) for i in range(8) for j in range(6)]
    return polygon_file("l.gpkg", boxes, {"kind": ["road", "roof", "roof"] * 16})
