"""Overlap-weighted sum of the tiles' logits on a device: the second carrier of what `tiling/stitch.py` promises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from aerial_seg.tiling.open_rows import OpenRows, Placed
from aerial_seg.tiling.plan import Tile, TilePart

_VALUES_AT_ONCE = 1 << 25
"""Logits that are weighted at a time: memory beside the open rows, in float32."""


class DeviceStitcher:
    """Adds batches of tiles in plan order and hands out finished lattice rows; memory is two swaths of open rows.

    Every cell's sum is made of the same products, added in the same order, as by SwathStitcher: the bits are the same.
    Lattices are planar, (K, rows, cells): a class is a picture, and neighbours in memory are neighbours on the ground.
    Nothing waits for the device: weights lie there from the beginning, and where a tile goes is known to the host.
    """

    @torch.inference_mode()
    def __init__(
        self, part: TilePart, *, classes: int, window: str = "linear", device: torch.device | str = "cpu"
    ) -> None:
        """Raises SettingsError for a window that is none of WINDOWS."""
        self._open = OpenRows(part, window)
        self._first_row, self._first_col = part.rows.tiles.start, part.cols.tiles.start
        self._halo = part.plan.shape.halo_cells
        self._logits_shape = (classes, *(self._open.tile_cells,) * 2)
        self._row_shares, self._col_shares = (
            torch.from_numpy(shares).to(device) for shares in self._open.shares()
        )
        self._sums = torch.zeros(classes, self._open.height, self._open.width, device=device)

    @property
    def row(self) -> int:
        """The row of tiles that is being added: its number in the whole plan."""
        return self._open.row

    @torch.inference_mode()
    def add(self, tiles: Sequence[Tile], logits: Tensor) -> None:
        """Add the logits (n, K, side/s, side/s) float32 of n tiles of the current row, west to east.

        They lie on the stitcher's device, a class bias added; halos are dropped here.
        """
        if logits.shape != (len(tiles), *self._logits_shape):
            raise ValueError(
                f"the logits of {len(tiles)} tiles are {(len(tiles), *self._logits_shape)}, got "
                f"{tuple(logits.shape)}"
            )
        if logits.dtype != torch.float32:
            raise ValueError(f"logits are added in float32, got {logits.dtype}")
        placed = [self._open.place(tile) for tile in tiles]
        core = slice(self._halo, self._halo + self._col_shares.shape[1])
        for first, stop in self._runs(tiles):
            row = tiles[first].row - self._first_row
            cols = slice(tiles[first].col - self._first_col, tiles[stop - 1].col - self._first_col + 1)
            shares = self._row_shares[row, :, None] * self._col_shares[cols, None, None, :]
            self._accumulate(placed[first:stop], logits[first:stop, :, core, core] * shares)

    def _runs(self, tiles: Sequence[Tile]) -> Iterator[tuple[int, int]]:
        """Parts of a batch whose tiles are neighbours, so that a slice has their shares; none is too large."""
        classes, side, _ = self._logits_shape
        most = max(1, _VALUES_AT_ONCE // (classes * side * side))
        starts = [0] if tiles else []
        for at, (west, east) in enumerate(pairwise(tiles), start=1):
            if east.col != west.col + 1 or at - starts[-1] == most:
                starts.append(at)
        return pairwise([*starts, len(tiles)])

    def _accumulate(self, placed: Sequence[Placed], weighted: Tensor) -> None:
        """The open rows have grown by weighted logits (n, K, core, core), the western tile first."""
        for at, product in zip(placed, weighted, strict=True):
            top, left = at.from_top - self._halo, at.from_left - self._halo
            high, wide = len(at.row_shares), len(at.col_shares)
            counting = product[:, top : top + high, left : left + wide]
            self._sums[:, at.top : at.top + high, at.left : at.left + wide].add_(counting)

    @torch.inference_mode()
    def close_row(self) -> Tensor:
        """End the current row of tiles; returns its finished cells (K, n, cells across), normalised; n may be 0.

        They are a view of rows that this stitcher does not touch again.
        """
        count = self._open.close_row()
        before = self._sums
        if count:
            stay = before.shape[1] - count
            self._sums = torch.empty_like(before)
            self._sums[:, :stay].copy_(before[:, count:])
            self._sums[:, stay:].zero_()
        return before[:, :count]
