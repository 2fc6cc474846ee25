"""The vector formats that can be written: how their files are called, what they can hold, what GDAL is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pyproj import CRS

from aerial_seg.errors import InputError, OutputError, SettingsError, did_you_mean
from aerial_seg.files.names import name_trouble, shown
from aerial_seg.geo.areas.vector_layer import parse_crs
from aerial_seg.geo.systems import is_local, same_local
from aerial_seg.mentions import setting
from aerial_seg.outputs.geopackage import STYLES_TABLE
from aerial_seg.vectors.conversions import how_to_make, other_format

WGS84_LONLAT = CRS.from_epsg(4326)
"""What GeoJSON is in. Coordinates are longitude, latitude in all files, whatever order the CRS names."""

LONGEST_DBF_TEXT = 254
"""Bytes that a DBF's text field holds."""


@dataclass(frozen=True, slots=True)
class VectorFormat:
    """One format.

    name: as `format` calls it, and as GDAL calls its driver. title: for people.
    suffixes: names of files that mean this format; the first is the usual one. aliases: what `format` takes as well.
    also: further suffixes that are fine when the format is named.
    sidecars: suffixes of the files that belong to the main one alone; a .qml is shared with others of its name.
    names_layer: a layer's name need not be that of its file. appendable: features can be added to a layer.
    lonlat: the coordinates are WGS84 by the format's own rule.
    options: creation options of GDAL's layer.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    sidecars: tuple[str, ...] = ()
    names_layer: bool = False
    appendable: bool = False
    lonlat: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


# RFC 7946 recommends 7 decimals, which is 1 cm: the outline of a drone's pixel would collapse. These are 0.1 mm.
_DECIMALS = {"COORDINATE_PRECISION": "9"}

GPKG = VectorFormat("GPKG", "GeoPackage", (".gpkg",), ("GeoPackage",), names_layer=True, appendable=True)
SHAPEFILE = VectorFormat(
    "ESRI Shapefile",
    "Shapefile",
    (".shp",),
    ("Shapefile", "SHP"),
    sidecars=(".shx", ".dbf", ".prj", ".cpg"),
    appendable=True,
)
GEOJSON = VectorFormat(
    "GeoJSON",
    "GeoJSON",
    (".geojson",),
    also=(".json",),
    names_layer=True,
    lonlat=True,
    options={"RFC7946": "YES", **_DECIMALS},
)
GEOJSON_LINES = VectorFormat(
    "GeoJSONSeq",
    "newline GeoJSON",
    (".geojsonl", ".geojsons"),
    ("GeoJSONL", "NDGeoJSON"),
    also=(".ndjson", ".jsonl", ".json"),
    lonlat=True,
    # The record separators of RFC 8142 would hide the lines from other tools; GDAL writes them into .geojsons.
    options={"RS": "NO", **_DECIMALS},
)
FLATGEOBUF = VectorFormat("FlatGeobuf", "FlatGeobuf", (".fgb",), ("FGB",), names_layer=True)
GEOPARQUET = VectorFormat(
    "Parquet", "GeoParquet", (".parquet",), ("GeoParquet",), also=(".geoparquet", ".pq")
)
CSV = VectorFormat(
    "CSV",
    "CSV with WKT",
    (".csv",),
    sidecars=(".csvt", ".prj"),
    options={"GEOMETRY": "AS_WKT", "CREATE_CSVT": "YES", "LINEFORMAT": "LF"},
)
FORMATS = (GPKG, SHAPEFILE, GEOJSON, GEOJSON_LINES, FLATGEOBUF, GEOPARQUET, CSV)

_GEOPACKAGE_RESERVED = ("gpkg", "sqlite_", "rtree_")
_GEOPACKAGE_TAKEN = (STYLES_TABLE, "ogr_empty_table")
"""QGIS keeps styles in the one; the other GDAL does not show."""
_GEOPACKAGE_BEGINNINGS = "`~!@#$%^&*()+-={}|[]\\:\";'<>?,./"
"""GDAL makes no table of a name that begins with one of these."""


def vector_format(path: Path, name: str | None = None, *, layer: str | None = None) -> VectorFormat:
    """The format of that name (in any case; GDAL's or a common one), else the one that the path's suffix means.

    layer: what the layer will be called, if not as the file. Raises SettingsError for a name and OutputError for a
    suffix that is none, and where the two do not go together; of a format that another tool makes of one of these,
    OutputError with its command.
    """
    suffix = path.suffix.lower()
    other = other_format(path, name)
    if other is not None:
        raise OutputError(
            f"{path.name} as {other.title} is not written here; {how_to_make(other, path, layer)}"
        )
    if name is None:
        for known in FORMATS:
            if suffix in known.suffixes:
                return known
        raise OutputError(
            f"{path.name} ends in '{suffix}', wanted {_listed()}; rename the output or pass {setting('format')}"
        )
    names = {alias.lower(): known for known in FORMATS for alias in (known.name, *known.aliases)}
    if name.lower() not in names:
        raise SettingsError(
            f"the format '{name}' is not known, wanted {', '.join(known.name for known in FORMATS)}"
            f"{did_you_mean(name, [alias for known in FORMATS for alias in (known.name, *known.aliases)])}"
        )
    found = names[name.lower()]
    if suffix not in (*found.suffixes, *found.also):
        raise OutputError(
            f"{path.name} ends in '{suffix}', wanted {' or '.join((*found.suffixes, *found.also))} "
            f"for a {found.title}; rename the output"
        )
    return found


def _listed() -> str:
    *first, last = (f"{' or '.join(known.suffixes)} ({known.title})" for known in FORMATS)
    return f"{', '.join(first)} or {last}"


def target_crs(form: VectorFormat, crs: CRS | None, dst_crs: str | None = None) -> CRS | None:
    """The CRS that a layer is written in: `dst_crs` where given, WGS84 for GeoJSON, else the mask's.

    crs: of the mask. Raises InputError where there is nothing to transform from, SettingsError for a text that is no
    CRS, or none in which polygons lie, OutputError for GeoJSON in another CRS.
    """
    wanted = None if dst_crs is None else parse_dst_crs(dst_crs)
    if crs is None and (form.lonlat or wanted is not None):
        why = (
            f"a {form.title} must be in WGS84 (RFC 7946)"
            if form.lonlat
            else f"{setting('dst_crs')} is {dst_crs}"
        )
        raise InputError(
            f"{why} and the mask has no CRS; give it one (gdal_edit.py -a_srs EPSG:…)"
            + (", or write .gpkg or .shp" if form.lonlat else f", or leave {setting('dst_crs')} out")
        )
    if is_local(crs) and (form.lonlat or wanted is not None):
        why = (
            f"a {form.title} must be in WGS84 (RFC 7946)"
            if form.lonlat
            else f"{setting('dst_crs')} is {dst_crs}"
        )
        raise InputError(
            f"{why} and the mask is in the local grid '{crs.name if crs else None}', which has no place on earth; "
            + ("write .gpkg or .shp" if form.lonlat else f"leave {setting('dst_crs')} out")
        )
    if form.lonlat and wanted is not None and not same_crs(wanted, WGS84_LONLAT):
        raise OutputError(
            f"{setting('dst_crs')} is {dst_crs}, wanted EPSG:4326 for a {form.title} (RFC 7946); "
            f"leave {setting('dst_crs')} out, or write .gpkg or .shp"
        )
    return WGS84_LONLAT if form.lonlat else wanted or crs


def parse_dst_crs(text: str) -> CRS:
    """The CRS that the text names: EPSG:32645, a WKT, a PROJ string. SettingsError where polygons cannot lie in it."""
    crs = parse_crs(text, setting_name="dst_crs")
    if not (crs.is_geographic or crs.is_projected) or len(crs.axis_info) != 2:
        raise SettingsError(
            f"{setting('dst_crs', text)} is {crs.name} ({crs.type_name}), wanted a map's CRS like EPSG:32645"
        )
    return crs


def same_crs(one: CRS | None, other: CRS | None) -> bool:
    """Whether coordinates mean the same in both. Files know a CRS by less than its full text: by name or number."""
    if one is None or other is None:
        return one is other
    if one.equals(other, ignore_axis_order=True) or same_local(one, other):
        return True
    number = one.to_epsg(min_confidence=70)
    return number is not None and number == other.to_epsg(min_confidence=70)


def check_layer_name(form: VectorFormat, layer: str, path: Path) -> None:
    """Raises SettingsError unless the layer can be called so in that file, by GDAL, SQLite and whoever reads it."""
    remedy = (
        f"choose another name ({setting('layer')}, or another output)"
        if form.names_layer
        else "choose another name for the output"
    )
    if not form.names_layer and layer != path.stem:
        raise SettingsError(
            f"the layer of a {form.title} is called as its file; leave {setting('layer')} out, or name the output "
            f"{layer}{path.suffix}"
        )
    trouble = name_trouble(layer)
    if trouble:
        raise SettingsError(
            f"the layer's name '{shown(layer)}' holds {trouble}, wanted letters that can be shown; {remedy}"
        )
    if form is GPKG and layer[:1] in _GEOPACKAGE_BEGINNINGS and layer:
        raise SettingsError(
            f"a layer cannot be called '{layer}' in a {form.title}, wanted a name that begins with a letter or a "
            f"number; {remedy}"
        )
    reserved = layer.lower().startswith(_GEOPACKAGE_RESERVED) or layer.lower() in _GEOPACKAGE_TAKEN
    if not layer.strip() or (form is GPKG and reserved):
        raise SettingsError(f"a layer cannot be called '{layer}' in a {form.title}; {remedy}")


def check_texts(form: VectorFormat, texts: Iterable[str]) -> None:
    """Raises OutputError for a text that the format would cut."""
    for text in texts:
        if form is SHAPEFILE and len(text.encode()) > LONGEST_DBF_TEXT:
            raise OutputError(
                f"'{text[:30]}…' is too long for a Shapefile: {len(text.encode())} bytes, wanted at most "
                f"{LONGEST_DBF_TEXT}; write a .gpkg"
            )
