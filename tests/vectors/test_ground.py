"""The survey of the ground measures what Geod and equal-area projections measure, anywhere on earth, at any size."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import shapely
import shapely.affinity
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from places_on_earth import (
    EARTH,
    EARTH_M2,
    GEOD,
    PLACES,
    Place,
    by_geod,
    dense_rings,
    ground_of,
    measure,
    to_lonlat,
)
from pyproj import CRS, Transformer
from shapely.geometry import Polygon, box

from aerial_seg.geo.grid import Grid
from aerial_seg.vectors.ground import Ground

LESS_THAN_HALF = [name for name in PLACES if not name.startswith("the world")]
"""Of the earth: Geod takes the smaller side of a ring, and a local projection has an end."""


@cache
def another_ground(place: str) -> Ground:
    return Ground(PLACES[place].grid)


# Oracles: the same outline in small steps, by other means.


def by_equal_area(polygon: Polygon, place: Place) -> float:
    middle = place.transform * polygon.centroid.coords[0]
    lon, lat = to_lonlat(place.crs).transform(*middle)
    local = Transformer.from_crs(
        place.crs, f"+proj=laea +lat_0={lat} +lon_0={lon} +datum=WGS84", always_xy=True
    )
    shell, *holes = (np.column_stack(local.transform(*ring.T)) for ring in dense_rings(polygon, place))
    return Polygon(shell, holes).area


@st.composite
def polygons_within(draw: st.DrawFn, height: int, width: int) -> Polygon:
    """A simple ring around a point, half a pixel to all of the raster wide, with a hole or without."""
    radius = math.exp(draw(st.floats(math.log(0.7), math.log(min(height, width) / 2.01))))
    x = draw(st.floats(radius, width - radius))
    y = draw(st.floats(radius, height - radius))
    count = draw(st.integers(4, 12))
    turns = [(k + draw(st.floats(0, 0.8))) / count for k in range(count)]
    reach = [radius * draw(st.floats(0.3, 1)) for _ in turns]
    shell = [
        (x + r * math.cos(2 * math.pi * t), y + r * math.sin(2 * math.pi * t))
        for t, r in zip(turns, reach, strict=True)
    ]
    inner = draw(st.one_of(st.none(), st.floats(0.1, 0.7)))
    hole = [] if inner is None else [[(x + inner * (a - x), y + inner * (b - y)) for a, b in reversed(shell)]]
    return Polygon(shell, hole)


@pytest.mark.parametrize("name", PLACES)
@given(data=st.data())
@settings(max_examples=examples(8))
def test_any_polygon_measures_what_geod_measures(name: str, data: st.DataObject) -> None:
    place = PLACES[name]
    polygon = data.draw(polygons_within(place.height, place.width))
    (area,), (perimeter,) = measure(ground_of(name), [polygon])
    expected, length = by_geod(polygon, place)
    # Geod itself rounds areas to some 1e-4 m², and lengths to some nanometres.
    assert area == pytest.approx(expected, rel=1e-6, abs=1e-3)
    assert perimeter == pytest.approx(length, rel=1e-6, abs=1e-6)


def test_a_polygon_around_most_of_the_earth_is_larger_than_half_of_it() -> None:
    name = "the world in Mercator"
    place = PLACES[name]
    middle = place.width / 2
    diamond = Polygon([(2 * middle - 1, middle), (middle, 2 * middle - 1), (1, middle), (middle, 1)])
    (area,), _ = measure(ground_of(name), [diamond])
    assert area > 0.6 * EARTH
    assert area == pytest.approx(by_geod(diamond, place)[0], rel=1e-6)


@pytest.mark.parametrize("name", LESS_THAN_HALF)
@given(data=st.data())
@settings(max_examples=examples(8))
def test_any_polygon_has_the_area_of_its_equal_area_projection(name: str, data: st.DataObject) -> None:
    place = PLACES[name]
    polygon = data.draw(polygons_within(place.height, place.width))
    (area,), (perimeter,) = measure(ground_of(name), [polygon])
    # Projected positions are rounded to nanometres.
    assert area == pytest.approx(by_equal_area(polygon, place), rel=1e-6, abs=5e-9 * perimeter)


@pytest.mark.parametrize("name", LESS_THAN_HALF)
def test_whole_rasters_measure_what_geod_measures(name: str) -> None:
    place = PLACES[name]
    outline = box(0, 0, place.width, place.height)
    (area,), (perimeter,) = measure(ground_of(name), [outline])
    expected, length = by_geod(outline, place)
    assert area == pytest.approx(expected, rel=1e-7, abs=1e-3)
    assert perimeter == pytest.approx(length, rel=1e-7)


# Closed forms.


def band(south: float, north: float, lons: float) -> float:
    """Square metres between two parallels, over this many degrees of longitude."""
    e = math.sqrt(GEOD.es)
    sines = (math.sin(math.radians(lat)) for lat in (south, north))
    low, high = (s / (1 - GEOD.es * s * s) + math.atanh(e * s) / e for s in sines)
    return math.radians(lons) * GEOD.b**2 / 2 * (high - low)


def parallel(lat: float, lons: float) -> float:
    return (
        math.radians(lons)
        * GEOD.a
        * math.cos(math.radians(lat))
        / math.sqrt(1 - GEOD.es * math.sin(math.radians(lat)) ** 2)
    )


@pytest.mark.parametrize(
    ("north", "south", "west", "east"),
    [
        (60, 59, 10, 11),
        (60.1, 60, 10, 10.1),
        (80, -80, -180, 180),
        (45, 0, -170, 100),
        (90, 89, -10, 20),
        (90, -60, -180, 180),
        (-89.9, -90, 3, 3.1),
        (90, -90, -180, 180),
    ],
)
def test_boxes_of_degrees_have_their_closed_form(
    north: float, south: float, west: float, east: float
) -> None:
    shape = box(*(round(10 * v) for v in (west + 180, 90 - north, east + 180, 90 - south)))
    (area,), (perimeter,) = measure(ground_of("the world in degrees"), [shape])
    meridian = GEOD.inv(0, south, 0, north)[2] if north - south < 180 else 2 * GEOD.inv(0, 0, 0, 90)[2]
    lons = east - west
    assert area == pytest.approx(band(south, north, lons), rel=1e-7)
    assert perimeter == pytest.approx(parallel(north, lons) + parallel(south, lons) + 2 * meridian, rel=2e-7)


def test_transforms_that_round_to_beyond_the_pole_are_measured() -> None:
    rows = next(n for n in range(100, 9999) if (90 - 180 / n * n) < -90)
    grid = Grid(crs=CRS(4326), transform=Affine(0.1, 0, 0, 0, -180 / rows, 90), height=rows, width=10)
    (area,), (perimeter,) = measure(Ground(grid), [box(0, rows - 1, 10, rows)])
    north = -90 + 180 / rows
    assert area == pytest.approx(band(-90, north, 1), rel=1e-6)
    assert perimeter == pytest.approx(parallel(north, 1) + 2 * GEOD.inv(0, -90, 0, north)[2], rel=1e-6)


def test_the_whole_earth_is_as_large_as_it_is() -> None:
    (area,), _ = measure(ground_of("the world in degrees"), [box(0, 0, 3600, 1800)])
    assert area == pytest.approx(EARTH_M2, rel=1e-9)


# Laws.


@pytest.mark.parametrize("name", PLACES)
@given(data=st.data())
@settings(max_examples=examples(8))
def test_the_areas_of_a_partition_add_up(name: str, data: st.DataObject) -> None:
    """Tenths of a raster, cut at random, lie across facets in any way."""
    place = PLACES[name]
    top, bottom = (place.height // 10, place.height - place.height // 10)
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, place.width - 1), max_size=5))), place.width]
    rows = [top, *sorted(data.draw(st.sets(st.integers(top + 1, bottom - 1), max_size=5))), bottom]
    pieces = [
        box(west, north, east, south) for west, east in pairwise(cuts) for north, south in pairwise(rows)
    ]
    areas, _ = measure(ground_of(name), [box(0, top, place.width, bottom), *pieces])
    assert areas[1:].sum() == pytest.approx(areas[0], rel=1e-9)


@pytest.mark.parametrize("name", PLACES)
@given(data=st.data())
@settings(max_examples=examples(8))
def test_a_polygon_is_the_same_however_its_rings_are_written(name: str, data: st.DataObject) -> None:
    """Either way round, from any vertex, with more vertices on its sides, its hole on its own."""
    place = PLACES[name]
    polygon = data.draw(polygons_within(place.height, place.width))
    shell = np.array(polygon.exterior.coords)[:-1]
    turned = np.roll(shell, data.draw(st.integers(0, len(shell) - 1)), axis=0)
    solid = [Polygon(ring) for ring in (shell, shell[::-1], turned)]
    cut = shapely.segmentize(solid[0], max(1.0, solid[0].length / 300))
    holes = [Polygon(ring) for ring in polygon.interiors]
    areas, perimeters = measure(ground_of(name), [polygon, *solid, cut, *holes])
    assert areas[1:4] == pytest.approx(areas[1], rel=1e-9)
    assert perimeters[1:4] == pytest.approx(perimeters[1], rel=1e-9)
    assert (areas[4], perimeters[4]) == pytest.approx((areas[1], perimeters[1]), rel=2e-8)
    assert areas[0] == pytest.approx(areas[1] - areas[5:].sum(), rel=2e-8)
    assert perimeters[0] == pytest.approx(perimeters[1] + perimeters[5:].sum(), rel=2e-8)


@given(top=st.integers(0, 4990), left=st.integers(0, 5990), height=st.integers(1, 9), width=st.integers(1, 9))
@settings(max_examples=examples(20))
def test_a_window_of_a_few_pixels_is_surveyed_as_well_as_the_raster(
    top: int, left: int, height: int, width: int
) -> None:
    name = "UTM, 0.1 m"
    window = PLACES[name].grid.window(top=top, left=left, height=height, width=width)
    shape = Polygon([(0, 0), (width, height / 2), (width / 2, height)])
    whole = measure(ground_of(name), [shapely.affinity.translate(shape, left, top)])
    alone = measure(Ground(window), [shape])
    assert np.ravel(alone) == pytest.approx(np.ravel(whole), rel=1e-9)


@given(data=st.data())
@settings(max_examples=examples(20))
def test_the_bits_do_not_depend_on_the_company(data: st.DataObject) -> None:
    """Also where some polygons are followed by Geod: the tops of this world lie at the pole."""
    name = "the world in degrees"
    many = data.draw(st.lists(polygons_within(1800, 3600), min_size=1, max_size=5))
    many.insert(data.draw(st.integers(0, len(many))), box(7, 0, 9, 3))
    areas, perimeters = measure(ground_of(name), many)
    alone = [measure(another_ground(name), [polygon]) for polygon in many]
    assert [float(a[0]) for a, _ in alone] == areas.tolist()
    assert [float(p[0]) for _, p in alone] == perimeters.tolist()


def test_no_polygons_no_areas() -> None:
    areas, perimeters = ground_of("UTM").measure(np.zeros((0, 2)), np.zeros(1, int), np.zeros(1, int))
    assert areas.shape == perimeters.shape == (0,)
