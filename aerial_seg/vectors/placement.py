"""Polygons from pixel space to the ground: by the grid's transform, and on into another CRS where one is asked for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.mentions import setting
from aerial_seg.numba_kernels import Floats64, Ints, inner, kernel
from aerial_seg.polygonize.batch import PolygonBatch
from aerial_seg.vectors.formats import same_crs

_STRAIGHT_M = 100.0
"""Between vertices this near, a line that is straight in one usual CRS leaves that in another by about a millimetre."""
_STEPS_PER_PIXEL = 1024
"""float64 numbers that a pixel's side must span: fewer, and simplified outlines would cross where they do not."""


class Placement:
    """Brings batches of one grid to their place.

    Vertices that are equal in pixel space are equal afterwards, and a side that two polygons share stays one: what is
    put into it depends on its ends alone, in either direction.
    """

    def __init__(self, grid: Grid, target: CRS | None) -> None:
        """target: the CRS to write; the grid's own for none. Raises InputError: see `place`.

        Without a geotransform the place is that where QGIS shows the raster, see Grid.for_polygons.
        """
        grid = grid.for_polygons()
        self._grid, self._target = grid, target
        self._affine = tuple(float(number) for number in tuple(grid.transform)[:6])
        self._transformer: Transformer | None = None
        _check_precision(grid)
        if target is not None and not same_crs(grid.crs, target):
            if grid.crs is None:
                raise InputError(
                    f"a mask without CRS has no place in {target.name}; give it a CRS (gdal_edit.py -a_srs)"
                )
            self._transformer = Transformer.from_crs(grid.crs, target, always_xy=True)
            gsd = grid.gsd()
            assert gsd is not None
            self._step = max(1.0, _STRAIGHT_M / max(gsd))
            self._turn = _full_turn(target)
            self._centre = 0.0
            self._centre = float(self._project(np.array([[grid.width / 2, grid.height / 2]]))[0, 0])

    def place(self, batch: PolygonBatch) -> PolygonBatch:
        """The batch with its vertices (x, y) in the target CRS; exteriors counter-clockwise, holes clockwise.

        Into another CRS sides are first divided, to follow the ground: at least every 100 m or every pixel, whichever
        is longer. Longitudes run on past ±180° where the raster does. Raises InputError where the polygons have no
        place in the target, or lose their area there.
        """
        coords, rings = batch.coords, batch.rings
        if self._transformer is None:
            coords = _apply(coords, *self._affine)
        else:
            coords, rings = densify(coords, rings, self._step)
            coords = self._project(coords)
        flat = _orient(coords, rings, batch.polygons)
        if flat:
            raise InputError(
                f"{flat} of {len(batch.polygons) - 1} polygons have no area in "
                f"{_name(self._target or self._grid.crs)}, wanted pixels that float64 can tell apart there; "
                "check the georeference"
            )
        return replace(batch, coords=coords, rings=rings)

    def _project(self, pixels: Floats64) -> Floats64:
        assert self._transformer is not None
        coords = _apply(pixels, *self._affine)
        places = f"from {_name(self._grid.crs)} to {_name(self._target)}"
        try:
            x, y = self._transformer.transform(coords[:, 0], coords[:, 1], errcheck=True)
        except ProjError as error:
            raise InputError(
                f"the polygons cannot be brought {places} ({error}); choose another {setting('dst_crs')}"
            ) from error
        coords = np.column_stack([x, y])
        if not np.isfinite(coords).all():
            raise InputError(
                f"some of the polygons have no place when brought {places}; choose a {setting('dst_crs')} that covers "
                "the mask"
            )
        if self._turn:
            coords[:, 0] -= self._turn * np.rint((coords[:, 0] - self._centre) / self._turn)
        return coords


def _name(crs: CRS | None) -> str:
    if crs is None:
        return "the mask's coordinates"
    authority = crs.to_authority()
    return f"{':'.join(authority)} ({crs.name})" if authority else crs.name


def _check_precision(grid: Grid) -> None:
    """Raises InputError where the pixels are too small for float64 at their distance from the CRS's origin."""
    a, b, _, d, e, _ = tuple(grid.transform)[:6]
    right, bottom = grid.width, grid.height
    corners = [grid.transform * corner for corner in ((0, 0), (right, 0), (0, bottom), (right, bottom))]
    far = max(abs(number) for corner in corners for number in corner)
    long, area = max(math.hypot(a, d), math.hypot(b, e)), abs(a * e - b * d)
    # The height of the pixel's parallelogram: small too where its sides are nearly parallel.
    if not math.isfinite(far) or long == 0 or area / long < _STEPS_PER_PIXEL * math.ulp(far):
        raise InputError(
            f"the polygons collapse under the mask's transform {tuple(grid.transform)[:6]}, wanted pixels that "
            "float64 can tell apart; check the georeference"
        )


def _full_turn(crs: CRS) -> float:
    """360° in the units of a geographic CRS, 0 for any other."""
    return 2 * math.pi / crs.axis_info[0].unit_conversion_factor if crs.is_geographic else 0.0


def densify(coords: Floats64, rings: Ints, step: float) -> tuple[Floats64, Ints]:
    """The rings with further vertices on their sides, so that none is longer than `step`; (n,2) and (r+1,) offsets.

    A side gets the same vertices in both directions, bit by bit.
    """
    counts = _count_vertices(coords, rings, step)
    dense = np.empty((counts[-1], 2))
    _divide_sides(coords, rings, step, dense)
    return dense, counts


@kernel
def _apply(coords: Floats64, a: float, b: float, c: float, d: float, e: float, f: float) -> Floats64:
    placed = np.empty_like(coords)
    for k in range(coords.shape[0]):
        x, y = coords[k, 0], coords[k, 1]
        placed[k, 0] = a * x + b * y + c
        placed[k, 1] = d * x + e * y + f
    return placed


@inner
def _pieces(coords: Floats64, k: int, step: float) -> int:
    """Into how many the side from vertex k to the next is divided."""
    dx, dy = coords[k + 1, 0] - coords[k, 0], coords[k + 1, 1] - coords[k, 1]
    return max(1, math.ceil(math.sqrt(dx * dx + dy * dy) / step))


@kernel
def _count_vertices(coords: Floats64, rings: Ints, step: float) -> Ints:
    counts = np.zeros(rings.size, np.int64)
    for r in range(rings.size - 1):
        total = 1
        for k in range(rings[r], rings[r + 1] - 1):
            total += _pieces(coords, k, step)
        counts[r + 1] = counts[r] + total
    return counts


@kernel
def _divide_sides(coords: Floats64, rings: Ints, step: float, dense: Floats64) -> None:
    at = 0
    for r in range(rings.size - 1):
        for k in range(rings[r], rings[r + 1] - 1):
            pieces = _pieces(coords, k, step)
            x0, y0, x1, y1 = coords[k, 0], coords[k, 1], coords[k + 1, 0], coords[k + 1, 1]
            forward = (x0, y0) <= (x1, y1)
            dense[at, 0], dense[at, 1] = x0, y0
            for piece in range(1, pieces):
                # Counted from the same end in both directions: rounding must not tear a shared side.
                if forward:
                    share = piece / pieces
                    dense[at + piece, 0], dense[at + piece, 1] = (
                        x0 + (x1 - x0) * share,
                        y0 + (y1 - y0) * share,
                    )
                else:
                    share = (pieces - piece) / pieces
                    dense[at + piece, 0], dense[at + piece, 1] = (
                        x1 + (x0 - x1) * share,
                        y1 + (y0 - y1) * share,
                    )
            at += pieces
        last = rings[r + 1] - 1
        dense[at, 0], dense[at, 1] = coords[last, 0], coords[last, 1]
        at += 1


@kernel
def _orient(coords: Floats64, rings: Ints, polygons: Ints) -> int:
    """Exteriors run counter-clockwise, their holes the other way; returns how many exteriors have no area.

    In each polygon the holes must run against the exterior already.
    """
    flat = 0
    for p in range(polygons.size - 1):
        start, end = rings[polygons[p]], rings[polygons[p] + 1]
        twice = 0.0
        for k in range(start + 1, end - 1):
            # Seen from the first vertex: far from the origin the products would eat up small areas.
            dx, dy = coords[k, 0] - coords[start, 0], coords[k, 1] - coords[start, 1]
            twice += dx * (coords[k + 1, 1] - coords[start, 1]) - dy * (coords[k + 1, 0] - coords[start, 0])
        if twice == 0:
            flat += 1
        if twice < 0:
            for r in range(polygons[p], polygons[p + 1]):
                _reverse(coords, rings[r], rings[r + 1])
    return flat


@inner
def _reverse(coords: Floats64, start: int, end: int) -> None:
    for k in range((end - start) // 2):
        one, other = start + k, end - 1 - k
        x, y = coords[one, 0], coords[one, 1]
        coords[one, 0], coords[one, 1] = coords[other, 0], coords[other, 1]
        coords[other, 0], coords[other, 1] = x, y
