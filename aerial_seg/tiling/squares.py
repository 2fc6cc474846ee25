"""What lies between four neighbouring cells: a square of pixels, whose values are interpolated in one order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Bytes, Floats, Ints, inner
from aerial_seg.tiling.kernels import UNCERTAIN

Corners = tuple[np.float32, np.float32, np.float32, np.float32]
"""Values at the north-west, north-east, south-west and south-east cell."""

MAX_RUN = 16
"""Pixels of an axis that are treated together, so that room for them is small whatever the logit stride."""
MAX_AREA = MAX_RUN * MAX_RUN

KEPT = np.float32(0)
"""Added to a running maximum, so that LLVM does not skip the store where nothing changes: masked stores are slow."""


class Pixels(NamedTuple):
    """The pixels of one axis: the cells (of the block at hand) each lies between, and its share of the second.

    runs: the first pixel of every run of at most MAX_RUN pixels with one `low`, and the number of pixels.
    """

    low: Ints
    high: Ints
    share: Floats
    runs: Ints


class Square(NamedTuple):
    """Pixels top..bottom and left..right (exclusive), MAX_AREA at most, and the cells that they lie between."""

    top: int
    bottom: int
    left: int
    right: int
    north: int
    south: int
    west: int
    east: int


class Patch(NamedTuple):
    """Room for the pixels of a square, row after row, (MAX_AREA,) each.

    down, across: shares of the southern and of the eastern cells; those of the squares in the band `band` (2,).
    best, second: the largest and the second largest value. winner: the channel of the largest.
    scale: a value times it is a probability. bytes: what is stored.
    """

    down: Floats
    across: Floats
    band: Ints
    best: Floats
    second: Floats
    winner: Floats
    scale: Floats
    bytes: Bytes


@inner
def make_patch() -> Patch:
    floats = np.empty((6, MAX_AREA), np.float32)
    return Patch(
        down=floats[0], across=floats[1], band=np.full(2, -1),
        best=floats[2], second=floats[3], winner=floats[4], scale=floats[5], bytes=np.empty(MAX_AREA, np.uint8),
    )  # fmt: skip


@inner
def square_at(rows: Pixels, band: int, cols: Pixels, run: int) -> Square:
    top, bottom = rows.runs[band], rows.runs[band + 1]
    left, right = cols.runs[run], cols.runs[run + 1]
    return Square(
        top, bottom, left, right, rows.low[top], rows.high[bottom - 1], cols.low[left], cols.high[right - 1]
    )


@inner
def area(square: Square) -> int:
    return (square.bottom - square.top) * (square.right - square.left)


@inner
def corners_of(cells: Floats, square: Square, channel: int) -> Corners:
    return (
        cells[square.north, square.west, channel],
        cells[square.north, square.east, channel],
        cells[square.south, square.west, channel],
        cells[square.south, square.east, channel],
    )


@inner
def spread_shares(rows: Pixels, cols: Pixels, square: Square, patch: Patch) -> None:
    """patch.down and patch.across are the square's; mostly they are already, from a square of the same band."""
    width = square.right - square.left
    same = patch.band[0] == square.top and patch.band[1] == width
    for x in range(width):
        same &= patch.across[x] == cols.share[square.left + x]
    if same:
        return
    patch.band[0], patch.band[1] = square.top, width
    at = 0
    for y in range(square.top, square.bottom):
        for x in range(square.left, square.right):
            patch.down[at], patch.across[at] = rows.share[y], cols.share[x]
            at += 1


@inner
def value_between(corners: Corners, down: np.float32, across: np.float32) -> np.float32:
    """Between the corners: down the west side and the east side first, then across."""
    north_west, north_east, south_west, south_east = corners
    return _between(_between(north_west, south_west, down), _between(north_east, south_east, down), across)


@inner
def _between(low: np.float32, high: np.float32, share: np.float32) -> np.float32:
    """Linear interpolation in the one order of operations that leaves constants exactly what they are."""
    return low + (high - low) * share


@inner
def copy_bytes(patch: Patch, square: Square, layer: Bytes) -> None:
    """The square's pixels of the layer hold patch.bytes."""
    at = 0
    for y in range(square.top, square.bottom):
        for x in range(square.left, square.right):
            layer[y, x] = patch.bytes[at]
            at += 1


@inner
def copy_winners(patch: Patch, square: Square, channels: Bytes) -> None:
    for at in range(area(square)):
        patch.bytes[at] = np.uint8(patch.winner[at])
    copy_bytes(patch, square, channels)


@inner
def agreed_code(leaders: NDArray[np.int16], square: Square) -> int:
    """The code that all four corners share if it settles the square, else UNCERTAIN."""
    code = leaders[square.north, square.west]
    if (
        code & UNCERTAIN
        or code != leaders[square.north, square.east]
        or code != leaders[square.south, square.west]
        or code != leaders[square.south, square.east]
    ):
        return UNCERTAIN
    return int(code)
