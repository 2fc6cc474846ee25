"""Label rasters: class values on a grid of their own, brought onto the image's grid."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.crs import CRS as RasterioCRS
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from shapely import STRtree

from aerial_seg.errors import InputError
from aerial_seg.geo.areas.vector_layer import parse_crs
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.opening import described, open_dataset, telling_whose
from aerial_seg.geo.raster.raster_info import grid_of
from aerial_seg.geo.systems import require_common
from aerial_seg.labels.census import Census
from aerial_seg.labels.classes import ClassMap, Origin, class_map
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.mentions import setting
from aerial_seg.outputs.mask import read_legend


class _Outlines:
    """Which of many grids a grid may touch: one look-up, not one comparison with each."""

    def __init__(self) -> None:
        self._tree: STRtree | None = None
        self._local: bool | None = None

    def any_local(self, grids: Sequence[Grid]) -> bool:
        """Whether one of the grids is a site's own."""
        if self._local is None:
            self._local = any(own.is_local for own in grids)
        return self._local

    def near(self, grid: Grid, grids: Sequence[Grid]) -> list[int]:
        """Places in `grids`, ascending, of those that share ground with the grid; all of them have a CRS."""
        if self._tree is None:
            self._tree = STRtree([own.footprint_lonlat() for own in grids])
        return sorted(map(int, self._tree.query(grid.footprint_lonlat(), predicate="intersects")))


@dataclass(frozen=True, slots=True)
class RasterLabels:
    """One or more class rasters; where they overlap, the later one lies on top."""

    legend: Legend
    notes: tuple[str, ...]
    _paths: tuple[Path, ...]
    _grids: tuple[Grid, ...]
    _unlabelled: tuple[int, ...]
    _classes: ClassMap
    _outlines: _Outlines = field(default_factory=_Outlines)

    @classmethod
    def open(cls, paths: Sequence[Path], settings: LabelSettings, *, legend: Legend | None) -> RasterLabels:
        """Reads every pixel once to know all values before any work begins."""
        counts: Counter[int] = Counter()
        grids: list[Grid] = []
        notes: list[str] = []
        for path in paths:
            grid, found = _scan(path, settings, notes)
            grids.append(grid)
            counts.update(found)
        what = str(paths[0]) if len(paths) == 1 else f"the {len(paths)} label rasters"
        if legend is None and settings.classes is None:
            own = read_legend(paths[0])
            if own is not None and set(counts) <= set(own.values):
                legend = own
        another = f"check {setting('unlabelled')} and the file's nodata value"
        origin = Origin(what, each="pixels", unlabelled=True, another=another)
        classes = class_map(Census.of_counts(counts), settings.classes, origin, known=legend)
        return cls(
            classes.legend, (*notes, *classes.notes), tuple(paths), tuple(grids), settings.unlabelled, classes
        )

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every label raster."""
        return tuple(grid.shape for grid in self._grids)

    def check_pixels(self, grid: Grid, name: str) -> None:
        """Raises InputError unless the one label raster has the pixels of the raster `name`, which has no CRS."""
        if self.shapes[0] != grid.shape:
            (rows, cols), (height, width) = self.shapes[0], grid.shape
            raise InputError(
                f"the labels have {cols} × {rows} pixels, but {name} has {width} × {height}; without a CRS "
                "they pair pixel by pixel: give both the same size, or a CRS"
            )

    @property
    def systems(self) -> tuple[CRS | None, ...]:
        """The CRS of every label raster."""
        return tuple(grid.crs for grid in self._grids)

    def extent(self) -> tuple[float, float, float, float]:
        """west, south, east, north of all label rasters in their own coordinates, which they share."""
        boxes = np.array([grid.bounds for grid in self._grids])
        west, south = map(float, boxes[:, :2].min(axis=0))
        east, north = map(float, boxes[:, 2:].max(axis=0))
        return west, south, east, north

    def extent_lonlat(self) -> tuple[float, float, float, float] | None:
        """west, south, east, north of all label rasters; None when one has no CRS."""
        if any(grid.crs is None for grid in self._grids):
            return None
        boxes = np.array([grid.footprint_lonlat().bounds for grid in self._grids])
        west, south = map(float, boxes[:, :2].min(axis=0))
        east, north = map(float, boxes[:, 2:].max(axis=0))
        return west, south, east, north

    def only_value(self, grid: Grid) -> int | None:
        """255 where no label raster lies."""
        return None if self._near(grid) else IGNORE

    def burn(self, grid: Grid) -> NDArray[np.uint8]:
        """Pixel values (H,W) uint8: NEAREST from labels as coarse as the grid, MODE from finer ones."""
        out = np.full(grid.shape, IGNORE, np.uint8)
        for number in self._near(grid):
            path, own = self._paths[number], self._grids[number]
            values, known = _read_plain(path, own, grid) if own.crs is None else _read_warped(path, own, grid)
            known &= ~np.isin(values, self._unlabelled)
            out[known] = self._classes.pixels(values)[known]
        return out

    def _near(self, grid: Grid) -> Sequence[int]:
        """Numbers of the label rasters that may lie on the grid, the topmost last."""
        for path, own in zip(self._paths, self._grids, strict=True):
            if (own.crs is None) != (grid.crs is None):
                odd = path if own.crs is None else "the imagery"
                raise InputError(
                    f"{odd} has no CRS while its counterpart has one; give it one (gdal_edit.py -a_srs EPSG:…; "
                    f"labels also with {setting('crs')})"
                )
        if grid.crs is None:
            return range(len(self._grids))
        if grid.is_local or self._outlines.any_local(self._grids):
            pairs = zip(self._paths, self._grids, strict=True)
            return [number for number, (path, own) in enumerate(pairs) if _touch(own, grid, str(path))]
        return self._outlines.near(grid, self._grids)


def _touch(own: Grid, grid: Grid, name: str) -> bool:
    """Whether two grids with a CRS share ground. Raises InputError where a local grid meets another CRS."""
    assert own.crs is not None
    assert grid.crs is not None
    require_common(own.crs, name, grid.crs, "the imagery")
    if own.is_local:
        return bool(own.footprint().intersects(grid.footprint()))
    return bool(own.footprint_lonlat().intersects(grid.footprint_lonlat()))


def _pixel_side(grid: Grid) -> float:
    """Of a pixel's longer side: metres, or the units of a local grid where these are not known."""
    a, b, _, d, e, _ = tuple(grid.transform)[:6]
    return max(grid.gsd() or (math.hypot(b, e), math.hypot(a, d)))


def _scan(path: Path, settings: LabelSettings, notes: list[str]) -> tuple[Grid, Counter[int]]:
    """The grid and the labelled values of a label raster with their counts."""
    counts: Counter[int] = Counter()
    with described(path) as dataset:
        if dataset.count != 1 or np.dtype(dataset.dtypes[0]).kind not in "iu":
            raise InputError(
                f"{path} has {dataset.count} band(s) of {dataset.dtypes[0]}, wanted one band of integer class "
                "values; convert colours or floats to class numbers first"
            )
        for _, window in dataset.block_windows(1):
            values, known = _read_window(dataset, window)
            found, numbers = np.unique(values[known], return_counts=True)
            counts.update(dict(zip(map(int, found), map(int, numbers), strict=True)))
        grid = grid_of(dataset)
    if settings.crs is not None:
        given = parse_crs(settings.crs, setting_name="crs")
        if grid.crs is not None and grid.crs != given:
            said = f"{path} says {grid.crs.to_string()}, but was read as {setting('crs', settings.crs)}"
            notes.append(said)
        grid = replace(grid, crs=given)
    for value in (*settings.unlabelled, IGNORE):
        counts.pop(value, None)
    return grid, counts


def _read_window(dataset: DatasetReader, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    place = f"row {window.row_off}, column {window.col_off}, {window.width} × {window.height} px"
    damaged = f"could not be read at {place} ({{error}}); the file is damaged or incomplete: copy it again"
    with telling_whose(dataset.name, damaged):
        return dataset.read(1, window=window), dataset.dataset_mask(window=window) > 0


def _read_warped(path: Path, own: Grid, grid: Grid) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    finer = _pixel_side(grid) > 1.5 * _pixel_side(own)
    with open_dataset(path) as dataset:
        assert grid.crs is not None
        assert own.crs is not None
        with telling_whose(path, "could not be brought onto the image's grid ({error}); check its CRS"):  # noqa: SIM117
            with WarpedVRT(
                dataset,
                src_crs=RasterioCRS.from_wkt(own.crs.to_wkt()),
                # Two spellings of one local grid would be two CRSs to GDAL.
                crs=RasterioCRS.from_wkt((own if own.is_local else grid).crs.to_wkt()),  # type: ignore[union-attr]
                transform=grid.transform,
                height=grid.height,
                width=grid.width,
                resampling=Resampling.mode if finer else Resampling.nearest,
                tolerance=1e-9,
                add_alpha=dataset.nodata is None,
            ) as warped:
                return warped.read(1), warped.dataset_mask() > 0


def _read_plain(path: Path, own: Grid, grid: Grid) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Labels of imagery without CRS: pixel for pixel, so the label raster has the image's own pixels."""
    if grid.transform.e < 0:
        own = own.for_polygons()
    left, top = map(round, ~own.transform * (grid.transform.c, grid.transform.f))
    values = np.zeros(grid.shape, np.int64)
    known = np.zeros(grid.shape, bool)
    rows = slice(max(top, 0), min(top + grid.height, own.height))
    cols = slice(max(left, 0), min(left + grid.width, own.width))
    if rows.start < rows.stop and cols.start < cols.stop:
        window = Window(cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start)
        inside = slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left)
        with open_dataset(path) as dataset:
            values[inside], known[inside] = _read_window(dataset, window)
    return values, known
