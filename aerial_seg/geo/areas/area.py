"""The ground that somebody asks for: polygons or a box, exact to the pixel on any grid."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.files.names import split_layer
from aerial_seg.geo.areas.features import read_features
from aerial_seg.geo.areas.placing import Way
from aerial_seg.geo.areas.polygons import Ground, ground_of
from aerial_seg.geo.areas.vector_layer import LayerNames, VectorLayer, crs_of, no_crs, open_layer
from aerial_seg.geo.grid import Grid, describe_extent
from aerial_seg.geo.grid_area import GridArea
from aerial_seg.geo.raster.present import require_file
from aerial_seg.geo.systems import require_common, same_local
from aerial_seg.mentions import setting

Bounds = tuple[float, float, float, float]


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
        way = Way(self.crs if self._moves(grid, raster) else grid.crs, grid.crs)
        rows, moves = way.near(grid)(shapely.bounds(np.array([self.geometry], object)).reshape(-1, 4))
        placed = way.place(np.array([self.geometry] * len(rows), object), rows, moves, grid)
        if len(placed.nowhere):
            raise InputError(
                f"{self.name} has places that the raster's CRS '{grid.crs.name if grid.crs else None}' has no "
                "coordinates for; cut it to the raster's surroundings, or check its CRS"
            )
        geometry = ground_of(shapely.union_all(placed.geometries)) if len(rows) else shapely.Polygon()
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
    found = _open_layer(str(path), layer)
    place, notes = crs_of(found, crs, setting_name="aoi_crs")
    ground = Ground(found.path, place, crs_setting="aoi_crs")
    batches = [ground.add(batch.wkb, batch.fids.tolist())[0] for batch in read_features(found)]
    ground.require_any()
    polygons = np.concatenate(batches)
    if place is None:
        west, south, east, north = map(float, shapely.total_bounds(polygons))
        otherwise = f", or {setting('bounds')} in the raster's CRS"
        raise no_crs(found.path, (west, south, east, north), setting_name="aoi_crs", otherwise=otherwise)
    geometry = shapely.union_all(polygons)
    wkb = shapely.to_wkb(shapely.normalize(geometry), byte_order=1)
    digest = hashlib.sha256(wkb + place.to_wkt().encode())
    identity = {"aoi": Path(found.path).name, "layer": found.name, "sha256": digest.hexdigest()}
    told = (*found.notes, *notes, *(f"{found.path}: {note}" for note in ground.notes))
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


def _open_layer(path: str, layer: str | None) -> VectorLayer:
    """The layer that the path or `layer` names; of several, one must be named."""
    file, named = split_layer(path)
    if named and layer is not None and layer != named:
        raise SettingsError(
            f"{setting('aoi', path)} names another layer than {setting('aoi_layer', layer)}; name one of them"
        )
    require_file(file)
    return open_layer(file, layer=named or layer, names=LayerNames(layer="aoi_layer", crs="aoi_crs"))


def _grid_extent(grid: Grid) -> str:
    west, south, east, north = grid.bounds
    box = f"{west:.8g} {south:.8g} {east:.8g} {north:.8g}"
    if grid.crs is None:
        return f"{box}, pixel coordinates"
    if grid.is_local:
        return f"{box} in the local grid '{grid.crs.name}'"
    return f"{box} in {grid.crs.to_string()}, {describe_extent(grid)}"
