"""Ragged polygons as well-known binary, all in one buffer: what GDAL, GeoParquet and shapely take without a copy."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Bytes, Floats64, Ints, inner, kernel

_POLYGON, _MULTIPOLYGON = 3, 6
_HEAD = 9
"""Bytes before a geometry's parts: byte order, type, count."""


class Ragged(Protocol):
    """Features of one or several polygons: what a PolygonBatch holds of its geometries."""

    @property
    def coords(self) -> Floats64:
        """(n,2) x, y; every ring ends with its first vertex."""

    @property
    def rings(self) -> Ints:
        """(r+1,) offsets into coords."""

    @property
    def polygons(self) -> Ints:
        """(p+1,) offsets into rings; a polygon's first ring is its exterior."""

    @property
    def features(self) -> Ints:
        """(f+1,) offsets into polygons."""


@dataclass(frozen=True, slots=True)
class Wkb:
    """Geometries one after the other: number k is data[offsets[k]:offsets[k+1]], offsets (f+1,) from 0 on."""

    data: Bytes
    offsets: Ints

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def part(self, start: int, stop: int) -> Wkb:
        """The geometries start … stop − 1, without a copy of their bytes."""
        offsets = self.offsets[start : stop + 1]
        return Wkb(self.data[offsets[0] : offsets[-1]], offsets - offsets[0])

    def joined(self, other: Wkb) -> Wkb:
        """These geometries and then those."""
        offsets = np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]])
        return Wkb(np.concatenate([self.data, other.data]), offsets)

    def parts(self) -> Ints:
        """(f,) polygons of each MultiPolygon."""
        places = self.offsets[:-1, None] + np.arange(5, _HEAD)
        counts: Ints = self.data[places].astype(np.int64) @ (256 ** np.arange(4))
        return counts

    def objects(self) -> NDArray[np.object_]:
        """A bytes object per geometry: what pyogrio.raw.write and shapely.from_wkb take."""
        view, ends = self.data.data, self.offsets.tolist()
        objects = np.empty(len(self), object)
        objects[:] = [bytes(view[start:end]) for start, end in pairwise(ends)]
        return objects


def multipolygons(shapes: Ragged) -> Wkb:
    """Every feature is an ISO WKB MultiPolygon, little-endian, its vertices bit by bit those of `shapes`."""
    offsets = _offsets(shapes.rings, shapes.polygons, shapes.features)
    data = np.empty(offsets[-1], np.uint8)
    vertices = np.ascontiguousarray(shapes.coords, "<f8").view(np.uint8).reshape(-1)
    _encode(vertices, shapes.rings, shapes.polygons, shapes.features, data)
    return Wkb(data, offsets)


@kernel
def _offsets(rings: Ints, polygons: Ints, features: Ints) -> Ints:
    """Where every feature begins, and the end."""
    offsets = np.empty(features.size, np.int64)
    offsets[0] = 0
    for f in range(features.size - 1):
        first, last = polygons[features[f]], polygons[features[f + 1]]
        parts = features[f + 1] - features[f]
        size = _HEAD + _HEAD * parts + 4 * (last - first) + 16 * (rings[last] - rings[first])
        offsets[f + 1] = offsets[f] + size
    return offsets


@kernel
def _encode(vertices: Bytes, rings: Ints, polygons: Ints, features: Ints, data: Bytes) -> None:
    """`data` holds the features; vertices: the bytes of the coordinates."""
    at = 0
    for f in range(features.size - 1):
        at = _put_head(data, at, _MULTIPOLYGON, features[f + 1] - features[f])
        for p in range(features[f], features[f + 1]):
            at = _put_head(data, at, _POLYGON, polygons[p + 1] - polygons[p])
            for r in range(polygons[p], polygons[p + 1]):
                at = _put_number(data, at, rings[r + 1] - rings[r])
                start, length = 16 * rings[r], 16 * (rings[r + 1] - rings[r])
                data[at : at + length] = vertices[start : start + length]
                at += length


@inner
def _put_head(data: Bytes, at: int, kind: int, count: int) -> int:
    data[at] = 1
    return _put_number(data, _put_number(data, at + 1, kind), count)


@inner
def _put_number(data: Bytes, at: int, number: int) -> int:
    """The number lies at `at` as 4 bytes, the lowest first; returns the place behind it."""
    for k in range(4):
        data[at + k] = (number >> (8 * k)) & 255
    return at + 4
