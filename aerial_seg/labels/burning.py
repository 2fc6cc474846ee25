"""Polygons onto the pixels of one window, the same whatever the window."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize

from aerial_seg.geo.raster.values.byte_counts import byte_counts
from aerial_seg.labels.scanlines.fill import fill_polygons

Picture: TypeAlias = NDArray[np.uint8] | NDArray[np.int16]

NOWHERE = -1
"""What a pixel has that no polygon covers, unless a byte is said for it."""
_PARTS = 2.0**20
_ASIDE = 2.0**-13 * np.array([1.0, 0.6180339887])
"""Pixels by which all polygons are moved before it is asked which pixels they touch. Lines through the very corners of
pixels are common (corners are where people snap to), and there the rounding of a window's own coordinates would decide;
a hundredth of a pixel is what GDAL leaves out of account anyway."""


@dataclass(frozen=True, slots=True)
class Outlines:
    """Polygons (n,) of a window as arrays: burnt more than once, they are brought into that form once.

    points, rings, polygons: as fill_polygons has them, of the parts that they consist of. owners: (m,) which of the n
    each part belongs to. all_touched: whether a pixel belongs to a polygon that touches it at all, not only to one that
    holds its centre.
    """

    points: NDArray[np.float64]
    rings: NDArray[np.int64]
    polygons: NDArray[np.int64]
    owners: NDArray[np.int64]
    all_touched: bool

    @classmethod
    def of(cls, geometries: NDArray[np.object_], *, all_touched: bool = False) -> Outlines:
        """geometries: (n,) polygons in pixels (column, row) of the window."""
        parts, owners = shapely.get_parts(geometries, return_index=True)
        whole = ~shapely.is_empty(parts)
        parts, owners = parts[whole], owners[whole]
        rings, ring_owners = shapely.get_rings(parts, return_index=True)
        points, point_owners = shapely.get_coordinates(rings, return_index=True)
        # Windows have corners of their own, which rounds coordinates differently; a millionth of a pixel hides it.
        points = np.rint(points * _PARTS) / _PARTS
        return cls(
            points + _ASIDE if all_touched else points,
            np.searchsorted(point_owners, np.arange(len(rings) + 1)),
            np.searchsorted(ring_owners, np.arange(len(parts) + 1)),
            np.asarray(owners, np.int64),
            all_touched,
        )

    def burnt(
        self,
        values: NDArray[np.uint8],
        shape: tuple[int, int],
        *,
        ranks: NDArray[np.integer[Any]] | None = None,
        only: NDArray[np.bool_] | None = None,
        elsewhere: int = NOWHERE,
    ) -> Picture:
        """Values (H,W) of the polygons (n,), `elsewhere` where none lies: bytes where that is one, else int16.

        ranks: (n,) those of higher ones lie on top, of equal ones the later. only: (n,) those that are burnt.
        """
        order = np.arange(len(self.owners))
        if ranks is not None:
            order = np.argsort(ranks[self.owners], kind="stable")
        if only is not None:
            order = order[only[self.owners[order]]]
        out: Picture = (
            np.full(shape, elsewhere, np.uint8) if elsewhere >= 0 else np.full(shape, elsewhere, np.int16)
        )
        chosen = values[self.owners].astype(np.int64)
        if self.all_touched:
            self._touch(out, order, chosen)
        else:
            fill_polygons(self.points, self.rings, self.polygons, order, chosen, out)
        return out

    def _touch(self, out: Picture, order: NDArray[np.int64], values: NDArray[np.int64]) -> None:
        """Write the values (m,) of these parts, in this order, into every pixel that one touches."""
        if not len(order):
            return
        runs = np.split(order, np.flatnonzero(np.diff(values[order])) + 1)
        # rasterio looks at each geometry for long, and burns a MultiPolygon's polygons one by one.
        shapes = [
            (
                {"type": "MultiPolygon", "coordinates": [self._rings(k) for k in run.tolist()]},
                int(values[run[0]]),
            )
            for run in runs
        ]
        rasterize(shapes, out=out, all_touched=True)

    def _rings(self, part: int) -> list[list[tuple[float, float]]]:
        """As GeoJSON has them; in pairs: Python's garbage collector looks at lists again and again."""
        ends = self.rings[self.polygons[part] : self.polygons[part + 1] + 1].tolist()
        return [list(zip(*self.points[a:b].T.tolist(), strict=True)) for a, b in itertools.pairwise(ends)]


def unused_byte(values: NDArray[np.uint8], wanted: int) -> int:
    """A byte that none of the values (n,) is, the wanted one if it can be; NOWHERE where all 256 are in use."""
    free = np.ones(256, bool)
    free[values] = False
    if free[wanted]:
        return wanted
    return int(free.argmax()) if free.any() else NOWHERE


def covered_counts(
    burnt: Picture, elsewhere: int, where: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """(256,) pixels of each value (H,W) that polygons have, of those that are True in `where`.

    elsewhere: what is no polygon's value, see Outlines.burnt.
    """
    seen = burnt if where is None else np.where(where, burnt, burnt.dtype.type(elsewhere))
    counts = byte_counts(seen.astype(np.uint8, copy=False))
    # As a byte NOWHERE is 255, which may be a value, too.
    counts[elsewhere % 256] -= np.count_nonzero(seen == elsewhere)
    return counts


def burnt_polygons(
    geometries: NDArray[np.object_],
    values: NDArray[np.uint8],
    shape: tuple[int, int],
    *,
    all_touched: bool = False,
) -> Picture:
    """Values (H,W) of polygons (n,) in pixels (column, row), the later on top; NOWHERE where none lies.

    A pixel belongs to the polygon that holds its centre; all_touched: or that touches it at all.
    """
    return Outlines.of(geometries, all_touched=all_touched).burnt(values, shape)


@dataclass(slots=True)
class OverlapCount:
    """Count ground that polygons of several classes, given by their values, cover.

    pixels, area: of each two that overlap, the area in square millimetres. of_class: pixels of each. covered: of any.
    """

    pixels: Counter[tuple[int, int]] = field(default_factory=Counter)
    area: Counter[tuple[int, int]] = field(default_factory=Counter)
    of_class: Counter[int] = field(default_factory=Counter)
    covered: int = 0

    def add(self, other: OverlapCount) -> None:
        """Count that of other windows, too."""
        self.pixels.update(other.pixels)
        self.area.update(other.area)
        self.of_class.update(other.of_class)
        self.covered += other.covered


def _no_fids() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Burnt:
    """Hold the labels of a window, and what is to be counted of it.

    labels: (H,W) pixel values, 255 = unlabelled. implied: pixels that are labelled because no polygon lies there.
    labelled: pixels that are labelled at all. nowhere: fids of polygons that the window's CRS has no coordinates for.
    """

    labels: NDArray[np.uint8]
    overlaps: OverlapCount = field(default_factory=OverlapCount)
    implied: int = 0
    labelled: int = 0
    nowhere: NDArray[np.int64] = field(default_factory=_no_fids)
