"""What a network sees of a tile: cut from the rows that are held, straight into the memory of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aerial_seg.geo.raster.swath import RowReader
from aerial_seg.tiling.cut import Planes, cut_window, make_zero, mirror_columns
from aerial_seg.tiling.indices import mirrored
from aerial_seg.tiling.plan import Tile, TilePlan

Image = NDArray[np.float32]


class HostBatch(Sequence[Image]):
    """Images (C,H,W) float32 that are filled one by one in the memory that the network reads, so without a copy.

    tensor (N,C,H,W), channels-last. Of its N places the first `len` are taken.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._pixels: Image = tensor.permute(0, 2, 3, 1).numpy()
        self._count = 0

    def place(self) -> Image:
        """Take one more place: (H,W,C), to be filled."""
        self._count += 1
        place: Image = self._pixels[self._count - 1]
        return place

    def clear(self) -> None:
        """All places are free."""
        self._count = 0

    def blank_rest(self) -> Tensor:
        """Return the tensor, 0 in the places that are not taken."""
        self._pixels[self._count :] = 0
        return self.tensor

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image]: ...
    def __getitem__(self, index: int | slice) -> Image | list[Image]:
        images = self._pixels[: self._count].transpose(0, 3, 1, 2)
        return list(images[index]) if isinstance(index, slice) else images[index]


class TileCutter:
    """Cut tiles from the rows that a reader holds."""

    def __init__(self, reader: RowReader, plan: TilePlan, planes: Planes) -> None:
        self._reader, self._plan, self._planes = reader, plan, planes

    def is_measured(self, tile: Tile) -> bool:
        """Whether the core grown by one cell holds a measured pixel: only then can its cells matter."""
        shape = self._plan.shape
        cell = shape.geometry.logit_stride
        reach = shape.core + 2 * cell
        rows, cols = self._inside(tile.core_top - cell, tile.core_left - cell, reach)
        if len(rows) and self._reader.is_measured(rows):
            return True
        return bool(self._reader.take_valid(rows, cols).any())

    def cut(self, tile: Tile, into: Image) -> None:
        """Fill (H,W,C) with a tile's normalised input: 0 (the training mean) where invalid, mirrored beyond the raster.

        A flat grey beyond the edge is ground that no network was trained on: it cost a third of the IoU in the outer
        ten pixels of real imagery. A mirror continues the texture.
        """
        shape = self._plan.shape
        top, left = tile.core_top - shape.halo, tile.core_left - shape.halo
        rows, cols = self._inside(top, left, shape.side)
        held = self._reader.hold(rows, cols)
        order = mirrored(len(rows), rows.start - top, top + shape.side - rows.stop)
        west = cols.start - left
        across = mirrored(len(cols), west, left + shape.side - cols.stop)
        beyond = across[:west], across[west + len(cols) :]
        cut_window(into, held.image, held.rows[order], held.first_col, planes=self._planes, mirrored=beyond)
        if held.valid is not None:
            make_zero(into[:, west : west + len(cols)], held.valid, order)
        mirror_columns(into, beyond)

    def _inside(self, top: int, left: int, side: int) -> tuple[range, range]:
        """Rows and columns of a square window, as far as they lie in the raster."""
        rows = range(max(0, top), min(top + side, self._plan.rows.length))
        return rows, range(max(0, left), min(left + side, self._plan.cols.length))
