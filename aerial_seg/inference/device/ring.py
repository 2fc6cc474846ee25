"""The rows of a swath on the device, and the tiles that are cut from them: normalised, mirrored beyond the raster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aerial_seg.bands import Band
from aerial_seg.inference.device.feed import FedRows
from aerial_seg.inference.device.pixels import as_float32, carrier_type
from aerial_seg.models.device import CpuTransfer, CudaTransfer
from aerial_seg.tiling.indices import mirrored, ring_slots

Plane = tuple[int, Band]
"""The band of the raster that a plane of the network's input is made of, from 0, and its statistics."""
Indices = NDArray[np.int64]


class DeviceRing:
    """Hold as many rows of a raster as a row of tiles reaches; each newer row takes the place of one further north.

    Tiles see the raster's mirror image beyond its edges; where not measured they are 0, which is the training mean.
    """

    def __init__(
        self,
        bands: int,
        cols: range,
        *,
        rows: int,
        dtype: str,
        planes: Sequence[Plane],
        transfer: CpuTransfer | CudaTransfer,
        device: torch.device,
    ) -> None:
        """bands: of the raster. cols: its columns that rows have. rows: as many are held."""
        self._rows, self._dtype = rows, dtype
        self._transfer, self._device = transfer, device
        self._pixels = torch.zeros(rows, len(cols), bands, dtype=carrier_type(dtype), device=device)
        # Made when something is not measured.
        self._valid: Tensor | None = None
        self._measured_from = 0
        picked = [band for band, _ in planes]
        self._picked = (
            None if picked == list(range(bands)) else torch.tensor(picked, dtype=torch.int64, device=device)
        )
        self._mean = torch.tensor([band.mean for _, band in planes], dtype=torch.float32, device=device)
        self._std = torch.tensor([band.std for _, band in planes], dtype=torch.float32, device=device)

    def place(self, part: FedRows) -> None:
        """Hold these rows too."""
        pixels = self._transfer.to_device(part.pixels)
        valid = None if part.valid is None else self._transfer.to_device(part.valid).bool()
        if valid is not None:
            self._measured_from = part.rows.stop
            if self._valid is None:
                self._valid = torch.ones(self._pixels.shape[:2], dtype=torch.bool, device=self._device)
        for slots, some in ring_slots(part.rows, self._rows):
            self._pixels[slots] = pixels[some]
            if self._valid is not None:
                self._valid[slots] = True if valid is None else valid[some]

    def cut(self, rows: Indices, down: Tensor, across: Tensor) -> Tensor:
        """Return tiles (n, planes, side, side) float32, channels-last, normalised.

        rows (side,): those of the raster that their rows show; down: the same as made by `slots_of`. across (n, side)
        int64 on the device: for each tile the held columns that its columns show.
        """
        place = down[None, :, None], across[:, None, :]
        pixels = self._pixels[place]
        if self._picked is not None:
            pixels = pixels.index_select(-1, self._picked)
        tiles = as_float32(pixels, self._dtype).sub_(self._mean).div_(self._std)
        if self._valid is not None and int(rows.min()) < self._measured_from:
            tiles.masked_fill_(~self._valid[place][..., None], 0)
        return tiles.permute(0, 3, 1, 2)

    def slots_of(self, rows: Indices) -> Tensor:
        """Return where these rows are held: int64 on the device."""
        return self._transfer.numbers_to_device(rows % self._rows)


def mirrored_window(first: int, side: int, length: int) -> Indices:
    """Return the pixels of an axis of `length` that a window from `first` on shows; beyond it those as far inside."""
    start, stop = max(0, first), min(first + side, length)
    return start + mirrored(stop - start, start - first, first + side - stop)
