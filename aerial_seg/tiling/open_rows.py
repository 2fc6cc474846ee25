"""In which order tiles come and where their logits count: what every carrier of the lattice shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aerial_seg.tiling.plan import AxisPart, Tile, TilePart
from aerial_seg.tiling.windows import Weights, axis_weights


@dataclass(frozen=True, slots=True)
class Placed:
    """Say where a tile's logits count.

    top, left: the first cell in the open rows. from_top, from_left: the same cell in the tile's logits.
    row_shares, col_shares: the tile's part of the sums from there on, its weight as an outer product.
    """

    top: int
    left: int
    from_top: int
    from_left: int
    row_shares: Weights
    col_shares: Weights


class OpenRows:
    """Know which rows of a part's cells are open, and take its tiles in the plan's order only.

    Contributions are added west→east, then north→south, so that every float32 sum has one order. A tile's weight at
    a cell is its share of all weights there, an outer product of two 1-D shares: finished sums are normalised
    already. A skipped tile must therefore hold no valid pixel in its core grown by a cell. Weights are those of the
    whole plan, so that a cell's bits do not depend on the part that is stitched.
    """

    def __init__(self, part: TilePart, window: str) -> None:
        """Raises SettingsError for a window that is none of WINDOWS."""
        self._part = part
        shape = part.plan.shape
        self._halo, self._stride = shape.halo_cells, shape.geometry.logit_stride
        rows, cols = axis_weights(part.plan.rows, window), axis_weights(part.plan.cols, window)
        self._row_shares = {row: rows.shares(row, part.rows.cells) for row in part.rows.tiles}
        self._col_shares = {col: cols.shares(col, part.cols.cells) for col in part.cols.tiles}
        self._top = part.rows.cells.start
        self._row = part.rows.tiles.start
        self._last_col = -1

    @property
    def height(self) -> int:
        """How many rows of cells may be open at a time."""
        return min(self._part.plan.shape.core_cells, len(self._part.rows.cells))

    @property
    def width(self) -> int:
        """How many cells a row has."""
        return len(self._part.cols.cells)

    @property
    def tile_cells(self) -> int:
        """How many rows and columns the logits of a tile have, halo included."""
        shape = self._part.plan.shape
        return shape.core_cells + 2 * shape.halo_cells

    @property
    def row(self) -> int:
        """The row of tiles that is being added: its number in the whole plan."""
        return self._row

    def shares(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The part's shares as two tables (rows of tiles, core cells) and (columns of tiles, core cells).

        They are those of `place`, 0 at a core's cells that do not count.
        """
        return _table(self._part.rows, self._row_shares), _table(self._part.cols, self._col_shares)

    def place(self, tile: Tile) -> Placed:
        """The place of the tile that comes next. Raises ValueError for one out of the plan's order."""
        if tile.row != self._row or tile.col <= self._last_col or tile.col not in self._col_shares:
            raise ValueError(f"tile {tile} is out of order: row {self._row}, after column {self._last_col}")
        self._last_col = tile.col
        top, row_shares = self._row_shares[tile.row]
        left, col_shares = self._col_shares[tile.col]
        return Placed(
            top=top - self._top,
            left=left - self._part.cols.cells.start,
            from_top=top - tile.core_top // self._stride + self._halo,
            from_left=left - tile.core_left // self._stride + self._halo,
            row_shares=row_shares,
            col_shares=col_shares,
        )

    def close_row(self) -> int:
        """End the current row of tiles; returns how many of the open rows are finished and give way to new ones.

        It may be 0. Raises ValueError when all rows of tiles are closed.
        """
        rows = self._part.rows
        if self._row not in rows.tiles:
            raise ValueError(f"all rows of tiles {rows.tiles} are closed")
        self._row, self._last_col = self._row + 1, -1
        end = rows.cells.stop
        if self._row in rows.tiles:
            end = max(self._top, min(end, self._part.plan.rows.cell_origins[self._row]))
        finished = end - self._top
        self._top = end
        return finished


def _table(axis: AxisPart, shares: Mapping[int, tuple[int, Weights]]) -> NDArray[np.float32]:
    table = np.zeros((len(axis.tiles), axis.axis.shape.core_cells), np.float32)
    for line, tile in zip(table, axis.tiles, strict=True):
        first, counting = shares[tile]
        start = first - axis.axis.cell_origins[tile]
        line[start : start + len(counting)] = counting
    return table
