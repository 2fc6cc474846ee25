"""Where a projection ends, a raster ends or a place is missing, areas are right or there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
import shapely.affinity
from affine import Affine
from places_on_earth import (
    EARTH_M2,
    PLACES,
    Place,
    by_geod,
    ground_of,
    measure,
)
from pyproj import CRS, Transformer
from shapely.geometry import Polygon, box

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.vectors.ground import Ground

LOBES = "+proj=igh +lon_0=0 +datum=WGS84 +units=m"


def lobed(x: float, y: float) -> tuple[float, float]:
    """Pixels of 10 km under longitude x and latitude y in an interrupted projection."""
    east, north = Transformer.from_crs(4326, LOBES, always_xy=True).transform(x, y)
    return (east + 2.1e7) / 1e4, (9e6 - north) / 1e4


def test_interrupted_projections_are_measured_wherever_they_are_whole() -> None:
    place = Place(LOBES, Affine(1e4, 0, -2.1e7, 0, -1e4, 9e6), 1800, 4200)
    inside = [(-100, 30), (20, 52), (-60, -20), (140, -25)]
    beside_an_end = [(-41, 10), (-18, -8), (82, -10), (-95, 2)]
    # Where the sinusoidal and the Mollweide halves meet, at 40° 44'.
    across_a_bend = [(20, 40.73), (-120, 40.75), (100, -40.74), (-60, -40.7)]
    centres = [*inside, *beside_an_end, *across_a_bend]
    polygons = [shapely.Point(lobed(*centre)).buffer(4) for centre in centres]
    areas, perimeters = measure(Ground(place.grid), polygons)
    for polygon, area, perimeter in zip(polygons, areas, perimeters, strict=True):
        expected, length = by_geod(polygon, place)
        assert area == pytest.approx(expected, rel=1e-6)
        assert perimeter == pytest.approx(length, rel=1e-5)


def test_polygons_beyond_the_end_of_a_projection_are_an_error_and_others_are_measured() -> None:
    place = Place("+proj=moll +datum=WGS84", Affine(1e4, 0, -1.81e7, 0, -1e4, 9.1e6), 1820, 3620)
    ground = Ground(place.grid)
    inside, outside = box(1800, 300, 1900, 400), box(10, 10, 20, 20)
    (area,), (perimeter,) = measure(ground, [inside])
    assert (area, perimeter) == pytest.approx(by_geod(inside, place), rel=1e-6)
    with pytest.raises(InputError, match="check its CRS"):
        measure(ground, [inside, outside])


def test_an_ocean_that_nearly_fills_a_projection_keeps_its_area() -> None:
    """Geod takes the smaller side of a ring that holds more than half of the earth."""
    place = Place(8857, Affine(1e4, 0, -1.73e7, 0, -1e4, 8.4e6), 1680, 3460)
    ring = [
        (-179.99, 0),
        (-179.9, 50),
        (-179, 85),
        (179, 85),
        (179.9, 50),
        (179.99, 0),
        (179, -80),
        (-179, -80),
    ]
    east, north = Transformer.from_crs(4326, 8857, always_xy=True).transform(*np.array(ring, float).T)
    ocean = Polygon(zip(*~place.transform * (east, north), strict=True))
    areas, _ = measure(Ground(place.grid), [ocean])
    assert areas[0] > 0.8 * EARTH_M2
    assert areas[0] == pytest.approx(ocean.area * 1e8, rel=1e-6)  # the projection is an equal-area one


def test_polygons_that_leave_the_raster_are_measured_all_the_same() -> None:
    place = PLACES["UTM"]
    for polygon in (box(-3, -2, 5, 9), box(-4e5, -2e5, 1e5, 3e5), box(5990, 4990, 6001, 5001)):
        (area,), (perimeter,) = measure(ground_of("UTM"), [polygon])
        assert (area, perimeter) == pytest.approx(by_geod(polygon, place), rel=1e-6, abs=1e-4)


def test_no_crs_no_measures() -> None:
    grid = Grid(crs=None, transform=Affine.identity(), height=24, width=24)
    areas, perimeters = measure(Ground(grid), [box(0, 0, 1, 1), box(2, 2, 4, 4)])
    assert np.isnan(areas).tolist() == np.isnan(perimeters).tolist() == [True, True]


@pytest.mark.parametrize(
    ("crs", "transform", "wanted"),
    [
        (4326, Affine(1e-3, 0, 10, 0, -1e-3, 700), "check"),
        (32645, Affine(0, 0, 3e5, 0, 0, 3e6), "wanted one with a size on the ground"),
    ],
)
def test_a_raster_that_has_no_place_on_earth_is_an_error(crs: Any, transform: Affine, wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        Ground(Grid(crs=CRS(crs), transform=transform, height=24, width=24))


@pytest.mark.parametrize(("unit", "metres"), [("metre", 1.0), ("foot", 0.3048), ("pace", None)])
def test_a_site_grid_is_measured_in_its_own_plane(unit: str, metres: float | None) -> None:
    crs = CRS(f'LOCAL_CS["site",UNIT["{unit}",{metres or 0.8}],AXIS["x",EAST],AXIS["y",NORTH]]')
    grid = Grid(crs=crs, transform=Affine(1, 0, 0, 0, -1, 24), height=24, width=24)
    (area,), (perimeter,) = measure(Ground(grid), [box(2, 2, 4, 5)])
    wanted = (np.nan, np.nan) if metres is None else (6 * metres**2, 10 * metres)
    assert (area, perimeter) == pytest.approx(wanted, rel=1e-9, nan_ok=True)
