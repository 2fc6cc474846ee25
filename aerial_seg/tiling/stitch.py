"""Overlap-weighted sum of the tiles' logits on the low-resolution lattice, a swath at a time."""

from __future__ import annotations

import numpy as np

from aerial_seg.numba_kernels import Floats
from aerial_seg.tiling.kernels import add_weighted
from aerial_seg.tiling.plan import Tile, TilePart
from aerial_seg.tiling.windows import axis_weights


class SwathStitcher:
    """Adds tiles in plan order and hands out finished lattice rows; memory is one swath of open rows.

    Contributions are added west→east, then north→south, so that every float32 sum has one order. A tile's weight at
    a cell is its share of all weights there, an outer product of two 1-D shares: finished sums are normalised
    already. A skipped tile must therefore hold no valid pixel in its core grown by a cell. Weights are those of the
    whole plan, so that a cell's bits do not depend on the part that is stitched.
    """

    def __init__(self, part: TilePart, *, classes: int, window: str = "linear") -> None:
        self._part = part
        shape = part.plan.shape
        self._core, self._halo = shape.core_cells, shape.halo_cells
        self._logits_shape = (*(self._core + 2 * self._halo,) * 2, classes)
        rows, cols = axis_weights(part.plan.rows, window), axis_weights(part.plan.cols, window)
        self._row_shares = {row: rows.shares(row, part.rows.cells) for row in part.rows.tiles}
        self._col_shares = {col: cols.shares(col, part.cols.cells) for col in part.cols.tiles}
        height = min(self._core, len(part.rows.cells))
        self._sums = np.zeros((height, len(part.cols.cells), classes), np.float32)
        self._top = part.rows.cells.start
        self._handed_out = 0
        self._row = part.rows.tiles.start
        self._last_col = -1

    @property
    def row(self) -> int:
        """The row of tiles that is being added: its number in the whole plan."""
        return self._row

    def add(self, tile: Tile, logits: Floats) -> None:
        """Add one tile's logits (side/s, side/s, K) float32; its halo is dropped here."""
        if tile.row != self._row or tile.col <= self._last_col or tile.col not in self._col_shares:
            raise ValueError(f"tile {tile} is out of order: row {self._row}, after column {self._last_col}")
        if logits.shape != self._logits_shape:
            raise ValueError(f"the logits of a tile are {self._logits_shape}, got {logits.shape}")
        self._last_col = tile.col
        self._forget_handed_out()
        top, row_shares = self._row_shares[tile.row]
        left, col_shares = self._col_shares[tile.col]
        stride = self._part.plan.shape.geometry.logit_stride
        add_weighted(
            self._sums,
            (top - self._top, left - self._part.cols.cells.start),
            np.ascontiguousarray(logits, np.float32),
            (
                top - tile.core_top // stride + self._halo,
                left - tile.core_left // stride + self._halo,
            ),
            row_shares,
            col_shares,
        )

    def close_row(self) -> Floats:
        """End the current row of tiles; returns its finished cells (n, cells across, K), normalised; n may be 0.

        They are a view that holds until the next call of this stitcher, so that memory is open rows only.
        """
        self._forget_handed_out()
        rows = self._part.rows
        if self._row not in rows.tiles:
            raise ValueError(f"all rows of tiles {rows.tiles} are closed")
        self._row, self._last_col = self._row + 1, -1
        end = rows.cells.stop
        if self._row in rows.tiles:
            end = max(self._top, min(end, self._part.plan.rows.cell_origins[self._row]))
        self._handed_out = end - self._top
        return self._sums[: self._handed_out]

    def _forget_handed_out(self) -> None:
        """The rows of the last `close_row` make room for new ones."""
        count = self._handed_out
        if count:
            stay = len(self._sums) - count
            self._sums[:stay] = self._sums[count:]
            self._sums[stay:] = 0
            self._top += count
            self._handed_out = 0
