"""Formats that are not written here, but that GDAL's ogr2ogr (or another tool) makes of one that is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from aerial_seg.files.operating_system import shell_line

_LONLAT = ("-t_srs", "EPSG:4326")


@dataclass(frozen=True, slots=True)
class OtherFormat:
    """A format that polygons are wanted in.

    title: for people. driver: as GDAL calls it; empty where GDAL only reads it. suffixes: the first is that of the
    main file. options: what ogr2ogr is told beside the driver. note: what is lost or changed on the way.
    """

    title: str
    driver: str
    suffixes: tuple[str, ...]
    options: tuple[str, ...] = ()
    note: str = ""


_DXF = OtherFormat(
    "DXF", "DXF", (".dxf",), note="a DXF has no attributes, its layers are called after class_id"
)
_TOPOJSON = OtherFormat("TopoJSON", "", (".topojson",), note="geo2topo: npm install topojson-server")
OTHER_FORMATS = (
    OtherFormat("KML", "LIBKML", (".kml",), _LONLAT),
    OtherFormat("KMZ", "LIBKML", (".kmz",), _LONLAT),
    _DXF,
    OtherFormat("file geodatabase", "OpenFileGDB", (".gdb",), note="GDAL 3.6 or later"),
    OtherFormat("GML", "GML", (".gml",)),
    OtherFormat("MapInfo table", "MapInfo File", (".tab",)),
    OtherFormat("MapInfo interchange file", "MapInfo File", (".mif", ".mid")),
    OtherFormat("SpatiaLite database", "SQLite", (".sqlite",), ("-dsco", "SPATIALITE=YES")),
    _TOPOJSON,
)


def other_format(path: Path, name: str | None = None) -> OtherFormat | None:
    """The format of that name (GDAL's, ours or the suffix), else of the path's suffix; None for any other."""
    if name is not None:
        sought = name.lower()
        for other in OTHER_FORMATS:
            if sought in (other.driver.lower(), other.title.lower(), *(s[1:] for s in other.suffixes)):
                return other
        return None
    return next((other for other in OTHER_FORMATS if path.suffix.lower() in other.suffixes), None)


def how_to_make(other: OtherFormat, path: Path, layer: str | None = None) -> str:
    """What to write instead of `path`, and the command that makes it of that, quoted for the shell.

    layer: what the layer of the file between is called, if not as the file.
    """
    target = path.with_suffix(other.suffixes[0])
    if other is _TOPOJSON:
        source = path.with_suffix(".geojson")
        command = ["geo2topo", "-o", _as_argument(target), f"{layer or path.stem}={_as_argument(source)}"]
    else:
        source = path.with_suffix(".gpkg")
        command = ["ogr2ogr", "-f", other.driver, *other.options, _as_argument(target), _as_argument(source)]
        command += _chosen(other, layer or path.stem)
    note = f" ({other.note})" if other.note else ""
    return f"write {source.name} and make it of that{note}: {shell_line(command)}"


def _chosen(other: OtherFormat, layer: str) -> list[str]:
    """What is copied: only this layer, because the table of styles beside it would become another one."""
    if other is not _DXF:
        return [layer]
    table = layer.replace('"', '""')
    return ["-sql", f'SELECT geom, class_id AS Layer FROM "{table}"']


def _as_argument(path: Path) -> str:
    """A name that begins with a dash would be an option."""
    text = str(path)
    return f".{os.sep}{text}" if text.startswith("-") else text
