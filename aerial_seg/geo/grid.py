"""A grid is CRS + transform + shape; it answers where pixels lie and how large they are on the ground."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError
from shapely import Polygon, box, segmentize
from shapely import transform as transform_geometry

from aerial_seg.errors import InputError
from aerial_seg.geo.systems import is_local, metres_per_unit
from aerial_seg.mentions import setting

WGS84 = Geod(ellps="WGS84")

_EARTH_RADII = 6.3e6, 6.4e6
"""Semi-major axes in metres, between which the earth's ellipsoids lie and no other body's."""

_LARGEST_SIDE = 2**31 - 1
"""GDAL counts rows and columns in 32 bits."""


_TANGENT_METRES = 100.0

_SHOWN_BY_QGIS = Affine(1, 0, 0, 0, -1, 0)


@cache
def to_lonlat(crs: CRS) -> Transformer:
    """A transformer from this CRS to longitude, latitude (WGS84, in this order). Raises InputError off the earth."""
    if is_local(crs):
        raise InputError(
            f"the CRS '{crs.name}' is a local grid, which has no place on earth; work in its own coordinates, or give "
            "it the CRS of a place (gdal_edit.py -a_srs EPSG:…)"
        )
    try:
        return Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    except ProjError as error:
        raise InputError(
            f"the CRS '{crs.name}' has no place on earth ({error}); "
            "check its CRS and give it the true one (gdal_edit.py -a_srs EPSG:…)"
        ) from error


@cache
def _to_own_degrees(crs: CRS) -> tuple[Transformer, Geod]:
    """From this CRS to longitude, latitude on the body that it describes, and that body's shape; WGS84 on earth."""
    geod, degrees = crs.get_geod(), crs.geodetic_crs
    if geod is None or degrees is None or _EARTH_RADII[0] < geod.a < _EARTH_RADII[1]:
        return to_lonlat(crs), WGS84
    return Transformer.from_crs(crs, degrees, always_xy=True), geod


@dataclass(frozen=True, slots=True)
class Grid:
    """Say where a raster's pixels lie: CRS, transform and shape.

    crs: None when the raster is not georeferenced; then the transform is only pixel coordinates.
    transform: affine, pixel corner (column, row) → CRS, float64.
    """

    crs: CRS | None
    transform: Affine
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise InputError(f"a raster of {self.width} × {self.height} pixels holds nothing to work on")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) in the CRS, right for rotated and south-up grids as well."""
        left, bottom, right, top = self.footprint().bounds
        return left, bottom, right, top

    def footprint(self) -> Polygon:
        """The outline of the grid as a polygon in the CRS."""
        corners = (0, 0), (self.width, 0), (self.width, self.height), (0, self.height)
        return Polygon([self.transform * corner for corner in corners])

    def footprint_lonlat(self) -> Polygon:
        """The outline in longitude, latitude, densified so that curved edges follow the ground.

        Raises InputError without CRS, and where the CRS has no place on earth (a site's local coordinates).
        """
        outline = self.footprint()
        left, bottom, right, top = outline.bounds
        step = max(right - left, top - bottom) / 20
        if not step > 0:
            raise InputError(
                f"the raster's corners lie in one place, {left:g} {top:g}; "
                "check its geotransform (gdal_edit.py -a_ullr)"
            )
        dense = segmentize(outline, step)
        return transform_geometry(dense, self._lonlat)

    def gsd(self) -> tuple[float, float] | None:
        """Ground sample distance at the centre, metres per pixel (down, across), geodesic; None without CRS.

        Geodesic also for projected CRSs: at 60° N a "0.5 m" pixel of EPSG:3857 is 0.25 m. On the moon and the
        planets it is measured on the CRS's own ellipsoid, on a local grid in its own unit; None also where that is
        not known. Raises InputError where a pixel has no size: outside of what the CRS covers, in degrees at a pole.
        """
        if self.crs is None:
            return None
        if self.is_local:
            return self._local_gsd()
        col, row = self.width / 2, self.height / 2
        ends = (col, row - 0.5), (col, row + 0.5), (col - 0.5, row), (col + 0.5, row)
        # By hand: asked for each of thousands of rasters, and Affine warns of `*`, which takes longer than the rest.
        a, b, c, d, e, f = tuple(self.transform)[:6]
        places = [(x * a + y * b + c, x * d + y * e + f) for x, y in ends]
        lonlat, geod = self._degrees(places, own=True)
        (north, south, west, east) = lonlat
        down, across = float(geod.inv(*north, *south)[2]), float(geod.inv(*west, *east)[2])
        # Less than a micrometre is what rounding leaves of nothing.
        if not min(down, across) > 1e-6:
            raise InputError(
                f"the raster's middle pixel measures {down:.3g} × {across:.3g} m in its CRS '{self.crs.name}', wanted "
                "one with a size on the ground; warp it to a projected CRS (gdalwarp -t_srs EPSG:…)"
            )
        return down, across

    @property
    def is_local(self) -> bool:
        """Whether its CRS is the grid of a site, which has no place on earth: it is worked on in its own plane."""
        return is_local(self.crs)

    def _local_gsd(self) -> tuple[float, float] | None:
        assert self.crs is not None
        metres = metres_per_unit(self.crs)
        if metres is None:
            return None
        a, b, _, d, e, _ = tuple(self.transform)[:6]
        return metres * math.hypot(b, e), metres * math.hypot(a, d)

    def pixel_areas(self, rows: NDArray[np.integer], cols: NDArray[np.integer]) -> NDArray[np.float64] | None:
        """(n,) ground in square metres of the pixels (rows[k], cols[k]), on the ellipsoid; None where `gsd` is None.

        Two tangents of the ground are crossed in space, so nothing is singular at a pole or at 180°. Raises
        InputError where a pixel has no place: outside of what the CRS covers.
        """
        gsd = self.gsd()
        if gsd is None:
            return None
        if self.is_local:
            down, across = gsd
            a, b, _, d, e, _ = tuple(self.transform)[:6]
            sheared = abs(self.transform.determinant) / (math.hypot(b, e) * math.hypot(a, d))
            return np.full(len(rows), down * across * sheared)
        # Over a hundred metres or a pixel: what projections round is nothing then, and so is the earth's curve.
        reach = max(0.5, _TANGENT_METRES / 2 / min(gsd))
        steps = np.array([(-reach, 0), (reach, 0), (0, -reach), (0, reach)])
        centres = np.column_stack([cols, rows]) + 0.5
        x, y = np.moveaxis(centres[:, None] + steps, -1, 0)
        a, b, c, d, e, f = tuple(self.transform)[:6]
        places = np.stack([x * a + y * b + c, x * d + y * e + f], axis=-1).reshape(-1, 2)
        lonlat, geod = self._degrees(places, own=True)
        west, east, north, south = np.moveaxis(_in_space(lonlat, geod).reshape(-1, 4, 3), 1, 0)
        crossed = np.cross(east - west, south - north) / (2 * reach) ** 2
        return np.asarray(np.linalg.norm(crossed, axis=-1), np.float64)

    def _lonlat(self, points: Sequence[tuple[float, float]] | NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) points of the CRS as longitude, latitude on earth."""
        return self._degrees(points, own=False)[0]

    def _degrees(
        self, points: Sequence[tuple[float, float]] | NDArray[np.float64], *, own: bool
    ) -> tuple[NDArray[np.float64], Geod]:
        """(n, 2) points of the CRS as longitude, latitude on earth, or on the CRS's own body, and its shape."""
        if self.crs is None:
            raise InputError(
                "a raster without CRS has no place on the ground; give it one (gdal_edit.py -a_srs)"
            )
        try:
            x, y = np.asarray(points, np.float64).T
            transformer, geod = _to_own_degrees(self.crs) if own else (to_lonlat(self.crs), WGS84)
            lon, lat = transformer.transform(x, y, errcheck=True)
        except ProjError as error:
            raise InputError(
                f"the raster's place cannot be computed in its CRS '{self.crs.name}' ({error}); "
                "check its CRS and give it the true one (gdal_edit.py -a_srs EPSG:…)"
            ) from error
        if not np.isfinite(lon).all() or np.abs(lat).max() > 90:
            raise InputError(
                f"the raster's coordinates lie outside of what its CRS '{self.crs.name}' covers; "
                "check its CRS and give it the true one (gdal_edit.py -a_srs EPSG:…)"
            )
        return np.column_stack([lon, lat]), geod

    def window(self, *, top: int, left: int, height: int, width: int) -> Grid:
        """The grid of a pixel window; it may reach beyond this grid."""
        return Grid(
            crs=self.crs,
            transform=self.transform * Affine.translation(left, top),
            height=height,
            width=width,
        )

    @property
    def is_mirrored(self) -> bool:
        """Whether its pixels show the ground as in a mirror: south-up, not merely rotated. Unknown without CRS."""
        return self.crs is not None and self.transform.determinant > 0

    def for_polygons(self) -> Grid:
        """The grid on which polygons lie: itself; of a raster without geotransform that on which QGIS shows it.

        QGIS puts such rasters at x ≥ 0, y ≤ 0, a unit per pixel: row r begins at y = −r. GDAL counts y downwards there,
        and polygons laid out so would lie mirrored above the picture.
        """
        if self.crs is not None or not self.transform.is_identity:
            return self
        return replace(self, transform=_SHOWN_BY_QGIS)

    def unmirrored(self) -> Grid:
        """The same pixels with their rows in the other order if the grid is mirrored; else the grid itself."""
        if not self.is_mirrored:
            return self
        return replace(self, transform=self.transform * Affine(1, 0, 0, 0, -1, self.height))

    def resized(self, *, height: int, width: int) -> Grid:
        """The same ground cut into height × width pixels."""
        scale = Affine.scale(self.width / width, self.height / height)
        return replace(self, transform=self.transform * scale, height=height, width=width)

    def at_gsd(self, metres: float) -> Grid:
        """The same ground in whole pixels as near to this GSD as they come, on both axes.

        Where the GSD is within 3 % of a whole multiple of the pixel, it is taken as that multiple: pixels are
        then averaged in whole groups, which is sharper, and a difference that small is none to a network.
        """
        gsd = self.gsd()
        if gsd is None:
            raise InputError(
                "a raster without CRS, or with one of unknown unit, has no GSD to resample from; give it a CRS or "
                f"leave {setting('gsd')} out"
            )
        down, across = gsd
        height = max(1, round(self.height / _reduction(metres / down)))
        width = max(1, round(self.width / _reduction(metres / across)))
        if max(height, width) > _LARGEST_SIDE:
            raise InputError(
                f"{self.width} × {self.height} pixels of {across:.3g} m would become {width:,} × {height:,} of "
                f"{metres:.3g} m, wanted at most {_LARGEST_SIDE:,} a side; use imagery of a similar GSD"
            )
        return self.resized(height=height, width=width)


def _in_space(lonlat: NDArray[np.float64], geod: Geod) -> NDArray[np.float64]:
    """(n, 3) metres from the middle of the ellipsoid, of longitudes and latitudes (n, 2) on it."""
    lon, lat = np.radians(lonlat).T
    normal = geod.a / np.sqrt(1 - geod.es * np.sin(lat) ** 2)
    across = normal * np.cos(lat)
    return np.column_stack([across * np.cos(lon), across * np.sin(lon), normal * (1 - geod.es) * np.sin(lat)])


def _reduction(ratio: float) -> float:
    whole = round(ratio)
    return whole if whole >= 1 and abs(ratio / whole - 1) <= 0.03 else ratio


def whole_outline(grid: Grid) -> Polygon:
    """The outline of a grid in longitude, latitude, in one piece: beyond ±180 where it lies across the antimeridian.

    Around a pole it is all that lies on the pole's side of it. Raises InputError as Grid.footprint_lonlat.
    """
    lon, lat = np.asarray(grid.footprint_lonlat().exterior.coords).T
    lon = np.unwrap(lon, period=360)
    if abs(lon[-1] - lon[0]) < 180:
        return Polygon(np.column_stack([lon, lat]))
    # Once around a pole, which is the one that it lies nearer to.
    west, east = float(lon.min()), float(lon.max())
    north = float(np.mean(lat)) > 0
    return box(west, float(lat.min()) if north else -90.0, east, 90.0 if north else float(lat.max()))


def describe_extent(grid: Grid) -> str:
    """The grid's box in longitude/latitude for a message: `lon 85.518..85.523, lat 27.628..27.634`.

    A grid that crosses the antimeridian goes from its west to its east, as 179.5..-179.8.
    """
    outline = grid.footprint_lonlat()
    left, bottom, right, top = outline.bounds
    lon = np.asarray(outline.exterior.coords)[:, 0] % 360
    if right - left > 180 and np.ptp(lon) < 180:
        left, right = float(lon.min()), float(lon.max()) - 360
    return f"lon {left:.5f}..{right:.5f}, lat {bottom:.5f}..{top:.5f}"
