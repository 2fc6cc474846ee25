"""The ground on which everything was drawn: outside of it nothing is known."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from aerial_seg.errors import SettingsError
from aerial_seg.files.names import split_layer
from aerial_seg.geo.areas.polygons import Ground
from aerial_seg.geo.areas.vector_layer import LayerNames, VectorLayer, crs_of, open_layer
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.present import require_file
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.labels.vector_file import VectorFile
from aerial_seg.mentions import setting

_SPLIT = "split"
_SUFFIXES = (".gpkg", ".shp", ".geojson", ".json", ".fgb", ".gdb", ".parquet", ".kml", ".zip")
"""What no layer is called: a file of this name that is not there is a slip."""
_NAMES = LayerNames(layer="labelled_area", wanted=", or the name of a layer in the labels' file")


def labelled_area_file(labels: Path, named: str) -> tuple[Path, str | None]:
    """The file and the layer that the setting names: a file, FILE|layername=LAYER, or a layer in the labels' file."""
    file, layer = split_layer(named)
    is_file = os.path.lexists(file) or file.lower().endswith(_SUFFIXES)
    if layer or is_file or file.startswith("/vsi") or "://" in file:
        return Path(file), layer or None
    return labels, named


def split_column(labels: Path, settings: LabelSettings) -> tuple[VectorLayer, str] | None:
    """The labelled area's layer and the name of its field that says what chips are for, if it has one."""
    if settings.labelled_area is None:
        return None
    path, layer = labelled_area_file(labels, settings.labelled_area)
    require_file(path)
    opened = open_layer(str(path), layer=layer, names=_NAMES)
    field = named_split(opened)
    return None if field is None else (opened, field)


def named_split(layer: VectorLayer) -> str | None:
    """The field called `split`, in letters of any size."""
    return next((name for name in layer.fields if name.lower() == _SPLIT), None)


def read_labelled_area(
    labels: Path, settings: LabelSettings, near: Sequence[Grid]
) -> tuple[VectorFile, tuple[str, ...]]:
    """The polygons of the labelled area, and what to say about them.

    A field `split` is for who cuts chips, see split_column. Raises InputError for what cannot be read.
    """
    assert settings.labelled_area is not None
    if settings.outside == "unlabelled":
        raise SettingsError(
            f"{setting('outside', 'unlabelled')} and {setting('labelled_area', settings.labelled_area)} exclude each "
            "other: inside a labelled area ground without a polygon is background; pass one of them"
        )
    path, layer = labelled_area_file(labels, settings.labelled_area)
    require_file(path)
    opened = open_layer(str(path), layer=layer, names=_NAMES)
    # A CRS that was given for the labels says nothing of another file that has one.
    given = settings.crs if opened.crs is None or path == labels else None
    crs, notes = crs_of(opened, given, setting_name="crs")
    found = VectorFile(opened, crs, Ground(opened.path, crs), None)
    found.read(near)
    return found, tuple(f"labelled area: {note}" for note in (*notes, *found.notes))
