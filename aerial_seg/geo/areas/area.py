"""The ground that somebody asks for: polygons or a box, exact to the pixel on any grid."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from shapely.geometry.base import BaseGeometry

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.files.names import split_layer
from aerial_seg.geo.areas.polygons import ground_of, polygons_of
from aerial_seg.geo.areas.vector_layer import VectorLayer, crs_of, layer_names, read_layer
from aerial_seg.geo.grid import Grid, describe_extent
from aerial_seg.geo.grid_area import GridArea
from aerial_seg.geo.raster.present import require_file
from aerial_seg.geo.systems import require_common, same_local
from aerial_seg.mentions import setting

Points = NDArray[np.float64]
Bounds = tuple[float, float, float, float]

_STRAY = 0.02
"""Pixels that a projected edge may lie beside the true line; vertices are added until it does."""
_MOST_VERTICES = 2_000_000


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
            geometry = ground_of(_moved(geometry, self._to_pixels(grid), exact=not self._moves(grid, raster)))
        found = GridArea(geometry, height=grid.height, width=grid.width)
        if not found.any():
            raise OutsideError(
                f"{self.name} ({self._extent()}) holds no pixel of {raster} ({_grid_extent(grid)}); "
                "check both places and their CRS, or leave the area out"
            )
        return found

    def _moves(self, grid: Grid, raster: str) -> bool:
        """Whether the coordinates are of another CRS than the grid's."""
        if self.crs is None or self.crs == grid.crs or same_local(self.crs, grid.crs):
            return False
        if grid.crs is None:
            raise InputError(
                f"{raster} has no CRS, so {self.name} in {self.crs.name} has no place on it; "
                f"give the raster its CRS (gdal_edit.py -a_srs EPSG:…), or pass {setting('bounds')} in its pixel "
                "coordinates"
            )
        require_common(self.crs, self.name, grid.crs, raster, setting_name="aoi_crs")
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
        if grid.crs is not None and self._moves(grid, "the raster"):
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


def read_area(path: Path | str, *, layer: str | None = None, crs: str | None = None) -> Area:
    """All polygons of a layer as one area; its notes tell what was mended and what covers no ground.

    layer: which of several; `areas.gpkg|layername=north`, as QGIS writes it, says the same. crs: what the coordinates
    are in, for a file that does not say (or says it wrongly: that is noted). Raises InputError for what is not a layer
    of polygons with a CRS, SettingsError for two different layers or a text that is no CRS.
    """
    found = _read_layer(str(path), layer)
    polygons = polygons_of(found.wkb, found.fids.tolist(), found.path)
    place, notes = crs_of(
        found,
        crs,
        polygons.geometries,
        setting_name="aoi_crs",
        otherwise=f", or {setting('bounds')} in the raster's CRS",
    )
    geometry = shapely.union_all(polygons.geometries)
    ground = shapely.to_wkb(shapely.normalize(geometry), byte_order=1)
    digest = hashlib.sha256(ground + place.to_wkt().encode())
    identity = {"aoi": Path(found.path).name, "layer": found.name, "sha256": digest.hexdigest()}
    told = (*notes, *(f"{found.path}: {note}" for note in polygons.notes))
    return Area(setting("aoi", path), geometry, place, identity, told)


def area_file(path: Path | str) -> str:
    """The file of an area whose layer may be named with it."""
    return split_layer(path)[0]


def area_of_bounds(bounds: Bounds) -> Area:
    """The box west, south, east, north in the CRS of whatever raster it is laid on. Raises SettingsError."""
    west, south, east, north = bounds
    name = setting("bounds", tuple(float(f"{bound:.12g}") for bound in (west, south, east, north)))
    if not (all(map(math.isfinite, bounds)) and west < east and south < north):
        raise SettingsError(f"{name} is no box; wanted W S E N with W < E and S < N in the raster's CRS")
    return Area(name, shapely.box(*bounds), None, {"bounds": list(bounds)})


def _read_layer(path: str, layer: str | None) -> VectorLayer:
    """The layer that the path or `layer` names; of several, one must be named."""
    file, named = split_layer(path)
    if named and layer is not None and layer != named:
        raise SettingsError(
            f"{setting('aoi', path)} names another layer than {setting('aoi_layer', layer)}; name one of them"
        )
    wanted = named or layer
    require_file(file)
    names = layer_names(file, layer=wanted)
    if wanted is None and len(names) > 1:
        raise InputError(
            f"{file} holds {len(names)} layers of geometries ({', '.join(names)}), wanted one; "
            f"name it with {setting('aoi_layer', 'NAME')}"
        )
    return read_layer(file, wanted or names[0])


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
    if grid.is_local:
        return f"{box} in the local grid '{grid.crs.name}'"
    return f"{box} in {grid.crs.to_string()}, {describe_extent(grid)}"
