"""Polygons of any CRS laid on a grid, in its pixels: their edges follow the ground, and the earth may come round."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from aerial_seg.geo.areas.feature_store import Choose
from aerial_seg.geo.areas.polygons import mended
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.systems import same_local
from aerial_seg.geo.turns import TURNS, Floats, copies, limits_of, turn_of, turned

Bounds = tuple[float, float, float, float]
Geometries = NDArray[np.object_]

_STRAY = 0.02
"""Pixels that a projected edge may lie beside the true line; vertices are added until it does."""
_LONGEST = 1024.0
"""Pixels between two vertices of a projected edge: what is cut off, further away, moves nothing in a window."""
_MOST_VERTICES = 2_000_000
_FAR = 1e8
"""Pixels from the grid, where what lies further away is cut."""
_LATTICE = 21
_ROOM = 0.05
"""Share of a box by which it is grown: what lies between the points that were computed."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Polygons on a grid.

    geometries: (k,) in pixels (column, row) of the grid. rows: (k,) which of the given ones they are, ascending; one
    that comes round the earth twice is there twice. nowhere: rows for which the grid's CRS has no coordinates.
    """

    geometries: Geometries
    rows: NDArray[np.int64]
    nowhere: NDArray[np.int64]


@dataclass(slots=True)
class Way:
    """From one CRS to the grids of another. Both may be None, or the same: then nothing is computed.

    Raises ProjError where PROJ knows no way at all.
    """

    own: CRS | None
    target: CRS | None
    _forward: Transformer | None = field(init=False)
    _back: Transformer | None = field(init=False)
    _turns: tuple[float | None, float | None] = field(init=False)

    def __post_init__(self) -> None:
        same = self.own == self.target or same_local(self.own, self.target)
        self._forward = None if same else Transformer.from_crs(self.own, self.target, always_xy=True)
        self._back = None if same else Transformer.from_crs(self.target, self.own, always_xy=True)
        self._turns = turn_of(self.own), turn_of(self.target)

    @property
    def is_exact(self) -> bool:
        """Whether coordinates stay as they are."""
        return self._forward is None

    def box(self, grid: Grid, *, around: float = 0.0) -> Bounds:
        """west, south, east, north in `own` that all ground of the grid lies in, and `around` pixels beside it.

        In longitudes, and what is like them, it may reach beyond ±180. Infinite where it cannot be told.
        """
        points = 2 if self._back is None else _LATTICE
        col = np.linspace(-around, grid.width + around, points)
        row = np.linspace(-around, grid.height + around, points)
        a, b, c, d, e, f = tuple(grid.transform)[:6]
        cols, rows = (axis.ravel() for axis in np.meshgrid(col, row))
        x, y = a * cols + b * rows + c, d * cols + e * rows + f
        if self._back is not None:
            x, y = (np.asarray(axis, np.float64) for axis in self._back.transform(x, y))
            if not (np.isfinite(x).all() and np.isfinite(y).all()):
                return -math.inf, -math.inf, math.inf, math.inf
            x = turned(x, x[len(x) // 2], self._turns[0])
        return self._grown(float(x.min()), float(y.min()), float(x.max()), float(y.max()))

    def _grown(self, west: float, south: float, east: float, north: float) -> Bounds:
        if self._back is None:
            return west, south, east, north
        turn = self._turns[0]
        across, down = _ROOM * (east - west), _ROOM * (north - south)
        if turn is not None and east - west > turn / 2:
            # Around a pole, or nearly around the earth.
            middle = (east + west) / 2
            reach = limits_of(self.own)[1]
            south = min(south, -reach) if south < 0 else south - down
            north = max(north, reach) if north > 0 else north + down
            return middle - turn / 2, south, middle + turn / 2, north
        return west - across, south - down, east + across, north + down

    def near(self, grid: Grid) -> Choose:
        """Which of boxes (n, 4) in `own` may meet the grid: their rows (k,) and how far x moves there (k,).

        Of a box around several it says so where it does of one of them.
        """
        west, south, east, north = self.box(grid)
        turn = self._turns[0]

        def chosen(bounds: Floats) -> tuple[NDArray[np.int64], Floats]:
            if not math.isfinite(west):
                rows = np.flatnonzero(np.isfinite(bounds[:, 0]))
                return rows, np.zeros(len(rows))
            rows, moves = copies(bounds, west, east, turn)
            level = (bounds[rows, 1] <= north) & (bounds[rows, 3] >= south)
            return rows[level], moves[level]

        return chosen

    def boxes(self, grid: Grid, extent: Bounds | None) -> tuple[Bounds, ...]:
        """The boxes in `own` in which features of a layer with this extent must be sought for the grid."""
        west, south, east, north = self.box(grid)
        turn = self._turns[0]
        if turn is None or not math.isfinite(west):
            return ((west, south, east, north),)
        # What lies further around is no place, whatever a file's own extent says.
        least, most = (-TURNS * turn, TURNS * turn) if extent is None else (extent[0], extent[2])
        least, most = max(least, -TURNS * turn), min(most, TURNS * turn)
        first, last = math.ceil((west - most) / turn), math.floor((east - least) / turn)
        return tuple((west - k * turn, south, east - k * turn, north) for k in range(first, last + 1))

    def place(self, geometries: Geometries, rows: NDArray[np.int64], moves: Floats, grid: Grid) -> Placed:
        """Valid polygons (n,) of `own`, the n-th moved by moves[n], in the pixels of the grid. rows: (n,) whose."""
        moved, nowhere = _moved(geometries, moves), rows[:0]
        if self._forward is not None and len(moved):
            bent = _Bending(self._forward, self._turns, grid, self.box(grid, around=2 * _LONGEST)).bent(moved)
            lost = shapely.is_missing(bent)
            moved, rows, nowhere = bent[~lost], rows[~lost], np.unique(rows[lost])
            if self._turns[1] is not None and self._turns[0] is None:
                left, _, right, _ = grid.bounds
                again, moves = copies(shapely.bounds(moved).reshape(-1, 4), left, right, self._turns[1])
                moved, rows = _moved(moved[again], moves), rows[again]
        found = _to_pixels(moved, grid)
        if self._forward is not None:
            found = mended(found)
        lie = ~(shapely.is_missing(found) | shapely.is_empty(found))
        return Placed(found[lie], rows[lie], nowhere)


@dataclass(slots=True)
class _Bending:
    """Polygons brought from one CRS to that of a grid, with vertices where their edges are curved there.

    forward: from the one CRS to the other. turns: of the two. wide: the box beyond which nothing matters.
    """

    forward: Transformer
    turns: tuple[float | None, float | None]
    grid: Grid
    wide: Bounds
    _unit: float = field(init=False)
    _even: float = field(init=False)

    def __post_init__(self) -> None:
        a, b, _, d, e, _ = tuple(self.grid.transform)[:6]
        # The shorter side of a pixel in units of the CRS, the same in every window.
        self._unit = min(math.hypot(a, d), math.hypot(b, e))
        self._even = self._origin() if None not in self.turns else 0.0

    def _origin(self) -> float:
        """Where x = 0 of the one CRS lies in the grid's, if x goes on evenly from the grid's middle."""
        own, target = self.turns
        assert own is not None
        assert target is not None
        middle = (self.wide[0] + self.wide[2]) / 2
        level = min(max((self.wide[1] + self.wide[3]) / 2, -own / 5), own / 5)
        left, _, right, _ = self.grid.bounds
        x = float(self.forward.transform(middle, level)[0])
        return float(turned(np.array([x]), (left + right) / 2, target)[0]) - middle * (target / own)

    def bent(self, polygons: Geometries) -> Geometries:
        """The polygons (n,) in the grid's CRS; None where it has no coordinates for one, empty where none is near."""
        points, index = shapely.get_coordinates(polygons, return_index=True)
        there = self._there(points)
        first = np.searchsorted(index, np.arange(len(polygons)))
        if self.turns[0] is None:
            there[:, 0] = turned(there[:, 0], there[first[index], 0], self.turns[1])
        # An "edge" between two rings, or two polygons, makes one be looked at twice at the most.
        hard = self._curved(points, there)
        plain = np.ones(len(polygons), bool)
        plain[index[:-1][hard & (index[:-1] == index[1:])]] = False
        plain[index[~np.isfinite(there).all(axis=1)]] = False
        bounds = shapely.bounds(polygons)
        plain &= ((bounds[:, :2] >= self.wide[:2]) & (bounds[:, 2:] <= self.wide[2:])).all(axis=1)
        out = polygons.copy()
        kept = plain[index]
        if kept.any():
            out[plain] = shapely.set_coordinates(polygons[plain], there[kept])
        for row in np.flatnonzero(~plain).tolist():
            out[row] = self._carefully(polygons[row])
        return out

    def _carefully(self, polygon: Any) -> Any:
        dense = []
        for part in shapely.get_parts(polygon):
            if part.geom_type == "Polygon":
                shell, *holes = (
                    self._dense(shapely.get_coordinates(ring)) for ring in (part.exterior, *part.interiors)
                )
                dense.append(shapely.Polygon(shell, holes))
        whole = _cut(shapely.MultiPolygon(dense), self.wide)
        points = shapely.get_coordinates(whole)
        if not len(points):
            return whole
        there = self._there(points)
        if not np.isfinite(there).all():
            return None
        if self.turns[0] is None:
            there[:, 0] = turned(there[:, 0], there[0, 0], self.turns[1])
        return shapely.set_coordinates(whole, there)

    def _there(self, points: Floats) -> Floats:
        """(n, 2) points in the grid's CRS; what comes round goes on evenly where both CRSs do."""
        x, y = (np.array(axis, np.float64) for axis in self.forward.transform(*points.T))
        own, target = self.turns
        with np.errstate(invalid="ignore"):
            if target is not None and own is not None:
                x = turned(x, self._even + points[:, 0] * (target / own), target)
            return np.column_stack([x, y])

    def _dense(self, ring: Floats) -> Floats:
        """The ring with vertices added: on an edge near the grid the same ones, whatever window looks at it."""
        while True:
            curved = np.flatnonzero(self._curved(ring, self._there(ring)))
            if not len(curved) or len(ring) > _MOST_VERTICES:
                return ring
            ring = np.insert(ring, curved + 1, (ring[curved] + ring[curved + 1]) / 2, axis=0)

    def _curved(self, points: Floats, there: Floats) -> NDArray[np.bool_]:
        """(n - 1,) which edges between points need a vertex: near the grid, and curved or long in its CRS."""
        start, stop = points[:-1], points[1:]
        low, high = np.minimum(start, stop), np.maximum(start, stop)
        near = (low <= self.wide[2:]).all(axis=1) & (high >= self.wide[:2]).all(axis=1)
        # What lies in one place for numbers of 64 bits is not divided.
        near &= (high - low).max(axis=1, initial=0) > 1e-12 * np.abs(start).max(axis=1, initial=0)
        with np.errstate(invalid="ignore"):
            step = self._apart(there[1:], there[:-1])
            long = np.abs(step).max(axis=1, initial=0) > _LONGEST * self._unit
            stray = np.zeros(len(near))
            # Two places, because a line may cross its chord in the middle.
            for share in (0.5, 0.25):
                beside = self._apart(self._there(start + share * (stop - start)), there[:-1]) - share * step
                stray = np.maximum(stray, np.hypot(*beside.T))
            # Where there are no numbers the edge is divided until there are, or only one place is left.
            found: NDArray[np.bool_] = near & (long | ~(stray <= _STRAY * self._unit))
            return found

    def _apart(self, one: Floats, other: Floats) -> Floats:
        """(n, 2) differences, where x comes round the shorter ones."""
        found = one - other
        if self.turns[0] is None:
            found[:, 0] = turned(found[:, 0], 0.0, self.turns[1])
        return found


def _moved(geometries: Geometries, moves: Floats) -> Geometries:
    out = geometries.copy()
    for place in np.flatnonzero(moves):
        points = shapely.get_coordinates(out[place])
        points[:, 0] += moves[place]
        out[place] = shapely.set_coordinates(out[place], points)
    return out


def _to_pixels(geometries: Geometries, grid: Grid) -> Geometries:
    inverse, corner = ~grid.transform, (grid.transform.c, grid.transform.f)
    matrix = np.array([[inverse.a, inverse.d], [inverse.b, inverse.e]])
    # The corner first: differences of neighbours are exact, or nearly.
    found: Geometries = shapely.transform(geometries, lambda points: (points - corner) @ matrix)
    # GDAL counts rows and columns in 32 bits.
    far = np.abs(shapely.bounds(found)).reshape(-1, 4).max(axis=1) > _FAR
    for place in np.flatnonzero(far).tolist():
        found[place] = _cut(found[place], (-_FAR, -_FAR, grid.width + _FAR, grid.height + _FAR))
    return found


def _cut(polygon: Any, box: Bounds) -> Any:
    """What of a polygon lies in the box; all of it where that is much the same."""
    west, south, east, north = polygon.bounds
    if not math.isfinite(box[0]):
        return polygon
    if west >= box[0] and south >= box[1] and east <= box[2] and north <= box[3]:
        return polygon
    (valid,) = mended(np.array([polygon], object))
    if valid is None:
        return shapely.MultiPolygon()
    (kept,) = mended(np.array([shapely.intersection(valid, shapely.box(*box))], object))
    return shapely.MultiPolygon() if kept is None else kept
