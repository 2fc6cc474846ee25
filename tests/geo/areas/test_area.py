"""An area holds the pixels whose centres lie in it, window by window as at once; what cannot meet is named."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import tracemalloc
from contextlib import closing
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS, Transformer
from rasterio.features import geometry_mask

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.geo.areas.area import area_of_bounds, read_area
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.grid_area import GridArea
from aerial_seg.geo.raster.raster import raster_info
from aerial_seg.labels.labels import open_labels
from aerial_seg.labels.settings import LabelSettings

UTM = CRS.from_epsg(32633)
GRID = Grid(crs=UTM, transform=Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000), height=50, width=70)

coordinates = st.floats(-20, 90, allow_nan=False)
integers = st.integers(-20, 180).map(lambda k: k / 2)


@st.composite
def polygons(draw: st.DrawFn, numbers: st.SearchStrategy[float]) -> shapely.Geometry:
    """One to three polygons, some with holes, united."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        points = draw(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=8, unique=True))
        parts.append(shapely.MultiPoint(points).convex_hull.buffer(0))
    holes = shapely.Point(draw(numbers), draw(numbers)).buffer(draw(st.floats(1, 20)))
    return shapely.union_all(parts).difference(holes)


def whole(geometry: shapely.Geometry, grid: Grid = GRID) -> np.ndarray:
    area = GridArea(geometry, height=grid.height, width=grid.width)
    return area.inside(range(grid.height), range(grid.width))


@given(geometry=polygons(coordinates))
def test_rasterio_finds_the_same_pixels(geometry: shapely.Geometry) -> None:
    if geometry.is_empty:
        return
    wanted = geometry_mask([geometry], GRID.shape, Affine.identity(), invert=True)
    # A centre on an edge, or within rounding of one, may go either way.
    rows, cols = np.nonzero(whole(geometry) != wanted)
    for row, col in zip(rows, cols, strict=True):
        assert geometry.boundary.distance(shapely.Point(col + 0.5, row + 0.5)) < 1e-9


@given(geometry=polygons(integers | coordinates), data=st.data())
def test_no_window_changes_a_pixel(geometry: shapely.Geometry, data: st.DataObject) -> None:
    area = GridArea(geometry, height=GRID.height, width=GRID.width)
    at_once = area.inside(range(GRID.height), range(GRID.width))
    top, left = data.draw(st.integers(0, 49)), data.draw(st.integers(0, 69))
    rows = range(top, data.draw(st.integers(top + 1, 50)))
    cols = range(left, data.draw(st.integers(left + 1, 70)))
    part = at_once[rows.start : rows.stop, cols.start : cols.stop]
    np.testing.assert_array_equal(area.inside(rows, cols), part)
    assert area.touches(rows, cols) == part.any()
    assert area.any() == at_once.any()


@given(geometry=polygons(integers))
def test_neighbours_share_no_pixel_and_leave_none_out(geometry: shapely.Geometry) -> None:
    """Also where edges run through pixel centres."""
    everything = shapely.box(-30, -30, 200, 200)
    np.testing.assert_array_equal(whole(everything.difference(geometry)), ~whole(geometry))


def test_bounds_are_a_rectangle_of_pixels() -> None:
    area = area_of_bounds((500_005, 5_199_990, 500_012.2, 5_199_998)).on(GRID, "in.tif")
    wanted = np.zeros(GRID.shape, bool)
    wanted[4:20, 10:24] = True
    np.testing.assert_array_equal(area.inside(range(50), range(70)), wanted)
    assert area.pixels == pytest.approx(16 * 14.4)


@pytest.mark.parametrize("bounds", [(2, 0, 1, 1), (0, 1, 1, 1), (0, 0, float("nan"), 1)])
def test_bounds_that_are_no_box_are_refused(bounds: tuple[float, float, float, float]) -> None:
    with pytest.raises(SettingsError, match=r"is no box; wanted W S E N"):
        area_of_bounds(bounds)


def write(path: Path, geometries: list, crs: str | None = "EPSG:32633", **options: str) -> Path:
    geopandas.GeoDataFrame(geometry=geometries, crs=crs).to_file(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.geojson", "a.fgb"])
def test_overlapping_polygons_of_any_vector_file_are_united(tmp_path: Path, name: str) -> None:
    boxes = [
        shapely.box(500_001, 5_199_980, 500_011, 5_199_999),
        shapely.box(500_006, 5_199_990, 500_030, 5_199_995),
    ]
    crs = "EPSG:4326" if name == "a.geojson" else "EPSG:32633"
    frame = geopandas.GeoDataFrame(geometry=boxes, crs="EPSG:32633").to_crs(crs)
    frame.to_file(tmp_path / name)
    area = read_area(tmp_path / name)
    found = area.on(GRID, "in.tif").inside(range(50), range(70))
    wanted = geometry_mask(boxes, GRID.shape, GRID.transform, invert=True)
    # GeoJSON keeps 7 decimals of a degree, 1 cm.
    assert (found != wanted).sum() <= (20 if name == "a.geojson" else 0)
    assert wanted.sum() > 500


@pytest.mark.parametrize("transform", [
    Affine(50, 0, 300_000, 0, -50, 5_300_000),
    Affine(50, 0, 300_000, 0, 50, 5_000_000),
    Affine.translation(500_000, 5_200_000) * Affine.rotation(30) * Affine.scale(50, -50),
], ids=["north-up", "south-up", "rotated"])  # fmt: skip
def test_long_edges_follow_the_ground_within_a_pixel(tmp_path: Path, transform: Affine) -> None:
    """One degree along a parallel bends by kilometres in UTM; the oracle has a vertex every 10 metres."""
    grid = Grid(crs=UTM, transform=transform, height=3000, width=4000)
    box = shapely.box(14.1, 46.1, 16.3, 47.2)
    area = read_area(write(tmp_path / "a.gpkg", [box], "EPSG:4326")).on(grid, "in.tif")
    to_utm = Transformer.from_crs("EPSG:4326", UTM, always_xy=True)
    dense = shapely.transform(
        shapely.segmentize(box, 1e-4), lambda p: np.column_stack(to_utm.transform(*p.T))
    )
    wanted = geometry_mask([dense], grid.shape, grid.transform, invert=True)
    found = area.inside(range(grid.height), range(grid.width))
    # Half of the pixels that a line runs through lie outside, and a 50th of a pixel puts few of them on the wrong side.
    rim = wanted ^ geometry_mask([dense], grid.shape, grid.transform, invert=True, all_touched=True)
    assert wanted.any()
    assert (found != wanted).sum() <= 0.05 * rim.sum()
    chord = geometry_mask(
        [shapely.transform(box, lambda p: np.column_stack(to_utm.transform(*p.T)))],
        grid.shape, grid.transform, invert=True,
    )  # fmt: skip
    assert (chord != wanted).sum() > rim.sum()


def test_what_lies_far_beyond_the_rasters_crs_does_no_harm(tmp_path: Path) -> None:
    """Half the earth has no coordinates in a UTM zone; near the raster it has."""
    file = write(tmp_path / "a.gpkg", [shapely.box(-170, -89, 15.0002, 89)], "EPSG:4326")
    found = read_area(file).on(GRID, "in.tif").inside(range(50), range(70))
    to_degrees = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True)
    x, _ = GRID.transform * np.meshgrid(np.arange(70) + 0.5, np.arange(50) + 0.5)
    lon = to_degrees.transform(x, GRID.transform.f - 0.5 * (np.arange(50)[:, None] + 0.5) + 0 * x)[0]
    np.testing.assert_array_equal(found, lon < 15.0002)
    assert found.any()
    assert not found.all()


def test_an_identity_follows_the_ground_not_the_file(tmp_path: Path) -> None:
    one, other = shapely.box(0, 0, 5, 5), shapely.box(5, 0, 9, 5)
    first = read_area(write(tmp_path / "a.gpkg", [one, other]))
    (tmp_path / "b").mkdir()
    again = read_area(write(tmp_path / "b" / "a.gpkg", [other, one]))
    assert first.identity == again.identity
    moved = read_area(write(tmp_path / "b" / "a.gpkg", [other, shapely.box(0, 0, 5, 5.1)]))
    assert first.identity != moved.identity


def test_invalid_polygons_are_mended_and_counted(tmp_path: Path) -> None:
    bowtie = shapely.Polygon([(0, 0), (20, 20), (20, 0), (0, 20)])
    corner = np.array([500_000, 5_199_980])
    file = write(tmp_path / "a.gpkg", [shapely.transform(bowtie, lambda p: p + corner)])
    area = read_area(file)
    assert area.notes == (f"{file}: 1 invalid polygons were made valid (feature 1)",)
    assert area.on(GRID, "in.tif").inside(range(50), range(70)).sum() == pytest.approx(4 * 200, abs=41)


def test_layers_are_named_as_in_qgis(tmp_path: Path) -> None:
    file = write(tmp_path / "a.gpkg", [shapely.box(0, 0, 1, 1)], layer="north")
    write(file, [shapely.box(0, 0, 2, 2)], layer="south")
    with pytest.raises(
        InputError,
        match=r"holds 2 layers of geometries \(north \(Polygon\), south \(Polygon\)\).*`aoi_layer=\"NAME\"`",
    ):
        read_area(file)
    assert read_area(f"{file}|layername=south").geometry.area == 4
    assert read_area(file, layer="south").identity == read_area(f"{file}|layername=south").identity
    for wrong in ({"path": f"{file}|layername=suth"}, {"path": file, "layer": "suth"}):
        with pytest.raises(
            InputError,
            match=r"no layer 'suth' of geometries; it has: north \(Polygon\), south \(Polygon\); did you mean 'south'",
        ):
            read_area(**wrong)
    with pytest.raises(SettingsError, match=r"names another layer than `aoi_layer=\"north\"`"):
        read_area(f"{file}|layername=south", layer="north")


def test_what_is_no_area_is_named_with_its_remedy(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("no polygons")
    box = shapely.box(0, 0, 1, 1)
    for file, message in (
        (tmp_path / "gone.gpkg", r"gone\.gpkg does not exist; check"),
        (text, r"a\.txt is not a vector layer that GDAL can read"),
        (
            write(tmp_path / "points.gpkg", [shapely.Point(1, 1), shapely.Point(0, 0)]),
            r"holds 2 × Point \(features 1, 2\), wanted polygons with an area; buffer",
        ),
        (
            write(tmp_path / "none.shp", [box], None),
            r"none\.shp has no CRS.*`aoi_crs=\"EPSG:xxxx\"`, or `bounds`.*look like degrees, try EPSG:4326",
        ),
        (
            write(tmp_path / "empty.gpkg", [shapely.Polygon()]),
            r"holds 1 × empty Polygon \(feature 1\), wanted",
        ),
        (write(tmp_path / "nothing.gpkg", []), r"holds no feature with a geometry; wanted polygons"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read_area(file)
        assert "\n" not in str(caught.value)


def test_a_crs_that_the_file_does_not_carry_is_given(tmp_path: Path) -> None:
    """The remedy that the message prints, and what is said when it contradicts the file."""
    box = shapely.box(500_005, 5_199_990, 500_012, 5_199_998)
    told = read_area(write(tmp_path / "a.gpkg", [box]))
    bare = write(tmp_path / "a.shp", [box], None)
    given = read_area(bare, crs="EPSG:32633")
    assert given.notes == ()
    pixels = [area.on(GRID, "in.tif").inside(range(50), range(70)) for area in (told, given)]
    np.testing.assert_array_equal(*pixels)
    assert pixels[0].sum() == 14 * 16
    with pytest.raises(SettingsError, match=r"`aoi_crs=\"EPSG:nonsense\"` is not a CRS; wanted for example"):
        read_area(bare, crs="EPSG:nonsense")
    wrong = write(tmp_path / "b.gpkg", [box], "EPSG:32632")
    corrected = read_area(wrong, crs="EPSG:32633")
    assert corrected.notes == (f'{wrong} says EPSG:32632, but was read as `aoi_crs="EPSG:32633"`',)
    np.testing.assert_array_equal(corrected.on(GRID, "in.tif").inside(range(50), range(70)), pixels[0])
    assert corrected.identity["sha256"] == given.identity["sha256"] != read_area(wrong).identity["sha256"]


@pytest.mark.parametrize("number", [0, -1])
def test_a_geopackage_that_knows_no_crs_carries_none(tmp_path: Path, number: int) -> None:
    """Its two undefined CRSs look like real ones."""
    file = write(tmp_path / "a.gpkg", [shapely.box(500_005, 5_199_990, 500_012, 5_199_998)])
    with closing(sqlite3.connect(file)) as database, database:
        for table in ("gpkg_contents", "gpkg_geometry_columns"):
            database.execute(f"UPDATE {table} SET srs_id = ?", (number,))
    with pytest.raises(InputError, match=r"a\.gpkg has no CRS.*`aoi_crs=\"EPSG:xxxx\"`.*projected metres"):
        read_area(file)
    with pytest.raises(InputError, match=r"a\.gpkg has no CRS.*`crs=\"EPSG:xxxx\"`.*projected metres"):
        open_labels([file], LabelSettings()).extent_lonlat()  # asked for on a raster with a CRS
    given = read_area(file, crs="EPSG:32633")
    assert given.notes == ()
    assert given.on(GRID, "in.tif").inside(range(50), range(70)).sum() == 14 * 16


def test_an_area_beside_the_raster_names_both_places(tmp_path: Path) -> None:
    file = write(tmp_path / "a.gpkg", [shapely.box(15, 10, 16, 11)], "EPSG:4326")
    for area in (
        read_area(file),
        area_of_bounds((0, 0, 1, 1)),
        area_of_bounds((500_000.1, 5_199_999.9, 500_000.2, 5_199_999.95)),
    ):
        with pytest.raises(
            InputError, match=r"holds no pixel of in\.tif \(500000 .*EPSG:32633, lon 15"
        ) as caught:
            area.on(GRID, "in.tif")
        assert "\n" not in str(caught.value)


def test_a_raster_without_crs_takes_bounds_only(tmp_path: Path) -> None:
    grid = Grid(crs=None, transform=Affine.identity(), height=50, width=70)
    file = write(tmp_path / "a.gpkg", [shapely.box(0, 0, 1, 1)])
    with pytest.raises(InputError, match=r"in\.tif has no CRS.*`bounds`"):
        read_area(file).on(grid, "in.tif")
    assert area_of_bounds((1, 1, 4, 3)).on(grid, "in.tif").inside(range(50), range(70)).sum() == 6


@pytest.mark.skipif(
    shutil.which("gdal_edit.py") is None, reason="gdal_edit.py is not installed (apt: gdal-bin)"
)
def test_the_remedy_for_a_raster_without_crs_works(tmp_path: Path) -> None:
    raster = tmp_path / "in.tif"
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "height": 50, "width": 70}
    with rasterio.open(raster, "w", **profile, transform=GRID.transform) as file:
        file.write(np.zeros((1, 50, 70), np.uint8))
    area = read_area(write(tmp_path / "a.gpkg", [shapely.box(500_005, 5_199_990, 500_012, 5_199_998)]))
    with pytest.raises(InputError) as caught:
        area.on(raster_info(raster).grid, str(raster))
    command = str(caught.value).partition("(")[2].partition(")")[0].replace("EPSG:…", "EPSG:32633").split()
    assert command == ["gdal_edit.py", "-a_srs", "EPSG:32633"]
    subprocess.run([*command, raster], check=True, timeout=600)
    assert area.on(raster_info(raster).grid, str(raster)).inside(range(50), range(70)).sum() == 14 * 16


def test_memory_follows_the_window_not_the_raster() -> None:
    def peak(height: int) -> int:
        area = GridArea(shapely.Point(500, height / 2).buffer(height), height=height, width=1000)
        tracemalloc.start()
        for top in range(0, height, 100):
            area.inside(range(top, min(top + 100, height)), range(1000))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(20_000) < 1.2 * peak(2000)
