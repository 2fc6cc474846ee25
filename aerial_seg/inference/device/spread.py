"""Linear interpolation along one axis of a planar lattice, in few operations of torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aerial_seg.numba_kernels import Floats, Ints
from aerial_seg.tiling.upsample import PixelAxis


@dataclass(frozen=True, slots=True)
class Spread:
    """Hold an axis of pixels in the form in which the last dimension of a lattice is spread to them.

    Pixels come in runs of one length that lie between the same two cells. On the run's own grid a run is as long as the
    logit stride and all runs have the same shares, so that what is read per pixel is nothing but the cells; at another
    pixel size a run is a single pixel.

    west, east (runs,) int64: the cells of a run, counted from the axis' first. share: (1, length) or (runs, 1) float32.
    before: pixels of the first run that lie west of the axis' first. pixels: of the axis.
    """

    west: Tensor
    east: Tensor
    share: Tensor
    before: int
    pixels: int

    @classmethod
    def of(cls, axis: PixelAxis, device: torch.device | str) -> Spread:
        """The runs of an axis, on a device."""
        runs = _equal_runs(axis)
        if runs is None:
            west, east, share, before = axis.low, axis.high, axis.share[:, None], 0
        else:
            west, east, share, before = runs
        return cls(
            torch.from_numpy(west - axis.cells.start).to(device),
            torch.from_numpy(east - axis.cells.start).to(device),
            torch.from_numpy(np.ascontiguousarray(share)).to(device),
            before=before,
            pixels=len(axis),
        )

    @property
    def runs(self) -> int:
        """How many there are."""
        return len(self.west)

    def ends(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """The values west of every run, and how much they rise from there to the east: (G, R, runs) each.

        cells (G, R, all cells of the axis).
        """
        low = cells.index_select(2, self.west)
        return low, cells.index_select(2, self.east).sub_(low)

    def between(self, low: Tensor, rise: Tensor) -> Tensor:
        """Values (G, R, pixels) between a run's ends; a new tensor or a part of one.

        low + (high − low)·share, every operation rounded by itself: constants stay exactly what they are.
        """
        values = rise[..., None] * self.share
        values += low[..., None]
        return values.flatten(2)[:, :, self.before : self.before + self.pixels]


def _equal_runs(axis: PixelAxis) -> tuple[Ints, Ints, Floats, int] | None:
    """west, east, shares and before of the runs, if but for the axis' ends all are of one length and alike."""
    changes = np.flatnonzero(np.diff(axis.low)) + 1
    if len(changes) < 2:
        return None
    first, length = int(changes[0]), int(changes[1] - changes[0])
    phase = axis.share[first : first + length]
    # Pixels before the outermost cell's centre take its value: they belong to a run of their own, that does not rise.
    is_clamped = first > length
    before = -first % length
    count = -(-(before + len(axis)) // length)
    run = (np.arange(len(axis)) + before) // length
    west = axis.low[0] + np.arange(count) - int(is_clamped)
    last = axis.cells.stop - 1
    east = np.minimum(west + 1, last)
    west, east = np.maximum(west, axis.low[0]), np.where(west < axis.low[0], axis.low[0], east)
    share = phase[(np.arange(len(axis)) + before) % length]
    rises = (east > west)[run]
    if not np.array_equal(west[run], axis.low) or not np.array_equal(np.where(rises, share, 0), axis.share):
        return None
    return west, east, phase[None], before
