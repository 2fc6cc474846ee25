"""Areas and perimeters on the ellipsoid, for as many polygons as a raster yields: the ground is learnt once per grid.

Area and length on the ground are smooth functions of the pixel's place. So the ground is surveyed once (positions on
the ellipsoid, interpolated and differentiated on facets of the raster), written down as polynomials of degree 4, and
every polygon is then a sum over its edges, without any projection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import shapely
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from pyproj.exceptions import ProjError

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import WGS84, Grid, to_lonlat
from aerial_seg.geo.systems import metres_per_unit
from aerial_seg.numba_kernels import Floats64 as Floats
from aerial_seg.numba_kernels import Ints
from aerial_seg.vectors.ground_kernels import (
    COEFFICIENTS,
    COLUMNS,
    DEGREE,
    DOWN,
    FLUX,
    MIXED,
    SQUARES,
    Facets,
    leave_trust,
    sum_edges,
)

Flags = NDArray[np.bool_]

_WANTED, _TRUSTED = 1e-8, 1e-7
"""Relative errors of area and length on a facet: facets are halved above the first, and given up above the second."""
_SHRINKING = 1000
"""Towards a pole of a CRS in degrees pixels shrink to nothing: areas are right for those that are a 1000th as large."""
_MOST_FACETS = 4096
"""Some 2 MB, and a second or two to survey."""
_LEAST_SIDE_M = 4000.0
"""Positions are rounded to some nanometres: over shorter ways their differences would not be as exact as wanted."""
_STRAIGHT_M = 100.0
"""Between vertices this near, a straight line of a usual CRS leaves the geodesic by about a millimetre."""
_STEPS = 4096
"""To a ring's longer side at the most."""
_EARTH_M2 = (
    2 * math.pi * WGS84.a**2 * (1 + (1 - WGS84.es) / math.sqrt(WGS84.es) * math.atanh(math.sqrt(WGS84.es)))
)
"""The whole ellipsoid."""

_ORDER = 7
_NODES = -np.cos(np.pi * np.arange(_ORDER) / (_ORDER - 1))
"""Chebyshev's extrema: with their help positions on a facet are interpolated in degree 6, and differentiated."""
_TO_CHEBYSHEV = np.linalg.inv(chebyshev.chebvander(_NODES, _ORDER - 1))
_DERIVATIVE = chebyshev.chebvander(_NODES, _ORDER - 2) @ chebyshev.chebder(_TO_CHEBYSHEV)
_TO_POWERS = np.array(
    [np.pad(chebyshev.cheb2poly(row[: k + 1]), (0, DEGREE - k)) for k, row in enumerate(np.eye(DEGREE + 1))]
)
_POWERS = [(k, m) for k in range(DEGREE + 1) for m in range(DEGREE + 1 - k)]
"""Exponents of u and v, in the order of a facet's coefficients."""
_KEPT = np.add.outer(np.arange(_ORDER), np.arange(_ORDER)) <= DEGREE
_CHECKS = 4
"""Points of every facet where the polynomials are tried."""
_STEP, _STEP_M = 0.1, 20_000
"""Of the differences there, in halves of a facet; at the most, in metres."""


class Ground:
    """The ground under one grid has been surveyed: millions of polygons are measured in a second.

    A survey takes milliseconds; a second or two where the CRS bends much under the raster, or ends there. Areas and
    perimeters are good to 1e-7 of themselves, usually to 1e-9, in every CRS and with every transform: where they would
    not be, polygons are densified and handed to Geod. That is so for polygons that meet a pole in a CRS of longitude
    and latitude, the end or an interruption of a projection, or a bend in a datum's grid, and for those that leave the
    raster by far. They take some 40 µs each, and Geod rounds areas to 1e-4 m².

    Raises InputError when the CRS has no place on earth, or none for this raster.
    """

    def __init__(self, grid: Grid) -> None:
        gsd = grid.gsd()
        self._grid = grid
        self._facets = None if gsd is None or grid.is_local else _survey(grid, gsd)

    @property
    def has_measures(self) -> bool:
        """Whether areas and perimeters are known."""
        return self._facets is not None or _plane_metres(self._grid) is not None

    def measure(self, coords: Floats, rings: Ints, polygons: Ints) -> tuple[Floats, Floats]:
        """Areas (p,) in m² and perimeters (p,) in m, float64, on the WGS84 ellipsoid; NaN without a CRS.

        On a local grid they are those of its plane; NaN where its unit is not known.

        coords (n, 2) float64 x, y in pixel space, every ring closed; rings (r + 1,) offsets into coords; polygons
        (p + 1,) offsets into rings, a polygon's first ring is its exterior. Edges are straight in the CRS. Holes are
        taken off the area and their rings belong to the perimeter. Raises InputError when polygons lie outside of
        what the CRS covers.
        """
        metres = _plane_metres(self._grid)
        if metres is not None:
            return _measure_plane(coords, rings, polygons, self._grid, metres)
        if self._facets is None:
            return np.full(len(polygons) - 1, math.nan), np.full(len(polygons) - 1, math.nan)
        ragged = (
            np.ascontiguousarray(coords, np.float64),
            np.ascontiguousarray(rings, np.int64),
            np.ascontiguousarray(polygons, np.int64),
        )
        no_area, no_perimeter = leave_trust(*ragged, self._facets)
        areas, perimeters = sum_edges(*ragged, self._facets, no_area)
        rest = np.flatnonzero(no_area | no_perimeter)
        if len(rest):
            followed, perimeters[rest] = _follow(*_take(rest, *ragged), self._grid, self._facets)
            areas[rest] = np.where(no_area[rest], followed, areas[rest])
        return areas, perimeters


# Local grids.


def _plane_metres(grid: Grid) -> float | None:
    """Metres per unit of a local grid; None of any other and where that is not known."""
    return metres_per_unit(grid.crs) if grid.crs is not None and grid.is_local else None


def _measure_plane(
    coords: Floats, rings: Ints, polygons: Ints, grid: Grid, metres: float
) -> tuple[Floats, Floats]:
    """As Ground.measure, in the plane of the grid's own coordinates."""
    a, b, _, d, e, _ = tuple(grid.transform)[:6]
    # From each ring's first vertex: far from the origin the products would eat up small areas.
    near = coords - np.repeat(coords[rings[:-1]], np.diff(rings), axis=0)
    x, y = metres * (a * near[:, 0] + b * near[:, 1]), metres * (d * near[:, 0] + e * near[:, 1])
    twice, sides = x[:-1] * y[1:] - x[1:] * y[:-1], np.hypot(np.diff(x), np.diff(y))
    between = rings[1:-1] - 1  # from one ring's end to the next one's beginning
    twice[between] = sides[between] = 0
    areas = np.abs(np.add.reduceat(twice, rings[:-1])) / 2
    perimeters = np.add.reduceat(sides, rings[:-1])
    exteriors = polygons[:-1]
    return 2 * areas[exteriors] - np.add.reduceat(areas, exteriors), np.add.reduceat(perimeters, exteriors)


# The survey of the ground.


@dataclass(frozen=True, slots=True)
class _Split:
    """A box of pixel space cut into facets. All pairs are (down, across).

    corner: of the box, pixels. side: of a facet, pixels. gsd: metres per pixel. shape: how many facets.
    """

    corner: tuple[float, float]
    side: tuple[float, float]
    gsd: tuple[float, float]
    shape: tuple[int, int] = (1, 1)

    def halved(self, axes: tuple[bool, bool]) -> _Split:
        """Halved along these axes, but where facets would become too small; itself rather than too many facets."""
        cuts = [1 + (axis and size > 2 * _LEAST_SIDE_M) for axis, size in zip(axes, self.size, strict=True)]
        shape = self.shape[0] * cuts[0], self.shape[1] * cuts[1]
        side = self.side[0] / cuts[0], self.side[1] / cuts[1]
        return self if math.prod(shape) > _MOST_FACETS else replace(self, side=side, shape=shape)

    @property
    def size(self) -> tuple[float, float]:
        """Of a facet in metres, about."""
        return self.side[0] * self.gsd[0], self.side[1] * self.gsd[1]

    def place(self, grid: Grid, v: Floats, u: Floats) -> tuple[Floats, Floats]:
        """See `_place`, at v, u in -1..1 of every facet; both are of shape (rows or 1, cols or 1, …)."""
        more = (1,) * (u.ndim - 2)
        row = np.arange(self.shape[0]).reshape(-1, 1, *more)
        col = np.arange(self.shape[1]).reshape(1, -1, *more)
        x = self.corner[1] + self.side[1] * (col + (u + 1) / 2)
        y = self.corner[0] + self.side[0] * (row + (v + 1) / 2)
        return _place(grid, x, y)


def _survey(grid: Grid, gsd: tuple[float, float]) -> Facets:
    """The grid's ground as facets, as few as the wanted exactness allows."""
    if not 0 < min(gsd) <= max(gsd) < math.inf:
        raise InputError(
            f"a pixel of the raster measures {gsd[1]:g} × {gsd[0]:g} m on the ground, wanted more than nothing; "
            f"check the georeference {tuple(grid.transform)[:6]}"
        )
    height, width = max(grid.height, _LEAST_SIDE_M / gsd[0]), max(grid.width, _LEAST_SIDE_M / gsd[1])
    split = _Split(((grid.height - height) / 2, (grid.width - width) / 2), (height, width), gsd)
    while True:
        spectrum, metric, tails = _sample(split, grid)
        finer = split.halved((tails[0] > _WANTED, tails[1] > _WANTED))
        if finer == split:
            trusted = _errors(split, grid, spectrum, metric) <= _TRUSTED
            # All polygons on an untrusted facet take the long way: such facets are better small.
            finer = split if trusted.all() else split.halved((True, True))
        if finer == split:
            return _write_down(split, spectrum, trusted)
        split = finer


def _place(grid: Grid, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Geocentric positions (…, 3) in metres and longitudes (…) in radians of pixel coordinates; NaN for nowhere."""
    lon, lat = (np.radians(degrees) for degrees in _lonlat(grid, x, y, strict=False))
    normal = WGS84.a / np.sqrt(1 - WGS84.es * np.sin(lat) ** 2)
    axis = normal * np.cos(lat)
    return np.stack(
        [axis * np.cos(lon), axis * np.sin(lon), (1 - WGS84.es) * normal * np.sin(lat)], axis=-1
    ), lon


def _lonlat(grid: Grid, x: Floats, y: Floats, *, strict: bool) -> tuple[Floats, Floats]:
    """Longitude, latitude of pixel coordinates; strict: InputError instead of NaN."""
    assert grid.crs is not None
    x, y = np.broadcast_arrays(x, y)
    a, b, c, d, e, f = tuple(grid.transform)[:6]
    try:
        lon, lat = to_lonlat(grid.crs).transform(
            (a * x + b * y + c).ravel(), (d * x + e * y + f).ravel(), errcheck=strict
        )
    except ProjError as error:
        raise InputError(
            f"the polygons' place cannot be computed in the mask's CRS ({error}); check its CRS"
        ) from error
    # A transform that ends at the pole may round to beyond it.
    lat = np.where(np.abs(np.abs(lat) - 90) < 1e-9, np.copysign(90.0, lat), lat)
    nowhere = ~(np.isfinite(lon) & (np.abs(lat) <= 90))
    if strict and nowhere.any():
        raise InputError("the mask reaches outside of what its CRS covers; check its CRS and transform")
    return np.where(nowhere, np.nan, lon).reshape(x.shape), np.where(nowhere, np.nan, lat).reshape(x.shape)


def _sample(split: _Split, grid: Grid) -> tuple[Floats, Floats, tuple[float, float]]:
    """The metric's Chebyshev coefficients (4, rows, cols, v, u), its values at the nodes, its tails along v and u.

    Each facet's metric comes from geocentric positions or from cylindrical ones, whichever it takes the lower degrees
    to describe: these turn with the longitude, so that a facet may reach around the earth; those pass over the poles.
    """
    places, lon = split.place(grid, _NODES.reshape(1, 1, -1, 1), _NODES.reshape(1, 1, 1, -1))
    axis = np.hypot(places[..., 0], places[..., 1])
    numbers = np.stack([*np.moveaxis(places, -1, 0), axis, lon], axis=-1)
    numbers -= numbers[:, :, _ORDER // 2, None, _ORDER // 2, None]
    tangents = [np.einsum(path, _DERIVATIVE, numbers) for path in ("kq,...pqc->...pkc", "kp,...pqc->...kqc")]
    geocentric = _first_form(*(tangent[..., :3] for tangent in tangents))
    cylindrical = _first_form(
        *(np.stack([t[..., 3], axis * t[..., 4], t[..., 2]], axis=-1) for t in tangents)
    )
    metrics = np.stack([geocentric, cylindrical])
    spectra = np.einsum("ip,jq,...pq->...ij", _TO_CHEBYSHEV, _TO_CHEBYSHEV, metrics, optimize=True)
    tails = _tails(spectra, metrics)
    turning = tails[:, 1].max(axis=0) < tails[:, 0].max(axis=0)
    along_v, along_u = np.where(turning, tails[:, 1], tails[:, 0]).max(axis=(-2, -1)).tolist()
    spectrum, metric = (np.where(turning[..., None, None], two[1], two[0]) for two in (spectra, metrics))
    return spectrum, metric, (along_v, along_u)


def _first_form(along_u: Floats, along_v: Floats) -> Floats:
    """(4, …) from tangents (…, 3): area per du dv, |∂u|², ∂u·∂v, |∂v|², in square metres."""
    uu, uv, vv = ((a * b).sum(-1) for a, b in ((along_u, along_u), (along_u, along_v), (along_v, along_v)))
    return np.stack([np.sqrt(np.maximum(uu * vv - uv * uv, 0)), uu, uv, vv])


def _tails(spectra: Floats, metrics: Floats) -> Floats:
    """What polynomials of degree 4 leave out along v and u (2, …, rows, cols), relative to the facet's metric.

    spectra and metrics are (…, 4, rows, cols, v, u). What is no number counts as nothing: no split will mend it.
    """
    area, uu, _, vv = np.moveaxis(metrics.max(axis=(-2, -1)), -3, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.abs(spectra) / np.stack([area, uu, np.sqrt(uu * vv), vv], axis=-3)[..., None, None]
    left_out = np.where(np.isfinite(relative) & ~_KEPT, relative, 0)
    degrees = np.arange(_ORDER)
    share = degrees / np.maximum(np.add.outer(degrees, degrees), 1)
    return np.stack([(left_out * part).sum(axis=(-2, -1)).max(axis=-3) for part in (share.T, share)])


def _keep(spectrum: Floats) -> Floats:
    """The coefficients (…, v, u) of total degree 4."""
    return np.where(_KEPT, spectrum, 0)[..., : DEGREE + 1, : DEGREE + 1]


def _errors(split: _Split, grid: Grid, spectrum: Floats, metric: Floats) -> Floats:
    """How far (2, rows, cols) areas and lengths are off, relatively, at the nodes and at some points between.

    Between the nodes the metric comes from finite differences: these find what the nodes have missed.
    """
    basis = chebyshev.chebvander(_NODES, DEGREE)
    at_nodes = np.einsum("pi,qj,f...ij->f...pq", basis, basis, _keep(spectrum), optimize=True)
    steps = [min(_STEP, _STEP_M / (size / 2)) for size in split.size]
    # Two steps away is still inside of the facet.
    v, u = np.random.default_rng(0).uniform(-1 + 2 * _STEP, 1 - 2 * _STEP, (2, *split.shape, _CHECKS))
    bases = chebyshev.chebvander(v, DEGREE), chebyshev.chebvander(u, DEGREE)
    between = np.einsum("...ki,...kj,f...ij->f...k", *bases, _keep(spectrum), optimize=True)
    along_v = [split.place(grid, v + k * steps[0], u)[0] for k in (-2, -1, 1, 2)]
    along_u = [split.place(grid, v, u + k * steps[1])[0] for k in (-2, -1, 1, 2)]
    measured = _first_form(_difference(along_u) / steps[1], _difference(along_v) / steps[0])
    least = metric[0].max(axis=(-2, -1)) / _SHRINKING
    worst = _deviation(at_nodes, metric, least[..., None, None]).max(axis=(-2, -1))
    return np.asarray(np.maximum(worst, _deviation(between, measured, least[..., None]).max(axis=-1)))


def _difference(places: list[Floats]) -> Floats:
    """The change per step at the middle of positions that lie -2, -1, 1, 2 steps from it, to the fourth order."""
    far_back, back, ahead, far_ahead = places
    return (8 * (ahead - back) - (far_ahead - far_back)) / 12


def _deviation(fitted: Floats, metric: Floats, least: Floats) -> Floats:
    """Relative errors (2, …) of areas, taken as `least` where they are less, and of lengths in the worst direction."""
    area, uu, uv, vv = metric
    d_area, d_uu, d_uv, d_vv = fitted - metric
    with np.errstate(divide="ignore", invalid="ignore"):
        # The Frobenius norm of the error, in axes that are orthonormal on the ground.
        first, last = (vv * d_uu - uv * d_uv) / area**2, (uu * d_vv - uv * d_uv) / area**2
        mixed = (vv * d_uv - uv * d_vv) * (uu * d_uv - uv * d_uu) / area**4
        lengths = np.sqrt(np.maximum(first**2 + 2 * mixed + last**2, 0)) / 2
    return np.stack([np.abs(d_area) / np.maximum(area, least), lengths])


def _write_down(split: _Split, spectrum: Floats, trusted: Flags) -> Facets:
    """The facets' table; facets without a place on earth are empty. trusted (2, rows, cols): areas, lengths."""
    powers = np.nan_to_num(
        np.einsum("im,jk,f...ij->f...km", _TO_POWERS, _TO_POWERS, _keep(spectrum), optimize=True)
    )
    area, uu, uv, vv = (np.stack([field[..., k, m] for k, m in _POWERS], axis=-1) for field in powers)
    integral = powers[0] / np.arange(1, DEGREE + 2)[:, None]
    to_west = (integral * (-1.0) ** np.arange(DEGREE + 1)[:, None]).sum(-2)
    whole = integral.sum(-2) + to_west
    table = np.zeros((*split.shape, COLUMNS))
    table[..., :FLUX] = np.cumsum(whole, axis=1) - whole + to_west
    table[..., FLUX : FLUX + COEFFICIENTS] = area / np.array([k + 1 for k, _ in _POWERS])
    table[..., SQUARES : SQUARES + COEFFICIENTS] = uu
    table[..., MIXED : MIXED + COEFFICIENTS] = 2 * uv
    table[..., DOWN : DOWN + COEFFICIENTS] = vv
    area_doubts, length_doubts = (
        np.pad((~good).cumsum(0).cumsum(1), ((1, 0), (1, 0))).astype(np.int64) for good in trusted
    )
    return Facets(
        left=split.corner[1],
        top=split.corner[0],
        across=1 / split.side[1],
        down=1 / split.side[0],
        table=table.reshape(-1, COLUMNS),
        area_doubts=area_doubts,
        length_doubts=length_doubts,
    )


# Polygons on ground that the survey does not describe.


def _take(which: Ints, coords: Floats, rings: Ints, polygons: Ints) -> tuple[Floats, Ints, Ints]:
    """Only these polygons."""
    ring_ids, polygons = _gather(polygons, which)
    vertices, rings = _gather(rings, ring_ids)
    return coords[vertices], rings, polygons


def _gather(offsets: Ints, groups: Ints) -> tuple[Ints, Ints]:
    """The members of these groups one after another, and the offsets of each group among them."""
    sizes = offsets[groups + 1] - offsets[groups]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return np.repeat(offsets[groups] - starts[:-1], sizes) + np.arange(starts[-1]), starts


def _follow(coords: Floats, rings: Ints, polygons: Ints, grid: Grid, facets: Facets) -> tuple[Floats, Floats]:
    """Areas and perimeters by Geod, edges followed in steps of 100 m or of 1/4096 of their ring's longer side."""
    areas, perimeters = _follow_rings(coords, rings, grid)
    # Geod tells a ring from the rest of the earth by its turn, and takes the smaller one: it cannot do an ocean.
    rough, _ = sum_edges(coords, rings, np.arange(len(rings)), facets, np.zeros(len(areas), bool))
    areas = np.where(np.abs(_EARTH_M2 - areas - rough) < np.abs(areas - rough), _EARTH_M2 - areas, areas)
    exteriors = polygons[:-1]
    return 2 * areas[exteriors] - np.add.reduceat(areas, exteriors), np.add.reduceat(perimeters, exteriors)


def _follow_rings(coords: Floats, rings: Ints, grid: Grid) -> tuple[Floats, Floats]:
    gsd = grid.gsd()
    assert gsd is not None
    lines = shapely.linestrings(coords, indices=np.repeat(np.arange(len(rings) - 1), np.diff(rings)))
    west, north, east, south = shapely.bounds(lines).T
    side = np.maximum(east - west, south - north)
    dense = shapely.segmentize(lines, np.maximum(_STRAIGHT_M / max(gsd), side / _STEPS))
    ends = np.cumsum(shapely.get_num_coordinates(dense))
    lon, lat = _lonlat(grid, *shapely.get_coordinates(dense).T, strict=True)
    measured = [
        WGS84.polygon_area_perimeter(lon[start:end], lat[start:end])
        for start, end in pairwise([0, *ends.tolist()])
    ]
    areas, perimeters = np.array(measured).T
    return np.abs(areas), perimeters
