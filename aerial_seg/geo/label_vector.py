"""Polygon labels: read once, mended with a count, burnt onto any grid."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.features import rasterize
from shapely import STRtree

from aerial_seg.errors import InputError, did_you_mean
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.label_rules import BACKGROUND, LabelSettings, legend_of_values, match_name
from aerial_seg.legend import IGNORE, Legend, make_legend

_LONGEST_EDGE = {True: 0.01, False: 1000.0}
"""Edges are cut to about 1 km (geographic: degrees) before they are projected, so that they follow the ground."""


@dataclass(slots=True)
class VectorLabels:
    """Polygons with a pixel value each; where they overlap, the later feature lies on top."""

    legend: Legend
    notes: tuple[str, ...]
    _crs: CRS
    _geometries: NDArray[Any]
    _values: NDArray[np.uint8]
    _outside: int
    _projected: dict[CRS, tuple[NDArray[Any], STRtree]] = field(default_factory=dict)

    def extent_lonlat(self) -> tuple[float, float, float, float] | None:
        """west, south, east, north of all polygons."""
        bounds = geopandas.GeoSeries(self._geometries, crs=self._crs).to_crs("OGC:CRS84").total_bounds
        west, south, east, north = map(float, bounds)
        return west, south, east, north

    def burn(self, grid: Grid) -> NDArray[np.uint8]:
        """Pixel values (H,W) uint8: a pixel belongs to the polygon that holds its centre (all_touched=False)."""
        if grid.crs is None:
            raise InputError("vector labels need georeferenced imagery, but the raster has no CRS; use raster labels")
        geometries, tree = self._in_crs(grid.crs)
        near = np.sort(tree.query(grid.footprint()))
        if not len(near):
            return np.full(grid.shape, self._outside, np.uint8)
        shapes = zip(geometries[near], map(int, self._values[near]), strict=True)
        burnt = rasterize(
            shapes, out_shape=grid.shape, transform=grid.transform, fill=self._outside, dtype="uint8"
        )
        return np.asarray(burnt, np.uint8)

    def _in_crs(self, crs: CRS) -> tuple[NDArray[Any], STRtree]:
        if crs not in self._projected:
            geometries = self._geometries
            if crs != self._crs:
                dense = shapely.segmentize(geometries, _LONGEST_EDGE[self._crs.is_geographic])
                geometries = np.asarray(geopandas.GeoSeries(dense, crs=self._crs).to_crs(crs).values)
            self._projected[crs] = geometries, STRtree(geometries)
        return self._projected[crs]


def read_vector_labels(path: Path, settings: LabelSettings, *, legend: Legend | None) -> VectorLabels:
    """All polygons of one layer with their classes. Raises InputError for what cannot be read or understood."""
    frame = _read_layer(path, settings)
    frame, notes = _polygons_only(frame, path)
    if settings.class_field is None:
        values, legend = _one_class(frame, path, settings, legend)
    else:
        values, legend, missing = _class_values(frame, path, settings, legend)
        if missing:
            notes.append(f"{missing} features without a value in '{settings.class_field}' count as unlabelled")
    background = next((entry.value for entry in legend.entries if entry.background), IGNORE)
    outside = background if settings.outside == BACKGROUND else IGNORE
    return VectorLabels(legend, tuple(notes), frame.crs, np.asarray(frame.geometry.values), values, outside)


def _read_layer(path: Path, settings: LabelSettings) -> Any:
    try:
        frame = geopandas.read_file(path, layer=settings.layer) if settings.layer else geopandas.read_file(path)
    except (DataSourceError, DataLayerError) as error:
        raise InputError(
            f"{path} is not a vector layer that GDAL can read ({error}); wanted GeoPackage, Shapefile or GeoJSON"
        ) from error
    if not isinstance(frame, geopandas.GeoDataFrame) or frame.empty:
        raise InputError(f"{path} holds no feature with a geometry; wanted polygons, check the layer")
    if settings.crs is not None:
        try:
            frame = frame.set_crs(settings.crs, allow_override=True)
        except CRSError as error:
            raise InputError(f"--labels-crs {settings.crs} is not a CRS; wanted for example EPSG:32645") from error
    if frame.crs is None:
        west, south, east, north = frame.total_bounds
        degrees = abs(west) <= 180 and abs(east) <= 180 and abs(south) <= 90 and abs(north) <= 90
        looks = "degrees, try EPSG:4326" if degrees else "projected metres"
        raise InputError(
            f"{path} has no CRS (is the .prj missing?); pass --labels-crs EPSG:xxxx; its coordinates look like {looks}"
        )
    return frame


def _polygons_only(frame: Any, path: Path) -> tuple[Any, list[str]]:
    """The features with a usable polygon; a note for each kind that was mended or left out."""
    notes = []
    kinds = frame.geom_type
    polygonal = kinds.isin(["Polygon", "MultiPolygon", "GeometryCollection"]) & ~frame.geometry.is_empty
    if not polygonal.any():
        raise InputError(
            f"{path} holds {', '.join(sorted(set(map(str, kinds.dropna()))))}, wanted polygons; "
            "buffer lines and points to their real width first"
        )
    if not polygonal.all():
        left_out = Counter(str(kind) for kind in kinds[~polygonal].fillna("no geometry"))
        notes.append("left out: " + ", ".join(f"{n} × {kind}" for kind, n in sorted(left_out.items())))
        frame = frame[polygonal]
    invalid = ~frame.geometry.is_valid
    if invalid.any():
        first = frame.index[invalid][0]
        notes.append(f"{int(invalid.sum())} invalid polygons were made valid (the first is feature {first})")
        frame = frame.set_geometry(frame.geometry.where(~invalid, frame.geometry.make_valid()))
    return frame, notes


def _one_class(
    frame: Any, path: Path, settings: LabelSettings, legend: Legend | None
) -> tuple[NDArray[np.uint8], Legend]:
    if legend is None:
        names = dict(settings.classes or {1: path.stem})
        if len(names) != 1:
            raise InputError(
                f"--classes names {len(names)} classes but {path} has no --class-field to tell them apart; "
                f"pass --class-field, one of: {_fields(frame)}"
            )
        legend = _with_background(names, settings)
    real = [entry.value for entry in legend.entries if not entry.background]
    if len(real) != 1:
        raise InputError(
            f"{path} is compared with {len(real)} classes ({', '.join(legend.names)}) but no --class-field was given; "
            f"pass --class-field, one of: {_fields(frame)}"
        )
    return np.full(len(frame), real[0], np.uint8), legend


def _class_values(
    frame: Any, path: Path, settings: LabelSettings, legend: Legend | None
) -> tuple[NDArray[np.uint8], Legend, int]:
    name = settings.class_field
    if name not in frame.columns or name == frame.geometry.name:
        hint = did_you_mean(str(name), list(frame.columns))
        raise InputError(f"{path} has no field '{name}'; its fields are: {_fields(frame)}{hint}")
    column = frame[name]
    present = column.notna()
    if column.dtype.kind in "iufb" and (column[present] % 1 == 0).all():
        numbers = column[present].astype(int)
        counts = {int(v): int(n) for v, n in numbers.value_counts().items()}
        if legend is None and settings.classes is None and 0 not in counts:
            legend_of_values(counts, settings, what=str(path), known=None)
            legend = _with_background({v: f"class {v}" for v in counts}, settings)
        elif legend is None and settings.classes is not None:
            legend_of_values(counts, settings, what=str(path), known=None)
            legend = _with_background(dict(settings.classes), settings)
        legend = legend_of_values(counts, settings, what=str(path), known=legend)
        mapped = numbers
    else:
        words = column[present].astype(str)
        counts_by_name = {str(v): int(n) for v, n in words.value_counts().items()}
        if legend is None:
            names = settings.classes or dict(enumerate(sorted(counts_by_name), start=1))
            legend = _with_background(dict(names), settings)
        for word in counts_by_name:
            match_name(word, legend.names, counts_by_name, what=f"field '{name}' of {path}")
        mapped = words.map(dict(zip(legend.names, legend.values, strict=True)))
    values = np.full(len(frame), IGNORE, np.uint8)
    values[present.to_numpy()] = mapped.to_numpy().astype(np.uint8)
    return values, legend, int((~present).sum())


def _with_background(names: dict[int, str], settings: LabelSettings) -> Legend:
    """Ground outside every polygon is class 0, unless 0 is taken or the user says that it is unlabelled."""
    if 0 in names or settings.outside != BACKGROUND or BACKGROUND in names.values():
        return make_legend(names, background=[v for v, name in names.items() if name == BACKGROUND])
    return make_legend({0: BACKGROUND, **names}, background=[0])


def _fields(frame: Any) -> str:
    names = [str(column) for column in frame.columns if column != frame.geometry.name]
    return ", ".join(names) or "none"
