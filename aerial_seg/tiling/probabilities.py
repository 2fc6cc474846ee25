"""Probabilities of a window's pixels from the lattice's cells, for what wants them as numbers and not as bytes."""

from __future__ import annotations

import numpy as np

from aerial_seg.numba_kernels import Floats
from aerial_seg.tiling.upsample import PixelAxis, softmax_cells

_VALUES_AT_ONCE = 4_000_000


def window_probabilities(cells: Floats, rows: PixelAxis, cols: PixelAxis, *, softmaxed: bool) -> Floats:
    """Probabilities (K, h, w) float32 of the pixels of two axes, interpolated as RowUpsampler does it.

    cells (n, m, K) float32: exactly those that the axes need. softmaxed: they hold probabilities; else the result is
    the softmax of the interpolated logits.
    """
    if cells.shape[:2] != (len(rows.cells), len(cols.cells)):
        raise ValueError(f"cells {cells.shape} for {len(rows.cells)} × {len(cols.cells)}")
    classes = cells.shape[2]
    north, south = rows.low - rows.cells.start, rows.high - rows.cells.start
    west, east = cols.low - cols.cells.start, cols.high - cols.cells.start
    made = np.empty((classes, len(rows), len(cols)), np.float32)
    at_once = max(1, _VALUES_AT_ONCE // (classes * len(cols)))
    for start in range(0, len(rows), at_once):
        part = slice(start, start + at_once)
        down = _between(cells[north[part]], cells[south[part]], rows.share[part, None, None])
        values = _between(down[:, west], down[:, east], cols.share[None, :, None])
        made[:, part] = np.moveaxis(values if softmaxed else softmax_cells(values), 2, 0)
    return made


def _between(low: Floats, high: Floats, share: Floats) -> Floats:
    """In the one order of operations that leaves constants exactly what they are."""
    mixed: Floats = low + (high - low) * share
    return mixed
