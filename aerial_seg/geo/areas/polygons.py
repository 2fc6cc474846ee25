"""The ground that geometries cover, as valid polygons: mended in one way, for labels, areas and outlines alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS
from shapely import GeometryType
from shapely.errors import GEOSException
from shapely.geometry.base import BaseGeometry

from aerial_seg.errors import InputError
from aerial_seg.geo.areas.broken_wkb import rescued
from aerial_seg.geo.turns import limits_of, turn_of
from aerial_seg.mentions import setting

Geometries = NDArray[np.object_]

_POLYGONAL = (GeometryType.POLYGON, GeometryType.MULTIPOLYGON)
_KINDS = (
    "geometry", "Point", "LineString", "Polygon", "MultiPoint", "MultiLineString", "MultiPolygon", "GeometryCollection",
)  # fmt: skip
_LISTED = 5
"""Feature numbers that a note names."""


@dataclass(slots=True)
class Told:
    """Features of one kind: how many, and the numbers of the first."""

    count: int = 0
    fids: list[Any] = field(default_factory=list)

    def add(self, fids: Sequence[Any]) -> None:
        """Count these as well."""
        self.count += len(fids)
        self.fids += list(fids)[: max(0, _LISTED - len(self.fids))]

    def __str__(self) -> str:
        """`feature 7`, or `features 7, 9, 12 and 97 more`."""
        numbers = ", ".join(map(str, self.fids))
        more = self.count - len(self.fids)
        return f"feature{'s' if self.count > 1 else ''} {numbers}" + (f" and {more} more" if more else "")


class Ground:
    """The features of one layer as polygons, a batch at a time; what covers no ground is counted and told.

    crs: of the coordinates, for what can be none of them. widen: what gives lines and points (and polygons) their
    width; without it they cover no ground. crs_setting, remedy: for messages, how the CRS is said, and what gives lines
    their width.
    """

    def __init__(
        self,
        path: str,
        crs: CRS | None,
        *,
        widen: Callable[[Geometries], Geometries] | None = None,
        crs_setting: str = "crs",
        remedy: str = "buffer lines and points to their real width first",
    ) -> None:
        self._path, self._crs, self._widen = path, crs, widen
        self._crs_setting, self._remedy = crs_setting, remedy
        self._limits, self._turn = limits_of(crs), turn_of(crs)
        self._left_out: dict[str, Told] = defaultdict(Told)
        self._repaired, self._around = Told(), Told()
        self._usable = self._seen = 0

    def add(self, wkb: NDArray[np.object_], fids: Sequence[Any]) -> tuple[Geometries, NDArray[np.int64]]:
        """Valid polygons (k,) without Z and M, and which of the batch's features (k,) they are.

        wkb: (n,) bytes or None (NULL). fids: (n,) the features' numbers in their file.
        """
        geometries = _read(wkb)
        broken = ~shapely.is_valid(geometries)
        present = np.array([one is not None for one in wkb], bool)
        unreadable = np.flatnonzero(shapely.is_missing(geometries) & present)
        unmeasured = {}
        for row in unreadable.tolist():
            found = rescued(wkb[row])
            geometries[row] = None if found is None else found.polygon
            if found is not None and not found.numbers:
                unmeasured[row] = f"{_kind_of(wkb[row])} with coordinates that are no numbers"
        reasons = unmeasured | self._beyond(geometries, broken)
        measured = geometries.copy()
        measured[list(reasons)] = None
        ground = mended(measured, sound=~broken) if self._widen is None else mended(self._widened(measured))
        usable = ~shapely.is_missing(ground)
        for row in np.flatnonzero(~usable).tolist():
            why = reasons.get(row) or _why(wkb[row], geometries[row])
            self._left_out[why].add([fids[row]])
        self._repaired.add([fids[row] for row in np.flatnonzero(usable & broken & present).tolist()])
        self._around.add([fids[row] for row in self._long_edges(ground)])
        self._usable += int(usable.sum())
        self._seen += len(wkb)
        return ground[usable], np.flatnonzero(usable)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, with reason, count and the first features' numbers, and what was mended."""
        notes = [f"left out: {self._listed()}"] if self._left_out else []
        if self._repaired.count:
            notes.append(f"{self._repaired.count} invalid polygons were made valid ({self._repaired})")
        if self._around.count:
            notes.append(
                f"{self._around.count} polygons have an edge longer than half the way around the earth "
                f"({self._around}): drawn across 180° they cover the other side of it; cut them there "
                "(ogr2ogr -wrapdateline -t_srs EPSG:4326 NEW.gpkg FILE)"
            )
        return tuple(notes)

    def require_any(self) -> None:
        """Raises InputError, naming the file and what it holds, unless a feature covers ground."""
        if self._usable:
            return
        if not self._seen:
            raise InputError(
                f"{self._path} holds no feature with a geometry; wanted polygons, check the layer"
            )
        remedy = self._remedy
        if any("beyond" in why for why in self._left_out):
            remedy = (
                f"pass their true CRS with {setting(self._crs_setting, 'EPSG:xxxx')}, unless their axes are swapped "
                "(lat,lon)"
            )
        raise InputError(f"{self._path} holds {self._listed()}, wanted polygons with an area; {remedy}")

    def _listed(self) -> str:
        return ", ".join(f"{told.count} × {why} ({told})" for why, told in sorted(self._left_out.items()))

    def _beyond(self, geometries: Geometries, broken: NDArray[np.bool_]) -> dict[int, str]:
        """Why a geometry (by row) has no place: its coordinates are no numbers, or none that the CRS has."""
        reasons = {}
        suspects = np.flatnonzero(broken)
        coordinates, index = shapely.get_coordinates(geometries[suspects], return_index=True)
        for row in np.unique(suspects[index[~np.isfinite(coordinates).all(axis=1)]]).tolist():
            reasons[row] = f"{geometries[row].geom_type} with coordinates that are no numbers"
        bounds = np.abs(shapely.bounds(geometries)).reshape(-1, 2, 2).max(axis=1)
        for row in np.flatnonzero((bounds > self._limits).any(axis=1)).tolist():
            named = "this plane" if self._crs is None else f"'{self._crs.name}'"
            reasons.setdefault(
                row, f"{geometries[row].geom_type} with coordinates beyond all places of {named}"
            )
        return reasons

    def _widened(self, geometries: Geometries) -> Geometries:
        assert self._widen is not None
        plain = shapely.force_2d(geometries)
        areal = np.isin(shapely.get_type_id(plain), _POLYGONAL)
        plain[areal] = mended(plain[areal])
        return self._widen(plain)

    def _long_edges(self, ground: Geometries) -> list[int]:
        """Rows whose outline goes more than half the way around in one straight line, but not all the way."""
        if self._turn is None:
            return []
        bounds = shapely.bounds(ground)
        found = []
        for row in np.flatnonzero(bounds[:, 2] - bounds[:, 0] > self._turn / 2).tolist():
            steps = np.concatenate(
                [
                    np.abs(np.diff(shapely.get_coordinates(r)[:, 0]))
                    for r in shapely.get_rings(shapely.get_parts(ground[row]))
                ]
            )
            if ((steps > self._turn / 2) & (steps < self._turn * (1 - 1e-9))).any():
                found.append(row)
        return found


def mended(geometries: Geometries, *, sound: NDArray[np.bool_] | None = None) -> Geometries:
    """The ground of each geometry (n,) as a valid Polygon or MultiPolygon without Z; None where it has no area.

    Ground that any of its parts covers belongs to it, however they overlap; a hole in a part is a hole unless another
    part covers it. Lines, points and empty parts fall away. (shapely's default, the even-odd rule, makes holes of
    overlaps.)

    sound: (n,) those that are known to be valid, or None.
    """
    whole: NDArray[np.object_] = np.array(geometries, object)
    deep = shapely.get_coordinate_dimension(whole) > 2
    whole[deep] = shapely.force_2d(whole[deep])
    broken = ~shapely.is_missing(whole) if sound is None else ~shapely.is_missing(whole) & ~sound
    broken[broken] = ~shapely.is_valid(whole[broken])
    whole[broken] = shapely.make_valid(whole[broken], method="structure", keep_collapsed=False)
    kinds = shapely.get_type_id(whole)
    plain = np.isin(kinds, _POLYGONAL) & ~shapely.is_empty(whole)
    # GDAL's rasterizer leaves out a whole MultiPolygon for one empty part.
    several = np.flatnonzero(kinds == GeometryType.MULTIPOLYGON)
    pieces, of = shapely.get_parts(whole[several], return_index=True)
    plain[several[of[shapely.is_empty(pieces)]]] = False
    for row in np.flatnonzero(~(plain | shapely.is_missing(whole))):
        whole[row] = _united_polygons(whole[row])
    # A ring of 1e-308 is one for GEOS, and its area is 0 all the same.
    whole[shapely.area(whole) == 0] = None
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


def _read(wkb: NDArray[np.object_]) -> Geometries:
    """Geometries (n,) of WKB; None for NULL and for what cannot be read."""
    with np.errstate(invalid="ignore"):  # numbers that are none get their own line
        geometries: Geometries = shapely.from_wkb(wkb, on_invalid="ignore")
        return geometries


def _why(wkb: bytes | None, geometry: BaseGeometry | None) -> str:
    """What a feature is that covers no ground."""
    if wkb is None:
        return "no geometry"
    if geometry is None:
        return _unreadable(wkb)
    if geometry.is_empty:
        return f"empty {geometry.geom_type}"
    areal = geometry.geom_type in ("Polygon", "MultiPolygon")
    return f"{geometry.geom_type} without an area" if areal else str(geometry.geom_type)


def _unreadable(wkb: bytes) -> str:
    """The kind that the WKB names, and what GEOS says of it."""
    try:
        shapely.from_wkb(wkb)
        reason = "no reason was told"
    except (GEOSException, ValueError) as error:
        reason = " ".join(str(error).partition(": ")[2].split()) or str(error)
    return f"{_kind_of(wkb)} that cannot be read ({reason})"


def _kind_of(wkb: bytes) -> str:
    number = int.from_bytes(wkb[1:5], "little" if wkb[:1] == b"\1" else "big") & 0x0FFFFFFF
    kind = number % 1000
    return _KINDS[kind] if kind < len(_KINDS) else f"geometry of kind {number}"
