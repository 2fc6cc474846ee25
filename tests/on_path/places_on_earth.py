"""Grids all over the earth, and what pyproj says of polygons on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import shapely
import shapely.affinity
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from shapely.geometry import Polygon

from aerial_seg.geo.grid import Grid
from aerial_seg.vectors.ground import Ground

GEOD = Geod(ellps="WGS84")
EARTH = 8 * abs(GEOD.polygon_area_perimeter([0, 0, 90], [0, 90, 0])[0])
"""Square metres of the whole ellipsoid, from an octant of it."""
EARTH_M2 = 510_065_621_724_088.4  # Moritz (2000), Geodetic Reference System 1980: 510 065 621 km²


@dataclass(frozen=True)
class Place:
    crs: Any
    transform: Affine
    height: int = 5000
    width: int = 6000
    steps: int = 500

    @property
    def grid(self) -> Grid:
        return Grid(crs=CRS(self.crs), transform=self.transform, height=self.height, width=self.width)


TURNED = Affine.translation(300_000, 3_060_000) * Affine.rotation(33) * Affine.scale(0.5, -0.7)
PLACES = {
    "UTM": Place(32645, Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000)),
    "UTM, far north": Place(32633, Affine(0.5, 0, 300_000, 0, -0.5, 8_000_000)),
    "UTM, 0.1 m": Place(32645, Affine(0.1, 0, 300_000, 0, -0.1, 3_060_000)),
    "UTM, a few pixels": Place(32645, Affine(0.05, 0, 300_000, 0, -0.05, 3_060_000), 9, 12),
    "UTM, 30 m": Place(32633, Affine(30, 0, 300_000, 0, -30, 8_000_000)),
    "rotated": Place(32645, TURNED),
    "south-up": Place(32645, Affine(0.5, 0, 300_000, 0, 0.5, 3_060_000)),
    "degrees at 60° N": Place(4326, Affine(1e-5, 0, 10, 0, -1e-5, 60)),
    "a country in degrees": Place(4326, Affine(1e-3, 0, 10, 0, -1e-3, 65), steps=4000),
    "Mercator at 60° N": Place(3857, Affine(0.5, 0, 1e6, 0, -0.5, 8_399_737.9)),
    "LAEA": Place(3035, Affine(10, 0, 4_000_000, 0, -10, 3_000_000)),
    "a continent in LAEA": Place(3035, Affine(1000, 0, 1e6, 0, -1000, 6e6), steps=4000),
    "feet": Place(2263, Affine(0.5, 0, 980_000, 0, -0.5, 200_000)),
    "hemisphere axis order": Place(2193, Affine(1, 0, 1_750_000, 0, -1, 5_430_000)),
    "antimeridian": Place(3832, Affine(100, 0, 3_000_000, 0, -100, -2_000_000), steps=4000),
    "antimeridian in degrees": Place(4326, Affine(1e-3, 0, 177, 0, -1e-3, -15), steps=4000),
    "around the South Pole": Place(3031, Affine(500, 0, -1.4e6, 0, -500, 1.2e6), steps=4000),
    "at the North Pole in degrees": Place(4326, Affine(1e-3, 0, 10, 0, -1e-3, 90), 3000, 3000),
    "a continent in Albers": Place(5070, Affine(300, 0, -2.3e6, 0, -300, 3.2e6), 9700, 15400, steps=4000),
    "the world in degrees": Place(4326, Affine(0.1, 0, -180, 0, -0.1, 90), 1800, 3600, steps=4000),
    "the world in Mercator": Place(3857, Affine(1e4, 0, -2e7, 0, -1e4, 2e7), 4000, 4000, steps=4000),
}


@cache
def ground_of(place: str) -> Ground:
    return Ground(PLACES[place].grid)


def measure(ground: Ground, polygons: list[Polygon]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    _, coords, (rings, offsets) = shapely.to_ragged_array(np.array(polygons, object))
    return ground.measure(coords, rings, offsets)


@cache
def to_lonlat(crs: Any) -> Transformer:
    return Transformer.from_crs(crs, 4326, always_xy=True)


def dense_rings(polygon: Polygon, place: Place, at_least: float = 0) -> list[NDArray[np.float64]]:
    """The rings in the CRS, the exterior first, in steps that are short for the polygon, of so many metres at least."""
    west, north, east, south = polygon.bounds
    step = max(at_least / max(place.grid.gsd() or (1,)), max(east - west, south - north) / place.steps)
    rings = [polygon.exterior, *polygon.interiors]
    return [
        np.array([place.transform * point for point in shapely.segmentize(r, step).coords]) for r in rings
    ]


def by_geod(polygon: Polygon, place: Place) -> tuple[float, float]:
    areas, lengths = [], []
    for ring in dense_rings(polygon, place, at_least=5):
        signed, length = GEOD.polygon_area_perimeter(*to_lonlat(place.crs).transform(*ring.T))
        # Of a ring around more than half of the earth Geod gives what is left of the earth, with the other sign.
        inside = signed if shapely.LinearRing(ring).is_ccw else -signed
        areas.append(inside if inside >= 0 else inside + EARTH)
        lengths.append(length)
    return areas[0] - sum(areas[1:]), sum(lengths)
