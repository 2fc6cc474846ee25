"""The files of a vector layer: whether they may be written, and how finished ones take their place."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError

from aerial_seg.errors import OutputError
from aerial_seg.files import operating_system
from aerial_seg.files.disk import write_failure
from aerial_seg.files.names import check_output, ogr_name
from aerial_seg.files.work import place, was_placed
from aerial_seg.mentions import setting
from aerial_seg.outputs.geopackage import FIXED_DATE, STYLES_TABLE
from aerial_seg.outputs.qgis_style import LAYER_SUFFIXES, RASTER_SUFFIXES, SUFFIX, namesakes, own_style
from aerial_seg.vectors.formats import CSV, GPKG, SHAPEFILE, VectorFormat

_SHAPEFILE_INDEXES = (".qix", ".sbn", ".sbx")
_HELD = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
GDAL_ERRORS = (DataSourceError, DataLayerError, FeatureError, FieldError, GeometryError)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """What GDAL, SQLite or the system says while `path` is written becomes one line with its remedy."""
    try:
        yield
    except (*GDAL_ERRORS, OSError, sqlite3.Error) as error:
        remedy = "free disk space, check the folder's permissions, or write elsewhere"
        raise write_failure(error, path, remedy) from error


def numbered(path: Path, number: int) -> Path:
    """NAME_001.shp and so on: how the files of a divided Shapefile are called."""
    return path.with_name(f"{path.stem}_{number:03d}{path.suffix}")


def divided(path: Path) -> list[Path]:
    """The files NAME_001.shp, NAME_002.shp … that are there without a gap, if it was us who divided NAME.shp."""
    found: list[Path] = []
    while (part := numbered(path, len(found) + 1)).exists() and _has_our_date(part.with_suffix(".dbf")):
        found.append(part)
    return found


def _has_our_date(table: Path) -> bool:
    """Whether the .dbf carries the date that we give to each; a program that changes it puts its own there."""
    try:
        with table.open("rb") as file:
            return file.read(4)[1:] == dbf_date()
    except OSError:
        return False


def dbf_date() -> bytes:
    """FIXED_DATE as a .dbf's header holds it."""
    year, month, day = map(int, FIXED_DATE.split("-"))
    return bytes((year - 1900, month, day))


def check_place(path: Path, form: VectorFormat, *, overwrite: bool) -> None:
    """Raises OutputError unless files of that format can be written here now; call it before the long work.

    For what is known by then: no such folder, one that cannot be written to, an existing file without `overwrite`
    (for a Shapefile its sidecars and NAME_001.shp too), a GeoPackage that is open elsewhere.
    """
    check_output(path)
    folder = path.absolute().parent
    if path.is_dir():
        raise OutputError(f"{path} is a folder where a file is to be written; choose another output")
    if not folder.is_dir():
        raise OutputError(f"the folder {folder} does not exist; create it or write elsewhere")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder} is not writable; change its permissions or write elsewhere")
    for part in (*_existing(path, form), *(divided(path) if form is SHAPEFILE else ())):
        if not overwrite and not was_placed(path, part):
            raise OutputError(
                f"{part} exists; pass {setting('overwrite', True)} to replace it, or choose another name"
            )
    _check_neighbour(path, form)
    if form is GPKG:
        check_unlocked(path)


def _existing(path: Path, form: VectorFormat) -> list[Path]:
    """Files that the new ones would replace; a .qml grows, or stays where it is not ours."""
    parts = [path, *(path.with_suffix(suffix) for suffix in form.sidecars)]
    return [part for part in parts if part.exists()]


def _check_neighbour(path: Path, form: VectorFormat) -> None:
    """A Shapefile and a CSV of one name would share their .prj."""
    others = {SHAPEFILE.name: CSV, CSV.name: SHAPEFILE}
    other = others.get(form.name)
    if other and path.with_suffix(other.suffixes[0]).exists() and path.with_suffix(".prj").exists():
        raise OutputError(
            f"{path.stem}.prj belongs to {path.stem}{other.suffixes[0]}, wanted one for {path.name}; "
            "choose another name"
        )


def check_unlocked(path: Path) -> None:
    """Raises OutputError if another program has this GeoPackage open; at once, where GDAL would wait for seconds."""
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=0)) as database:
            database.execute("BEGIN EXCLUSIVE")
            database.rollback()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _HELD:
            return  # read-only, say: another file can still take its place
        raise _in_use(path) from error
    except sqlite3.DatabaseError:
        return  # no GeoPackage: whatever it is, nobody has it open as one
    # The last one who closes such a journal removes it. SQLite would replay it into the new file.
    if path.with_name(path.name + "-wal").exists():
        raise _in_use(path)


def _in_use(path: Path) -> OutputError:
    return OutputError(
        f"{path.name} is open in another program; close it there (QGIS: remove the layer), or use another name"
    )


def check_only_layer(path: Path, layer: str) -> None:
    """Raises OutputError if the GeoPackage holds other layers than this: replacing the file would delete them."""
    if not path.exists():
        return
    others = [name for name in _contents(path) if name not in (layer, STYLES_TABLE)]
    if others:
        raise OutputError(
            f"{path.name} holds other layers ({', '.join(others)}), which {setting('overwrite', True)} would delete; "
            f"pass {setting('append', True)} to add to it, or choose another name"
        )


def _contents(path: Path) -> list[str]:
    """Layers, rasters, tables and QGIS projects of a GeoPackage; nothing for another file."""
    try:
        names = layer_names(path)
    except GDAL_ERRORS:
        names = []  # QGIS projects alone, or no GeoPackage
    return list(dict.fromkeys([*names, *tables_in(path), *_projects_in(path)]))


def _projects_in(path: Path) -> list[str]:
    """The table that QGIS keeps its projects in, if it has one; it is no content of a GeoPackage's own."""
    return _asked(path, "SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'qgis_projects'")


def final_names(drafts: Sequence[Path], path: Path) -> list[Path]:
    """Where the main files of a layer will lie: at `path`, or of a divided Shapefile at NAME_001.shp …."""
    return [path] if len(drafts) == 1 else [numbered(path, k + 1) for k in range(len(drafts))]


def layer_names(path: Path) -> list[str]:
    """The layers of a GeoPackage; none where it holds only rasters, which GDAL does not open for layers."""
    try:
        return [str(name) for name, _ in pyogrio.list_layers(ogr_name(path))]
    except GDAL_ERRORS:
        if tables_in(path):
            return []
        raise


def tables_in(path: Path) -> list[str]:
    """The tables that a GeoPackage lists: layers and rasters; empty for another file."""
    return _asked(path, "SELECT table_name FROM gpkg_contents")


def _asked(path: Path, question: str) -> list[str]:
    """The names that the database answers with; none where the file is no such database.

    Raises OutputError where another program holds it: no answer would read as a file that holds nothing.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0)) as database:
            return [str(name) for (name,) in database.execute(question)]
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _HELD:
            raise _in_use(path) from error
        return []


def publish(work: Path, drafts: Sequence[Path], path: Path, form: VectorFormat) -> tuple[Path, ...]:
    """The finished drafts lie under their final names, on the disk; the files that readers open came last.

    work: the locked work folder of `path`. drafts: in it, one main file with its sidecars beside it, or the several of
    a divided Shapefile, which become NAME_001.shp …. Of an earlier layer of ours nothing is left, not even an index;
    it goes when the new one is there. A kill between the first and the last renaming leaves a Shapefile whose parts
    are not of one age; the next run of this output finishes that. Returns all files, the main ones first.
    """
    if form is GPKG:
        check_unlocked(path)  # somebody may have opened it during the work
    targets = final_names(drafts, path)
    moves = [
        (draft.with_suffix(suffix), target.with_suffix(suffix))
        for draft, target in zip(drafts, targets, strict=True)
        for suffix in (*form.sidecars, SUFFIX)
    ]
    moves = [
        (draft, target) for draft, target in (*moves, *zip(drafts, targets, strict=True)) if draft.exists()
    ]
    kept = {target for _, target in moves}
    retired = [file for file in retired_files(path, form) if file not in kept]
    foreign = [part for part in targets[1:] and targets if part.exists() and part not in divided(path)]
    if foreign:
        raise OutputError(
            f"the Shapefile has to be divided, but {foreign[0].name} is there and was not made with {path.name}; "
            "choose another name, or write a .gpkg"
        )
    try:
        place(work, moves, retire=retired)
    except PermissionError as error:
        # Windows does not replace a file that a program has open; elsewhere it is the folder that refuses.
        if not operating_system.WINDOWS:
            raise
        raise _in_use(Path(error.filename2 or path)) from error
    return tuple(
        sorted(kept, key=lambda file: (file not in targets, [target for _, target in moves].index(file)))
    )


def replaced_files(path: Path, form: VectorFormat) -> list[Path]:
    """Every file that writing a layer to `path` may replace or remove, whether it is there or not."""
    suffixes = (*form.sidecars, *(_SHAPEFILE_INDEXES if form is SHAPEFILE else ()))
    mains = [path, *(divided(path) if form is SHAPEFILE else ())]
    return [*mains, *(main.with_suffix(suffix) for main in mains for suffix in suffixes)]


def retired_files(path: Path, form: VectorFormat) -> list[Path]:
    """Files of the layer that is at `path` now, in the order in which they go when a new one has taken its place.

    A style goes only if it is ours and draws nothing any more.
    """
    if not form.sidecars:
        return []
    suffixes = (*form.sidecars, *(_SHAPEFILE_INDEXES if form is SHAPEFILE else ()))
    found: list[Path] = []
    for main in (path, *(divided(path) if form is SHAPEFILE else ())):
        found += [main, *(main.with_suffix(suffix) for suffix in suffixes)]
        style = main.with_suffix(SUFFIX)
        others = [file for file in namesakes(style, (*RASTER_SUFFIXES, *LAYER_SUFFIXES)) if file != main]
        if own_style(style) and not others:
            found.append(style)
    return [file for file in found if file.exists()]
