"""The ground that somebody asks for: polygons or a box, exact to the pixel on any grid."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from shapely import GeometryType
from shapely.geometry.base import BaseGeometry

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.geo.grid import Grid, describe_extent
from aerial_seg.geo.grid_area import GridArea
from aerial_seg.geo.remote import gdal_name

Points = NDArray[np.float64]
Bounds = tuple[float, float, float, float]

_STRAY = 0.02
"""Pixels that a projected edge may lie beside the true line; vertices are added until it does."""
_MOST_VERTICES = 2_000_000
_LAYER = "|layername="
"""How QGIS writes a layer of a file with several."""
_POLYGONAL = (GeometryType.POLYGON, GeometryType.MULTIPOLYGON)


class OutsideError(InputError):
    """A raster shares no pixel with the area."""


@dataclass(frozen=True, slots=True)
class Area:
    """Ground to keep, as one polygonal geometry without overlaps.

    crs: None when the coordinates are in the CRS of whatever raster it is laid on. identity: what tells it from other
    areas, fit for JSON. notes: what was mended.
    """

    name: str
    geometry: BaseGeometry
    crs: CRS | None
    identity: dict[str, Any]
    notes: tuple[str, ...] = ()

    def on(self, grid: Grid, raster: str) -> GridArea:
        """The area on this grid. Raises InputError, naming `raster`: OutsideError where they share no pixel."""
        geometry = self._near(grid) if self._moves(grid, raster) else self.geometry
        if not geometry.is_empty:
            geometry = _mended(_moved(geometry, self._to_pixels(grid), exact=not self._moves(grid, raster)))
        found = GridArea(geometry, height=grid.height, width=grid.width)
        if not found.any():
            raise OutsideError(
                f"{self.name} ({self._extent()}) holds no pixel of {raster} ({_grid_extent(grid)}); "
                "check both places and their CRS, or leave the area out"
            )
        return found

    def _moves(self, grid: Grid, raster: str) -> bool:
        """Whether the coordinates are of another CRS than the grid's."""
        if self.crs is None or self.crs == grid.crs:
            return False
        if grid.crs is None:
            raise InputError(
                f"{raster} has no CRS, so {self.name} in {self.crs.name} has no place on it; "
                "give the raster its CRS (gdal_edit.py -a_srs EPSG:…), or pass --bounds in its pixel coordinates"
            )
        return True

    def _near(self, grid: Grid) -> BaseGeometry:
        """Without what lies far from the grid, where its CRS may have no numbers."""
        assert self.crs is not None
        assert grid.crs is not None
        try:
            back = Transformer.from_crs(grid.crs, self.crs, always_xy=True)
            west, south, east, north = back.transform_bounds(*grid.bounds, densify_pts=41)
        except ProjError:
            return self.geometry
        if not (all(map(math.isfinite, (west, south, east, north))) and west < east and south < north):
            return self.geometry
        across, down = (east - west) / 4, (north - south) / 4
        return self.geometry.intersection(
            shapely.box(west - across, south - down, east + across, north + down)
        )

    def _to_pixels(self, grid: Grid) -> Callable[[Points], Points]:
        """Coordinates (n, 2) of the area → (column, row), float64."""
        forward = None
        if self.crs is not None and grid.crs is not None and self.crs != grid.crs:
            forward = Transformer.from_crs(self.crs, grid.crs, always_xy=True)
        inverse = ~grid.transform

        def to_pixels(points: Points) -> Points:
            x, y = points.T
            if forward is not None:
                x, y = forward.transform(x, y)
            col, row = inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f
            if not (np.isfinite(col).all() and np.isfinite(row).all()):
                raise InputError(
                    f"{self.name} has places that the raster's CRS '{grid.crs.name if grid.crs else None}' has no "
                    "coordinates for; cut it to the raster's surroundings, or check its CRS"
                )
            return np.column_stack([col, row])

        return to_pixels

    def _extent(self) -> str:
        west, south, east, north = self.geometry.bounds
        unit = f" in {self.crs.to_string()}" if self.crs is not None else ""
        return f"{west:.8g} {south:.8g} {east:.8g} {north:.8g}{unit}"


def read_area(path: Path | str) -> Area:
    """All polygons of a vector file as one area. A layer is named as in QGIS: `areas.gpkg|layername=north`.

    Raises InputError for what is not a layer of polygons with a CRS.
    """
    file, _, wanted = str(path).partition(_LAYER)
    geometries, crs, layer = _read_layer(file, wanted)
    if crs is None:
        raise InputError(
            f"{file} has no CRS, wanted polygons whose place is known; give it one (ogr2ogr -a_srs EPSG:…), "
            "or pass --bounds in the raster's CRS"
        )
    geometries = geometries[~(shapely.is_missing(geometries) | shapely.is_empty(geometries))]
    odd = int((~np.isin(shapely.get_type_id(geometries), _POLYGONAL)).sum())
    if odd:
        raise InputError(
            f"{file} holds {odd} features that are not polygons, wanted polygons only; buffer them or take them out"
        )
    if not len(geometries):
        raise InputError(f"{file} holds no polygon, wanted the area to predict; check the file and its layer")
    broken = ~shapely.is_valid(geometries)
    notes = (f"{int(broken.sum())} invalid polygons of {file} were mended",) if broken.any() else ()
    geometry = _mended(shapely.union_all(shapely.make_valid(shapely.force_2d(geometries))))
    digest = hashlib.sha256(shapely.to_wkb(shapely.normalize(geometry), byte_order=1) + crs.to_wkt().encode())
    identity = {"aoi": Path(file).name, "layer": layer, "sha256": digest.hexdigest()}
    return Area(f"--aoi {path}", geometry, crs, identity, notes)


def area_of_bounds(bounds: Bounds) -> Area:
    """The box west, south, east, north in the CRS of whatever raster it is laid on. Raises SettingsError."""
    west, south, east, north = bounds
    name = f"--bounds {west:.12g} {south:.12g} {east:.12g} {north:.12g}"
    if not (all(map(math.isfinite, bounds)) and west < east and south < north):
        raise SettingsError(f"{name} is no box; wanted W S E N with W < E and S < N in the raster's CRS")
    return Area(name, shapely.box(*bounds), None, {"bounds": list(bounds)})


def _read_layer(file: str, wanted: str) -> tuple[NDArray[Any], CRS | None, str]:
    """The geometries of a layer, its CRS and its name."""
    if not gdal_name(file).startswith("/vsi") and not Path(file).exists():
        raise InputError(f"{file} does not exist; check the path of the area")
    try:
        # Tables without geometry hold QGIS' styles and the like.
        layers = [str(name) for name, kind in pyogrio.list_layers(file) if kind is not None]
        if wanted and wanted not in layers:
            raise InputError(f"{file} has no layer of geometries '{wanted}'; it has: {', '.join(layers)}")
        if not wanted and len(layers) != 1:
            raise InputError(
                f"{file} holds {len(layers)} layers of geometries ({', '.join(layers)}), wanted one; "
                f"name it as '{file}{_LAYER}NAME'"
            )
        layer = wanted or layers[0]
        meta, _, geometry, _ = pyogrio.raw.read(file, layer=layer, columns=[])
    except (DataSourceError, DataLayerError) as error:
        raise InputError(
            f"{file} is not a vector file that GDAL can read ({error}); wanted a GeoPackage, Shapefile or GeoJSON"
        ) from error
    crs = CRS.from_user_input(meta["crs"]) if meta["crs"] else None
    return np.asarray(shapely.from_wkb(geometry)), crs, layer


def _mended(geometry: BaseGeometry) -> BaseGeometry:
    """Valid, and without lines and points, which hold no pixel."""
    if not geometry.is_valid:
        geometry = shapely.make_valid(geometry)
    if geometry.geom_type in ("Polygon", "MultiPolygon"):
        return geometry
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.union_all(parts[np.isin(shapely.get_type_id(parts), _POLYGONAL)])


def _moved(geometry: BaseGeometry, forward: Callable[[Points], Points], *, exact: bool) -> BaseGeometry:
    """The geometry through `forward`, with as many vertices as its curved edges need, none where it is `exact`."""
    polygons = []
    for polygon in shapely.get_parts(geometry):
        if polygon.geom_type != "Polygon":
            continue
        rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
        moved = [forward(ring) if exact else _bent(ring, forward) for ring in rings]
        polygons.append(shapely.Polygon(moved[0], moved[1:]))
    return shapely.MultiPolygon(polygons)


def _bent(ring: Points, forward: Callable[[Points], Points]) -> Points:
    """The ring through `forward`; between its vertices it strays at most _STRAY from the true line."""
    while True:
        there = forward(ring)
        strays = np.zeros(len(ring) - 1)
        # Two places, because a line may cross its chord in the middle.
        for share in (0.5, 0.25):
            between = ring[:-1] + share * (ring[1:] - ring[:-1])
            beside = forward(between) - (there[:-1] + share * (there[1:] - there[:-1]))
            strays = np.maximum(strays, np.hypot(*beside.T))
        curved = np.flatnonzero(strays > _STRAY)
        if not len(curved) or len(ring) > _MOST_VERTICES:
            return there
        ring = np.insert(ring, curved + 1, (ring[curved] + ring[curved + 1]) / 2, axis=0)


def _grid_extent(grid: Grid) -> str:
    west, south, east, north = grid.bounds
    box = f"{west:.8g} {south:.8g} {east:.8g} {north:.8g}"
    if grid.crs is None:
        return f"{box}, pixel coordinates"
    return f"{box} in {grid.crs.to_string()}, {describe_extent(grid)}"
