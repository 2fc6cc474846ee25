"""How much each tile counts where cores overlap: separable windows, one number per cell and axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from aerial_seg.choices import WindowName
from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.tiling.plan import AxisPlan

Weights = NDArray[np.float32]

WINDOWS = get_args(WindowName)
"""linear:   ramps over the overlap, 1 between them; two neighbours' ramps sum to 1 cell by cell. The default.
cosine:   the same with ramps of sin², which also start and end without a bend.
gaussian: exp(−d²/2σ²) of the distance d to the core's centre, σ an eighth of the core, whatever the overlap; the
          outermost cell weighs 3e-4 of the centre. Source: nnU-Net (Isensee et al. 2021), sliding-window inference.
centre:   no blending: each cell is taken from one tile alone, seams run halfway through the overlaps.

All but `centre` are strictly positive on the whole core.
"""


@dataclass(frozen=True, slots=True)
class AxisWeights:
    """The weights of every core of an axis, before they are normalised.

    tiles: for each tile (core cells,) ≥ 0. sums: of all tiles at each cell, (end of the last core,) > 0.
    """

    axis: AxisPlan
    tiles: tuple[Weights, ...]
    sums: Weights

    def shares(self, tile: int, cells: range) -> tuple[int, Weights]:
        """This tile's part of the sum at those of `cells` where it counts: the first of them, and (n,) in 0..1.

        The shares of all tiles sum to 1 at every cell, and are exactly 1 where a tile is alone.
        """
        weights = self.tiles[tile]
        origin = self.axis.cell_origins[tile]
        counting = np.flatnonzero(weights)
        first = max(origin + int(counting[0]), cells.start)
        stop = max(first, min(origin + int(counting[-1]) + 1, cells.stop))
        return first, weights[first - origin : stop - origin] / self.sums[first:stop]


@lru_cache(maxsize=4)
def axis_weights(axis: AxisPlan, window: str) -> AxisWeights:
    """The weights of a whole axis; they do not depend on which of its tiles will run.

    The last ones are kept, read only: thousands of scenes are mostly of one size. Raises SettingsError for a window
    that is none of WINDOWS.
    """
    if window not in WINDOWS:
        hint = did_you_mean(window, WINDOWS)
        raise SettingsError(f"window '{window}' is unknown; use one of {', '.join(WINDOWS)}{hint}")
    tiles = _centre(axis) if window == "centre" else (_PROFILES[window](axis),) * len(axis.origins)
    sums = np.zeros(axis.cell_origins[-1] + axis.shape.core_cells, np.float32)
    for origin, weights in zip(axis.cell_origins, tiles, strict=True):
        sums[origin : origin + len(weights)] += weights
    for array in (*tiles, sums):
        array.flags.writeable = False
    return AxisWeights(axis=axis, tiles=tiles, sums=sums)


def _ramps(axis: AxisPlan) -> NDArray[np.float64]:
    """(j + 1)/(overlap + 1) rising, the mirror image falling, at most 1."""
    shape = axis.shape
    overlap = max(0, shape.core_cells - shape.step // shape.geometry.logit_stride)
    index = np.arange(shape.core_cells)
    ramp = np.minimum(np.minimum(index + 1, shape.core_cells - index), overlap + 1)
    return ramp / (overlap + 1)


def _linear(axis: AxisPlan) -> Weights:
    return _ramps(axis).astype(np.float32)


def _cosine(axis: AxisPlan) -> Weights:
    return (np.sin(np.pi / 2 * _ramps(axis)) ** 2).astype(np.float32)


def _gaussian(axis: AxisPlan) -> Weights:
    cells = axis.shape.core_cells
    distance = np.arange(cells) - (cells - 1) / 2
    weights: Weights = np.exp(-0.5 * (distance / (cells / 8)) ** 2).astype(np.float32)
    return weights


_PROFILES: dict[str, Callable[[AxisPlan], Weights]] = {
    "linear": _linear,
    "cosine": _cosine,
    "gaussian": _gaussian,
}


def _centre(axis: AxisPlan) -> tuple[Weights, ...]:
    """1 from the seam in the west to the seam in the east, 0 elsewhere.

    Seams are set from the origins, because the last tile was moved back and shares more than the usual overlap.
    """
    origins, cells = axis.cell_origins, axis.shape.core_cells
    seams = [0, *((west + east + cells) // 2 for west, east in pairwise(origins)), origins[-1] + cells]
    tiles = []
    for origin, (start, stop) in zip(origins, pairwise(seams), strict=True):
        weights = np.zeros(cells, np.float32)
        weights[start - origin : stop - origin] = 1
        tiles.append(weights)
    return tuple(tiles)
