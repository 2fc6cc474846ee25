"""A grid measures true ground, whatever its CRS and orientation, and says so when it cannot."""

from __future__ import annotations

import math

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS, Geod, Transformer
from rasterio.transform import array_bounds

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid, describe_extent

GEOD = Geod(ellps="WGS84")
UTM = CRS(32645)


def utm_grid(pixel: float, *, height: int = 100, width: int = 100) -> Grid:
    # On the central meridian, where the UTM scale is 0.9996.
    return Grid(
        crs=UTM, transform=Affine(pixel, 0, 500_000, 0, -pixel, 3_060_000), height=height, width=width
    )


def test_web_mercator_metres_are_half_as_long_at_60_degrees_north() -> None:
    y = math.log(math.tan(math.pi / 4 + math.radians(60) / 2)) * 6378137
    grid = Grid(crs=CRS(3857), transform=Affine(0.5, 0, 1e6, 0, -0.5, y + 25), height=100, width=100)
    gsd = grid.gsd()
    assert gsd is not None
    assert gsd == pytest.approx((0.25, 0.25), rel=5e-3)


def test_degrees_are_measured_on_both_axes() -> None:
    grid = Grid(crs=CRS(4326), transform=Affine(5e-6, 0, 10, 0, -5e-6, 60), height=10, width=10)
    down, across = grid.gsd() or (0, 0)
    north = 60 - 25e-6
    assert down == pytest.approx(GEOD.inv(10, north - 2.5e-6, 10, north + 2.5e-6)[2], rel=1e-6)
    assert across == pytest.approx(GEOD.inv(10, north, 10 + 5e-6, north)[2], rel=1e-6)
    assert (down, across) == pytest.approx((0.557, 0.279), abs=1e-3)


def test_utm_metres_are_stretched_by_the_scale_on_the_central_meridian() -> None:
    assert utm_grid(0.5).gsd() == pytest.approx((0.5 / 0.9996, 0.5 / 0.9996), rel=1e-4)


def test_axis_order_of_the_crs_does_not_matter() -> None:
    # EPSG:2193 is defined north, east.
    grid = Grid(crs=CRS(2193), transform=Affine(1, 0, 1_750_000, 0, -1, 5_430_000), height=10, width=10)
    left, bottom, right, top = grid.footprint_lonlat().bounds
    assert 174 < left < right < 176
    assert -42 < bottom < top < -41


@pytest.mark.parametrize("turn", [0, 33, 90, 180, 271])
@pytest.mark.parametrize("down", [-2.0, 2.0])
def test_bounds_hold_every_corner_of_rotated_and_south_up_grids(turn: float, down: float) -> None:
    transform = Affine.translation(100, 200) * Affine.rotation(turn) * Affine.scale(1, down)
    grid = Grid(crs=UTM, transform=transform, height=7, width=5)
    corners = [transform * corner for corner in ((0, 0), (5, 0), (5, 7), (0, 7))]
    xs, ys = zip(*corners, strict=True)
    assert grid.bounds == pytest.approx((min(xs), min(ys), max(xs), max(ys)))
    assert grid.footprint().area == pytest.approx(5 * 7 * 2)
    if turn == 0 and down < 0:
        assert grid.bounds == pytest.approx(array_bounds(7, 5, transform))


@given(
    top=st.integers(-50, 50), left=st.integers(-50, 50), height=st.integers(1, 99), width=st.integers(1, 99)
)
def test_a_window_keeps_every_pixel_where_it_was(top: int, left: int, height: int, width: int) -> None:
    grid = utm_grid(0.5, height=20, width=30)
    window = grid.window(top=top, left=left, height=height, width=width)
    assert window.shape == (height, width)
    assert window.transform * (0, 0) == grid.transform * (left, top)
    assert window.transform * (width, height) == grid.transform * (left + width, top + height)


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    pixel=st.floats(0.05, 3),
    metres=st.floats(0.05, 30),
)
def test_at_gsd_cuts_the_same_ground_as_near_to_the_gsd_as_whole_pixels_come(
    height: int, width: int, pixel: float, metres: float
) -> None:
    grid = utm_grid(pixel, height=height, width=width)
    run = grid.at_gsd(metres)
    assert run.bounds == pytest.approx(grid.bounds, abs=1e-6)
    gsd = grid.gsd()
    assert gsd is not None
    for got, length, size in zip(run.shape, grid.shape, gsd, strict=True):
        ratio = length / got * size / metres
        # Within 3 % of the GSD by snapping, and within half a pixel of the result by whole pixels.
        assert got == 1 or abs(1 / ratio - 1) <= 0.031 + 0.51 / (length * size / metres)


def test_at_gsd_takes_whole_groups_of_pixels_when_they_are_near() -> None:
    grid = utm_grid(0.3, height=200, width=300)
    assert grid.at_gsd(0.6).shape == (100, 150)
    assert grid.at_gsd(0.6 * 1.02).shape == (100, 150)
    assert grid.at_gsd(0.6 * 1.05).shape != (100, 150)
    assert grid.at_gsd(0.3 * 0.98).shape == grid.shape


MOON = CRS(
    'GEOGCS["Moon",DATUM["Moon",SPHEROID["Moon",1737400,0]],PRIMEM["Reference",0],UNIT["degree",0.0174532925]]'
)
SITE = CRS('LOCAL_CS["site grid",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]')


@pytest.mark.parametrize(("crs", "remedy"), [(SITE, "or give it the CRS of a place"), (MOON, "the true one")])
def test_a_crs_that_is_not_on_earth_is_an_error_that_tells_the_remedy(crs: CRS, remedy: str) -> None:
    grid = Grid(crs=crs, transform=Affine(1, 0, 0, 0, -1, 10), height=10, width=10)
    for question in (grid.footprint_lonlat, lambda: describe_extent(grid)):
        with pytest.raises(InputError, match=f"no place on earth.*{remedy}"):
            question()


@pytest.mark.parametrize(
    ("unit", "metres"),
    [('"metre",1', 1.0), ('"Meter",1', 1.0), ('"US survey foot",0.304800609601219', 0.3048006096)],
)
def test_a_sites_own_grid_is_measured_in_its_unit(unit: str, metres: float) -> None:
    crs = CRS(f'LOCAL_CS["site grid",UNIT[{unit}],AXIS["x",EAST],AXIS["y",NORTH]]')
    turned = Affine.rotation(30) * Affine.scale(2, -3)
    grid = Grid(crs=crs, transform=turned, height=10, width=20)
    assert grid.gsd() == pytest.approx((3 * metres, 2 * metres), rel=1e-9)
    assert grid.at_gsd(metres).shape == (30, 40)


def test_a_grid_of_unknown_unit_has_no_size() -> None:
    crs = CRS('LOCAL_CS["site grid",UNIT["unknown",0.017],AXIS["x",EAST],AXIS["y",NORTH]]')
    assert Grid(crs=crs, transform=Affine(1, 0, 0, 0, -1, 10), height=10, width=10).gsd() is None


def test_on_another_body_metres_are_that_bodys() -> None:
    grid = Grid(crs=MOON, transform=Affine(1, 0, 0, 0, -1, 65), height=10, width=10)
    degree = math.pi / 180 * 1737400
    assert grid.gsd() == pytest.approx((degree, degree * math.cos(math.radians(60))), rel=1e-3)
    mars = CRS("+proj=eqc +R=3396190 +units=m +no_defs")
    grid = Grid(crs=mars, transform=Affine(0.25, 0, 1e5, 0, -0.25, 0), height=10, width=10)
    assert grid.gsd() == pytest.approx((0.25, 0.25), rel=1e-6)


@pytest.mark.parametrize(
    ("pixel", "top"), [(1.0, 90.0 + 2), (1e-13, 47.0)], ids=["at the pole", "nothing but rounding"]
)
def test_pixels_without_a_size_are_an_error(pixel: float, top: float) -> None:
    grid = Grid(crs=CRS(4326), transform=Affine(pixel, 0, 10, 0, -pixel, top), height=3, width=3)
    for question in (grid.gsd, lambda: grid.at_gsd(1)):
        with pytest.raises(InputError, match=r"middle pixel measures|outside of what its CRS"):
            question()


def test_more_pixels_than_gdal_counts_are_an_error() -> None:
    with pytest.raises(
        InputError, match=r"would become 5,\d{3},\d{3},\d{3} × 1,.*wanted at most 2,147,483,647"
    ):
        utm_grid(100, width=500).at_gsd(1e-5)


def test_an_extent_across_the_antimeridian_goes_from_west_to_east() -> None:
    # UTM zone 60, 100 km around longitude 180; the world is no such case.
    fiji = Grid(crs=CRS(32760), transform=Affine(1e3, 0, 7.6e5, 0, -1e3, 8e6), height=100, width=100)
    west, east = describe_extent(fiji).split(",")[0].removeprefix("lon ").split("..")
    assert 179 < float(west) < 180
    assert -180 < float(east) < -179
    world = Grid(crs=CRS(4326), transform=Affine(1, 0, -180, 0, -1, 90), height=180, width=360)
    assert describe_extent(world).startswith("lon -180.00000..180.00000")


def test_coordinates_that_the_crs_does_not_cover_are_an_error() -> None:
    grid = Grid(crs=CRS(4326), transform=Affine(1, 0, 300_000, 0, -1, 3_060_000), height=10, width=10)
    for question in (grid.gsd, grid.footprint_lonlat):
        with pytest.raises(InputError, match="its CRS"):
            question()


def test_without_crs_there_is_no_gsd_and_resampling_says_what_to_do() -> None:
    grid = Grid(crs=None, transform=Affine.identity(), height=4, width=4)
    assert grid.gsd() is None
    with pytest.raises(InputError, match="give it a CRS"):
        grid.at_gsd(1)
    with pytest.raises(InputError, match="without CRS"):
        grid.footprint_lonlat()


def test_an_empty_raster_is_refused() -> None:
    with pytest.raises(InputError, match="0 × 4 pixels"):
        Grid(crs=None, transform=Affine.identity(), height=4, width=0)


_GRIDS = {
    "UTM": Grid(UTM, Affine(10, 0, 300_000, 0, -10, 3_060_000), 400, 300),
    "degrees, turned": Grid(CRS(4326), Affine(3e-4, 1e-4, 12, 1e-4, -2e-4, 60), 400, 300),
    "across 180°": Grid(CRS(4326), Affine(2e-3, 0, 179.8, 0, -2e-3, -40), 400, 300),
    "Mercator, south-up": Grid(CRS(3857), Affine(50, 0, 1e6, 0, 50, 8e6), 400, 300),
    "an area-true CRS, whose axes are not square on the ground": Grid(
        CRS(3035), Affine(100, 0, 2_600_000, 0, -100, 5_000_000), 400, 300
    ),
    "drone": Grid(UTM, Affine(0.02, 0, 300_000, 0, -0.02, 3_060_000), 400, 300),
}


@pytest.mark.parametrize("name", _GRIDS)
def test_a_pixels_ground_is_that_of_a_geodesic_polygon(name: str) -> None:
    grid = _GRIDS[name]
    rows, cols = np.array([0, 40, 399]), np.array([0, 150, 299])
    found = grid.pixel_areas(rows, cols)
    assert found is not None
    to_lonlat = Transformer.from_crs(grid.crs, 4326, always_xy=True)
    side = 400 if name == "drone" else 1  # a geodesic polygon is exact to 1e-4 m² only
    for row, col, area in zip(rows, cols, found, strict=True):
        middle_row, middle_col = row + 0.5, col + 0.5
        corners = [
            grid.transform * (middle_col + x * side / 2, middle_row + y * side / 2)
            for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
        lon, lat = to_lonlat.transform(*np.array(corners).T)
        geodesic, _ = GEOD.polygon_area_perimeter(np.unwrap(lon, period=360), lat)
        assert area == pytest.approx(abs(geodesic) / side**2, rel=2e-5)


def test_pixels_at_a_pole_have_their_ground() -> None:
    """EPSG:3031 keeps areas nowhere, and its origin is the pole itself: 0.9719 true metres a metre there."""
    grid = Grid(CRS(3031), Affine(100, 0, -5_050, 0, -100, 5_050), 101, 101)
    areas = grid.pixel_areas(np.array([50]), np.array([50]))
    assert areas is not None
    assert areas[0] == pytest.approx(10_000 / 0.97277**2, rel=1e-3)


def test_pixels_without_ground_have_none_and_a_sites_grid_has_its_own() -> None:
    assert Grid(None, Affine.identity(), 5, 5).pixel_areas(np.array([1]), np.array([1])) is None
    feet = CRS.from_wkt('LOCAL_CS["site",UNIT["foot",0.3048]]')
    areas = Grid(feet, Affine(2, 1, 0, 0, -3, 0), 5, 5).pixel_areas(np.array([1]), np.array([1]))
    assert areas is not None
    assert areas[0] == pytest.approx(6 * 0.3048**2)
