"""Label rasters: class values on a grid of their own, brought onto the image's grid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from rasterio.crs import CRS as RasterioCRS
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from shapely import STRtree
from shapely.affinity import translate

from aerial_seg.documents import listed
from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid, whole_outline
from aerial_seg.geo.raster.opening import telling_whose
from aerial_seg.geo.raster.raster import EXACT
from aerial_seg.geo.systems import require_common
from aerial_seg.geo.turns import copies, turn_of, turned
from aerial_seg.labels.borders import grown, without_borders
from aerial_seg.labels.burning import Burnt
from aerial_seg.labels.coding import Coding, coding_of, two_classes, unlabelled_counts
from aerial_seg.labels.label_file import LabelFile, open_label_file
from aerial_seg.labels.pairing.placing import Beside, place_beside
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.mentions import setting

_Axis = NDArray[np.float64]
_AT_ONCE = 2**26
"""Pixels of a label raster that are held at a time."""
_SAME_SIZE = 1.5
"""How much longer the one's pixels are than the other's from which on a word about it is said."""
_TURNS = tuple(360.0 * k for k in range(-2, 3))
"""Degrees by which two places may count their longitudes apart."""
_LOOKED_AT = 21
"""Places on a side of a grid whose pixels in the label raster are looked up."""


class _Outlines:
    """Which of many grids a grid may touch: one look-up, not one comparison with each."""

    def __init__(self) -> None:
        self._tree: STRtree | None = None
        self._local: bool | None = None

    def flat(self, grid: Grid, grids: Sequence[Grid]) -> list[int]:
        """Places in `grids`, ascending, of those that share pixels with the grid; none of them has a CRS."""
        if self._tree is None:
            self._tree = STRtree([own.footprint() for own in grids])
        return sorted(map(int, self._tree.query(grid.footprint(), predicate="intersects")))

    def any_local(self, grids: Sequence[Grid]) -> bool:
        """Whether one of the grids is a site's own."""
        if self._local is None:
            self._local = any(own.is_local for own in grids)
        return self._local

    def near(self, grid: Grid, grids: Sequence[Grid]) -> list[int]:
        """Places in `grids`, ascending, of those that share ground with the grid; all of them have a CRS."""
        if self._tree is None:
            self._tree = STRtree([whole_outline(own) for own in grids])
        here = whole_outline(grid)
        around = [translate(here, turn) for turn in _TURNS]
        return sorted({int(k) for k in self._tree.query(around, predicate="intersects")[1]})


@dataclass(frozen=True, slots=True)
class RasterLabels:
    """One or more class rasters; where they overlap, the later one lies on top."""

    _files: tuple[LabelFile, ...]
    _coding: Coding
    _border: int = 0
    _how_placed: tuple[str, ...] = ()
    _outlines: _Outlines = field(default_factory=_Outlines)
    _sizes: set[tuple[str, str]] = field(default_factory=set)
    """GSDs of labels and imagery that differ, as they are told."""

    @classmethod
    def open(
        cls, paths: Sequence[Path], settings: LabelSettings, *, legend: Legend | None, beside: Beside
    ) -> RasterLabels:
        """Reads every pixel once to know all values before any work begins."""
        files = [open_label_file(path, settings.crs) for path in paths]
        placed, notes = place_beside(files, beside)
        return cls(placed, coding_of(placed, settings, legend), settings.ignore_border, notes)

    @property
    def legend(self) -> Legend:
        """The classes."""
        return self._coding.legend

    @property
    def notes(self) -> tuple[str, ...]:
        """How they were placed, what counts as unlabelled and why, and what was renumbered."""
        return *self._how_placed, *self._coding.notes

    @property
    def _grids(self) -> tuple[Grid, ...]:
        return tuple(file.grid for file in self._files)

    def beside_one_class(self, present: str) -> str:
        """What to do where no other class than this one has pixels."""
        found = unlabelled_counts(
            [file for file in self._files if str(file.path) not in self._coding.coloured]
        )
        if found:
            listed = ", ".join(f"{value} ({n} px)" for value, n in sorted(found.items()))
            numbers = {entry.value: entry.name for entry in self.legend.entries if entry.name == present}
            return f"{listed} count as unlabelled; if these are classes, name them: {two_classes(numbers, found)}"
        return "give labels that show other ground, too"

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every label raster."""
        return tuple(grid.shape for grid in self._grids)

    @property
    def later_notes(self) -> tuple[str, ...]:
        """What burning has shown so far: labels whose pixels are of another size than the imagery's."""
        told = listed((f"{own} m on imagery of {wanted} m" for own, wanted in sorted(self._sizes)), most=3)
        how = "of finer labels each pixel takes the most frequent class, of coarser ones the nearest"
        return (
            (f"the label rasters have other pixels than the imagery, {told}: {how}",) if self._sizes else ()
        )

    @property
    def implied_notes(self) -> tuple[str, ...]:
        """Nothing: outside of them all is unlabelled."""
        return ()

    def check_pixels(self, grid: Grid, name: str) -> None:
        """Raises InputError unless a label raster has the pixels of the raster `name`, which has no CRS."""
        if len(self._files) > 1:
            if grid.for_polygons() not in self._grids:
                raise InputError(
                    f"{name} has no CRS, so that one label raster pairs with it pixel by pixel, got "
                    f"{len(self._files)}; name that one, or give all a CRS (gdal_edit.py -a_srs EPSG:…)"
                )
            return
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
        boxes = np.array([whole_outline(grid).bounds for grid in self._grids])
        west, south = map(float, boxes[:, :2].min(axis=0))
        east, north = map(float, boxes[:, 2:].max(axis=0))
        return west, south, east, north

    def only_value(self, grid: Grid) -> int | None:
        """255 where no label raster lies."""
        return None if self._near(grown(grid, self._border)) else IGNORE

    def check_overlaps(self, *, of: int = 0) -> tuple[str, ...]:
        """A pixel of a raster has one class."""
        return ()

    def burn(self, grid: Grid, measured: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
        """Pixel values (H,W) uint8 on this grid; see `burnt`."""
        return self.burnt(grid, measured).labels

    def add(self, burnt: Burnt) -> None:
        """Nothing is to be counted."""

    def burnt(self, grid: Grid, measured: NDArray[np.bool_] | None = None) -> Burnt:
        """Pixel values (H,W) uint8: NEAREST from labels as coarse as the grid, MODE from finer ones."""
        wide = grown(grid, self._border)
        out = np.full(wide.shape, IGNORE, np.uint8)
        for number in self._near(wide):
            file = self._files[number]
            place = _paired if file.grid.crs is None else _warped
            values = place(file, self._coding, wide)
            if file.grid.crs is not None and (values != IGNORE).any():
                self._compare(file.grid, grid)
            np.copyto(out, values, where=values != IGNORE)
        return Burnt(without_borders(out, self._border))

    def _compare(self, own: Grid, grid: Grid) -> None:
        mine, other = _pixel_side(own), _pixel_side(grid)
        if max(mine, other) > _SAME_SIZE * min(mine, other):
            self._sizes.add((f"{mine:.2g}", f"{other:.2g}"))

    def _near(self, grid: Grid) -> Sequence[int]:
        """Numbers of the label rasters that may lie on the grid, the topmost last."""
        for file in self._files:
            own = file.grid
            if (own.crs is None) != (grid.crs is None):
                odd = file.path if own.crs is None else "the imagery"
                raise InputError(
                    f"{odd} has no CRS while its counterpart has one; give it one (gdal_edit.py -a_srs EPSG:…; "
                    f"labels also with {setting('crs')})"
                )
        if grid.crs is None:
            return range(1) if len(self._grids) == 1 else self._outlines.flat(grid, self._grids)
        if grid.is_local or self._outlines.any_local(self._grids):
            return [k for k, file in enumerate(self._files) if _touch(file.grid, grid, str(file.path))]
        return self._outlines.near(grid, self._grids)


def _touch(own: Grid, grid: Grid, name: str) -> bool:
    """Whether two grids with a CRS share ground. Raises InputError where a local grid meets another CRS."""
    assert own.crs is not None
    assert grid.crs is not None
    require_common(own.crs, name, grid.crs, "the imagery")
    if own.is_local:
        return bool(own.footprint().intersects(grid.footprint()))
    mine, other = whole_outline(own), whole_outline(grid)
    return any(bool(mine.intersects(translate(other, turn))) for turn in _TURNS)


def _pixel_side(grid: Grid) -> float:
    """Of a pixel's longer side: metres, or the units of a local grid where these are not known."""
    a, b, _, d, e, _ = tuple(grid.transform)[:6]
    return max(grid.gsd() or (math.hypot(b, e), math.hypot(a, d)))


def _warped(file: LabelFile, coding: Coding, grid: Grid) -> NDArray[np.uint8]:
    """Map values on the grid; what its pixels mean is looked up first, so that colours and codes never mix."""
    out = np.full(grid.shape, IGNORE, np.uint8)
    places = _places(file.grid, grid)
    if sum(place.window.width * place.window.height for place in places) > _AT_ONCE and max(grid.shape) > 1:
        for part, rows, cols in _halves(grid):
            out[rows, cols] = _warped(file, coding, part)
        return out
    for place in places:
        values = coding.read(file, place.window)
        for move in place.moves:
            found = _brought(values, file, place.window, move, grid)
            np.copyto(out, found, where=found != IGNORE)
    return out


def _brought(
    values: NDArray[np.uint8], file: LabelFile, window: Window, move: float, grid: Grid
) -> NDArray[np.uint8]:
    """Map values of a window of the file on the grid, all of the file moved along x."""
    own, crs = file.grid, grid.crs
    assert own.crs is not None
    assert crs is not None
    finer = _pixel_side(grid) > 1.5 * _pixel_side(own)
    moved = Affine.translation(move, 0) * own.transform if move else own.transform
    height, width = values.shape
    profile = {
        "driver": "GTiff",
        "count": 1,
        "dtype": "uint8",
        "height": height,
        "width": width,
        "nodata": IGNORE,
    }
    with (
        telling_whose(file.path, "could not be brought onto the image's grid ({error}); check its CRS"),
        MemoryFile() as memory,
    ):
        with memory.open(
            **profile,
            crs=RasterioCRS.from_wkt(own.crs.to_wkt()),
            transform=moved * Affine.translation(window.col_off, window.row_off),
        ) as held:
            held.write(values, 1)
        # rasterio's reproject takes places within an eighth of a pixel, other ones in every window.
        with (
            memory.open() as held,
            WarpedVRT(
                held,
                # Two spellings of one local grid would be two CRSs to GDAL.
                crs=RasterioCRS.from_wkt((own.crs if own.is_local else crs).to_wkt()),
                transform=grid.transform,
                height=grid.height,
                width=grid.width,
                resampling=Resampling.mode if finer else Resampling.nearest,
                tolerance=EXACT,
                src_nodata=IGNORE,
                nodata=IGNORE,
            ) as warped,
        ):
            return np.asarray(warped.read(1))


def _halves(grid: Grid) -> Iterator[tuple[Grid, slice, slice]]:
    """The grid in two parts along its longer side."""
    rows, cols = grid.shape
    half = (rows // 2, cols) if rows >= cols else (rows, cols // 2)
    for top, left in {(0, 0), (half[0] % rows, half[1] % cols)}:
        height = rows - top if top else half[0]
        width = cols - left if left else half[1]
        part = grid.window(top=top, left=left, height=height, width=width)
        yield part, slice(top, top + height), slice(left, left + width)


@dataclass(frozen=True, slots=True)
class _Place:
    """A window of a label raster that lies on a grid. moves: along x, in its CRS, with which GDAL finds it there."""

    window: Window
    moves: tuple[float, ...]


def _places(own: Grid, grid: Grid) -> list[_Place]:
    """Where pixels of a label raster lie on the grid, each with a rim of a few; where the earth comes round, twice."""
    rows, cols = (np.linspace(0, side, _LOOKED_AT) for side in grid.shape)
    across, down = (axis.ravel() for axis in np.meshgrid(cols, rows))
    x, y = _applied(grid.transform, across, down)
    assert own.crs is not None
    assert grid.crs is not None
    if own.crs != grid.crs and not own.is_local:
        x, y = Transformer.from_crs(grid.crs, own.crs, always_xy=True).transform(x, y)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    there = np.isfinite(x) & np.isfinite(y)
    if not there.any():
        return []
    x, y, turn = x[there], y[there], turn_of(own.crs)
    if turn is None:
        window = _window(own, x, y)
        return [] if window is None else [_Place(window, (0.0,))]
    # PROJ cuts the world where it likes: first the place as one piece, then where GDAL looks for its parts.
    whole = turned(x, x[len(x) // 2], turn)
    told = np.unique(np.round((x - whole) / turn)) * turn
    box = np.array([own.bounds])
    reach = (whole.max() - whole.min()) / _LOOKED_AT
    _, moves = copies(box, float(whole.min()) - reach, float(whole.max()) + reach, turn)
    found = []
    for move in moves.tolist():
        window = _window(own, whole - move, y)
        if window is not None:
            found.append(_Place(window, tuple(move + one for one in told.tolist())))
    return found


def _window(own: Grid, x: _Axis, y: _Axis) -> Window | None:
    """The pixels of a label raster around these places of its CRS, with a rim of a few; None where there are none."""
    spans = []
    for found, side in zip(_applied(~own.transform, x, y), (own.width, own.height), strict=True):
        low, high = float(found.min()), float(found.max())
        # Between the places that were looked at an edge of another CRS bends.
        rim = 3 + (high - low) / _LOOKED_AT
        spans.append((max(0, math.floor(low - rim)), min(side, math.ceil(high + rim))))
    (left, right), (top, bottom) = spans
    if left >= right or top >= bottom:
        return None
    return Window(left, top, right - left, bottom - top)


def _applied(transform: Affine, x: _Axis, y: _Axis) -> tuple[_Axis, _Axis]:
    a, b, c, d, e, f = tuple(transform)[:6]
    return a * x + b * y + c, d * x + e * y + f


def _paired(file: LabelFile, coding: Coding, grid: Grid) -> NDArray[np.uint8]:
    """Labels of imagery without CRS: pixel for pixel, so the label raster has the image's own pixels."""
    own = file.grid.for_polygons() if grid.transform.e < 0 else file.grid
    left, top = map(round, ~own.transform * (grid.transform.c, grid.transform.f))
    values = np.full(grid.shape, IGNORE, np.uint8)
    rows = slice(max(top, 0), min(top + grid.height, own.height))
    cols = slice(max(left, 0), min(left + grid.width, own.width))
    if rows.start < rows.stop and cols.start < cols.stop:
        window = Window(cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start)
        inside = slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left)
        values[inside] = coding.read(file, window)
    return values
