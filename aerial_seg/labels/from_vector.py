"""Polygon labels: read once, mended with a count, burnt onto any grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

from aerial_seg.errors import InputError, at_work
from aerial_seg.geo.areas.features import require_field
from aerial_seg.geo.areas.polygons import Ground
from aerial_seg.geo.areas.vector_layer import LayerNames, VectorLayer, crs_of, open_layer
from aerial_seg.geo.grid import Grid
from aerial_seg.labels.borders import grown, without_borders
from aerial_seg.labels.buffering import Buffer
from aerial_seg.labels.burning import NOWHERE, Burnt, burnt_polygons, unused_byte
from aerial_seg.labels.census import Census
from aerial_seg.labels.classes import (
    BACKGROUND,
    ClassMap,
    Origin,
    class_map,
    legend_of_table,
    make_class_legend,
)
from aerial_seg.labels.labelled_area import read_labelled_area
from aerial_seg.labels.overlaps import Overlaps
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.labels.vector_file import Column, VectorFile
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.mentions import Placeholder, setting
from aerial_seg.printable import name_problem

_OR_RASTER = ", or a class raster (.tif)"


@dataclass(slots=True)
class VectorLabels:
    """Polygons with a pixel value each; where they overlap, the later feature lies on top.

    Without a CRS their coordinates are those of the one raster that they are laid on, see Grid.for_polygons.
    """

    legend: Legend
    notes: tuple[str, ...]
    _file: VectorFile
    _values: NDArray[np.uint8]
    """Pixel value of each different value of the class field, and at last that of features without one."""
    _outside: int
    _settings: LabelSettings
    _overlaps: Overlaps
    _area: VectorFile | None
    _implied: list[int] = field(default_factory=lambda: [0, 0])
    """Pixels that were burnt as what lies outside of every polygon, and labelled pixels in all."""

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Polygons have no pixels of their own."""
        return ()

    @property
    def systems(self) -> tuple[CRS | None, ...]:
        """The layer's CRS."""
        return (self._file.crs,)

    @property
    def later_notes(self) -> tuple[str, ...]:
        """What burning has shown so far: polygons that have no place on the imagery."""
        return self._file.later_notes

    @property
    def implied_notes(self) -> tuple[str, ...]:
        """The share of ground that is background only because it lies outside of every polygon."""
        implied, labelled = self._implied
        if not implied or self._outside == IGNORE:
            return ()
        told = (
            f"{100 * implied / labelled:.3g} % of the labelled pixels lie outside every polygon and count as "
            f"{self.legend.by_value()[self._outside].name}"
        )
        if self._area is None:
            told += (
                "; if not everything was drawn, say where it was with "
                f"{setting('labelled_area', Placeholder('LAYER'))}, or pass {setting('outside', 'unlabelled')}"
            )
        return (told,)

    def extent(self) -> tuple[float, float, float, float]:
        """west, south, east, north of all polygons in their own coordinates."""
        return self._file.extent()

    def extent_lonlat(self) -> tuple[float, float, float, float] | None:
        """west, south, east, north of all polygons."""
        return self._file.extent_lonlat()

    def _misplaced(self, raster: str) -> InputError:
        if self._file.crs is None:
            return self._file.no_crs()
        return InputError(
            f"vector labels in {self._file.crs.name} ({self._file.layer.path}) need georeferenced imagery, but "
            f"{raster} has no CRS; give it one (gdal_edit.py -a_srs EPSG:…), or labels without a CRS that were drawn "
            "on its pixels"
        )

    def only_value(self, grid: Grid) -> int | None:
        """The value of what lies outside of all polygons, where there are none; 255 outside the labelled area."""
        self._check_place(grid)
        if self._area is not None and not self._area.meets(grid):
            return IGNORE
        if self._area is not None or self._file.meets(grown(grid, self._settings.ignore_border)):
            return None
        return self._outside

    def check_overlaps(self, *, of: int = 0) -> tuple[str, ...]:
        """What to say of polygons of different classes that overlap in all that was burnt; see Overlaps.check."""
        return self._overlaps.check(of=of)

    def beside_one_class(self, present: str) -> str:
        """What to do where no other class than this one has pixels."""
        if any(entry.name == present and entry.background for entry in self.legend.entries):
            return "no polygon covers the centre of a measured pixel: check where the labels lie"
        if self._outside == IGNORE and self._settings.outside != BACKGROUND:
            return f"all other ground is unlabelled: {setting('outside', BACKGROUND)} makes it a class"
        if self._outside == IGNORE:
            return (
                f"ground outside the polygons is unlabelled: call the class of that ground '{BACKGROUND}' in "
                f"{setting('classes')}"
            )
        return "give labels that show other ground, too"

    def burn(self, grid: Grid, measured: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
        """Pixel values (H,W) uint8: a pixel belongs to the polygon that holds its centre, or touches it at all."""
        burnt = self.burnt(grid, measured)
        self.add(burnt)
        return burnt.labels

    def burnt(self, grid: Grid, measured: NDArray[np.bool_] | None = None) -> Burnt:
        """As `burn`, nothing of it counted yet; several threads may ask at once."""
        self._check_place(grid)
        rim = self._settings.ignore_border
        wide = grown(grid, rim)
        window = self._file.window(wide)
        known = self._known(wide)
        counted = measured if measured is None or not rim else np.pad(measured, rim)
        if known is not None:
            counted = known if counted is None else known & counted
        values = self._values[window.codes]
        # Bytes that hold already what lies outside are the labels themselves.
        elsewhere = unused_byte(values, self._outside)
        burnt, overlaps = self._overlaps.burn(
            window.geometries,
            values,
            wide,
            rim=rim,
            all_touched=self._settings.all_touched,
            known=counted,
            elsewhere=elsewhere,
        )
        implied = burnt[rim : rim + grid.height, rim : rim + grid.width] == elsewhere
        labels = burnt.astype(np.uint8, copy=False)
        if elsewhere != self._outside:
            labels = np.where(burnt == elsewhere, np.uint8(self._outside), labels)
        if known is not None:
            labels = np.where(known, labels, np.uint8(IGNORE))
        labels = without_borders(labels, rim)
        counts = labels != IGNORE
        if measured is not None:
            counts &= measured
        alone, labelled = int(np.count_nonzero(implied & counts)), int(np.count_nonzero(counts))
        return Burnt(labels, overlaps, alone, labelled, window.nowhere)

    def add(self, burnt: Burnt) -> None:
        """Count what was burnt."""
        self._overlaps.add(burnt.overlaps)
        self._file.add(burnt.nowhere)
        self._implied[0] += burnt.implied
        self._implied[1] += burnt.labelled

    def _known(self, grid: Grid) -> NDArray[np.bool_] | None:
        """(H,W) where everything was drawn; None for everywhere."""
        if self._area is None:
            return None
        area = self._area.window(grid)
        ones = np.ones(len(area.geometries), np.uint8)
        known: NDArray[np.bool_] = burnt_polygons(area.geometries, ones, grid.shape) != NOWHERE
        return known

    def _check_place(self, grid: Grid) -> None:
        if (self._file.crs is None) != (grid.crs is None):
            raise self._misplaced("the raster")

    def check_pixels(self, grid: Grid, name: str) -> None:
        """Raises InputError unless they lie on the raster `name`, which has no CRS, in its own coordinates."""
        if self._file.crs is not None:
            raise self._misplaced(name)
        west, south, east, north = self._file.extent()
        shown = grid.for_polygons()
        left, bottom, right, top = shown.bounds
        got = f"{self._file.layer.path} reaches over x {west:.6g}..{east:.6g}, y {south:.6g}..{north:.6g}"
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


def read_vector_labels(
    path: Path, settings: LabelSettings, *, legend: Legend | None, near: Sequence[Grid] = ()
) -> VectorLabels:
    """The polygons of one layer with their classes; with `near`, those that may meet one of these grids.

    Raises InputError for what cannot be read or understood.
    """
    with at_work(path):
        return _read(path, settings, legend, near)


def _read(path: Path, settings: LabelSettings, legend: Legend | None, near: Sequence[Grid]) -> VectorLabels:
    layer = open_layer(
        str(path), layer=settings.layer, encoding=settings.encoding, names=LayerNames(wanted=_OR_RASTER)
    )
    crs, notes = crs_of(layer, settings.crs, setting_name="crs")
    file = _file_of(layer, crs, settings)
    file.read(_wide(near, settings))
    values, legend, told = _classes_of(file, settings, legend)
    notes += (*file.notes, *told)
    background = next((entry.value for entry in legend.entries if entry.background), None)
    if settings.outside == BACKGROUND and background is None:
        notes += (f"no class is called {BACKGROUND}: ground outside every polygon counts as unlabelled",)
    outside = IGNORE if background is None or settings.outside != BACKGROUND else background
    area = None
    if settings.labelled_area is not None:
        area, more = read_labelled_area(path, settings, near)
        notes += more
    overlaps = Overlaps(legend, settings.priority)
    return VectorLabels(legend, notes, file, values, outside, settings, overlaps, area)


def _wide(near: Sequence[Grid], settings: LabelSettings) -> Sequence[Grid]:
    """The grids with the ground from which a polygon reaches into them, once it is widened or has a border."""
    found = []
    for grid in near:
        pixels = settings.ignore_border
        if settings.buffer is not None:
            gsd = grid.gsd()
            if gsd is None:
                return ()  # everything is read
            # A pixel of degrees has not the same metres everywhere.
            pixels += math.ceil(2 * settings.buffer / min(gsd)) + 1
        found.append(grown(grid, pixels))
    return found


def _file_of(layer: VectorLayer, crs: CRS | None, settings: LabelSettings) -> VectorFile:
    """The features, not yet read; their class field is there."""
    if settings.class_field is not None:
        require_field(layer, settings.class_field)
    remedy = f"give lines and points their width with {setting('buffer', Placeholder('METRES'))}"
    widen = None if settings.buffer is None else Buffer(settings.buffer, crs, layer.path)
    return VectorFile(
        layer, crs, Ground(str(layer.path), crs, widen=widen, remedy=remedy), settings.class_field
    )


def _classes_of(
    file: VectorFile, settings: LabelSettings, legend: Legend | None
) -> tuple[NDArray[np.uint8], Legend, tuple[str, ...]]:
    """A pixel value for each different value of the class field, 255 at the end for NULL; the legend; what to say."""
    if file.column is None:
        value, legend = _one_class(file.layer, settings, legend)
        return np.array([value], np.uint8), legend, ()
    classes = _class_map(file.column, file.layer, settings, legend)
    distinct = np.full(len(file.column.values) + 1, None, object)
    distinct[:-1] = file.column.values
    return classes.indices(distinct), classes.legend, classes.notes


def _one_class(layer: VectorLayer, settings: LabelSettings, legend: Legend | None) -> tuple[int, Legend]:
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
            f"{', '.join(layer.fields) or 'none'}"
        )
    return real[0].value, legend


def _class_map(
    column: Column, layer: VectorLayer, settings: LabelSettings, legend: Legend | None
) -> ClassMap:
    """What the values of the class field mean."""
    found = Census()
    for value, count in zip(column.values, column.counts, strict=True):
        found.add(value, count)
    found.add(None, column.nulls)
    origin = Origin(
        f"field '{column.name}' of {layer.path}",
        another=f"mend them in '{column.name}', or pass another field with {setting('class_field')}",
        around=_has_ground_around(settings),
    )
    return class_map(found, settings.classes, origin, known=legend)


def _has_ground_around(settings: LabelSettings) -> bool:
    return settings.outside == BACKGROUND
