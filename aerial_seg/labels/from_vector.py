"""Polygon labels: read once, mended with a count, burnt onto any grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import ProjError
from shapely import STRtree

from aerial_seg.errors import InputError, at_work, did_you_mean
from aerial_seg.geo.areas.polygons import mended, polygons_of
from aerial_seg.geo.areas.vector_layer import VectorLayer, crs_of, layer_names, no_crs, read_layer
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.systems import require_common, same_local
from aerial_seg.labels.borders import grown, without_borders
from aerial_seg.labels.census import Census
from aerial_seg.labels.classes import (
    BACKGROUND,
    ClassMap,
    Origin,
    class_map,
    legend_of_table,
    make_class_legend,
)
from aerial_seg.labels.overlaps import Overlaps
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.mentions import Placeholder, setting
from aerial_seg.printable import name_problem

_LONGEST_EDGE = {True: 0.01, False: 1000.0}
"""Edges are cut to about 1 km (geographic: degrees) before they are projected: they follow the ground."""


@dataclass(slots=True)
class VectorLabels:
    """Polygons with a pixel value each; where they overlap, the later feature lies on top.

    Without a CRS their coordinates are those of the one raster that they are laid on, see Grid.for_polygons.
    """

    legend: Legend
    notes: tuple[str, ...]
    _path: Path
    _crs: CRS | None
    _geometries: NDArray[Any]
    _values: NDArray[np.uint8]
    _outside: int
    _leaves_outside: bool
    _overlaps: Overlaps
    _border: int
    _projected: dict[CRS | None, tuple[NDArray[Any], STRtree]] = field(default_factory=dict)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Polygons have no pixels of their own."""
        return ()

    @property
    def systems(self) -> tuple[CRS | None, ...]:
        """The layer's CRS."""
        return (self._crs,)

    def extent(self) -> tuple[float, float, float, float]:
        """west, south, east, north of all polygons in their own coordinates."""
        west, south, east, north = map(float, shapely.total_bounds(self._geometries))
        return west, south, east, north

    def extent_lonlat(self) -> tuple[float, float, float, float] | None:
        """west, south, east, north of all polygons."""
        west, south, east, north = map(float, shapely.total_bounds(self._project(CRS("OGC:CRS84"))))
        return west, south, east, north

    def _misplaced(self, raster: str) -> InputError:
        return InputError(
            f"vector labels in {self._own_crs().name} ({self._path}) need georeferenced imagery, but {raster} has no "
            "CRS; give it one (gdal_edit.py -a_srs EPSG:…), or labels without a CRS that were drawn on its pixels"
        )

    def _own_crs(self) -> CRS:
        if self._crs is not None:
            return self._crs
        raise no_crs(str(self._path), self._geometries, setting_name="crs")

    def only_value(self, grid: Grid) -> int | None:
        """The value of what lies outside of all polygons, where there are none."""
        _, tree = self._in_crs(grid.crs)
        return None if len(tree.query(grown(grid, self._border).footprint())) else self._outside

    def check_overlaps(self) -> tuple[str, ...]:
        """What to say of polygons of different classes that overlap in all that was burnt; see Overlaps.check."""
        return self._overlaps.check()

    def beside_one_class(self, present: str) -> str:
        """What to do where no other class than this one has pixels."""
        if any(entry.name == present and entry.background for entry in self.legend.entries):
            return "no polygon covers the centre of a measured pixel: check where the labels lie"
        if self._outside == IGNORE and self._leaves_outside:
            return f"all other ground is unlabelled: {setting('outside', BACKGROUND)} makes it a class"
        if self._outside == IGNORE:
            return (
                f"ground outside the polygons is unlabelled: call the class of that ground '{BACKGROUND}' in "
                f"{setting('classes')}"
            )
        return "give labels that show other ground, too"

    def burn(self, grid: Grid) -> NDArray[np.uint8]:
        """Pixel values (H,W) uint8: a pixel belongs to the polygon that holds its centre."""
        geometries, tree = self._in_crs(grid.crs)
        wide = grown(grid, self._border)
        near = np.sort(tree.query(wide.footprint()))
        if not len(near):
            return np.full(grid.shape, self._outside, np.uint8)
        burnt = self._overlaps.burn(
            geometries[near], self._values[near], wide, outside=self._outside, rim=self._border
        )
        return without_borders(burnt, self._border)

    def check_pixels(self, grid: Grid, name: str) -> None:
        """Raises InputError unless they lie on the raster `name`, which has no CRS, in its own coordinates."""
        if self._crs is not None:
            raise self._misplaced(name)
        west, south, east, north = map(float, shapely.total_bounds(self._geometries))
        shown = grid.for_polygons()
        left, bottom, right, top = shown.bounds
        got = f"{self._path} reaches over x {west:.6g}..{east:.6g}, y {south:.6g}..{north:.6g}"
        wanted = f"{name} over x {left:.6g}..{right:.6g}, y {bottom:.6g}..{top:.6g}"
        share = min(top, north) - max(bottom, south)
        if shown != grid and share < min(-bottom, north) - max(0.0, south):
            raise InputError(
                f"{got}, but {wanted}: without a geotransform row r lies at y = −r, as QGIS shows it; mirror the "
                "labels at y = 0 (QGIS: Affine transform, scale of the y-axis −1), or vectorize their mask again"
            )
        if share <= 0 or min(right, east) <= max(left, west):
            raise InputError(
                f"the labels do not overlap {name}: {got}, {wanted}; check where they were drawn"
            )

    def _in_crs(self, crs: CRS | None) -> tuple[NDArray[Any], STRtree]:
        if crs not in self._projected:
            geometries = self._geometries if self._is_own(crs) else self._project(crs)
            self._projected[crs] = geometries, STRtree(geometries)
        return self._projected[crs]

    def _is_own(self, crs: CRS | None) -> bool:
        return crs == self._crs or same_local(crs, self._crs)

    def _project(self, crs: CRS | None) -> NDArray[Any]:
        own = self._own_crs()
        if crs is None:
            raise self._misplaced("the raster")
        require_common(own, "the label layer", crs, "the imagery", setting_name="crs")
        dense = shapely.segmentize(self._geometries, _LONGEST_EDGE[own.is_geographic])
        try:
            geometries = np.asarray(geopandas.GeoSeries(dense, crs=own).to_crs(crs).values)
        except ProjError as error:
            raise InputError(
                f"the labels cannot be brought from their CRS '{own.name}' to '{crs.name}' ({error}); "
                f"pass the labels' true CRS with {setting('crs', 'EPSG:xxxx')}"
            ) from error
        if not np.isfinite(shapely.total_bounds(geometries)).all():
            raise InputError(
                f"the labels' coordinates lie outside of what their CRS '{own.name}' covers; "
                f"pass their true CRS with {setting('crs', 'EPSG:xxxx')}"
            )
        # Straight edges of one CRS may cross in another, and burning has its own rule for overlaps.
        return mended(geometries)


def read_vector_labels(path: Path, settings: LabelSettings, *, legend: Legend | None) -> VectorLabels:
    """All polygons of one layer with their classes. Raises InputError for what cannot be read or understood."""
    with at_work(path):
        return _read(path, settings, legend)


def _read(path: Path, settings: LabelSettings, legend: Legend | None) -> VectorLabels:
    layer, notes = _read_layer(path, settings)
    polygons = polygons_of(layer.wkb, layer.fids.tolist(), str(path))
    crs = None
    if layer.crs is not None or settings.crs is not None:
        crs, more = crs_of(layer, settings.crs, polygons.geometries, setting_name="crs")
        notes += more
    notes += polygons.notes
    if settings.class_field is None:
        values, legend = _one_class(layer, len(polygons.rows), settings, legend)
    else:
        values, classes = _class_values(layer, polygons.rows, settings, legend)
        legend = classes.legend
        notes += classes.notes
    background = next((entry.value for entry in legend.entries if entry.background), None)
    if settings.outside == BACKGROUND and background is None:
        notes.append(f"no class is called {BACKGROUND}: ground outside every polygon counts as unlabelled")
    outside = IGNORE if background is None or settings.outside != BACKGROUND else background
    return VectorLabels(
        legend,
        tuple(notes),
        path,
        crs,
        polygons.geometries,
        values,
        outside,
        _leaves_outside=settings.outside != BACKGROUND,
        _overlaps=Overlaps(legend, settings.priority),
        _border=settings.ignore_border,
    )


def _read_layer(path: Path, settings: LabelSettings) -> tuple[VectorLayer, list[str]]:
    """The layer that the settings name, else the first one, and what to say about that."""
    file, or_raster = str(path), ", or a class raster (.tif)"
    names = layer_names(file, layer=settings.layer, wanted=or_raster)
    name = settings.layer or names[0]
    fields = () if settings.class_field is None else (settings.class_field,)
    layer = read_layer(file, name, fields=fields, wanted=or_raster)
    if len(names) == 1 or settings.layer is not None:
        return layer, []
    return layer, [
        f"{path} holds {len(names)} layers ({', '.join(names)}); '{name}' was read, see {setting('layer')}"
    ]


def _one_class(
    layer: VectorLayer, features: int, settings: LabelSettings, legend: Legend | None
) -> tuple[NDArray[np.uint8], Legend]:
    if legend is None and settings.classes is None:
        stem = Path(layer.path).stem
        problem = name_problem(stem)
        if problem is not None:
            raise InputError(
                f"the name of {layer.path} is one of the names that no class can have ({problem}); name the class with "
                f"{setting('classes', Placeholder('NAME'))}"
            )
        legend = make_class_legend({1: stem}, around=_has_ground_around(settings))
    elif legend is None and settings.classes is not None:
        legend = legend_of_table(settings.classes, around=_has_ground_around(settings))
    assert legend is not None
    meant = legend.names if settings.classes is None else settings.classes.names
    real = [entry for entry in legend.entries if not entry.background and entry.name in meant]
    if len(real) != 1:
        raise InputError(
            f"{layer.path} was given no {setting('class_field')} to tell the {len(real)} classes apart "
            f"({', '.join(entry.name for entry in real)}); pass {setting('class_field')}, one of: "
            f"{_listed(layer.fields)}"
        )
    return np.full(features, real[0].value, np.uint8), legend


def _class_values(
    layer: VectorLayer, rows: NDArray[np.int64], settings: LabelSettings, legend: Legend | None
) -> tuple[NDArray[np.uint8], ClassMap]:
    """A pixel value per feature of `rows`, 255 where the field is NULL, and the map that tells what they mean."""
    name, path = str(settings.class_field), layer.path
    if name not in layer.columns:
        raise InputError(
            f"{path} has no field '{name}'; its fields are: {_listed(layer.fields)}"
            f"{did_you_mean(name, layer.fields)}"
        )
    column = layer.columns[name][rows]
    origin = Origin(
        f"field '{name}' of {path}",
        another=f"mend them in '{name}', or pass another field with {setting('class_field')}",
        around=_has_ground_around(settings),
    )
    classes = class_map(Census.of_column(column), settings.classes, origin, known=legend)
    return classes.indices(column), classes


def _has_ground_around(settings: LabelSettings) -> bool:
    return settings.outside == BACKGROUND


def _listed(fields: Sequence[str]) -> str:
    return ", ".join(fields) or "none"
