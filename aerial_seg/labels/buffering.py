"""Lines, points and polygons made wider by metres on the ground, whatever their CRS measures in."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer

from aerial_seg.errors import InputError
from aerial_seg.geo.areas.vector_layer import shown
from aerial_seg.geo.grid import WGS84
from aerial_seg.geo.systems import horizontal, is_local, metres_per_unit
from aerial_seg.mentions import setting

Geometries = NDArray[np.object_]
Floats = NDArray[np.float64]

_LONGEST = 10_000.0
"""Metres over which a degree, or a unit of a projection, is taken to be as long everywhere: within 0.3 % at 60°."""
_QUARTER = 16
"""Edges of a quarter of a circle: its area is 0.2 % short."""


@dataclass(slots=True)
class Buffer:
    """Call it with geometries (n,) of the CRS: each is the ground within so many metres of it, None stays None.

    Metres are measured on the ellipsoid, around each feature anew. Raises InputError where the CRS has no metres.
    """

    metres: float
    crs: CRS | None
    path: str
    _degrees: Transformer | None = field(init=False, default=None)
    _geod: Geod = field(init=False, default_factory=lambda: WGS84)
    _fixed: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        named = setting("buffer", self.metres)
        if self.crs is None:
            raise InputError(
                f"{named} is in metres, but {shown(self.path)} has no CRS to measure them in; "
                f"pass {setting('crs', 'EPSG:xxxx')}, or polygons instead"
            )
        if is_local(self.crs):
            metres = metres_per_unit(self.crs)
            if metres is None:
                raise InputError(
                    f"{named} is in metres, but the unit of '{self.crs.name}' is not known; pass polygons instead"
                )
            self._fixed = metres
            return
        flat = horizontal(self.crs)
        geographic = flat.geodetic_crs or flat
        self._degrees = Transformer.from_crs(flat, geographic, always_xy=True)
        self._geod = geographic.get_geod() or WGS84

    def __call__(self, geometries: Geometries) -> Geometries:
        """As the class says."""
        bounds = shapely.bounds(geometries).reshape(-1, 4)
        scale = self._scale((bounds[:, :2] + bounds[:, 2:]) / 2)
        with np.errstate(invalid="ignore"):
            large = ((bounds[:, 2:] - bounds[:, :2]) * scale > 2 * _LONGEST).any(axis=1)
        out = geometries.copy()
        out[~np.isfinite(scale).all(axis=1)] = None
        small = ~large & ~shapely.is_missing(out) & ~shapely.is_empty(out)
        out[small] = _widened(out[small], scale[small], self.metres)
        for row in np.flatnonzero(large & ~shapely.is_missing(out)).tolist():
            out[row] = self._in_pieces(out[row], scale[row])
        return out

    def _in_pieces(self, geometry: Any, scale: Floats) -> Any:
        """The buffer of what is so long that a unit is not as long everywhere."""
        found = []
        for part in _single(geometry):
            outlines = shapely.get_rings([part]) if part.geom_type == "Polygon" else [part]
            found += [part] if part.geom_type == "Polygon" else []
            found += [piece for line in outlines for piece in _pieces(line, _LONGEST / scale.max())]
        lines = np.array([one for one in found if one.geom_type != "Polygon"], object)
        areas = [one for one in found if one.geom_type == "Polygon"]
        return shapely.union_all([*areas, *self(lines)])

    def _scale(self, centres: Floats) -> Floats:
        """(n, 2) metres on the ground per unit of x and of y."""
        if self._fixed is not None:
            return np.full(centres.shape, self._fixed)
        assert self._degrees is not None
        assert self.crs is not None
        factor = float(horizontal(self.crs).axis_info[0].unit_conversion_factor)
        # About ten metres, in units of the CRS.
        step = 10.0 / (factor * (6.4e6 if horizontal(self.crs).is_geographic else 1.0))
        found = np.full(centres.shape, np.nan)
        for axis in (0, 1):
            ends = []
            for side in (-0.5, 0.5):
                points = centres.copy()
                points[:, axis] += side * step
                ends.append(self._lonlat(points))
            here = np.isfinite(ends[0]).all(axis=1) & np.isfinite(ends[1]).all(axis=1)
            first, last = ends[0][here], ends[1][here]
            apart = self._geod.inv(first[:, 0], first[:, 1], last[:, 0], last[:, 1])[2]
            found[here, axis] = np.asarray(apart) / step
        return found

    def _lonlat(self, points: Floats) -> Floats:
        """(n, 2) points in degrees of longitude and latitude."""
        assert self._degrees is not None
        assert self.crs is not None
        x, y = self._degrees.transform(*points.T)
        own = horizontal(self.crs).geodetic_crs or horizontal(self.crs)
        factor = np.degrees(float(own.axis_info[0].unit_conversion_factor))
        found: Floats = np.column_stack([x, y]) * factor
        return found


def _widened(geometries: Geometries, scale: Floats, metres: float) -> Geometries:
    """Buffers (n,) in a plane of metres around each geometry's first vertex."""
    points, index = shapely.get_coordinates(geometries, return_index=True)
    origins = points[np.searchsorted(index, np.arange(len(geometries)))]
    flat = shapely.set_coordinates(geometries.copy(), (points - origins[index]) * scale[index])
    wide = shapely.buffer(flat, metres, quad_segs=_QUARTER)
    points, index = shapely.get_coordinates(wide, return_index=True)
    found: Geometries = shapely.set_coordinates(wide, points / scale[index] + origins[index])
    return found


def _single(geometry: Any) -> list[Any]:
    """The points, lines and polygons that a geometry is made of, however deep."""
    parts = list(shapely.get_parts([geometry]))
    while any(part.geom_type.startswith(("Multi", "Geometry")) for part in parts):
        parts = list(shapely.get_parts(parts))
    return parts


def _pieces(line: Any, longest: float) -> list[Any]:
    """A line cut at vertices, of its own or added, into pieces not longer than twice that."""
    if line.geom_type == "Point":
        return [line]
    points = shapely.get_coordinates(shapely.segmentize(line, longest))
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    cuts = np.unique([0, *np.flatnonzero(np.diff(along // longest)), len(points) - 1])
    return [shapely.LineString(points[a : b + 1]) for a, b in pairwise(cuts.tolist())]
