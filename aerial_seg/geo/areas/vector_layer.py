"""One layer of a vector file, chosen in one way for labels and areas: its CRS, its fields, how it is read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS
from pyproj.exceptions import CRSError

from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.files.names import ogr_name
from aerial_seg.files.names import shown as printable
from aerial_seg.geo.areas.parquet_layer import ParquetLayer, is_parquet
from aerial_seg.geo.areas.texts import AS_BYTES, Texts, check_encoding
from aerial_seg.geo.raster.remote import PATIENCE, gdal_name, is_remote, waiting, without_signature
from aerial_seg.mentions import setting

Bounds = tuple[float, float, float, float]

LONLAT = "OGC:CRS84"
_AREAL = ("Polygon", "Surface", "Curve Polygon", "TIN", "Triangle", "Unknown", "GeometryCollection")
_SHAPEFILE = "ESRI Shapefile"
_UTF8 = ("UTF-8", "UTF8", "65001")


@dataclass(frozen=True, slots=True)
class LayerNames:
    """How the settings are called that choose a layer of a certain file, for messages."""

    layer: str = "layer"
    crs: str = "crs"
    encoding: str = "encoding"
    wanted: str = ""
    """What else the file may be."""


@dataclass(frozen=True, slots=True)
class VectorLayer:
    """A layer that can be read, and what its file tells of it.

    crs: None where it tells none. fields: the names of all fields; raw_fields:
    the same AS_BYTES. features: how many there are, None where only
    reading tells. indexed: features in a box are found without reading the others. bounds: west, south, east, north as
    the file tells them. texts: how they are decoded. notes: how it was chosen.
    """

    path: str
    name: str
    crs: CRS | None
    fields: tuple[str, ...]
    raw_fields: tuple[str, ...]
    features: int | None
    indexed: bool
    in_batches: bool
    bounds: Bounds | None
    texts: Texts
    notes: tuple[str, ...] = ()
    parquet: ParquetLayer | None = None


def open_layer(
    path: str, *, layer: str | None = None, encoding: str | None = None, names: LayerNames | None = None
) -> VectorLayer:
    """The layer of that name; without one the only layer, or the only one that holds polygons.

    encoding: of its texts, where the file states none or a wrong one. Raises InputError for what cannot be read, and
    for several layers of which none is named; SettingsError for what is no encoding.
    """
    names = names or LayerNames()
    if encoding is not None:
        check_encoding(encoding, setting_name=names.encoding)
    if is_parquet(path) and not is_remote(path):
        if encoding is not None:
            raise SettingsError(
                f"{setting(names.encoding, encoding)} cannot apply to {path}: texts in GeoParquet are UTF-8; leave "
                "it out"
            )
        return _open_parquet(path, layer, names)
    lacking = missing_parts(path)
    if ".shx" in lacking:
        raise InputError(
            f"{path} is a part of a Shapefile, but {Path(path).stem}.shx is not beside it, wanted .shp, .shx and .dbf; "
            "copy the missing file there, too"
        )
    chosen, notes = _choose(path, layer, names)
    if lacking:
        notes += (f"{Path(path).stem}.dbf is not beside {path}: its shapes were read without their fields",)
    try:
        with waiting(path), quietly():
            stated = _stated_encoding(path, chosen)
            info = pyogrio.read_info(source_name(path), layer=chosen, encoding=AS_BYTES)
    except (DataSourceError, DataLayerError) as error:
        raise _no_layer(path, error, names.wanted) from error
    texts = Texts(encoding or stated, shown(path), names.encoding)
    raw = tuple(map(str, info["fields"]))
    able, count = info["capabilities"], int(info["features"])
    crs = _known_crs(info["crs"])
    if crs is None and info["driver"] == "TopoJSON":
        crs, more = _lonlat_of_topojson(path, chosen, names)
        notes += more
    return VectorLayer(
        path=path,
        name=chosen,
        crs=crs,
        fields=tuple(texts.name(name) for name in raw),
        raw_fields=raw,
        features=count if count >= 0 else None,
        indexed=bool(able["fast_spatial_filter"]),
        in_batches=info["driver"] in (_SHAPEFILE, "GPKG", "FlatGeobuf", "OpenFileGDB", "SQLite"),
        bounds=_bounds(info["total_bounds"]),
        texts=texts,
        notes=notes,
    )


def missing_parts(path: str) -> tuple[str, ...]:
    """Which of .shx and .dbf are not beside a Shapefile, in whatever capitals; none of another file."""
    file = Path(path)
    if file.suffix.lower() != ".shp" or not os.path.isfile(path):  # noqa: PTH113 - a Path raises
        return ()
    beside = {other.suffix.lower() for other in file.parent.iterdir() if other.stem == file.stem}
    return tuple(suffix for suffix in (".shx", ".dbf") if suffix not in beside)


def _open_parquet(path: str, layer: str | None, names: LayerNames) -> VectorLayer:
    parquet = ParquetLayer(path)
    own = Path(path).stem
    if layer is not None and layer != own:
        raise InputError(
            f"{path} is a GeoParquet file, which holds one layer; leave {setting(names.layer)} out"
        )
    return VectorLayer(
        path=path,
        name=own,
        crs=parquet.crs,
        fields=parquet.fields,
        raw_fields=parquet.fields,
        features=parquet.features,
        indexed=False,
        in_batches=True,
        bounds=None,
        texts=Texts("UTF-8", path, names.encoding),
        parquet=parquet,
    )


def _choose(path: str, layer: str | None, names: LayerNames) -> tuple[str, tuple[str, ...]]:
    """The layer to read, and what to say about the choice."""
    kinds = _layers(path, names.wanted)
    listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "none"
    if layer is not None:
        if layer not in kinds:
            raise InputError(
                f"{shown(path)} has no layer '{layer}' of geometries; it has: {listed}{did_you_mean(layer, kinds)}"
            )
        return layer, ()
    if not kinds:
        raise InputError(f"{shown(path)} holds no feature with a geometry; wanted polygons, check the layer")
    areal = [name for name, kind in kinds.items() if any(word in kind for word in _AREAL)]
    if len(kinds) == 1:
        return next(iter(kinds)), ()
    if len(areal) == 1:
        others = ", ".join(f"{name} ({kind})" for name, kind in kinds.items() if name != areal[0])
        said = f"{shown(path)}: '{areal[0]}' was read, its only layer of polygons; it also has {others}, see "
        return areal[0], (said + setting(names.layer),)
    raise InputError(
        f"{shown(path)} holds {len(kinds)} layers of geometries ({listed}), wanted one; "
        f"name it with {setting(names.layer, 'NAME')}"
    )


def _layers(path: str, wanted: str) -> dict[str, str]:
    """The layers that hold geometries, with their kinds: tables without hold QGIS' styles and the like."""
    if is_remote(path):
        # pyogrio has a GDAL of its own, which would wait for ever.
        pyogrio.set_gdal_config_options(dict(PATIENCE))
    try:
        with waiting(path), quietly():
            layers = pyogrio.list_layers(source_name(path))
    except (DataSourceError, DataLayerError) as error:
        raise _no_layer(path, error, wanted) from error
    return {str(name): str(kind) for name, kind in layers if kind is not None}


def _stated_encoding(path: str, layer: str) -> str | None:
    """What the file says of its texts' encoding; a Shapefile without .cpg says nothing, and GDAL guesses."""
    try:
        info = pyogrio.read_info(source_name(path), layer=layer)
    except UnicodeDecodeError:
        return None  # of its fields' names already
    stated = str(info["encoding"] or "UTF-8")
    if info["driver"] == _SHAPEFILE and stated.upper() not in _UTF8:
        beside = [Path(path).with_suffix(suffix) for suffix in (".cpg", ".CPG")]
        if not any(one.is_file() for one in beside):
            return None
    return "UTF-8" if stated.upper() in _UTF8 else stated


def _lonlat_of_topojson(path: str, layer: str, names: LayerNames) -> tuple[CRS | None, tuple[str, ...]]:
    """TopoJSON has no word for a CRS: longitude and latitude where its numbers can be those, which is said."""
    info = pyogrio.read_info(source_name(path), layer=layer, encoding=AS_BYTES, force_total_bounds=True)
    found = _bounds(info["total_bounds"])
    if found is None or not looks_like_degrees(found):
        return None, ()
    said = f"{shown(path)} states no CRS, as all TopoJSON; it was read as longitude, latitude (WGS 84), see "
    return CRS(LONLAT), (said + setting(names.crs),)


def looks_like_degrees(bounds: Bounds) -> bool:
    """Whether west, south, east, north can be longitudes and latitudes."""
    west, south, east, north = bounds
    return abs(west) <= 360 and abs(east) <= 360 and abs(south) <= 90 and abs(north) <= 90


def _bounds(found: Any) -> Bounds | None:
    """None where a file does not tell, or tells no numbers."""
    if found is None or not np.isfinite(np.asarray(found, float)).all():
        return None
    west, south, east, north = map(float, found)
    return west, south, east, north


@contextmanager
def quietly() -> Iterator[None]:
    """Without warnings of what notes and errors tell: servers' answers, unclosed rings; and that ground has no M."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Measured \(M\) geometry types|HTTP response code|Non closed ring")
        yield


def source_name(path: str) -> Any:
    """What pyogrio is told to open: of an archive on a server, too, what is in it."""
    name = gdal_name(path)
    if is_remote(path) and name.partition("?")[0].lower().endswith(".zip"):
        return f"/vsizip/{{{name}}}"
    return ogr_name(name)


def shown(path: str) -> str:
    """The path for messages: an address with both slashes, and without its signature."""
    if is_remote(path):
        return without_signature(gdal_name(path)).removeprefix("/vsicurl/")
    return printable(path)


def _known_crs(text: str | None) -> CRS | None:
    """None also for the two CRSs by which a GeoPackage says that it knows none."""
    crs = CRS.from_user_input(text) if text else None
    return None if crs is None or crs.name.startswith("Undefined ") else crs


def crs_of(layer: VectorLayer, given: str | None, *, setting_name: str) -> tuple[CRS | None, tuple[str, ...]]:
    """The CRS of the layer's coordinates, and what to say about it: `given`, which the setting says, else its own.

    None where neither says one. Raises SettingsError for a text that is no CRS.
    """
    if given is None:
        return layer.crs, ()
    crs = parse_crs(given, setting_name=setting_name)
    if layer.crs is None or layer.crs == crs:
        return crs, ()
    stated = layer.crs.to_string()
    return crs, (f"{shown(layer.path)} says {stated}, but was read as {setting(setting_name, given)}",)


def no_crs(path: str, bounds: Bounds, *, setting_name: str, otherwise: str = "") -> InputError:
    """What to say of a layer without a CRS where one is needed; bounds: of its coordinates.

    otherwise: another way out, for the message.
    """
    looks = "degrees, try EPSG:4326" if looks_like_degrees(bounds) else "projected metres"
    return InputError(
        f"{shown(path)} has no CRS (is the .prj missing?); pass {setting(setting_name, 'EPSG:xxxx')}{otherwise}; "
        f"its coordinates look like {looks}"
    )


def parse_crs(text: str, *, setting_name: str) -> CRS:
    """The CRS that a setting names. Raises SettingsError when it is none."""
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise SettingsError(
            f"{setting(setting_name, text)} is not a CRS; wanted for example EPSG:32645"
        ) from error


def _no_layer(path: str, error: Exception, wanted: str) -> InputError:
    """GDAL's own words end in advice that nobody can follow here: to name a driver."""
    reason = str(error).partition("; It might help")[0].replace(str(source_name(path)), shown(path))
    if Path(path).is_dir():
        reason = "it is a folder, and no file geodatabase (.gdb)"
    return InputError(
        f"{shown(path)} is not a vector layer that GDAL can read ({reason}); "
        f"wanted a GeoPackage, Shapefile or GeoJSON{wanted}"
    )
