"""Polygons that say what ground is for: `train`, `val`, `test`, or groups that are never divided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aerial_seg.documents import listed
from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.files.names import split_layer
from aerial_seg.files.subdatasets import find_subdataset
from aerial_seg.geo.areas.features import require_field
from aerial_seg.geo.areas.polygons import Ground
from aerial_seg.geo.areas.vector_layer import LayerNames, VectorLayer, crs_of, open_layer, shown
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.inputs import RASTER_SUFFIXES
from aerial_seg.geo.raster.present import require_file
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.buffering import Buffer
from aerial_seg.labels.burning import NOWHERE, burnt_polygons
from aerial_seg.labels.labelled_area import labelled_area_file, named_split, split_column
from aerial_seg.labels.vector_file import VectorFile
from aerial_seg.mentions import Placeholder, setting
from aerial_seg.training.manifest import SPLITS

_FIELD = "split"
Outside = Literal["left out", "divided", "nearest"]
"""What becomes of a chip that shows none: no chip, one of those that fractions divide, or as the nearest that does."""


@dataclass(frozen=True, slots=True)
class SplitAreas:
    """Areas on the ground with a name each.

    names: those that there are. are_splits: whether they are splits; else groups. field: that they stand in, for
    messages. whole: whether a chip must lie in its area by half. outside: see Outside. notes: what was mended.
    """

    names: tuple[str, ...]
    are_splits: bool
    field: str
    whole: bool
    outside: Outside
    notes: tuple[str, ...]
    _file: VectorFile
    _of_code: Mapping[int, str]
    _all_touched: bool

    def seen(self, grid: Grid) -> dict[str, int]:
        """How many pixels of the grid lie in areas of each name, for those that it shows."""
        window = self._file.window(grid)
        found: dict[str, int] = {}
        names = np.array([self._of_code.get(code, "") for code in window.codes.tolist()], object)
        for name in sorted({*names.tolist()} - {""}):
            own = window.geometries[names == name]
            ones = np.ones(len(own), np.uint8)
            burnt = burnt_polygons(own, ones, grid.shape, all_touched=self._all_touched)
            pixels = int((burnt != NOWHERE).sum())
            if pixels:
                found[name] = pixels
        return found


def split_area_files(labels: Sequence[Path], settings: TileSettings) -> tuple[Path, ...]:
    """The file that split areas are read from, beside those of the labels."""
    if settings.split_layer is None:
        return ()
    return (labelled_area_file(_file(labels), settings.split_layer)[0],)


def open_split_areas(
    labels: Sequence[Path], settings: TileSettings, near: Sequence[Grid]
) -> SplitAreas | None:
    """The areas that the settings name, or those of a labelled area with a field `split`; None without any.

    labels: the label files. near: the grids that chips are cut on. Raises InputError for what cannot be read or
    understood, SettingsError for settings that contradict each other.
    """
    drawn = split_column(_file(labels), settings.labels)
    if settings.split_layer is None and settings.split_field is None:
        return None if drawn is None else _read(*drawn, settings, near, whole=False, outside=None)
    if drawn is not None:
        raise SettingsError(
            f"{shown(drawn[0].path)} has a field '{drawn[1]}', which says what chips are for, and so does "
            f"{setting('split_layer' if settings.split_layer else 'split_field')}; leave it out, or rename that field"
        )
    if settings.split_layer is None:
        layer = _label_layer(labels, settings)
        assert settings.split_field is not None
        require_field(layer, settings.split_field, setting_name="split_field")
        return _read(layer, settings.split_field, settings, near, whole=False, outside="nearest")
    file, name = labelled_area_file(_file(labels), settings.split_layer)
    require_file(file)
    layer = open_layer(str(file), layer=name, names=LayerNames(layer="split_layer"))
    field = settings.split_field or named_split(layer)
    if field is None:
        raise InputError(
            f"{shown(layer.path)} has no field '{_FIELD}'; its fields are: {', '.join(layer.fields) or 'none'}; name "
            f"the one that says what an area is for with {setting('split_field', Placeholder('FIELD'))}"
        )
    require_field(layer, field, setting_name="split_field")
    return _read(layer, field, settings, near, whole=True, outside=None)


def _file(labels: Sequence[Path]) -> Path:
    return Path(split_layer(labels[0])[0])


def _label_layer(labels: Sequence[Path], settings: TileSettings) -> VectorLayer:
    file, name = split_layer(labels[0])
    if len(labels) > 1 or settings.labels.unlabelled or settings.labels.preset or _is_raster(file):
        raise SettingsError(
            f"{setting('split_field')} is a field of label polygons, but {file} is a label raster; name areas with "
            f"{setting('split_layer', Placeholder('LAYER'))}"
        )
    chosen = name or settings.labels.layer
    return open_layer(file, layer=chosen, encoding=settings.labels.encoding)


def _is_raster(file: str) -> bool:
    return Path(file).suffix.lower() in RASTER_SUFFIXES or find_subdataset(Path(file)) is not None


def _read(
    layer: VectorLayer,
    field: str,
    settings: TileSettings,
    near: Sequence[Grid],
    *,
    whole: bool,
    outside: Outside | None,
) -> SplitAreas:
    of_labels = outside == "nearest"
    given = settings.labels.crs if of_labels or layer.crs is None else None
    crs, notes = crs_of(layer, given, setting_name="crs")
    widen = None
    if of_labels and settings.labels.buffer is not None:
        widen, near = Buffer(settings.labels.buffer, crs, layer.path), ()
    file = VectorFile(layer, crs, Ground(str(layer.path), crs, widen=widen), field)
    file.read(near)
    assert file.column is not None
    texts = {code: _text(value) for code, value in enumerate(file.column.values)}
    counts = dict(zip(texts, file.column.counts, strict=True))
    nameless = file.column.nulls + sum(counts[code] for code, text in texts.items() if not text)
    of_code = {code: text for code, text in texts.items() if text}
    if not of_code:
        raise InputError(
            f"field '{field}' of {shown(layer.path)} is empty everywhere, wanted {', '.join(SPLITS)} or the names of "
            f"groups; name another field with {setting('split_field', Placeholder('FIELD'))}"
        )
    are_splits = _are_splits(of_code, counts, layer, field, settings)
    if are_splits:
        of_code = {code: text.lower() for code, text in of_code.items()}
    names = tuple(sorted(set(of_code.values())))
    if nameless:
        kind = "split" if are_splits else "group"
        notes += (
            f"{nameless} of the polygons of {shown(layer.path)} name no {kind} in '{field}': as if not there",
        )
    if not of_labels:
        notes = tuple(f"split areas: {note}" for note in (*notes, *file.notes))
        outside = "divided" if are_splits and "train" not in names else "left out"
    assert outside is not None
    touched = of_labels and settings.labels.all_touched
    return SplitAreas(names, are_splits, field, whole, outside, notes, file, of_code, touched)


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _are_splits(
    of_code: Mapping[int, str],
    counts: Mapping[int, int],
    layer: VectorLayer,
    field: str,
    settings: TileSettings,
) -> bool:
    """Whether the names are those of splits. Raises InputError for a mixture, or where only splits can be meant."""
    odd = {code: text for code, text in of_code.items() if text.lower() not in SPLITS}
    if not odd:
        return True
    groups_meant = settings.split_field is not None and len(odd) == len(of_code)
    near = next((hint for text in odd.values() if (hint := did_you_mean(text.lower(), SPLITS))), "")
    if groups_meant:
        return False
    told = listed(f"{counts[code]} polygons have '{text}'" for code, text in odd.items())
    remedy = (
        f"; fields that name groups are told with {setting('split_field', field)}"
        if settings.split_field is None and settings.split_layer is not None and len(odd) == len(of_code)
        else ""
    )
    raise InputError(
        f"field '{field}' of {shown(layer.path)} says what ground is for, wanted {', '.join(SPLITS)}, got: "
        f"{told}{near or '; mend them'}{remedy}"
    )
