"""A STAC Item is one by the specification's own words, and lies where the mask lies."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import CRS, Transformer

from aerial_seg.geo.grid import Grid
from aerial_seg.geo.stac import Catalogued, item_name, time_taken, write_item
from aerial_seg.legend import make_legend

if TYPE_CHECKING:
    from tests.conftest import RasterFile, WebServer

LEGEND = make_legend({0: "background", 1: "bâtiment léger", 7: "road"})
UTM = Grid(
    crs=CRS.from_epsg(32633), transform=Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000), height=3000, width=4000
)


TAKEN = datetime(2024, 5, 3, 12, 0, tzinfo=timezone(timedelta(hours=2)))


def item(folder: Path, grid: Grid = UTM, taken: datetime | None = TAKEN) -> dict[str, Any]:
    names = ("map.tif", "map.tif.aux.xml", "map.qml", "map_confidence.tif")
    facts = Catalogued(
        files=[folder / name for name in names],
        grid=grid,
        legend=LEGEND,
        taken=taken,
        sources=["ortho.tif"],
        parameters={"tile_size": 512},
    )
    assert item_name("map.tif") == "map.json"
    return json.loads(write_item(folder / item_name("map.tif"), facts).read_text(encoding="utf-8"))


def test_it_has_what_the_item_specification_demands(tmp_path: Path) -> None:
    document = item(tmp_path)
    required = {
        "type",
        "stac_version",
        "id",
        "geometry",
        "bbox",
        "properties",
        "links",
        "assets",
        "stac_extensions",
    }
    assert set(document) == required
    assert (document["type"], document["stac_version"], document["id"]) == ("Feature", "1.0.0", "map")
    assert document["properties"]["datetime"] == "2024-05-03T10:00:00Z"
    assert document["links"] == []
    assert {name: asset["href"] for name, asset in document["assets"].items()} == {
        "mask": "./map.tif",
        "confidence": "./map_confidence.tif",
    }
    prefixes = {key.split(":")[0] for key in document["properties"] if ":" in key} - {"aerial_seg"}
    prefixes |= {key.split(":")[0] for asset in document["assets"].values() for key in asset if ":" in key}
    declared = {url.split("/")[3] for url in document["stac_extensions"]}
    assert {"projection" if p == "proj" else p for p in prefixes} == declared


def test_its_classes_fit_the_extension(tmp_path: Path) -> None:
    classes = item(tmp_path)["assets"]["mask"]["classification:classes"]
    assert [one["value"] for one in classes] == [0, 1, 7, 255]
    assert [one.get("nodata", False) for one in classes] == [False, False, False, True]
    assert classes[1]["title"] == "bâtiment léger"
    for one in classes:
        assert re.fullmatch(r"[0-9A-Za-z_-]+", one["name"])
        assert re.fullmatch(r"[0-9A-F]{6}", one.get("color_hint", "000000"))


@pytest.mark.parametrize(
    "transform", [UTM.transform, UTM.transform * Affine.rotation(20), Affine(0.5, 0, 5e5, 0, 0.5, 5.2e6)]
)
def test_its_place_is_the_grids(tmp_path: Path, transform: Affine) -> None:
    grid = Grid(crs=UTM.crs, transform=transform, height=3000, width=4000)
    document = item(tmp_path, grid)
    place = shapely.geometry.shape(document["geometry"])
    to_degrees = Transformer.from_crs(grid.crs, "OGC:CRS84", always_xy=True)
    corners = [
        to_degrees.transform(*(transform * corner)) for corner in ((0, 0), (4000, 0), (4000, 3000), (0, 3000))
    ]
    assert place.symmetric_difference(shapely.Polygon(corners)).area < 1e-4 * place.area
    assert place.exterior.is_ccw
    assert tuple(document["bbox"]) == pytest.approx(place.bounds)
    told = document["properties"]
    assert (told["proj:epsg"], told["proj:shape"]) == (32633, [3000, 4000])
    assert Affine(*told["proj:transform"]) == transform
    assert told["proj:bbox"] == pytest.approx(list(grid.bounds))


@pytest.mark.parametrize("crs", ["EPSG:32601", "EPSG:32660"])
def test_across_the_antimeridian_it_is_cut_in_two(tmp_path: Path, crs: str) -> None:
    system = CRS(crs)
    x, y = Transformer.from_crs("OGC:CRS84", system, always_xy=True).transform(180, 10)
    grid = Grid(crs=system, transform=Affine(100, 0, x - 5000, 0, -100, y + 5000), height=100, width=100)
    document = item(tmp_path, grid)
    place = shapely.geometry.shape(document["geometry"])
    west, south, east, north = document["bbox"]
    assert place.geom_type == "MultiPolygon"
    assert place.bounds == pytest.approx((-180, south, 180, north))
    assert -180 < east < -179.9 < 179.9 < west < 180
    assert place.area == pytest.approx((360 + east - west) * (north - south), rel=0.05)


@pytest.mark.parametrize("crs", ["EPSG:3413", "EPSG:3031"])
@pytest.mark.parametrize("shift", [0.0, 400.0, 4990.0, 5000.0, 20_000.0])
def test_around_and_beside_a_pole_it_lies_where_the_grid_does(tmp_path: Path, crs: str, shift: float) -> None:
    """Oracle: the outline in the polar CRS itself."""
    system = CRS(crs)
    grid = Grid(crs=system, transform=Affine(100, 0, shift - 5000, 0, -100, 5000), height=100, width=100)
    document = item(tmp_path, grid)
    place = shapely.geometry.shape(document["geometry"])
    west, south, east, north = document["bbox"]
    to_degrees = Transformer.from_crs(system, "OGC:CRS84", always_xy=True)
    for x, y in np.random.default_rng(0).uniform(-15_000, 30_000, (300, 2)):
        if min(abs(x - shift - 5000), abs(x - shift + 5000), abs(y - 5000), abs(y + 5000)) < 300:
            continue
        inside = abs(x - shift) < 5000 and abs(y) < 5000
        lon, lat = to_degrees.transform(x, y)
        assert place.contains(shapely.Point(lon, lat)) == inside, (x, y)
        if inside:
            assert south <= lat <= north
            assert (west <= lon <= east) if west <= east else (lon >= west or lon <= east)


def test_without_a_crs_it_has_no_place_and_says_so(tmp_path: Path) -> None:
    document = item(tmp_path, Grid(crs=None, transform=Affine.identity(), height=10, width=10))
    assert document["geometry"] is None
    assert "bbox" not in document
    assert document["properties"]["proj:epsg"] is None


def test_a_crs_without_a_number_is_written_out(tmp_path: Path) -> None:
    own = CRS.from_proj4("+proj=laea +lat_0=46 +lon_0=15 +datum=WGS84 +units=m")
    told = item(tmp_path, Grid(crs=own, transform=Affine(1, 0, 0, 0, -1, 0), height=10, width=10))[
        "properties"
    ]
    assert told["proj:epsg"] is None
    assert CRS.from_wkt(told["proj:wkt2"]) == own


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2021:07:04 09:30:00", datetime(2021, 7, 4, 9, 30, tzinfo=UTC)),
        ("2021-07-04T09:30:00+0200", datetime(2021, 7, 4, 7, 30, tzinfo=UTC)),
        ("in summer", None),
    ],
)
def test_the_time_is_the_imagerys_where_it_tells_one(
    raster_file: RasterFile, server: WebServer, text: str, wanted: datetime | None
) -> None:
    path = raster_file("a.tif", np.ones((1, 4, 4), np.uint8))
    with rasterio.open(path, "r+") as file:
        file.update_tags(TIFFTAG_DATETIME=text)
    os.utime(path, (1_600_000_000, 1_600_000_000))
    written = datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC)
    assert time_taken(path) == (wanted or written)
    (server.folder / "b.tif").hardlink_to(path)
    assert time_taken(server.url("b.tif")) == (wanted or written)


def test_a_time_that_nothing_tells_is_null_within_a_range(tmp_path: Path) -> None:
    properties = item(tmp_path, taken=None)["properties"]
    assert properties["datetime"] is None
    start, end = (datetime.fromisoformat(properties[f"{name}_datetime"]) for name in ("start", "end"))
    assert start < datetime.now(UTC) < end
