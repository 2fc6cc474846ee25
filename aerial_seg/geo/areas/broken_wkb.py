"""Polygons out of WKB that GEOS does not read: unclosed and one-point rings, TINs and other surfaces.

Source: ISO 19125-1 (WKB), and 13249-3 for the kinds of geometry and the thousands of Z and M.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray

Ring = NDArray[np.float64]

_POINT, _LINE, _POLYGON, _TRIANGLE = 1, 2, 3, 17
_OF_GEOMETRIES = (4, 5, 6, 7, 15, 16)
"""Multi…, collections, polyhedral surfaces, TINs: a count, and so many geometries."""
_Z, _M, _SRID = 0x80000000, 0x40000000, 0x20000000
"""How PostGIS writes what ISO adds thousands for."""
_LEAST = 3
"""Different points of a ring."""
_DEEPEST = 32


class _Unreadable(ValueError):
    """The bytes are not what they say."""


@dataclass(slots=True)
class Rescued:
    """What was found. polygon: None without a ring that encloses ground. dropped: rings of fewer than three points.

    numbers: whether all coordinates are some; else there is no polygon.
    """

    polygon: shapely.MultiPolygon | None
    dropped: int
    numbers: bool = True


def rescued(wkb: bytes) -> Rescued | None:
    """The polygons that the bytes hold, as they stand there, whatever else they hold; None where they are no WKB.

    Rings are closed. What covers ground may overlap or cross itself, and numbers may be none: mending comes after.
    """
    reader = _Reader(wkb)
    try:
        reader.geometry(0)
    except (_Unreadable, struct.error):
        return None
    if not reader.polygons:
        return Rescued(None, reader.dropped)
    if not all(np.isfinite(ring).all() for rings in reader.polygons for ring in rings):
        return Rescued(None, reader.dropped, numbers=False)
    polygons = [shapely.Polygon(rings[0], rings[1:]) for rings in reader.polygons]
    return Rescued(shapely.MultiPolygon(polygons), reader.dropped)


@dataclass(slots=True)
class _Reader:
    wkb: bytes
    at: int = 0
    polygons: list[list[Ring]] = field(default_factory=list)
    dropped: int = 0

    def geometry(self, depth: int) -> None:
        if depth > _DEEPEST or self.at >= len(self.wkb):
            raise _Unreadable
        order = {0: ">", 1: "<"}.get(self.wkb[self.at])
        if order is None:
            raise _Unreadable
        self.at += 1
        kind, width = self._kind(order)
        if kind == _POINT:
            self._points(order, 1, width)
        elif kind == _LINE:
            self._points(order, self._count(order, 8 * width), width)
        elif kind in (_POLYGON, _TRIANGLE):
            self._polygon(order, width)
        elif kind in _OF_GEOMETRIES:
            for _ in range(self._count(order, 5)):
                self.geometry(depth + 1)
        else:
            raise _Unreadable

    def _kind(self, order: str) -> tuple[int, int]:
        """The kind of geometry, and how many numbers a point has."""
        code = self._number(order)
        width = 2 + bool(code & _Z) + bool(code & _M)
        if code & _SRID:
            self._number(order)
        code &= ~(_Z | _M | _SRID)
        thousands, kind = divmod(code, 1000)
        if thousands > 3:
            raise _Unreadable
        return kind, width + (0, 1, 1, 2)[thousands]

    def _number(self, order: str) -> int:
        (value,) = struct.unpack_from(f"{order}I", self.wkb, self.at)
        self.at += 4
        return int(value)

    def _count(self, order: str, least: int) -> int:
        """How many parts of at least so many bytes come: never more than there are bytes for."""
        count = self._number(order)
        if count * least > len(self.wkb) - self.at:
            raise _Unreadable
        return count

    def _points(self, order: str, count: int, width: int) -> Ring:
        size = 8 * width * count
        if size > len(self.wkb) - self.at:
            raise _Unreadable
        found = np.frombuffer(self.wkb, f"{order}f8", width * count, self.at).reshape(count, width)
        self.at += size
        return found[:, :2].astype(np.float64)

    def _polygon(self, order: str, width: int) -> None:
        rings = []
        for number in range(self._count(order, 4)):
            ring = _closed(self._points(order, self._count(order, 8 * width), width))
            if ring is not None:
                rings.append(ring)
                continue
            self.dropped += 1
            if number == 0:
                # Without an outline its holes are holes of nothing; they are passed over to what comes after.
                rings.append(np.empty((0, 2)))
        if rings and len(rings[0]):
            self.polygons.append(rings)


def _closed(ring: Ring) -> Ring | None:
    """The ring ending where it began; None with fewer than three different points, which enclose nothing."""
    if len(np.unique(ring, axis=0)) < _LEAST:
        return None
    return ring if (ring[0] == ring[-1]).all() else np.concatenate([ring, ring[:1]])
