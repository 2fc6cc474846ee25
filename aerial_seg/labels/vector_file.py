"""The features of a vector layer as labels need them: read once, kept on disk, found window by window."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from aerial_seg.errors import InputError
from aerial_seg.geo.areas.feature_store import FeatureStore
from aerial_seg.geo.areas.features import Features, read_features
from aerial_seg.geo.areas.placing import Bounds, Placed, Way
from aerial_seg.geo.areas.polygons import Ground, Told
from aerial_seg.geo.areas.vector_layer import VectorLayer, no_crs, shown
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.remote import is_remote
from aerial_seg.geo.systems import require_common, same_local
from aerial_seg.geo.turns import turned
from aerial_seg.mentions import setting

Geometries = NDArray[np.object_]

NULL = -1
"""The code of a feature without a value."""
_FEW = 100_000
"""Features that are read whole, so that what is odd in them is told wherever it lies: in about half a second."""
_BOXES = 32
"""Boxes that are sought one by one; of more scenes the box around all."""
_LATTICE = 21


@dataclass(slots=True)
class Column:
    """The values of a field: each different one once, with its count; features hold codes, places in `values`.

    values: str, int, float, bool, date or datetime, in the order in which they came. nulls: features without one.
    """

    name: str
    values: list[Any] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    nulls: int = 0
    _codes: dict[Any, int] = field(default_factory=dict)

    def add(self, found: NDArray[Any], path: str) -> NDArray[np.int32]:
        """Codes (n,) of further values, NULL where there is none. Raises InputError for lists and the like."""
        codes = self.codes(found, path)
        counted = np.bincount(codes[codes != NULL], minlength=len(self.values))
        self.counts += [0] * (len(self.values) - len(self.counts))
        self.counts = [old + int(new) for old, new in zip(self.counts, counted, strict=True)]
        self.nulls += int((codes == NULL).sum())
        return codes

    def codes(self, found: NDArray[Any], path: str) -> NDArray[np.int32]:
        """As `add`, without counting."""
        try:
            places, different = pandas.factorize(found, use_na_sentinel=True)
        except TypeError as error:
            raise InputError(
                f"field '{self.name}' of {shown(path)} holds lists or other values of several parts, wanted texts, "
                f"numbers or dates; pass another {setting('class_field')}"
            ) from error
        known = np.array([self._code(value) for value in different] + [NULL], np.int32)
        return np.asarray(known[places], np.int32)

    def _code(self, value: Any) -> int:
        if isinstance(value, np.datetime64):
            value = value.astype("datetime64[us]")
        if isinstance(value, np.floating):
            value = float(str(value))  # a float32 keeps the few digits that it is written with
        value = value.item() if isinstance(value, np.generic) else value
        if value not in self._codes:
            self._codes[value] = len(self.values)
            self.values.append(value)
        return self._codes[value]


@dataclass(frozen=True, slots=True)
class Window:
    """The features that meet a grid, in the order of their file: the later lies on top.

    geometries: (k,) valid polygons in pixels (column, row) of the grid. codes: (k,) places in the column's values, NULL
    without one. fids: (k,) their numbers in the file. nowhere: (m,) those that the grid's CRS has no coordinates for.
    """

    geometries: Geometries
    codes: NDArray[np.int32]
    fids: NDArray[np.int64]
    nowhere: NDArray[np.int64]


class VectorFile:
    """The features of one layer that cover ground, as valid polygons on disk.

    column: the values of the field that was asked for. notes: what was mended, left out or not read.
    """

    def __init__(self, layer: VectorLayer, crs: CRS | None, ground: Ground, field_name: str | None) -> None:
        self.layer, self.crs = layer, crs
        self.column = None if field_name is None else Column(field_name)
        self._ground = ground
        self._store = FeatureStore()
        self._ways: dict[CRS | None, Way] = {}
        self._nowhere: dict[int, None] = {}
        self._extent = np.array([np.inf, np.inf, -np.inf, -np.inf])
        self._unread = 0

    def read(self, near: Sequence[Grid]) -> None:
        """The features are on disk: all, or those that may meet one of the grids.

        Of a large layer with a spatial index only these are read, and the field of the others. Raises InputError for
        what is damaged, or holds nothing that covers ground.
        """
        try:
            self._read(near)
        except BaseException:
            self._store.close(by_fid=False)
            raise

    def _read(self, near: Sequence[Grid]) -> None:
        boxes = self._boxes(near)
        sought = boxes is not None and self.layer.indexed and self._is_large()
        fields = () if self.column is None else (self.column.name,)
        if boxes is not None and sought:
            if self.column is not None:
                for batch in read_features(self.layer, fields, geometry=False):
                    self.column.add(batch.columns[self.column.name], self.layer.path)
            seen = self._keep(self._found(boxes, fields), boxes, counted=True)
            self._unread = max(0, (self.layer.features or seen) - seen)
            self._extent = np.array(self.layer.bounds or self._extent)
        else:
            self._keep(read_features(self.layer, fields), boxes, counted=False)
            self._ground.require_any()
        self._store.close(by_fid=sought)

    def _is_large(self) -> bool:
        return self.layer.features is None or self.layer.features > _FEW or is_remote(self.layer.path)

    def _found(self, boxes: Sequence[Bounds], fields: Sequence[str]) -> Iterator[Features]:
        """Features that meet a box, each once."""
        seen: set[int] = set()
        for box in boxes:
            for batch in read_features(self.layer, fields, box=box):
                new = np.array([fid not in seen for fid in batch.fids.tolist()], bool)
                if len(boxes) > 1:
                    seen.update(batch.fids.tolist())
                columns = {name: values[new] for name, values in batch.columns.items()}
                yield Features(batch.wkb[new], batch.fids[new], columns)

    def _keep(self, batches: Iterable[Features], boxes: Sequence[Bounds] | None, *, counted: bool) -> int:
        """How many features came; those that cover ground are in the store."""
        came = 0
        for batch in batches:
            came += len(batch.fids)
            geometries, rows = self._ground.add(batch.wkb, batch.fids.tolist())
            codes = np.full(len(batch.fids), NULL, np.int32)
            if self.column is not None:
                take = self.column.codes if counted else self.column.add
                codes = take(batch.columns[self.column.name], self.layer.path)
            bounds = shapely.bounds(geometries).reshape(-1, 4)
            if len(bounds):
                self._extent[:2] = np.minimum(self._extent[:2], bounds[:, :2].min(axis=0))
                self._extent[2:] = np.maximum(self._extent[2:], bounds[:, 2:].max(axis=0))
            kept = np.ones(len(rows), bool) if boxes is None else _meets(bounds, boxes)
            self._store.add(geometries[kept], bounds[kept], codes[rows[kept]], batch.fids[rows[kept]])
        return came

    def _boxes(self, near: Sequence[Grid]) -> tuple[Bounds, ...] | None:
        """Where features are sought in the layer's own coordinates; None for everywhere."""
        if not near or any((grid.crs is None) != (self.crs is None) for grid in near):
            return None
        found: list[Bounds] = []
        for grid in near:
            try:
                way = self.way(grid.crs)
            except InputError:
                return None  # it is told where labels and imagery are compared, by the raster's name
            found += way.boxes(grid.for_polygons(), self.layer.bounds)
        if any(not math.isfinite(box[0]) for box in found):
            return None
        if len(found) > _BOXES:
            west, south = np.min(found, axis=0)[:2].tolist()
            east, north = np.max(found, axis=0)[2:].tolist()
            return ((west, south, east, north),)
        return tuple(found)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was chosen, mended, left out or not read, with counts."""
        notes = [*self.layer.notes, *self._ground.notes, *self.layer.texts.notes]
        if self._unread:
            notes.append(
                f"{self._unread:,} of the {self.layer.features:,} features of {shown(self.layer.path)} lie away from "
                "the imagery: they were neither read nor looked at for defects"
            )
        return tuple(notes)

    @property
    def later_notes(self) -> tuple[str, ...]:
        """What was added of windows so far."""
        if not self._nowhere:
            return ()
        told = Told()
        told.add(list(self._nowhere))
        return (
            f"left out: {told.count} polygons that the imagery's CRS has no coordinates for ({told}); cut them to the "
            "imagery's surroundings",
        )

    def way(self, target: CRS | None) -> Way:
        """The way to grids of this CRS. Raises InputError where there is none."""
        if target not in self._ways:
            if self.crs is None and target is not None:
                raise self.no_crs()
            if self.crs is not None and target is not None and not same_local(self.crs, target):
                require_common(self.crs, "the label layer", target, "the imagery", setting_name="crs")
            try:
                self._ways[target] = Way(self.crs, target)
            except ProjError as error:
                raise InputError(
                    f"the labels cannot be brought from their CRS '{self.crs.name if self.crs else None}' to "
                    f"'{target.name if target else None}' ({error}); "
                    f"pass the labels' true CRS with {setting('crs', 'EPSG:xxxx')}"
                ) from error
        return self._ways[target]

    def no_crs(self) -> InputError:
        """What to say where a CRS is needed and the layer has none."""
        return no_crs(self.layer.path, self.extent(), setting_name="crs")

    def extent(self) -> Bounds:
        """west, south, east, north of all polygons in their own coordinates."""
        west, south, east, north = map(float, self._extent)
        return west, south, east, north

    def extent_lonlat(self) -> Bounds:
        """The same in longitude, latitude. Raises InputError without a CRS, and outside of what it covers."""
        if self.crs is None:
            raise self.no_crs()
        west, south, east, north = self.extent()
        lon, lat = (
            axis.ravel()
            for axis in np.meshgrid(np.linspace(west, east, _LATTICE), np.linspace(south, north, _LATTICE))
        )
        try:
            x, y = Transformer.from_crs(self.crs, "OGC:CRS84", always_xy=True).transform(lon, lat)
        except ProjError as error:
            raise self._outside() from error
        there = np.isfinite(x) & np.isfinite(y)
        if not there.any():
            raise self._outside()
        x, y = turned(x[there], x[there][len(x[there]) // 2], 360.0), y[there]
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())

    def _outside(self) -> InputError:
        return InputError(
            f"the labels' coordinates lie outside of what their CRS '{self.crs.name if self.crs else None}' covers; "
            f"pass their true CRS with {setting('crs', 'EPSG:xxxx')}"
        )

    def meets(self, grid: Grid) -> bool:
        """Whether a feature's box meets the grid."""
        way = self.way(grid.crs)
        return self._store.any(way.near(grid))

    def window(self, grid: Grid) -> Window:
        """The features that meet the grid; the same in every window of a raster that sees them.

        Several threads may ask at once.
        """
        way = self.way(grid.crs)
        stored = self._store.find(way.near(grid))
        found: Placed = way.place(stored.geometries, np.arange(len(stored.fids)), stored.moves, grid)
        fids = stored.fids
        return Window(found.geometries, stored.codes[found.rows], fids[found.rows], fids[found.nowhere])

    def add(self, nowhere: NDArray[np.int64]) -> None:
        """Count features (m,), by their fids, that a window has no place for."""
        self._nowhere.update(dict.fromkeys(nowhere.tolist()))


def _meets(bounds: NDArray[np.float64], boxes: Sequence[Bounds]) -> NDArray[np.bool_]:
    """(n,) whether a box (n, 4) meets one of those."""
    found = np.zeros(len(bounds), bool)
    for west, south, east, north in boxes:
        across = (bounds[:, 0] <= east) & (bounds[:, 2] >= west)
        found |= across & (bounds[:, 1] <= north) & (bounds[:, 3] >= south)
    return found
