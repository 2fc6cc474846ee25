"""Overlap-weighted sum of the tiles' logits on the low-resolution lattice, a swath at a time: the host's carrier."""

from __future__ import annotations

import numpy as np

from aerial_seg.numba_kernels import Floats
from aerial_seg.tiling.kernels import add_weighted
from aerial_seg.tiling.open_rows import OpenRows
from aerial_seg.tiling.plan import Tile, TilePart


class SwathStitcher:
    """Adds tiles in plan order and hands out finished lattice rows; memory is one swath of open rows.

    The order and the weights are those of OpenRows, on the host as on a device (`inference/device/lattice.py`).
    """

    def __init__(self, part: TilePart, *, classes: int, window: str = "linear") -> None:
        self._open = OpenRows(part, window)
        self._logits_shape = (*(self._open.tile_cells,) * 2, classes)
        self._sums = np.zeros((self._open.height, self._open.width, classes), np.float32)
        self._handed_out = 0

    @property
    def row(self) -> int:
        """The row of tiles that is being added: its number in the whole plan."""
        return self._open.row

    def add(self, tile: Tile, logits: Floats) -> None:
        """Add one tile's logits (side/s, side/s, K) float32; its halo is dropped here."""
        if logits.shape != self._logits_shape:
            raise ValueError(f"the logits of a tile are {self._logits_shape}, got {logits.shape}")
        self._forget_handed_out()
        at = self._open.place(tile)
        add_weighted(
            self._sums,
            (at.top, at.left),
            np.ascontiguousarray(logits, np.float32),
            (at.from_top, at.from_left),
            at.row_shares,
            at.col_shares,
        )

    def close_row(self) -> Floats:
        """End the current row of tiles; returns its finished cells (n, cells across, K), normalised; n may be 0.

        They are a view that holds until the next call of this stitcher, so that memory is open rows only.
        """
        self._forget_handed_out()
        self._handed_out = self._open.close_row()
        return self._sums[: self._handed_out]

    def _forget_handed_out(self) -> None:
        """The rows of the last `close_row` make room for new ones."""
        count = self._handed_out
        if count:
            stay = len(self._sums) - count
            self._sums[:stay] = self._sums[count:]
            self._sums[stay:] = 0
            self._handed_out = 0
