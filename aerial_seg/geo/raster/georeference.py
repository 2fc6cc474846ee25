"""Where a raster's pixels lie, and if nowhere, what it has instead and how that becomes a place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.etree import ElementTree as Xml

from affine import Affine
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.io import DatasetReader

from aerial_seg.geo.systems import is_derived, is_local, metres_per_unit, why_no_place

_WORDS = 60
_FLAT = 1e-10
"""A geotransform whose determinant is this small beside its sides cannot be inverted; GDAL's own limit."""
_GIVE_IT = "give it the true one (gdal_edit.py -a_srs EPSG:…)"


@dataclass(frozen=True, slots=True)
class Unplaced:
    """Why a raster's pixels have no place in a CRS. `got` goes on after the file's name; `remedy` is an order."""

    got: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Place:
    """CRS and transform that hold for a raster's pixels; `unplaced` where that is less than a georeference.

    crs: None where pixels have no place in one. transform: the identity where the file's places no pixel.
    """

    crs: CRS | None
    transform: Affine
    unplaced: Unplaced | None = None


def place_of(dataset: DatasetReader) -> Place:
    """Where an opened raster's pixels lie.

    GDAL shows a missing geotransform as the identity. A file whose CRS is written down beside control points or
    polynomials has one all the same: its pixels would silently lie at the origin of the CRS.
    """
    transform = dataset.transform
    if _is_flat(transform):
        numbers = ", ".join(f"{number:g}" for number in transform.to_gdal())
        got = f"has a geotransform that places no pixel ({numbers})"
        return Place(None, Affine.identity(), Unplaced(got, _corners()))
    wkt = "" if dataset.crs is None else dataset.crs.wkt
    if not wkt or transform.is_identity:
        return Place(None, transform, _without(dataset))
    crs, trouble = _usable(wkt)
    return Place(crs, transform, trouble)


def unusable_crs(crs: CRS) -> Unplaced | None:
    """Why pixels cannot lie in this CRS, or not with a size; None where they can."""
    what = why_no_place(crs)
    if what is not None:
        return Unplaced(f"has a CRS of {what}, '{crs.name}', in which pixels have no place", _GIVE_IT)
    if is_derived(crs):
        got = f"has the derived CRS '{crs.name}', which no GeoTIFF can hold"
        return Unplaced(got, "warp it first (gdalwarp -t_srs EPSG:4326 in.tif out.tif)")
    if is_local(crs) and metres_per_unit(crs) is None:
        got = (
            f"has the local CRS '{crs.name}' without a known unit of length, so that its pixels have no size"
        )
        remedy = 'give it one with its unit (gdal_edit.py -a_srs \'LOCAL_CS["site",UNIT["metre",1]]\')'
        return Unplaced(got, remedy)
    return None


@cache
def _usable(wkt: str) -> tuple[CRS | None, Unplaced | None]:
    """The CRS, if pixels can have a place in it, and why not, or not with a size; thousands of scenes have one."""
    try:
        crs = CRS.from_wkt(wkt)
    except CRSError as error:
        return None, Unplaced(f"has a CRS that PROJ cannot build ({error})", _GIVE_IT)
    trouble = unusable_crs(crs)
    return crs if trouble is None or is_local(crs) else None, trouble


def broken_crs(dataset: DatasetReader) -> str | None:
    """The file and the words of a CRS that is written down for a raster, where GDAL made none of them; else None."""
    path = Path(dataset.name)
    for file in (path.with_name(path.name + ".aux.xml"), *([path] if dataset.driver == "VRT" else [])):
        try:
            words = (
                Xml.fromstring(file.read_bytes().decode("utf-8", "replace")).findtext("SRS") or ""
            ).strip()
        except (OSError, Xml.ParseError, ValueError, LookupError):
            continue
        if words and not dataset.crs:
            return f"{file.name} says {words[:_WORDS]}{'…' if len(words) > _WORDS else ''}"
    return None


def _is_flat(transform: Affine) -> bool:
    """Whether no pixel has a place under it: a number that is none, or sides that lie on one line."""
    a, b, _, d, e, _ = numbers = tuple(transform)[:6]
    if not all(map(math.isfinite, numbers)):
        return True
    # Scaled first: the product of large numbers overflows.
    long = max(map(abs, (a, b, d, e)))
    if long == 0:
        return True
    across, down = math.hypot(a / long, d / long), math.hypot(b / long, e / long)
    return bool(abs(a / long * (e / long) - b / long * (d / long)) <= _FLAT * across * down)


def _corners() -> str:
    return "give it its corners (gdal_edit.py -a_ullr LEFT TOP RIGHT BOTTOM) or its world file (.tfw)"


def _without(dataset: DatasetReader) -> Unplaced:
    """Of a raster that lacks a CRS or a geotransform."""
    if dataset.gcps[0]:
        return Unplaced(
            "is placed by ground control points only", "warp it first (gdalwarp -t_srs EPSG:… in.tif out.tif)"
        )
    if dataset.rpcs:
        return Unplaced(
            "is placed by rational polynomial coefficients (RPC) only",
            "orthorectify it first (gdalwarp -rpc -to RPC_DEM=dem.tif -t_srs EPSG:… in.tif out.tif)",
        )
    if dataset.crs:
        return Unplaced("has a CRS but no geotransform", _corners())
    broken = broken_crs(dataset)
    if broken is not None:
        return Unplaced(f"has a CRS that PROJ cannot build ({broken})", _GIVE_IT)
    return Unplaced("has no CRS", "give it one (gdal_edit.py -a_srs EPSG:…)")
