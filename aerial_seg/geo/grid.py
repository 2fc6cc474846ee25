"""A grid is CRS + transform + shape; it answers where pixels lie and how large they are on the ground."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

from affine import Affine
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError
from shapely import box, segmentize
from shapely.geometry.base import BaseGeometry
from shapely.ops import transform as transform_geometry

from aerial_seg.errors import InputError

WGS84 = Geod(ellps="WGS84")


@cache
def to_lonlat(crs: CRS) -> Transformer:
    """A transformer from this CRS to longitude, latitude (WGS84, in this order)."""
    return Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)


@dataclass(frozen=True, slots=True)
class Grid:
    """Where a raster's pixels lie.

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
        return self.footprint().bounds

    def footprint(self) -> BaseGeometry:
        """The outline of the grid as a polygon in the CRS."""
        pixels = box(0, 0, self.width, self.height)
        return transform_geometry(lambda x, y: self.transform * (x, y), pixels)

    def footprint_lonlat(self) -> BaseGeometry:
        """The outline in longitude, latitude, densified so that curved edges follow the ground."""
        if self.crs is None:
            raise InputError("a raster without CRS has no place on the ground")
        outline = self.footprint()
        longest = max(outline.bounds[2] - outline.bounds[0], outline.bounds[3] - outline.bounds[1])
        project = to_lonlat(self.crs).transform
        return transform_geometry(lambda x, y: project(x, y), segmentize(outline, longest / 20))

    def gsd(self) -> tuple[float, float] | None:
        """Ground sample distance at the centre, metres per pixel (down, across), geodesic; None without CRS.

        Geodesic also for projected CRSs: at 60° N a "0.5 m" pixel of EPSG:3857 is 0.25 m.
        """
        if self.crs is None:
            return None
        col, row = self.width / 2, self.height / 2
        return self._distance((col, row - 0.5), (col, row + 0.5)), self._distance(
            (col - 0.5, row), (col + 0.5, row)
        )

    def _distance(self, start: tuple[float, float], end: tuple[float, float]) -> float:
        assert self.crs is not None
        try:
            project = to_lonlat(self.crs)
            (lon0, lat0), (lon1, lat1) = (
                project.transform(*(self.transform * p), errcheck=True) for p in (start, end)
            )
        except ProjError as error:
            raise InputError(f"the raster's place cannot be computed in its CRS ({error}); check its CRS") from error
        if not all(map(math.isfinite, (lon0, lat0, lon1, lat1))) or max(abs(lat0), abs(lat1)) > 90:
            raise InputError("the raster's coordinates lie outside of what its CRS covers; check its CRS")
        return float(WGS84.inv(lon0, lat0, lon1, lat1)[2])

    def window(self, *, top: int, left: int, height: int, width: int) -> Grid:
        """The grid of a pixel window; it may reach beyond this grid."""
        return Grid(
            crs=self.crs,
            transform=self.transform * Affine.translation(left, top),
            height=height,
            width=width,
        )

    def resized(self, *, height: int, width: int) -> Grid:
        """The same ground cut into height × width pixels."""
        scale = Affine.scale(self.width / width, self.height / height)
        return replace(self, transform=self.transform * scale, height=height, width=width)

    def at_gsd(self, metres: float) -> Grid:
        """The same ground in whole pixels as near to this GSD as they come, on both axes.

        Where the GSD is within 3 % of a whole multiple of the pixel, it is taken as that multiple: pixels are then
        averaged in whole groups, which is sharper, and a difference that small is none to a network.
        """
        gsd = self.gsd()
        if gsd is None:
            raise InputError(
                "a raster without CRS has no GSD to resample from; give it a CRS or leave --gsd out"
            )
        down, across = gsd
        return self.resized(
            height=max(1, round(self.height / _reduction(metres / down))),
            width=max(1, round(self.width / _reduction(metres / across))),
        )


def _reduction(ratio: float) -> float:
    whole = round(ratio)
    return whole if whole >= 1 and abs(ratio / whole - 1) <= 0.03 else ratio


def describe_extent(grid: Grid) -> str:
    """The grid's box in longitude/latitude for a message: `lon 85.518..85.523, lat 27.628..27.634`."""
    left, bottom, right, top = grid.footprint_lonlat().bounds
    return f"lon {left:.5f}..{right:.5f}, lat {bottom:.5f}..{top:.5f}"
