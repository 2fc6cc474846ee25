"""One layer of a vector file, read in one way for labels and areas: geometries as WKB, fields, CRS."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS
from pyproj.exceptions import CRSError

from aerial_seg.errors import InputError, SettingsError, did_you_mean
from aerial_seg.files.names import ogr_name
from aerial_seg.geo.raster.remote import PATIENCE, gdal_name, is_remote, waiting
from aerial_seg.mentions import setting


@dataclass(frozen=True, slots=True)
class VectorLayer:
    """The features of a layer.

    wkb: (n,) a geometry each as bytes, None for NULL. fids: (n,) their numbers in the file. fields: the names of all
    fields. columns: the values (n,) of the fields that were asked for and are there.
    """

    path: str
    name: str
    crs: CRS | None
    wkb: NDArray[np.object_]
    fids: NDArray[np.int64]
    fields: tuple[str, ...]
    columns: dict[str, NDArray[Any]]


def layer_names(path: str, *, layer: str | None = None, wanted: str = "") -> tuple[str, ...]:
    """The layers of a file that hold geometries: tables without hold QGIS' styles and the like.

    With `layer` that one is among them. wanted: what else the file may be, for the message. Raises InputError.
    """
    if is_remote(path):
        # pyogrio has a GDAL of its own, which would wait for ever.
        pyogrio.set_gdal_config_options(dict(PATIENCE))
    try:
        with waiting(path):
            layers = pyogrio.list_layers(ogr_name(gdal_name(path)))
        names = tuple(str(name) for name, kind in layers if kind is not None)
    except (DataSourceError, DataLayerError) as error:
        raise _no_layer(path, error, wanted) from error
    if layer is not None and layer not in names:
        raise InputError(
            f"{path} has no layer '{layer}' of geometries; it has: {', '.join(names) or 'none'}"
            f"{did_you_mean(layer, names)}"
        )
    if not names:
        raise InputError(f"{path} holds no feature with a geometry; wanted polygons, check the layer")
    return names


def read_layer(path: str, layer: str, *, fields: Sequence[str] = (), wanted: str = "") -> VectorLayer:
    """The layer of that name. fields: those whose values are wanted. Raises InputError for what GDAL cannot read."""
    try:
        with waiting(path):
            known = tuple(map(str, pyogrio.read_info(ogr_name(gdal_name(path)), layer=layer)["fields"]))
        columns = [name for name in fields if name in known]
        with waiting(path), warnings.catch_warnings():
            # Ground has no M: nothing is lost where it falls away.
            warnings.filterwarnings("ignore", r"Measured \(M\) geometry types")
            meta, fids, wkb, values = pyogrio.raw.read(
                ogr_name(gdal_name(path)), layer=layer, columns=columns, return_fids=True
            )
    except (DataSourceError, DataLayerError) as error:
        raise _no_layer(path, error, wanted) from error
    return VectorLayer(
        path=path,
        name=layer,
        crs=_known_crs(meta["crs"]),
        wkb=np.asarray(wkb, object),
        fids=np.asarray(fids, np.int64),
        fields=known,
        columns=dict(zip(map(str, meta["fields"]), values, strict=True)),
    )


def _known_crs(text: str | None) -> CRS | None:
    """None also for the two CRSs by which a GeoPackage says that it knows none."""
    crs = CRS.from_user_input(text) if text else None
    return None if crs is None or crs.name.startswith("Undefined ") else crs


def crs_of(
    layer: VectorLayer,
    given: str | None,
    polygons: NDArray[np.object_],
    *,
    setting_name: str,
    otherwise: str = "",
) -> tuple[CRS, tuple[str, ...]]:
    """The CRS of the layer's coordinates, and what to say about it: `given`, which the setting says, else its own.

    polygons: what it holds, to tell what their coordinates look like. otherwise: another way out, for the message.
    Raises SettingsError for a text that is no CRS and InputError where there is none.
    """
    if given is not None:
        crs = parse_crs(given, setting_name=setting_name)
        if layer.crs is not None and layer.crs != crs:
            said = (
                f"{layer.path} says {layer.crs.to_string()}, but was read as {setting(setting_name, given)}"
            )
            return crs, (said,)
        return crs, ()
    if layer.crs is None:
        raise no_crs(layer.path, polygons, setting_name=setting_name, otherwise=otherwise)
    return layer.crs, ()


def no_crs(path: str, polygons: NDArray[np.object_], *, setting_name: str, otherwise: str = "") -> InputError:
    """What to say of a layer without a CRS where one is needed; see `crs_of`."""
    west, south, east, north = shapely.total_bounds(polygons)
    degrees = abs(west) <= 180 and abs(east) <= 180 and abs(south) <= 90 and abs(north) <= 90
    looks = "degrees, try EPSG:4326" if degrees else "projected metres"
    return InputError(
        f"{path} has no CRS (is the .prj missing?); pass {setting(setting_name, 'EPSG:xxxx')}{otherwise}; "
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
    return InputError(
        f"{path} is not a vector layer that GDAL can read ({error}); "
        f"wanted a GeoPackage, Shapefile or GeoJSON{wanted}"
    )
