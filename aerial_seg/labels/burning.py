"""Polygons onto the pixels of one window, the same whatever the window."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize

NOWHERE = -1
"""What a pixel has that no polygon covers."""
_PARTS = 2.0**20
_ASIDE = 2.0**-13 * np.array([1.0, 0.6180339887])
"""Pixels by which all polygons are moved before it is asked which pixels they touch. Lines through the very corners of
pixels are common (corners are where people snap to), and there the rounding of a window's own coordinates would decide;
a hundredth of a pixel is what GDAL leaves out of account anyway."""


def burnt_polygons(
    geometries: NDArray[np.object_],
    values: NDArray[np.uint8],
    shape: tuple[int, int],
    *,
    all_touched: bool = False,
) -> NDArray[np.int16]:
    """Values (H,W) of polygons (n,) in pixels (column, row), the later on top; NOWHERE where none lies.

    A pixel belongs to the polygon that holds its centre; all_touched: or that touches it at all.
    """
    if not len(geometries):
        return np.full(shape, NOWHERE, np.int16)
    # Windows have corners of their own, which rounds coordinates differently; a millionth of a pixel hides it.
    whole = shapely.transform(geometries, lambda points: np.rint(points * _PARTS) / _PARTS)
    if all_touched:
        whole = shapely.transform(whole, lambda points: points + _ASIDE)
    burnt = rasterize(
        zip(whole, map(int, values), strict=True),
        out_shape=shape,
        fill=NOWHERE,
        all_touched=all_touched,
        dtype="int16",
    )
    return np.asarray(burnt, np.int16)
