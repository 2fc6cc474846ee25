"""xarray's DataArrays, without xarray: what they, rioxarray and the CF conventions say of pixels and their place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.errors import CRSError as RasterioCRSError

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.georeference import unusable_crs

_X = ("x", "longitude", "lon", "easting")
_Y = ("y", "latitude", "lat", "northing")
_FILLS = ("_FillValue", "missing_value", "nodata")
_STRAY = 1e-3
"""Of a pixel: coordinates that leave an even spacing by more are those of no grid."""


@dataclass(frozen=True, slots=True)
class LabelledArray:
    """image (C,H,W); names: of the bands, where they are told. nodata: None where nothing says one, or NaN is it."""

    image: NDArray[Any]
    grid: Grid
    names: tuple[str, ...]
    nodata: float | None


def is_labelled_array(thing: object) -> bool:
    """Whether it is a DataArray, or its Dataset: `read_labelled_array` tells them apart."""
    return all(hasattr(thing, name) for name in ("dims", "coords", "attrs"))


def read_labelled_array(array: Any) -> LabelledArray:
    """The pixels in the order (band, y, x), a view where they lie in memory, and their place.

    Raises InputError for axes that are not those of an image, and for coordinates that are not evenly spaced.
    """
    if hasattr(array, "data_vars"):
        raise InputError(
            f"the image is an xarray Dataset, wanted one DataArray: ds['{next(iter(array.data_vars), 'name')}'], or "
            "ds.to_array() for all of its variables as bands"
        )
    across, down = _axis(array, _X, "x"), _axis(array, _Y, "y")
    others = [dim for dim in array.dims if dim not in (across, down)]
    if len(others) > 1:
        raise InputError(
            f"the DataArray has the axes {', '.join(map(str, array.dims))}, wanted a band axis beside {down} and "
            f"{across}; pick one of the others (.isel({others[0]}=0))"
        )
    ordered = array.transpose(*others, down, across)
    pixels = np.asarray(ordered.values)
    if not others:
        pixels = pixels[None]
    height, width = pixels.shape[1:]
    if min(height, width) < 1:
        raise InputError(f"an image of {height} × {width} pixels holds nothing to work on")
    reference = _reference(array)
    crs = _crs(array, reference)
    transform = _transform(array, reference, down=down, across=across)
    if crs is not None and transform.is_identity:
        raise _no_size(across)
    grid = Grid(crs, transform, height, width)
    return LabelledArray(pixels, grid, _names(array, others, len(pixels)), _nodata(array))


def _axis(array: Any, names: tuple[str, ...], what: str) -> Any:
    own = getattr(getattr(array, "rio", None), f"_{what}_dim", None)
    found = [dim for dim in array.dims if dim == own or str(dim).lower() in names]
    if len(found) != 1:
        raise InputError(
            f"the DataArray has the axes {', '.join(map(str, array.dims))}, wanted one called {' or '.join(names)}; "
            f"rename it (.rename({array.dims[-1 if what == 'x' else -2] if len(array.dims) > 1 else 'AXIS'}='{what}'))"
        )
    return found[0]


def _reference(array: Any) -> dict[str, Any]:
    """What CF calls the grid mapping: where rioxarray and GDAL keep the CRS and the transform."""
    name = array.encoding.get("grid_mapping") or array.attrs.get("grid_mapping") or "spatial_ref"
    return dict(array.coords[name].attrs) if name in array.coords else {}


def _crs(array: Any, reference: dict[str, Any]) -> CRS | None:
    told = reference.get("crs_wkt") or reference.get("spatial_ref")
    if told is None:
        own = _said_by_rioxarray(array, "crs") or array.attrs.get("crs")
        told = own.to_wkt() if own is not None and hasattr(own, "to_wkt") else own
    if told is None:
        return None
    try:
        return require_usable(CRS.from_user_input(told), "the DataArray")
    except CRSError as error:
        raise InputError(
            f"the DataArray has a CRS that PROJ cannot build ({error}); give it the true one (.rio.write_crs)"
        ) from error


def require_usable(crs: CRS, name: str) -> CRS:
    """The CRS itself. Raises InputError, naming what has it, where pixels have no place or no size in it."""
    trouble = unusable_crs(crs)
    if trouble is not None:
        raise InputError(f"{name} {trouble.got}; pass that of its place on earth, as EPSG:32633, or none")
    return crs


def _transform(array: Any, reference: dict[str, Any], *, down: Any, across: Any) -> Affine:
    """The one that is written down, if its coordinates agree or there are none; a slice keeps that of the whole."""
    written = _written(reference)
    edges = [_edges(array, axis) for axis in (across, down)]
    if written is None and edges == [None, None]:
        return Affine.identity()
    if written is not None and (written.b or written.d):
        return written
    sides = []
    for axis, edge, start, step in zip(
        (across, down),
        edges,
        (None, None) if written is None else (written.c, written.f),
        (None, None) if written is None else (written.a, written.e),
        strict=True,
    ):
        if edge is None:
            if start is None or step is None:
                raise _no_size(axis)
            sides.append((start, step))
            continue
        first, spacing = edge
        spacing = step if spacing is None else spacing
        if spacing is None:
            raise _no_size(axis)
        # The written numbers, to their last bit, where the coordinates mean the same.
        if step is not None and abs(step / spacing - 1) <= _STRAY / max(1, array.sizes[axis]):
            spacing = step
        corner = first - spacing / 2
        same = start is not None and abs(corner - start) <= _STRAY * abs(spacing)
        sides.append((start if same and start is not None else corner, spacing))
    (left, wide), (top, high) = sides
    return Affine(wide, 0, left, 0, high, top)


def _no_size(axis: Any) -> InputError:
    return InputError(
        f"the DataArray says not how large a pixel is along {axis}; write its transform (.rio.write_transform), or "
        "hand over its values with transform=… and crs=…"
    )


def _edges(array: Any, axis: Any) -> tuple[float, float | None] | None:
    """The first coordinate of an axis and their spacing (None of a single one); None without coordinates."""
    if axis not in array.coords:
        return None
    told = np.asarray(array.coords[axis].values)
    if told.dtype.kind not in "iuf":  # numpy makes numbers of dates, and of texts
        raise InputError(
            f"the DataArray's coordinates along {axis} are {told.dtype}, wanted numbers, those of a raster's pixels; "
            f"leave them out (.drop_vars('{axis}'))"
        )
    places = told.astype(np.float64)
    if len(places) == 1:
        return float(places[0]), None
    spacing = float(places[-1] - places[0]) / (len(places) - 1)
    even = places[0] + spacing * np.arange(len(places))
    if spacing == 0 or not np.abs(places - even).max() <= _STRAY * abs(spacing):
        raise InputError(
            f"the DataArray's coordinates along {axis} are not evenly spaced, wanted those of a raster's pixels; "
            "resample it (.rio.reproject) first"
        )
    return float(places[0]), spacing


def _written(reference: dict[str, Any]) -> Affine | None:
    text = reference.get("GeoTransform")
    if text is None:
        return None
    try:
        return Affine.from_gdal(*map(float, str(text).split()))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the DataArray has the GeoTransform '{text}', wanted six numbers; write it anew (.rio.write_transform)"
        ) from error


def _names(array: Any, others: list[Any], count: int) -> tuple[str, ...]:
    told = array.attrs.get("long_name")
    if isinstance(told, tuple | list) and len(told) == count and all(isinstance(name, str) for name in told):
        return tuple(told)
    if others and others[0] in array.coords:
        labels = np.asarray(array.coords[others[0]].values).tolist()
        if all(isinstance(label, str) for label in labels):
            return tuple(labels)
    return ()


def _said_by_rioxarray(array: Any, what: str) -> Any:
    """None also where it cannot read its own attribute: what stands there is then read here, and refused by name."""
    try:
        return getattr(getattr(array, "rio", None), what, None)
    except (ValueError, OverflowError, CRSError, RasterioCRSError):
        return None


def _nodata(array: Any) -> float | None:
    """None also for a value that no pixel of the array can have: NaN counts as not measured whatever is said."""
    own = _said_by_rioxarray(array, "nodata")
    told = [own, *(array.attrs.get(name) for name in _FILLS), *(array.encoding.get(name) for name in _FILLS)]
    said = next((value for value in told if value is not None), None)
    if said is None:
        return None
    try:
        value = float(said)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the DataArray's nodata value is {said!r}, wanted a number; write it anew (.rio.write_nodata)"
        ) from error
    dtype = np.dtype(array.dtype)
    if dtype.kind == "f":
        # Of a masked DataArray the fill value is told of the file; its own pixels are NaN there.
        return None if math.isnan(value) or (own is not None and math.isnan(float(own))) else value
    if dtype.kind not in "iu" or not math.isfinite(value) or value != int(value):
        return None
    return value if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max else None
