"""The one way in which GeoPackages are written: a version that older programs know, a style, and no time of day."""

from __future__ import annotations

import sqlite3
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

from aerial_seg.files.names import writing_folder

FIXED_DATE = "1995-07-26"
"""A DBF and a GeoPackage carry dates; equal work gives equal bytes. This is GDAL's own when nobody says."""

DRIVER = "GPKG"

CREATION_OPTIONS = {"VERSION": "1.3"}
"""GDAL's default is now 1.4, of which GDAL 3.6 and QGIS 3.22 (Debian 12) say at every opening that they know it in part
only. Nothing here needs more than 1.3."""

STYLES_TABLE = "layer_styles"
_FIXED_TIME = f"{FIXED_DATE}T00:00:00.000Z"

# As QGIS makes it, so that it reads and replaces styles there.
_CREATE_TABLE = f"""
CREATE TABLE IF NOT EXISTS {STYLES_TABLE} (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256), f_table_schema TEXT(256),
    f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
    useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30), update_time DATETIME
)
"""
_REGISTER_TABLE = f"""
INSERT OR IGNORE INTO gpkg_contents (table_name, data_type, identifier, description, last_change)
VALUES ('{STYLES_TABLE}', 'attributes', '{STYLES_TABLE}', '', '{_FIXED_TIME}')
"""
_ADD_STYLE = f"""
INSERT INTO {STYLES_TABLE}
    (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, styleQML, styleSLD, useAsDefault,
     description, owner, ui, update_time)
VALUES ('', '', ?, ?, ?, ?, '', 1, 'one colour per class', '', '', '{_FIXED_TIME}')
"""


def write_geopackage(frame: Any, path: Path, *, layer: str, style: str | None = None) -> None:
    """The GeoDataFrame is the one layer of the GeoPackage `path`; equal frames make equal bytes.

    style: the .qml that draws it. Raises OSError for what the disk does not take.
    """
    try:
        with warnings.catch_warnings():
            # Layers of rasters without CRS were asked for.
            warnings.filterwarnings("ignore", message="'crs' was not provided", category=UserWarning)
            with writing_folder(path.parent) as place:
                pyogrio.write_dataframe(
                    frame, place / path.name, driver=DRIVER, layer=layer, dataset_options=CREATION_OPTIONS
                )
        _require_index(path, layer, len(frame))
        settle_geopackage(path, layer, style)
    except (DataSourceError, DataLayerError, FeatureError, sqlite3.Error) as error:
        raise OSError(f"{path.name}: {error}") from error


def _require_index(path: Path, layer: str, features: int) -> None:
    """Raises OSError unless the layer's spatial index, which GDAL makes last, holds all that was handed over."""
    held = indexed_features(path, layer)
    if held != features:
        raise OSError(f"{path.name}: its spatial index holds {max(0, held):,} of {features:,} features")


def indexed_features(path: Path, layer: str) -> int:
    """How many features the spatial index of a layer holds; −1 for an index that is not registered.

    Where the disk does not take it, GDAL says nothing: the layer then has none. Raises sqlite3.Error where there is no
    index at all.
    """
    with closing(sqlite3.connect(path, timeout=0)) as database:
        query = "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?"
        (column,) = database.execute(query, (layer,)).fetchone()
        quoted = f"rtree_{layer}_{column}_rowid".replace('"', '""')
        (count,) = database.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()
        registered = (
            "SELECT 1 FROM gpkg_extensions WHERE extension_name = 'gpkg_rtree_index' AND table_name = ?"
        )
        return int(count) if database.execute(registered, (layer,)).fetchone() else -1


def stored_style(path: Path, layer: str) -> str | None:
    """The default style of a GeoPackage's layer, None where there is none."""
    with closing(sqlite3.connect(path, timeout=0)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (STYLES_TABLE,)).fetchone():
            return None
        row = database.execute(
            f"SELECT styleQML FROM {STYLES_TABLE} WHERE f_table_name = ? ORDER BY useAsDefault DESC", (layer,)
        ).fetchone()
    return None if row is None else row[0]


def settle_geopackage(path: Path, layer: str, style: str | None) -> None:
    """The closed GeoPackage has this style as the default of its layer (None: the one it has), and no time of day.

    `last_change` is a fixed date on purpose: equal work must give equal bytes, and the file's own time says when it was
    written. Raises sqlite3.Error for what the disk does not take.
    """
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA synchronous = OFF")
        if style is not None:
            _store(database, layer, style)
        database.execute(
            "UPDATE gpkg_contents SET last_change = ? WHERE table_name = ?", (_FIXED_TIME, layer)
        )


def _store(database: sqlite3.Connection, layer: str, style: str) -> None:
    database.execute(_CREATE_TABLE)
    database.execute(_REGISTER_TABLE)
    database.execute(f"DELETE FROM {STYLES_TABLE} WHERE f_table_name = ? AND useAsDefault", (layer,))
    (column,) = database.execute(
        "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?", (layer,)
    ).fetchone()
    database.execute(_ADD_STYLE, (layer, column, layer[:30], style))
