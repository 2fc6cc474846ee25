"""A metre is a metre on the ground, whatever the CRS measures in."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import shapely
from pyproj import CRS, Geod, Transformer

from aerial_seg.errors import InputError
from aerial_seg.labels.buffering import Buffer

GEOD = Geod(ellps="WGS84")
PLACES = {
    "EPSG:4326": (15.0, 60.0),
    "EPSG:3857": (15.0, 60.0),
    "EPSG:32633": (15.5, 60.0),
    "EPSG:3035": (20.0, 50.0),
}


def widened(geometries: list[shapely.Geometry], crs: str, metres: float) -> np.ndarray:
    """Buffers of geometries that are given in degrees, in degrees."""
    there = Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
    back = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    own = np.array(
        [shapely.transform(one, lambda p: np.column_stack(there.transform(*p.T))) for one in geometries],
        object,
    )
    found = Buffer(metres, CRS(crs), "l.gpkg")(own)
    return shapely.transform(found, lambda p: np.column_stack(back.transform(*p.T)))


def ground(geometry: shapely.Geometry) -> float:
    """Square metres on the ellipsoid."""
    return abs(GEOD.geometry_area_perimeter(shapely.segmentize(geometry, 0.01))[0])


@pytest.mark.parametrize("crs", PLACES)
def test_points_become_circles_and_lines_strips(crs: str) -> None:
    lon, lat = PLACES[crs]
    line = shapely.LineString([(lon, lat), (lon + 0.01, lat), (lon + 0.01, lat + 0.01)])
    length = GEOD.line_length(*line.xy)
    corners = (
        0.5 * 7.5**2 * (math.pi / 2 - 2)
    )  # a right angle: a quarter is round outside, and covered twice inside
    circle, strip, nothing = widened([shapely.Point(lon, lat), line, shapely.Point()], crs, 7.5)
    assert ground(circle) == pytest.approx(math.pi * 7.5**2, rel=0.005)
    assert ground(strip) == pytest.approx(15 * length + math.pi * 7.5**2 + corners, rel=0.005)
    assert nothing is None


@pytest.mark.parametrize("crs", PLACES)
def test_a_long_line_is_as_wide_at_both_ends(crs: str) -> None:
    """From 50° to 65° N a degree of longitude shrinks by a third, and a metre of Mercator's by as much."""
    lon = PLACES[crs][0]
    (strip,) = widened([shapely.LineString([(lon, 50), (lon, 65)])], crs, 100.0)
    for lat in (50.5, 57.3, 64.5):
        across = strip.intersection(shapely.LineString([(lon - 0.1, lat), (lon + 0.1, lat)]))
        west, _, east, _ = across.bounds
        assert GEOD.inv(west, lat, east, lat)[2] == pytest.approx(200, rel=0.01)


def test_polygons_grow_and_what_is_nothing_stays(tmp_path: Path) -> None:
    crs = CRS("EPSG:32633")
    found = Buffer(2.0, crs, "l.gpkg")(np.array([shapely.box(500_000, 0, 500_010, 10), None], object))
    assert found[1] is None
    assert found[0].area == pytest.approx((100 + 4 * 20 + math.pi * 4) * 1.0004**2 / 1.0004**2, rel=0.001)


def test_what_has_no_metres_is_refused() -> None:
    with pytest.raises(InputError, match=r"`buffer=2` is in metres, but l.gpkg has no CRS.*`crs="):
        Buffer(2.0, None, "l.gpkg")
    plane = CRS('LOCAL_CS["site",UNIT["klafter",1.9],AXIS["x",EAST],AXIS["y",NORTH]]')
    with pytest.raises(InputError, match="the unit of 'site' is not known"):
        Buffer(2.0, plane, "l.gpkg")
    feet = CRS('LOCAL_CS["site",UNIT["foot",0.3048],AXIS["x",EAST],AXIS["y",NORTH]]')
    (circle,) = Buffer(3.048, feet, "l.gpkg")(np.array([shapely.Point(5, 5)], object))
    assert circle.bounds == pytest.approx((-5, -5, 15, 15))
