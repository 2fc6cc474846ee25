"""Adding to a layer that is there: only like to like, and on a copy, so that a failure leaves the layer as it was."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from os import stat_result
from pathlib import Path

import pyogrio
from pyproj import CRS

from aerial_seg.errors import OutputError
from aerial_seg.files.names import ogr_name
from aerial_seg.mentions import setting
from aerial_seg.outputs.geopackage import stored_style
from aerial_seg.outputs.qgis_style import SUFFIX
from aerial_seg.vectors.files import (
    GDAL_ERRORS,
    check_unlocked,
    divided,
    layer_names,
    tables_in,
    write_errors,
)
from aerial_seg.vectors.formats import FORMATS, GPKG, SHAPEFILE, VectorFormat, same_crs
from aerial_seg.vectors.schema import FeatureSchema

_COPIED = (".shp", ".shx", ".dbf", ".prj", ".cpg")
_PAGES_AT_ONCE = 65536


@dataclass(frozen=True, slots=True)
class Earlier:
    """A file that is to grow. has_layer: whether it has the layer already, else that is added to it.

    features: of the layer so far. style: the QML of the layer, None where there is none.
    """

    path: Path
    has_layer: bool
    state: stat_result
    features: int = 0
    style: str | None = None

    def check_unchanged(self) -> None:
        """Raises OutputError if somebody wrote to the file since it was looked at: replacing it would undo that."""
        now = self.path.stat()
        if (now.st_mtime_ns, now.st_size) != (self.state.st_mtime_ns, self.state.st_size):
            raise OutputError(
                f"{self.path.name} was changed by another program meanwhile, so nothing was appended; "
                "close it there and run again"
            )


def find_earlier(
    path: Path, form: VectorFormat, *, layer: str, crs: CRS | None, schema: FeatureSchema
) -> Earlier | None:
    """What appending adds to; None where there is no such file, which is then made.

    Raises OutputError for a format that cannot grow, a layer with other columns, another CRS or other shapes than
    MultiPolygons, a divided Shapefile, a GeoPackage that is open elsewhere.
    """
    if not form.appendable:
        growing = " or ".join(known.suffixes[0] for known in FORMATS if known.appendable)
        raise OutputError(
            f"{path.name} is a {form.title}, which cannot be appended to; write {growing}, or pass "
            f"{setting('overwrite', True)}"
        )
    if form is SHAPEFILE and not path.exists() and divided(path):
        raise OutputError(
            f"{path.stem}_001.shp … are a divided Shapefile, which cannot be appended to; write .gpkg"
        )
    if not path.exists():
        return None
    if form is GPKG:
        check_unlocked(path)
    state = path.stat()
    try:
        if form is GPKG and layer not in layer_names(path):
            _check_free(path, layer)
            return Earlier(path, False, state)
        info = pyogrio.read_info(ogr_name(path), layer=layer, force_feature_count=True)
        _check_like(info, path, crs=crs, schema=schema, form=form)
    except GDAL_ERRORS as error:
        raise OutputError(
            f"{path} cannot be read as a {form.title} ({error}); pass {setting('overwrite', True)} to replace it, or "
            "choose another name"
        ) from error
    return Earlier(path, True, state, int(info["features"]), _style(path, form, layer))


def _check_free(path: Path, layer: str) -> None:
    """Raises OutputError where SQLite would take the name for that of a table of the file: capitals do not count."""
    same = [name for name in tables_in(path) if name.lower() == layer.lower()]
    if same:
        raise OutputError(
            f"{path.name} holds '{same[0]}', beside which no layer '{layer}' can be; choose another name "
            f"({setting('layer')})"
        )


def _style(path: Path, form: VectorFormat, layer: str) -> str | None:
    if form is GPKG:
        return stored_style(path, layer)
    style = path.with_suffix(SUFFIX)
    return style.read_bytes().decode("utf-8", errors="replace") if style.is_file() else None


def _check_like(
    info: Mapping[str, object], path: Path, *, crs: CRS | None, schema: FeatureSchema, form: VectorFormat
) -> None:
    remedy = f"append to another layer ({setting('layer')}), or write another file"
    fields, types = list(info["fields"]), list(info["dtypes"])  # type: ignore[call-overload]
    found = {str(name): str(kind) for name, kind in zip(fields, types, strict=True)}
    wanted = {column.name: column.kind.value for column in schema.columns}
    if found != wanted:
        raise OutputError(
            f"{path.name} has {_listed(found)}, and the new features {_listed(wanted)}; {remedy}"
        )
    there = None if info["crs"] is None else CRS.from_user_input(info["crs"])
    if there is not None and there.name.startswith("Undefined"):
        there = None  # how a GeoPackage says that there is none
    if not same_crs(there, crs):
        raise OutputError(
            f"{path.name} is in {_named(there)}, and the new features in {_named(crs)}; "
            f"pass {setting('dst_crs')}, or {remedy}"
        )
    shapes = "Polygon" if form is SHAPEFILE else "MultiPolygon"
    if info["geometry_type"] != shapes:
        raise OutputError(
            f"{path.name} holds {info['geometry_type']}s, and the new features are {shapes}s; {remedy}"
        )
    encoding = _encoding(path) if form is SHAPEFILE else "UTF-8"
    if encoding.upper().replace("-", "") not in ("UTF8", "65001"):
        raise OutputError(f"{path.name} has texts in {encoding}, and the new features in UTF-8; {remedy}")


def _encoding(path: Path) -> str:
    codepage = path.with_suffix(".cpg")
    return (
        codepage.read_text(encoding="ascii", errors="replace").strip()
        if codepage.exists()
        else "no stated encoding"
    )


def _listed(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {'text' if kind == 'object' else kind}" for name, kind in columns.items())


def _named(crs: CRS | None) -> str:
    if crs is None:
        return "no CRS"
    authority = crs.to_authority()
    return f"{':'.join(authority)} ({crs.name})" if authority else crs.name


def copy_earlier(earlier: Earlier, draft: Path) -> None:
    """`draft` is a copy of the file, with what belongs to it. Raises OutputError: no space, or open elsewhere."""
    with write_errors(earlier.path):
        if earlier.path.suffix.lower() != ".shp":
            # With what another program may have left in a journal, which a copy of the bytes would miss.
            with (
                closing(sqlite3.connect(earlier.path, timeout=0)) as source,
                closing(sqlite3.connect(draft)) as copy,
            ):
                source.backup(copy, pages=_PAGES_AT_ONCE)
            return
        for suffix in _COPIED:
            part = earlier.path.with_suffix(suffix)
            if part.exists():
                shutil.copyfile(part, draft.with_suffix(suffix))
