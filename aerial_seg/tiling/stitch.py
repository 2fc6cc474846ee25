"""Overlap-weighted sum of the tiles' logits on the low-resolution lattice, a swath at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aerial_seg.tiling.plan import AxisPlan, Tile, TilePlan

Cells = NDArray[np.float32]


def blend_weights(cells: int, overlap: int) -> NDArray[np.float32]:
    """The 1-D window of a core: ramps over the overlap, 1 between them, strictly positive everywhere.

    Two neighbours' ramps sum to 1 cell by cell: (j + 1)/(overlap + 1) rising, the mirror image falling.
    """
    index = np.arange(cells)
    ramp = np.minimum(np.minimum(index + 1, cells - index), overlap + 1)
    return (ramp / np.float32(overlap + 1)).astype(np.float32)


class SwathStitcher:
    """Adds tiles in plan order and hands out finished lattice rows; memory is one swath of open rows.

    Contributions are added west→east, then north→south, so that every float32 sum has one order. The normaliser is
    the outer product of two 1-D sums: a skipped tile must therefore hold no valid pixel in its core grown by a cell.
    """

    def __init__(self, plan: TilePlan, *, classes: int) -> None:
        geometry, shape = plan.shape.geometry, plan.shape
        self._plan = plan
        self._core_cells = geometry.cells(shape.core)
        self._halo_cells = shape.halo // geometry.logit_stride
        overlap = max(0, self._core_cells - shape.step // geometry.logit_stride)
        self._window = blend_weights(self._core_cells, overlap)
        self._row_sums = self._weight_sums(plan.rows)
        self._col_sums = self._weight_sums(plan.cols)
        self._open = np.zeros((classes, self._core_cells, len(self._col_sums)), np.float32)
        self._row = 0
        self._last_col = -1

    @property
    def row(self) -> int:
        """The row of tiles that is being added."""
        return self._row

    def add(self, tile: Tile, logits: Cells) -> None:
        """Add one tile's logits (K, side/s, side/s) float32; its halo is dropped here."""
        if tile.row != self._row or tile.col <= self._last_col:
            raise ValueError(f"tile {tile} is out of order: row {self._row}, after column {self._last_col}")
        self._last_col = tile.col
        inside = slice(self._halo_cells, self._halo_cells + self._core_cells)
        core = logits[:, inside, inside]
        left = self._plan.cols.cell_origins[tile.col]
        wide = self._open[:, :, left : left + self._core_cells]
        wide += core * (self._window[:, None] * self._window[None, :])

    def close_row(self) -> Cells:
        """End the current row of tiles; returns its finished cells (K, n, cells across), normalised."""
        origins = self._plan.rows.cell_origins
        start = origins[self._row]
        last = self._row + 1 == len(origins)
        count = self._plan.rows.cells - start if last else origins[self._row + 1] - start
        norm = self._row_sums[start : start + count, None] * self._col_sums[None, :]
        across = self._plan.cols.cells
        done = (self._open[:, :count] / norm)[:, :, :across]
        self._open[:, : self._core_cells - count] = self._open[:, count:]
        self._open[:, self._core_cells - count :] = 0
        self._row, self._last_col = self._row + 1, -1
        return done

    def _weight_sums(self, axis: AxisPlan) -> NDArray[np.float32]:
        sums = np.zeros(axis.cell_origins[-1] + self._core_cells, np.float32)
        for origin in axis.cell_origins:
            sums[origin : origin + self._core_cells] += self._window
        return sums
