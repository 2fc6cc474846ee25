"""A STAC Item is one by the specification's own words, and lies where the mask lies."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import CRS, Transformer
from stac_items import LEGEND, UTM, item

from aerial_seg.geo.grid import Grid
from aerial_seg.legend import make_legend
from aerial_seg.outputs.maps import PROBABILITY_STEP
from aerial_seg.outputs.stac import item_name, list_vectors
from aerial_seg.vectors.formats import FORMATS

if TYPE_CHECKING:
    pass


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
        "probabilities": "./map_probabilities.tif",
    }
    prefixes = {key.split(":")[0] for key in document["properties"] if ":" in key} - {"aerial_seg"}
    prefixes |= {key.split(":")[0] for asset in document["assets"].values() for key in asset if ":" in key}
    declared = {url.split("/")[3] for url in document["stac_extensions"]}
    assert {"projection" if p == "proj" else p for p in prefixes} == declared


def test_its_classes_fit_the_extension(tmp_path: Path) -> None:
    classes = item(tmp_path)["assets"]["mask"]["classification:classes"]
    assert [one["value"] for one in classes] == [0, 1, 7, 255]
    assert [one.get("nodata", False) for one in classes] == [False, False, False, True]
    assert (classes[1]["title"], classes[1]["name"]) == ("bâtiment léger", "batiment_leger_1")
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


def test_every_raster_says_what_its_bytes_mean(tmp_path: Path) -> None:
    """Fields as https://github.com/stac-extensions/raster/tree/v1.1.0 names them."""
    assets = item(tmp_path)["assets"]
    seen = {"data_type": "uint8", "nodata": 255, "sampling": "area"}
    size = {"spatial_resolution": pytest.approx(0.5, rel=2e-3)}
    assert assets["mask"]["raster:bands"] == [seen | size]
    scaled = seen | size | {"scale": PROBABILITY_STEP, "offset": 0}
    assert assets["confidence"]["raster:bands"] == [scaled]
    assert assets["probabilities"]["raster:bands"] == [scaled] * len(LEGEND)
    assert assets["probabilities"]["description"].endswith("background, bâtiment léger, road")
    # 255 is nodata, not the probability of 1.02 that scale would make of it; 250 is 1.
    assert 250 * scaled["scale"] + scaled["offset"] == 1
    alone = item(tmp_path, Grid(crs=None, transform=Affine.identity(), height=10, width=10))["assets"]["mask"]
    assert alone["raster:bands"] == [seen]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["建筑物", "水体", "road"], ["class_0", "class_1", "road"]),
        (["été", "ete", "Eté"], ["ete_0", "ete", "Ete_2"]),
        (["a b", "a.b", "a_b"], ["a_b_0", "a_b_1", "a_b"]),
        (["水", "class_0", "class_0_"], ["class_0__", "class_0", "class_0_"]),
        (["nodata", "no data", "дом 2"], ["nodata_0", "no_data_1", "2_2"]),
        (["_", "-", "ok"], ["_", "-", "ok"]),
    ],
)
def test_class_names_stay_apart_in_any_script(tmp_path: Path, names: list[str], wanted: list[str]) -> None:
    classes = item(tmp_path, legend=make_legend(dict(enumerate(names))))["assets"]["mask"][
        "classification:classes"
    ]
    assert [one["name"] for one in classes] == [*wanted, "nodata"]
    assert [one["title"] for one in classes] == [*names, "not measured"]
    assert len({one["name"] for one in classes}) == len(classes)
    assert all(re.fullmatch(r"[0-9A-Za-z_-]+", one["name"]) for one in classes)


@pytest.mark.parametrize(
    "stem",
    ["a b", "50% off", "what?", "#1", "it's (1)", "a\u00a0b", 'it\'s "x"', "wärme", "c:d", "a%20b", "水"],
)
def test_names_are_references_that_lead_to_the_files(tmp_path: Path, stem: str) -> None:
    """Oracle: the standard library's way from a base address and a reference to a file."""
    names = (f"{stem}.tif", f"{stem}_confidence.tif")
    document = item(tmp_path, names=names)
    polygons = tmp_path / "other folder" / f"{stem}.gpkg"
    polygons.parent.mkdir()
    polygons.touch()
    list_vectors(tmp_path / item_name(names[0]), [polygons])
    document = json.loads((tmp_path / item_name(names[0])).read_text(encoding="utf-8"))
    base = (tmp_path / item_name(names[0])).as_uri()
    found = {
        key: url2pathname(urlsplit(urljoin(base, asset["href"])).path)
        for key, asset in document["assets"].items()
    }
    assert found == {
        "mask": str(tmp_path / names[0]), "confidence": str(tmp_path / names[1]), "vectors": str(polygons)
    }  # fmt: skip
    for asset in document["assets"].values():
        assert re.fullmatch(
            r"\.{1,2}/([A-Za-z0-9_.~!$&'()*+,;=:@/-]|%[0-9A-F]{2}|[äöü水])+", asset["href"]
        ), asset


def test_names_that_references_may_hold_stay_readable(tmp_path: Path) -> None:
    """pystac takes the reference to a local file as its name, without unescaping."""
    for stem in ("wärme", "水体", "ortho_(1),a+b"):
        assert item(tmp_path, names=(f"{stem}.tif",))["assets"]["mask"]["href"] == f"./{stem}.tif"
    assert item(tmp_path, names=("a b%.tif",))["assets"]["mask"]["href"] == "./a%20b%25.tif"


def test_polygons_are_named_with_all_that_belongs_to_them(tmp_path: Path) -> None:
    before = item(tmp_path)
    files = [
        tmp_path / f"shapes{ending}"
        for ending in (".shp", ".shx", ".dbf", ".prj", ".cpg", ".qml", "_002.shp")
    ]
    for file in files:
        file.touch()
    path = tmp_path / "map.json"
    list_vectors(path, files)
    document = json.loads(path.read_text(encoding="utf-8"))
    assets = document.pop("assets")
    assert document == {key: value for key, value in before.items() if key != "assets"}
    assert {key: assets[key] for key in before["assets"]} == before["assets"]
    told = {
        key: (asset["href"], asset["type"], asset["roles"])
        for key, asset in assets.items()
        if "vectors" in key
    }
    assert told == {
        "vectors": ("./shapes.shp", "application/vnd.shp", ["data"]),
        "vectors_shx": ("./shapes.shx", "application/vnd.shx", ["metadata"]),
        "vectors_dbf": ("./shapes.dbf", "application/vnd.dbf", ["metadata"]),
        "vectors_prj": ("./shapes.prj", "text/plain", ["metadata"]),
        "vectors_cpg": ("./shapes.cpg", "text/plain", ["metadata"]),
        "vectors_qml": ("./shapes.qml", "application/xml", ["metadata"]),
        "vectors_002_shp": ("./shapes_002.shp", "application/vnd.shp", ["data"]),
    }
    # Once more, with other files: the old ones are not named any longer.
    list_vectors(path, files[-1:])
    again = json.loads(path.read_text(encoding="utf-8"))["assets"]
    assert set(again) == {*before["assets"], "vectors"}


def test_what_is_not_there_is_never_named(tmp_path: Path) -> None:
    item(tmp_path)
    before = (tmp_path / "map.json").read_bytes()
    with pytest.raises(AssertionError, match="before it is there"):
        list_vectors(tmp_path / "map.json", [tmp_path / "gone.gpkg"])
    assert (tmp_path / "map.json").read_bytes() == before


def test_every_format_of_polygons_has_a_media_type(tmp_path: Path) -> None:
    item(tmp_path)
    for form in FORMATS:
        for suffix in form.suffixes:
            file = tmp_path / f"shapes{suffix}"
            file.touch()
            list_vectors(tmp_path / "map.json", [file])
            asset = json.loads((tmp_path / "map.json").read_text(encoding="utf-8"))["assets"]["vectors"]
            assert re.fullmatch(r"(application|text)/[a-z0-9.+-]+", asset["type"])
            assert asset["type"] != "application/octet-stream", suffix
