"""A map cut into its classes: how much ground each has, and where its pixels are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import Extent
from aerial_seg.legend import Legend
from aerial_seg.progress import Progress
from aerial_seg.vectors.class_raster import ClassRaster, WindowCounts, legend_of

_LARGEST = (512, 1024)
_SMALLEST = (1, 64)
_METRES = 50_000
"""Windows in pixels (down, across), and on the ground: so near to each other, all pixels count as of one size."""


@dataclass(frozen=True)
class Strata:
    """Hold the pixels and the ground of a map's classes, in the order of its legend, altogether and by windows.

    counts: (windows, K) pixels. pixel_areas: (windows,) ground of a pixel there: square metres, or 1 where nobody
    knows what a pixel measures (unit is then px). nodata: pixels without a class, which are no part of the map.
    """

    legend: Legend
    grid: Grid
    extents: Sequence[Extent]
    counts: NDArray[np.int64]
    pixel_areas: NDArray[np.float64]
    unit: str
    nodata: int

    @cached_property
    def pixels(self) -> NDArray[np.int64]:
        """(K,) pixels of each class."""
        return np.asarray(self.counts.sum(axis=0))

    @cached_property
    def areas(self) -> NDArray[np.float64]:
        """(K,) ground of each class, in the unit."""
        return np.asarray((self.counts * self.pixel_areas[:, None]).sum(axis=0))

    @property
    def shares(self) -> NDArray[np.float64]:
        """(K,) shares of the mapped ground."""
        return self.areas / float(self.areas.sum())


def read_strata(path: Path, mask: ClassRaster, progress: Progress) -> Strata:
    """Count the map's classes. Raises InputError for a map that holds none, or values that its legend does not name."""
    gsd = mask.grid.gsd()
    fitting = _LARGEST if gsd is None else [int(_METRES / metres) for metres in gsd]
    windows = WindowCounts(*np.clip(fitting, _SMALLEST, _LARGEST).tolist())
    with progress("count", total=len(mask.extent.rows), unit="row") as bar:
        counted = mask.count(bar, windows)
    legend = legend_of(path, counted)
    if not windows.extents:
        raise InputError(f"{path} has no pixel with a class, wanted a map; run predict to make one")
    place = {value: k for k, value in enumerate(legend.values)}
    counts = np.zeros((len(windows.extents), len(legend)), np.int64)
    for row, found in zip(counts, windows.pixels, strict=True):
        for value, pixels in found.items():
            row[place[value]] = pixels
    areas = _pixel_areas(mask, windows.extents, counts.sum(axis=1))
    unit = "px" if areas is None else "m2"
    ground = np.ones(len(counts)) if areas is None else areas
    return Strata(legend, mask.grid, windows.extents, counts, ground, unit, counted.nodata)


def _pixel_areas(
    mask: ClassRaster, extents: Sequence[Extent], pixels: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """(windows,) ground of a pixel in the middle of each; where that is beyond the earth's rim, of its own pixels.

    pixels: (windows,) that have a class. A map of the world in Mollweide's projection ends within its windows.
    """
    middles = np.array(
        [((one.rows.start + one.rows.stop) // 2, (one.cols.start + one.cols.stop) // 2) for one in extents]
    )
    try:
        return mask.grid.pixel_areas(middles[:, 0], middles[:, 1])
    except InputError:
        sizes = np.array([one.pixels for one in extents])
        for k in np.flatnonzero(pixels < sizes).tolist():
            where = extents[k]
            held = np.argwhere(mask.window(where)[1])
            nearest = np.abs(held - held.mean(axis=0)).sum(axis=1).argmin()
            middles[k] = held[nearest] + (where.rows.start, where.cols.start)
        return mask.grid.pixel_areas(middles[:, 0], middles[:, 1])
