"""Borders between classes, which nobody draws to the pixel, as unlabelled ground."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aerial_seg.geo.grid import Grid
from aerial_seg.legend import IGNORE


def grown(grid: Grid, pixels: int) -> Grid:
    """The grid with so many pixels more on every side."""
    if not pixels:
        return grid
    return grid.window(
        top=-pixels, left=-pixels, height=grid.height + 2 * pixels, width=grid.width + 2 * pixels
    )


def without_borders(labels: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    """The labels (H, W) without a rim of `pixels`, unlabelled where another class is at most so many pixels away.

    Away along rows and columns each, so that a corner counts. Unlabelled ground has no border.
    """
    if not pixels:
        return labels
    lowest, highest = labels, np.where(labels == IGNORE, 0, labels + 1)
    for axis in (0, 1):
        lowest = _best(lowest, pixels, axis, np.minimum)
        highest = _best(highest, pixels, axis, np.maximum)
    inner = labels[pixels:-pixels, pixels:-pixels]
    return np.where(lowest.astype(np.int16) + 1 < highest, np.uint8(IGNORE), inner)


def _best(values: NDArray[np.uint8], pixels: int, axis: int, choose: np.ufunc) -> NDArray[np.uint8]:
    """The lowest or highest of 2 · pixels + 1 neighbours along an axis, which gets so much shorter."""
    length = values.shape[axis] - 2 * pixels
    out = values.take(range(length), axis=axis)
    for shift in range(1, 2 * pixels + 1):
        choose(out, values.take(range(shift, shift + length), axis=axis), out=out)
    return out
