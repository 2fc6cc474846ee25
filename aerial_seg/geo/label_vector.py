"""Polygon labels: read once, mended with a count, burnt onto any grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS
from pyproj.exceptions import ProjError
from rasterio.features import rasterize
from shapely import GeometryType, MultiPolygon, STRtree
from shapely.geometry.base import BaseGeometry

from aerial_seg.errors import InputError, did_you_mean
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.label_rules import BACKGROUND, LabelSettings, labels_crs, legend_of_values, match_name
from aerial_seg.legend import IGNORE, Legend, make_legend

_LONGEST_EDGE = {True: 0.01, False: 1000.0}
"""Edges are cut to about 1 km (geographic: degrees) before they are projected: they follow the ground."""

_POLYGONAL = (GeometryType.POLYGON, GeometryType.MULTIPOLYGON)


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

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Polygons have no pixels of their own."""
        return ()

    def extent_lonlat(self) -> tuple[float, float, float, float] | None:
        """west, south, east, north of all polygons."""
        west, south, east, north = map(float, shapely.total_bounds(self._project(CRS("OGC:CRS84"))))
        return west, south, east, north

    def burn(self, grid: Grid) -> NDArray[np.uint8]:
        """Pixel values (H,W) uint8: a pixel belongs to the polygon that holds its centre."""
        if grid.crs is None:
            raise InputError(
                "vector labels need georeferenced imagery, but the raster has no CRS; "
                "give it one (gdal_edit.py -a_srs EPSG:…) or use raster labels"
            )
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
            geometries = self._geometries if crs == self._crs else self._project(crs)
            self._projected[crs] = geometries, STRtree(geometries)
        return self._projected[crs]

    def _project(self, crs: CRS) -> NDArray[Any]:
        dense = shapely.segmentize(self._geometries, _LONGEST_EDGE[self._crs.is_geographic])
        try:
            geometries = np.asarray(geopandas.GeoSeries(dense, crs=self._crs).to_crs(crs).values)
        except ProjError as error:
            raise InputError(
                f"the labels cannot be brought from their CRS '{self._crs.name}' to '{crs.name}' ({error}); "
                "pass the labels' true CRS with --labels-crs EPSG:xxxx"
            ) from error
        if not np.isfinite(shapely.total_bounds(geometries)).all():
            raise InputError(
                f"the labels' coordinates lie outside of what their CRS '{self._crs.name}' covers; "
                "pass their true CRS with --labels-crs EPSG:xxxx"
            )
        return geometries


def read_vector_labels(path: Path, settings: LabelSettings, *, legend: Legend | None) -> VectorLabels:
    """All polygons of one layer with their classes. Raises InputError for what cannot be read or understood."""
    notes: list[str] = []
    frame = _with_crs(_read_layer(path, settings, notes), path, settings, notes)
    frame = _polygons_only(frame, path, notes)
    if settings.class_field is None:
        values, legend = _one_class(frame, path, settings, legend)
    else:
        values, legend = _class_values(frame, path, settings, legend)
        missing = int((values == IGNORE).sum())
        if missing:
            notes.append(
                f"{missing} features without a value in '{settings.class_field}' count as unlabelled"
            )
    background = next((entry.value for entry in legend.entries if entry.background), None)
    if settings.outside == BACKGROUND and background is None:
        notes.append(f"no class is called {BACKGROUND}: ground outside every polygon counts as unlabelled")
    outside = IGNORE if background is None or settings.outside != BACKGROUND else background
    return VectorLabels(legend, tuple(notes), frame.crs, np.asarray(frame.geometry.values), values, outside)


def _read_layer(path: Path, settings: LabelSettings, notes: list[str]) -> Any:
    try:
        layers = [str(name) for name, _ in pyogrio.list_layers(path)]
        layer = settings.layer or layers[0]
        if layer not in layers:
            raise InputError(
                f"{path} has no layer '{layer}'; it has: {', '.join(layers)}{did_you_mean(layer, layers)}"
            )
        frame = geopandas.read_file(path, layer=layer)
    except (DataSourceError, DataLayerError, IndexError) as error:
        raise InputError(
            f"{path} is not a vector layer that GDAL can read ({error}); "
            "wanted a GeoPackage, Shapefile or GeoJSON, or a class raster (.tif)"
        ) from error
    if len(layers) > 1 and settings.layer is None:
        notes.append(
            f"{path} holds {len(layers)} layers ({', '.join(layers)}); '{layer}' was read, see --layer"
        )
    if not isinstance(frame, geopandas.GeoDataFrame) or frame.empty:
        raise InputError(f"{path} holds no feature with a geometry; wanted polygons, check the layer")
    return frame


def _with_crs(frame: Any, path: Path, settings: LabelSettings, notes: list[str]) -> Any:
    if settings.crs is not None:
        given = labels_crs(settings.crs)
        if frame.crs is not None and frame.crs != given:
            notes.append(f"{path} says {frame.crs.to_string()}, but was read as --labels-crs {settings.crs}")
        return frame.set_crs(given, allow_override=True)
    if frame.crs is None:
        west, south, east, north = frame.total_bounds
        degrees = abs(west) <= 180 and abs(east) <= 180 and abs(south) <= 90 and abs(north) <= 90
        looks = "degrees, try EPSG:4326" if degrees else "projected metres"
        raise InputError(
            f"{path} has no CRS (is the .prj missing?); pass --labels-crs EPSG:xxxx; "
            f"its coordinates look like {looks}"
        )
    return frame


def _polygons_only(frame: Any, path: Path, notes: list[str]) -> Any:
    """The features with a usable polygon; a note for each kind that was mended or left out."""
    original = np.asarray(frame.geometry.values)
    kinds = frame.geom_type.astype(object).where(~shapely.is_missing(original), "no geometry")
    kinds = kinds.where(~shapely.is_empty(original), "empty " + kinds.astype(str))
    present = ~shapely.is_missing(original)
    broken = np.flatnonzero(present & ~shapely.is_valid(original))
    areal = original.copy()
    areal[broken] = shapely.make_valid(original[broken], method="structure", keep_collapsed=False)
    plain = np.isin(shapely.get_type_id(areal), _POLYGONAL) & ~shapely.is_empty(areal)
    for i in np.flatnonzero(~plain):
        areal[i] = _areal_part(areal[i])
    usable = ~shapely.is_missing(areal)
    if not usable.any():
        raise InputError(
            f"{path} holds {', '.join(sorted(set(map(str, kinds))))}, wanted polygons with an area; "
            "buffer lines and points to their real width first"
        )
    if not usable.all():
        left_out = Counter(str(kind) for kind in kinds[~usable])
        notes.append("left out: " + ", ".join(f"{n} × {kind}" for kind, n in sorted(left_out.items())))
    mended = [i for i in broken if usable[i]]
    if mended:
        first = frame.index[mended[0]]
        notes.append(f"{len(mended)} invalid polygons were made valid (the first is feature {first})")
    return frame.set_geometry(geopandas.GeoSeries(areal, index=frame.index, crs=frame.crs))[usable]


def _areal_part(geometry: BaseGeometry | None) -> BaseGeometry | None:
    """The polygons of a geometry: its points and lines would be burnt too. None where there is no area."""
    pieces = shapely.get_parts([geometry])
    while any(piece.geom_type not in ("Polygon", "LineString", "Point", "LinearRing") for piece in pieces):
        pieces = shapely.get_parts(pieces)
    polygons = [piece for piece in pieces if piece.geom_type == "Polygon" and piece.area > 0]
    if not polygons:
        return None
    return polygons[0] if len(polygons) == 1 else MultiPolygon(polygons)


def _one_class(
    frame: Any, path: Path, settings: LabelSettings, legend: Legend | None
) -> tuple[NDArray[np.uint8], Legend]:
    if legend is None:
        legend = _with_background(dict(settings.classes or {1: path.stem}), settings)
    real = [entry for entry in legend.entries if not entry.background]
    if len(real) != 1:
        raise InputError(
            f"{path} was given no --class-field to tell the {len(real)} classes apart "
            f"({', '.join(entry.name for entry in real)}); pass --class-field, one of: {_fields(frame)}"
        )
    return np.full(len(frame), real[0].value, np.uint8), legend


def _class_values(
    frame: Any, path: Path, settings: LabelSettings, legend: Legend | None
) -> tuple[NDArray[np.uint8], Legend]:
    """A pixel value per feature, 255 where the field is NULL, and the legend that tells what they mean."""
    name = str(settings.class_field)
    if name not in frame.columns or name == frame.geometry.name:
        hint = did_you_mean(name, [str(column) for column in frame.columns])
        raise InputError(f"{path} has no field '{name}'; its fields are: {_fields(frame)}{hint}")
    column = frame[name]
    present = column.notna()
    if not present.any():
        raise InputError(f"field '{name}' of {path} is NULL in every feature; pass another --class-field")
    what = f"field '{name}' of {path}"
    if column.dtype.kind in "iuf" and (column[present] % 1 == 0).all():
        mapped = column[present].astype("int64")
        legend = _legend_of_numbers(Counter(map(int, mapped)), what, settings, legend)
    else:
        words = column[present].astype(str)
        legend = _legend_of_words(Counter(words), what, settings, legend)
        mapped = words.map(dict(zip(legend.names, legend.values, strict=True)))
    values = np.full(len(frame), IGNORE, np.uint8)
    values[present.to_numpy()] = mapped.to_numpy().astype(np.uint8)
    return values, legend


def _legend_of_numbers(
    counts: Mapping[int, int], what: str, settings: LabelSettings, known: Legend | None
) -> Legend:
    legend = legend_of_values(counts, settings, what=what, known=known)
    if known is not None:
        return legend
    return _with_background({entry.value: entry.name for entry in legend.entries}, settings)


def _legend_of_words(
    counts: Mapping[str, int], what: str, settings: LabelSettings, known: Legend | None
) -> Legend:
    names = settings.classes or dict(enumerate(sorted(counts), start=1))
    if known is None and len(names) >= IGNORE:
        raise InputError(
            f"{what} holds {len(names)} different words, wanted at most {IGNORE - 1} classes; "
            "pass the field that holds the class with --class-field"
        )
    legend = known or _with_background(dict(names), settings)
    for word in counts:
        match_name(word, legend.names, counts, what=what)
    return legend


def _with_background(names: dict[int, str], settings: LabelSettings) -> Legend:
    """Ground outside every polygon is class 0, unless 0 is taken or the user says that it is unlabelled."""
    named = [value for value, name in names.items() if name.lower() == BACKGROUND]
    if 0 in names or settings.outside != BACKGROUND or named:
        return make_legend(names, background=named)
    return make_legend({0: BACKGROUND, **names}, background=[0])


def _fields(frame: Any) -> str:
    names = [str(column) for column in frame.columns if column != frame.geometry.name]
    return ", ".join(names) or "none"
