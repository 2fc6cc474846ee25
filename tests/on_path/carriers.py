"""The carriers of the lattice under one contract: numba on the host, torch on the CPU, torch on a GPU where one is.

A law takes `carrier` by `@each_carrier`. All speak the host's language: numpy, channels last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aerial_seg.inference.device import upsample as device_upsample
from aerial_seg.inference.device.lattice import DeviceStitcher
from aerial_seg.inference.device.upsample import DeviceUpsampler
from aerial_seg.inference.device.upsample import softmax_cells as device_softmax_cells
from aerial_seg.tiling import upsample as host_upsample
from aerial_seg.tiling.plan import Tile, TilePart
from aerial_seg.tiling.stitch import SwathStitcher
from aerial_seg.tiling.upsample import PixelAxis, PixelRows, RowUpsampler, softmax_cells

Floats = NDArray[np.float32]


class Stitcher(Protocol):
    """Adds logits (h, w, K) of tiles that follow each other in a row of tiles; gives finished cells (n, m, K)."""

    @property
    def row(self) -> int: ...
    def add(self, tiles: Sequence[Tile], logits: Sequence[Floats]) -> None: ...
    def close_row(self) -> Floats: ...


class Upsampler(Protocol):
    """Makes finished pixel rows of cells (n, m, K)."""

    def push(self, cells: Floats) -> Iterator[PixelRows]: ...


@dataclass(frozen=True)
class Carrier:
    """One of them: torch on a device, or numba."""

    device: str | None

    def __str__(self) -> str:
        return "numba" if self.device is None else f"torch on {self.device}"

    def stitcher(self, part: TilePart, *, classes: int, window: str = "linear") -> Stitcher:
        if self.device is None:
            return _OnHost(SwathStitcher(part, classes=classes, window=window))
        return _OnDevice(
            DeviceStitcher(part, classes=classes, window=window, device=self.device), self.device
        )

    def upsampler(
        self,
        rows: PixelAxis,
        cols: PixelAxis,
        *,
        confidence: bool = False,
        probabilities: bool = False,
        margin: bool = False,
        softmaxed: bool = False,
    ) -> Upsampler:
        wanted = {
            "confidence": confidence, "probabilities": probabilities, "margin": margin, "softmaxed": softmaxed
        }  # fmt: skip
        if self.device is None:
            return RowUpsampler(rows, cols, **wanted)
        return _Upsampler(DeviceUpsampler(rows, cols, **wanted, device=self.device), self.device)

    def softmax_cells(self, cells: Floats) -> Floats:
        if self.device is None:
            return softmax_cells(cells)
        return self.softmax_cells_of_batch(cells[None])[0]

    def softmax_cells_of_batch(self, tiles: Floats) -> Floats:
        """tiles (n, h, w, K) → likewise, all at once."""
        if self.device is None:
            return np.stack([softmax_cells(tile) for tile in tiles])
        made = device_softmax_cells(torch.stack([planar(tile, self.device) for tile in tiles]))
        return np.stack([channels_last(tile) for tile in made])

    @contextmanager
    def pixels_at_once(self, count: int) -> Iterator[None]:
        """Inside, upsamplers that are made work on so many pixels or values at a time."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(host_upsample, "_PIXELS_AT_ONCE", count)
            patch.setattr(device_upsample, "_VALUES_AT_ONCE", {False: count, True: count})
            patch.setattr(device_upsample, "_BYTES_AT_ONCE", count)
            yield


HOST, CPU = Carrier(None), Carrier("cpu")
_NO_GPU = (
    "NOT PROVED: torch finds no CUDA device, so the device's carrier of the lattice is tried on the CPU alone"
)
_GPU = pytest.param(
    Carrier("cuda"), id="torch on cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason=_NO_GPU)
)  # fmt: skip
each_carrier = pytest.mark.parametrize("carrier", [*(pytest.param(c, id=str(c)) for c in (HOST, CPU)), _GPU])
each_device = pytest.mark.parametrize("carrier", [pytest.param(CPU, id=str(CPU)), _GPU])


def planar(cells: Floats, device: str) -> torch.Tensor:
    """(h, w, K) → (K, h, w) on the device."""
    return torch.from_numpy(np.ascontiguousarray(cells.transpose(2, 0, 1))).to(device)


def channels_last(cells: torch.Tensor) -> Floats:
    """(K, h, w) of a device → (h, w, K)."""
    return np.ascontiguousarray(cells.cpu().numpy().transpose(1, 2, 0))


@dataclass(frozen=True)
class _OnHost:
    stitcher: SwathStitcher

    @property
    def row(self) -> int:
        return self.stitcher.row

    def add(self, tiles: Sequence[Tile], logits: Sequence[Floats]) -> None:
        for tile, of_tile in zip(tiles, logits, strict=True):
            self.stitcher.add(tile, of_tile)

    def close_row(self) -> Floats:
        return self.stitcher.close_row()


@dataclass(frozen=True)
class _OnDevice:
    stitcher: DeviceStitcher
    device: str

    @property
    def row(self) -> int:
        return self.stitcher.row

    def add(self, tiles: Sequence[Tile], logits: Sequence[Floats]) -> None:
        self.stitcher.add(tiles, torch.stack([planar(of_tile, self.device) for of_tile in logits]))

    def close_row(self) -> Floats:
        return channels_last(self.stitcher.close_row())


@dataclass(frozen=True)
class _Upsampler:
    upsampler: DeviceUpsampler
    device: str

    def push(self, cells: Floats) -> Iterator[PixelRows]:
        for made in self.upsampler.push(planar(cells, self.device)):
            layers = (made.channels, made.confidence, made.probabilities, made.margin)
            yield PixelRows(
                made.start, *(layer if layer is None else layer.cpu().numpy() for layer in layers)
            )
