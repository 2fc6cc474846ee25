"""Points that somebody labelled, as a layer holds them: whose pixel each is, and what was seen there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas
import shapely
from numpy.typing import NDArray
from pyproj import Transformer

from aerial_seg.documents import listed
from aerial_seg.errors import InputError, did_you_mean
from aerial_seg.geo.areas.features import Features, read_features, require_field
from aerial_seg.geo.areas.vector_layer import LayerNames, VectorLayer, open_layer, shown
from aerial_seg.geo.grid import Grid
from aerial_seg.jobs.assess.settings import AssessSettings
from aerial_seg.legend import Legend
from aerial_seg.mentions import setting
from aerial_seg.outputs.point_form import DRAWN
from aerial_seg.printable import shortened

Ints = NDArray[np.int64]

_NUMBER, _STRATUM, _PLACE = "point", "stratum", ("row", "col")
_OURS = (_NUMBER, _STRATUM, *_PLACE, DRAWN)
_NAMES = LayerNames(wanted="points that `aerial-seg assess design` wrote, labelled")
_LISTED = 10


@dataclass(frozen=True, slots=True)
class LabelledPoints:
    """Hold the points of a sample.

    numbers: (n,) theirs, for messages. rows, cols: (n,) of the mask's pixels that they lie on, maybe beyond its ends.
    strata: (n,) the map's class values when they were drawn; None where somebody else drew them. reference: (n,) places
    in the legend of what was seen, −1 where nothing was said. notes: what was left out.
    """

    numbers: Ints
    rows: Ints
    cols: Ints
    strata: Ints | None
    reference: Ints
    notes: tuple[str, ...]

    def only(self, kept: NDArray[np.bool_], *notes: str) -> LabelledPoints:
        """Those of them, and what to say of it."""
        strata = None if self.strata is None else self.strata[kept]
        parts = (self.numbers[kept], self.rows[kept], self.cols[kept], strata, self.reference[kept])
        return LabelledPoints(*parts, (*self.notes, *notes))


def read_points(path: str, grid: Grid, legend: Legend, settings: AssessSettings) -> LabelledPoints:
    """The points of the layer on the pixels of the grid.

    Raises InputError for what is no layer of points, for points that were moved or doubled since they were drawn, and
    for reference classes that the legend does not have.
    """
    layer = open_layer(path, layer=settings.layer, names=_NAMES)
    require_field(layer, settings.reference_field, setting_name="reference_field")
    ours = all(name in layer.fields for name in _OURS)
    fields = [settings.reference_field, *(_OURS if ours else ())]
    found = _whole(list(read_features(layer, fields)), layer)
    rows, cols = _pixels(found, layer, grid)
    reference = _classes(found.columns[settings.reference_field], layer, legend, settings.reference_field)
    if not ours:
        note = (
            f"{shown(path)} has no fields {', '.join(_OURS[:-1])} and {_OURS[-1]}, so `aerial-seg assess design` did "
            "not draw it: assumed to be drawn at random in each class of this map"
        )
        return LabelledPoints(found.fids, rows, cols, None, reference, (note,))
    return _as_drawn(found, layer, LabelledPoints(found.fids, rows, cols, None, reference, ()))


def _whole(batches: Sequence[Features], layer: VectorLayer) -> Features:
    columns = {
        name: np.concatenate([batch.columns[name].astype(object) for batch in batches])
        for name in batches[0].columns
    }
    fids = np.concatenate([batch.fids for batch in batches])
    if not len(fids):
        raise InputError(f"{shown(layer.path)} holds no feature, wanted labelled points; check the layer")
    return Features(np.concatenate([batch.wkb for batch in batches]), fids, columns)


def _pixels(found: Features, layer: VectorLayer, grid: Grid) -> tuple[Ints, Ints]:
    geometries = shapely.from_wkb(found.wkb, on_invalid="ignore")
    # A point as QGIS' tools make it of layers for several.
    several = shapely.get_type_id(geometries) == shapely.GeometryType.MULTIPOINT
    several &= shapely.get_num_geometries(geometries) == 1
    geometries = np.where(several, shapely.get_geometry(geometries, 0), geometries)
    points = shapely.get_type_id(geometries) == shapely.GeometryType.POINT
    points &= ~shapely.is_empty(geometries)
    if not points.all():
        raise InputError(
            f"{shown(layer.path)} holds features that are no points ({listing(found.fids[~points])}), wanted points "
            "alone; check the layer, or delete these features"
        )
    x, y = shapely.get_x(geometries), shapely.get_y(geometries)
    if (layer.crs is None) != (grid.crs is None):
        bare, other = ("points", "map") if layer.crs is None else ("map", "points")
        raise InputError(
            f"the {bare} have no CRS and the {other} one; give the {bare} its CRS (gdal_edit.py -a_srs)"
        )
    if layer.crs is not None and layer.crs != grid.crs:
        x, y = Transformer.from_crs(layer.crs, grid.crs, always_xy=True).transform(x, y)
    a, b, c, d, e, f = tuple(~grid.for_polygons().transform)[:6]
    col, row = x * a + y * b + c, x * d + y * e + f
    lost = ~(np.isfinite(col) & np.isfinite(row)) | (np.abs(col) > 2**40) | (np.abs(row) > 2**40)
    col, row = np.where(lost, -1.0, col), np.where(lost, -1.0, row)
    return np.floor(row).astype(np.int64), np.floor(col).astype(np.int64)


def _as_drawn(found: Features, layer: VectorLayer, points: LabelledPoints) -> LabelledPoints:
    """The points by their own numbers, after a look at whether they are what was drawn."""
    drawn = {name: pandas.to_numeric(pandas.Series(found.columns[name]), errors="coerce").to_numpy(np.float64)
             for name in _OURS}  # fmt: skip
    facts = np.stack(list(drawn.values()))
    added = ~(np.isfinite(facts) & (facts == np.rint(facts))).all(axis=0)
    # Most points know how many there were; a number beyond that is none of ours.
    totals, times = np.unique(drawn[DRAWN][~added], return_counts=True)
    total = int(totals[times.argmax()]) if len(totals) else 0
    added |= ~((drawn[_NUMBER] >= 1) & (drawn[_NUMBER] <= total))
    notes = []
    if added.any():
        notes.append(
            f"left out: {int(added.sum())} features that `aerial-seg assess design` did not draw "
            f"(feature {listing(found.fids[added])}): what is chosen by hand is no random sample"
        )
    kept = {name: values[~added].astype(np.int64) for name, values in drawn.items()}
    numbers = kept[_NUMBER]
    if len(np.unique(numbers)) < len(numbers):
        values, times = np.unique(numbers, return_counts=True)
        raise InputError(
            f"{shown(layer.path)} holds point {listing(values[times > 1])} more than once, wanted each once; delete "
            "the copies"
        )
    moved = (points.rows[~added] != kept["row"]) | (points.cols[~added] != kept["col"])
    if moved.any():
        raise InputError(
            f"{shown(layer.path)} holds points that lie on another pixel of this map than that they were drawn on "
            f"({listing(numbers[moved])}), wanted them where they were; move them back, or pass the map that they "
            "were drawn for"
        )
    gone = np.setdiff1d(np.arange(1, total + 1), numbers)
    if len(gone):
        notes.append(
            f"{len(gone)} points that were drawn are no longer there ({listing(gone)}): they count as not labelled"
        )
    return LabelledPoints(
        numbers, kept["row"], kept["col"], kept[_STRATUM], points.reference[~added], tuple(notes)
    )


def _classes(values: NDArray[Any], layer: VectorLayer, legend: Legend, name: str) -> Ints:
    """(n,) places in the legend of classes by number or by name; −1 for none."""
    by_value = {value: k for k, value in enumerate(legend.values)}
    by_name = {text: k for k, text in enumerate(legend.names)}
    known: dict[Any, int] = {}
    # True and 1 are one key to Python, and a list is none: neither is a class.
    plain = [
        value
        if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool))
        else str(value)
        for value in values.tolist()
    ]
    for value in dict.fromkeys(plain):
        text = str(value).strip() if isinstance(value, str) else value
        if text is None or text == "" or text != text:
            known[value] = -1
            continue
        if isinstance(text, str) and text in by_name:
            known[value] = by_name[text]
            continue
        try:
            known[value] = by_value[int(text)] if float(text) == int(float(text)) else -2
        except (ValueError, TypeError, KeyError, OverflowError):
            known[value] = -2
    strange = [str(value) for value, k in known.items() if k == -2]
    if strange:
        names = ", ".join(f"'{shortened(one)}'" for one in strange[:_LISTED])
        told = ", ".join(f"{value} {text}" for value, text in zip(legend.values, legend.names, strict=True))
        raise InputError(
            f"field '{name}' of {shown(layer.path)} holds {names}, wanted classes of the map ({told})"
            f"{did_you_mean(strange[0], legend.names)}; label these points anew, or pass another "
            f"{setting('reference_field')}"
        )
    nan = next((key for key in known if key != key), None)
    return np.array([known[nan if value != value else value] for value in plain], np.int64)


def listing(numbers: Ints) -> str:
    """The first of these (n,), as a message tells them."""
    return listed(numbers, most=_LISTED)
