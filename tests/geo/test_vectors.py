"""Features lie where their pixels lie and measure what Geod measures; files are whole, typed, or absent."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from pyogrio.errors import DataSourceError
from pyproj import CRS, Geod, Transformer
from rasterio.features import rasterize
from shapely.ops import transform

from aerial_seg.errors import InputError, OutputError
from aerial_seg.geo import vectors
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.polygonize import Mask, simplify, trace
from aerial_seg.geo.vectors import check_output, feature_table, shapefile_bytes, write_layer
from aerial_seg.legend import make_legend

LEGEND = make_legend({0: "background", 1: "Gebäude 建物", 7: "road"}, background=[0])
UTM = CRS(32645)
PLACES = {
    "north-up": (UTM, Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000)),
    "south-up": (UTM, Affine(0.5, 0, 300_000, 0, 0.5, 3_060_000)),
    "rotated": (UTM, Affine.translation(300_000, 3_060_000) * Affine.rotation(33) * Affine.scale(0.5, -0.7)),
    "mercator at 60° N": (CRS(3857), Affine(0.5, 0, 1e6, 0, -0.5, 8_399_737.9)),
    "degrees": (CRS(4326), Affine(1e-3, 0, 10, 0, -1e-3, 62)),
    "coarse": (UTM, Affine(3000, 0, 300_000, 0, -3000, 3_060_000)),
    "hemisphere axis order": (CRS(2193), Affine(1, 0, 1_750_000, 0, -1, 5_430_000)),
}
SUFFIXES = ("gpkg", "shp", "geojson")


def make_mask(side: int = 24) -> Mask:
    mask = np.random.default_rng(3).choice(np.array([0, 1, 7], np.uint8), size=(side, side))
    mask[: side // 2] = np.kron(mask[: side // 8, : side // 4], np.ones((4, 4), np.uint8))
    mask[2:6, 2:6] = 255
    return mask


def make_grid(place: str, mask: Mask) -> Grid:
    crs, transform = PLACES[place]
    return Grid(crs=crs, transform=transform, height=mask.shape[0], width=mask.shape[1])


def make_table(place: str = "north-up", *, tolerance: float = 0) -> gpd.GeoDataFrame:
    mask = make_mask()
    return feature_table(simplify(trace(mask), tolerance)[0], make_grid(place, mask), LEGEND)


def no_crs(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    return table.set_crs(None, allow_override=True)


@pytest.mark.parametrize("place", PLACES)
def test_polygons_lie_on_their_pixels(place: str) -> None:
    mask, table = make_mask(), make_table(place)
    pairs = zip(table.geometry, table["class_id"], strict=True)
    transform = PLACES[place][1]
    burnt = rasterize(pairs, out_shape=mask.shape, fill=255, dtype="uint8", transform=transform)
    assert np.array_equal(burnt, mask)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("tolerance", [0, 1.5])
def test_tables_are_typed_valid_coverages(place: str, tolerance: float) -> None:
    table = make_table(place, tolerance=tolerance)
    assert table.crs == PLACES[place][0]
    assert table["class_id"].dtype == np.int32
    assert table["area_m2"].dtype == np.float64
    assert set(zip(table["class_id"], table["class_name"], strict=True)) == {
        (entry.value, entry.name) for entry in LEGEND.entries
    }
    assert (table.geom_type == "MultiPolygon").all()
    assert table.is_valid.all()
    polygons = shapely.get_parts(table.geometry.array)
    assert len(polygons) == len(table)
    assert shapely.coverage_is_valid(polygons)
    assert shapely.is_ccw(shapely.get_exterior_ring(polygons)).all()


@pytest.mark.parametrize("place", PLACES)
def test_areas_are_those_of_geod(place: str) -> None:
    table = make_table(place, tolerance=2)
    step = abs(PLACES[place][1].a) / 7
    project = Transformer.from_crs(table.crs, 4326, always_xy=True)
    for geometry, area in zip(table.geometry, table["area_m2"], strict=True):
        dense = transform(project.transform, shapely.segmentize(geometry, step))
        expected = Geod(ellps="WGS84").geometry_area_perimeter(shapely.orient_polygons(dense))[0]
        # Geod itself rounds areas to some 1e-4 m².
        assert area == pytest.approx(expected, rel=5e-6, abs=5e-4)


def test_a_long_side_follows_the_ground() -> None:
    """1° of parallel at 60° N: a geodesic between the corners would cut 0.4 % off."""
    grid = Grid(crs=CRS(4326), transform=Affine(1e-2, 0, 10, 0, -1e-2, 60), height=100, width=100)
    (area,) = feature_table(trace(np.ones((100, 100), np.uint8)), grid, LEGEND)["area_m2"]
    strip = Transformer.from_crs(4326, "+proj=cea +ellps=WGS84", always_xy=True)
    (west, east), (south, north) = strip.transform([10, 11], [59, 60])
    assert area == pytest.approx((east - west) * (north - south), rel=1e-6)


def test_no_crs_no_area() -> None:
    mask = make_mask()
    grid = Grid(crs=None, transform=Affine.identity(), height=24, width=24)
    table = feature_table(trace(mask), grid, LEGEND)
    assert table.crs is None
    assert table["area_m2"].isna().all()


@pytest.mark.parametrize(
    "transform", [Affine(1e-11, 0, 300_000, 0, -1e-11, 3_060_000), Affine(0, 0, 3e5, 0, 0, 0)]
)
def test_pixels_that_float64_cannot_tell_apart(transform: Affine) -> None:
    with pytest.raises(InputError, match="check the georeference"):
        feature_table(trace(make_mask()), Grid(crs=UTM, transform=transform, height=24, width=24), LEGEND)


def test_outside_of_the_crs() -> None:
    grid = Grid(crs=CRS(4326), transform=Affine(1e-3, 0, 10, 0, -1e-3, 700), height=24, width=24)
    with pytest.raises(InputError, match="check its CRS"):
        feature_table(trace(make_mask()), grid, LEGEND)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_reread_as_written(suffix: str, tmp_path: Path) -> None:
    table, path = make_table("rotated", tolerance=1.5), tmp_path / f"roads and roofs.{suffix}"
    write_layer(table, path)
    # Only RFC 7946 changes the coordinates, to 7 decimals of a degree.
    expected, slack = (table.to_crs(4326), 2e-7) if suffix == "geojson" else (table, 1e-9)
    back = gpd.read_file(path)
    assert back.crs.to_epsg() == expected.crs.to_epsg()
    assert back["class_id"].tolist() == table["class_id"].tolist()
    assert back["class_name"].tolist() == table["class_name"].tolist()
    assert np.allclose(back["area_m2"], table["area_m2"], rtol=1e-12)
    pairs = zip(back.geometry, expected.geometry, strict=True)
    assert all(shapely.hausdorff_distance(a, b) <= slack for a, b in pairs)
    info = pyogrio.read_info(path)
    assert info["layer_name"] == path.stem
    assert info["geometry_type"] == ("Polygon" if suffix == "shp" else "MultiPolygon")
    assert list(info["fields"]) == ["class_id", "class_name", "area_m2"]
    assert info["dtypes"][0] == "int32"


def test_geojson_is_rfc_7946(tmp_path: Path) -> None:
    write_layer(make_table(), tmp_path / "a.geojson")
    document = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))
    assert "crs" not in document
    shells = [part[0] for f in document["features"] for part in f["geometry"]["coordinates"]]
    assert all(shapely.is_ccw(shapely.linearrings(shell)) for shell in shells)
    assert all(-180 <= x <= 180 and -90 <= y <= 90 for shell in shells for x, y in shell)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("has_crs", [True, False])
def test_empty_results_are_layers(suffix: str, has_crs: bool, tmp_path: Path) -> None:
    mask = np.full((4, 4), 255, np.uint8)
    grid = Grid(crs=UTM if has_crs else None, transform=PLACES["north-up"][1], height=4, width=4)
    table, path = feature_table(trace(mask), grid, LEGEND), tmp_path / f"none.{suffix}"
    if suffix == "geojson":
        if has_crs:
            write_layer(table, path)
            assert len(gpd.read_file(path)) == 0
        return
    write_layer(table, path)
    info = pyogrio.read_info(path)
    assert info["features"] == 0
    assert list(info["fields"]) == ["class_id", "class_name", "area_m2"]
    assert [str(dtype) for dtype in info["dtypes"]] == ["int32", "object", "float64"]
    assert info["crs"] == ("EPSG:32645" if has_crs else None)
    assert info["geometry_type"] in ("MultiPolygon", "Polygon")


@pytest.mark.parametrize("suffix", ["gpkg", "shp"])
def test_no_crs_is_allowed_but_in_geojson(
    suffix: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    table = no_crs(make_table())
    write_layer(table, tmp_path / f"a.{suffix}")
    assert gpd.read_file(tmp_path / f"a.{suffix}").crs is None or suffix == "gpkg"
    assert not [warning for warning in recwarn if "crs" in str(warning.message)]
    with pytest.raises(OutputError, match=r"write \.gpkg or \.shp, or give the mask a CRS"):
        write_layer(table, tmp_path / "a.geojson")


@pytest.mark.parametrize("name", ["a.kml", "a", "a.gpkg.zip"])
def test_unknown_suffix(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.gpkg .*\.shp .*\.geojson"):
        check_output(tmp_path / name, crs=UTM, overwrite=False)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="create it"):
        check_output(tmp_path / "gone" / "a.gpkg", crs=UTM, overwrite=False)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_existing_files_are_replaced_only_when_asked(suffix: str, tmp_path: Path) -> None:
    path, table = tmp_path / f"a.{suffix}", make_table()
    write_layer(table, path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        write_layer(table.head(1), path)
    assert path.read_bytes() == before
    write_layer(table.head(1), path, overwrite=True)
    assert len(gpd.read_file(path)) == 1


def test_a_lone_sidecar_is_somebodys_file(tmp_path: Path) -> None:
    (tmp_path / "a.dbf").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"a\.dbf exists"):
        write_layer(make_table(), tmp_path / "a.shp")
    assert (tmp_path / "a.dbf").read_bytes() == b"mine"


def test_an_open_geopackage_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    write_layer(make_table(), path)
    (tmp_path / "a.gpkg-wal").touch()
    with pytest.raises(OutputError, match="close it there"):
        write_layer(make_table(), path, overwrite=True)


def test_nothing_of_the_old_shapefile_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.shp"
    write_layer(make_table(), path)
    assert (tmp_path / "a.cpg").read_text() == "UTF-8"
    (tmp_path / "a.qix").write_bytes(b"index of the old one")
    write_layer(no_crs(make_table()), path, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.cpg", "a.dbf", "a.shp", "a.shx"]


def test_the_shp_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real = Path.replace

    def watch(self: Path, target: Path) -> Path:
        assert not (tmp_path / "a.shp").exists()
        order.append(target.suffix)
        return real(self, target)

    write_layer(make_table(), tmp_path / "a.shp")
    monkeypatch.setattr(Path, "replace", watch)
    write_layer(make_table(), tmp_path / "a.shp", overwrite=True)
    assert order[-1] == ".shp"
    assert set(order) == {".shp", ".shx", ".dbf", ".prj", ".cpg"}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (DataSourceError("disk full"), OutputError),
        (OSError("disk full"), OutputError),
        (KeyboardInterrupt(),) * 2,
    ],
)
def test_a_failed_write_leaves_nothing(
    suffix: str,
    failure: BaseException,
    raised: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / f"a.{suffix}"
    write_layer(make_table().head(2), path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real = pyogrio.write_dataframe

    def break_off(table: gpd.GeoDataFrame, draft: Path, **options: object) -> None:
        real(table.head(1), draft, **options)
        raise failure

    monkeypatch.setattr(pyogrio, "write_dataframe", break_off)
    with pytest.raises(raised if isinstance(raised, type) else type(raised)):
        write_layer(make_table(), path, overwrite=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_shapefile_size_is_foretold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, path = make_table(), tmp_path / "a.shp"
    write_layer(table, path)
    size = path.stat().st_size
    foretold = shapefile_bytes(np.asarray(table.geometry.array))
    assert size <= foretold <= size + 8
    monkeypatch.setattr(vectors, "_SHAPEFILE_LIMIT", size - 1)
    with pytest.raises(OutputError, match=r"write a \.gpkg"):
        write_layer(table, tmp_path / "b.shp")
    assert not (tmp_path / "b.shp").exists()


def test_long_names_do_not_fit_a_shapefile(tmp_path: Path) -> None:
    table = make_table().assign(class_name="建" * 85)
    with pytest.raises(OutputError, match="254 bytes"):
        write_layer(table, tmp_path / "a.shp")
    write_layer(table, tmp_path / "a.gpkg", layer="another name")
    assert pyogrio.read_info(tmp_path / "a.gpkg")["layer_name"] == "another name"
