"""The ground that geometries cover, as valid polygons: mended in one way, for labels, areas and outlines alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import GeometryType
from shapely.errors import GEOSException
from shapely.geometry.base import BaseGeometry

from aerial_seg.errors import InputError

_POLYGONAL = (GeometryType.POLYGON, GeometryType.MULTIPOLYGON)
_SURFACES = {15: "PolyhedralSurface", 16: "TIN", 17: "Triangle"}
"""Kinds of geometry that GDAL passes on and GEOS does not know, by their number in WKB."""
_KINDS = (
    "geometry", "Point", "LineString", "Polygon", "MultiPoint", "MultiLineString", "MultiPolygon", "GeometryCollection",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Polygons:
    """What of a layer's features covers ground.

    geometries: (n,) valid Polygon or MultiPolygon, without Z and M. rows: (n,) which of the layer's features they are.
    notes: what was mended and what was left out, with counts.
    """

    geometries: NDArray[np.object_]
    rows: NDArray[np.int64]
    notes: tuple[str, ...]


def polygons_of(wkb: NDArray[np.object_], fids: Sequence[int], path: str) -> Polygons:
    """The features (n,) of a layer as polygons; what covers no ground is left out, with its count in the notes.

    wkb: bytes or None (NULL). fids: the features' numbers in their file, as QGIS shows them. Rings that do not end
    where they began are closed. Raises InputError, naming the file, when no feature covers ground.
    """
    if not len(wkb):
        raise InputError(f"{path} holds no feature with a geometry; wanted polygons, check the layer")
    geometries = _read(wkb, "ignore")
    valid = shapely.is_valid(geometries)
    present = np.array([one is not None for one in wkb])
    unreadable = shapely.is_missing(geometries) & present
    geometries[unreadable] = _read(wkb[unreadable], "fix")
    numbers = _finite(geometries, valid)
    measured = geometries.copy()
    measured[~numbers] = None
    ground = mended(measured)
    usable = ~shapely.is_missing(ground)
    left_out: dict[str, list[int]] = defaultdict(list)
    for row in np.flatnonzero(~usable).tolist():
        left_out[_why(wkb[row], geometries[row], finite=bool(numbers[row]))].append(row)
    told = ", ".join(_count(kind, [fids[row] for row in rows]) for kind, rows in sorted(left_out.items()))
    if not usable.any():
        raise InputError(
            f"{path} holds {told}, wanted polygons with an area; buffer lines and points to their real width first"
            + _remedy(left_out)
        )
    notes = [f"left out: {told}{_remedy(left_out)}"] if told else []
    repaired = np.flatnonzero(usable & ~valid)
    if len(repaired):
        first = fids[repaired[0]]
        notes.append(f"{len(repaired)} invalid polygons were made valid (the first is feature {first})")
    return Polygons(ground[usable], np.flatnonzero(usable), tuple(notes))


def mended(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """The ground of each geometry (n,) as a valid Polygon or MultiPolygon without Z; None where it has no area.

    Ground that any of its parts covers belongs to it, however they overlap; a hole in a part is a hole unless another
    part covers it. Lines, points and empty parts fall away. (shapely's default, the even-odd rule, makes holes of
    overlaps.)
    """
    whole: NDArray[np.object_] = shapely.force_2d(geometries)
    broken = ~(shapely.is_missing(whole) | shapely.is_valid(whole))
    whole[broken] = shapely.make_valid(whole[broken], method="structure", keep_collapsed=False)
    plain = np.isin(shapely.get_type_id(whole), _POLYGONAL) & ~shapely.is_empty(whole)
    pieces, of = shapely.get_parts(whole, return_index=True)
    # GDAL's rasterizer leaves out a whole MultiPolygon for one empty part.
    plain[of[shapely.is_empty(pieces)]] = False
    for row in np.flatnonzero(~(plain | shapely.is_missing(whole))):
        whole[row] = _united_polygons(whole[row])
    return whole


def ground_of(geometry: BaseGeometry) -> BaseGeometry:
    """As `mended`, of one geometry; an empty Polygon where it has no area."""
    (whole,) = mended(np.array([geometry], object))
    return shapely.Polygon() if whole is None else whole


def _united_polygons(geometry: BaseGeometry) -> BaseGeometry | None:
    """The polygons of a valid geometry as one: a collection may hold some that overlap. None without any."""
    pieces = shapely.get_parts([geometry])
    while any(piece.geom_type.startswith(("Multi", "Geometry")) for piece in pieces):
        pieces = shapely.get_parts(pieces)
    polygons = [piece for piece in pieces if piece.geom_type == "Polygon" and piece.area > 0]
    return shapely.union_all(polygons) if polygons else None


def _read(wkb: NDArray[np.object_], on_invalid: Literal["ignore", "fix"]) -> NDArray[np.object_]:
    """Geometries (n,) of WKB; None for NULL and for what cannot be read (with "fix", unclosed rings can)."""
    with np.errstate(invalid="ignore"):  # numbers that are none get their own line
        geometries: NDArray[np.object_] = shapely.from_wkb(wkb, on_invalid=on_invalid)
        return geometries


def _finite(geometries: NDArray[np.object_], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,) False where a coordinate is NaN or infinite; valid geometries have none."""
    finite = np.ones(len(geometries), bool)
    suspects = np.flatnonzero(~valid)
    coordinates, index = shapely.get_coordinates(geometries[suspects], return_index=True)
    finite[suspects[index[~np.isfinite(coordinates).all(axis=1)]]] = False
    return finite


def _why(wkb: bytes | None, geometry: BaseGeometry | None, *, finite: bool) -> str:
    """What a feature is that covers no ground."""
    if wkb is None:
        return "no geometry"
    if geometry is None:
        return _unreadable(wkb)
    if not finite:
        return f"{geometry.geom_type} with coordinates that are no numbers"
    return f"{'empty ' if geometry.is_empty else ''}{geometry.geom_type}"


def _unreadable(wkb: bytes) -> str:
    """The kind that the WKB names, and what GEOS says of it."""
    number = int.from_bytes(wkb[1:5], "little" if wkb[:1] == b"\1" else "big") & 0x0FFFFFFF
    kind = number % 1000
    if kind in _SURFACES:
        return _SURFACES[kind]
    try:
        shapely.from_wkb(wkb)
        reason = "no reason was told"
    except GEOSException as error:
        reason = " ".join(str(error).partition(": ")[2].split()) or str(error)
    return f"{_KINDS[kind] if kind < len(_KINDS) else f'geometry of kind {number}'} that cannot be read ({reason})"


def _count(kind: str, fids: Sequence[Any]) -> str:
    """`2 × Point`; of what somebody will want to look for, the first feature too."""
    sought = "(" in kind or "numbers" in kind
    return f"{len(fids)} × {kind}" + (f", the first is feature {fids[0]}" if sought else "")


def _remedy(left_out: dict[str, list[int]]) -> str:
    if not left_out.keys() & set(_SURFACES.values()):
        return ""
    return "; ogr2ogr -nlt MULTIPOLYGON NEW.gpkg FILE makes polygons of surfaces"
