"""The class of every pixel: only squares whose corners disagree are interpolated, and only channels that can win."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Bytes, Floats, Ints, inner, kernel
from aerial_seg.tiling.kernels import CHANNEL, UNCERTAIN, Survey
from aerial_seg.tiling.squares import (
    KEPT,
    Patch,
    Pixels,
    Square,
    agreed_code,
    area,
    copy_winners,
    corners_of,
    make_patch,
    spread_shares,
    square_at,
    value_between,
)

_QUARTER = np.float32(0.25)


@kernel
def channels_between(cells: Floats, known: Survey, rows: Pixels, cols: Pixels) -> Bytes:
    """The channel with the largest interpolated value of every pixel, the first in a tie: (rows, cols) uint8.

    Exactly what interpolating all channels and taking the argmax gives, but only channels that can win are
    interpolated, and none at all in squares whose corners agree.
    """
    channels = np.empty((rows.share.size, cols.share.size), np.uint8)
    contested, patch = np.empty(cols.runs.size, np.int64), make_patch()
    rivals, can_win = np.empty(cells.shape[2], np.uint8), np.empty(cells.shape[2], np.uint8)
    for band in range(rows.runs.size - 1):
        count = _settle(channels, known.leaders, rows, band, cols, contested)
        for run in contested[:count]:
            square = square_at(rows, band, cols, run)
            spread_shares(rows, cols, square, patch)
            _decide(cells, square, rivals[: _find_rivals(cells, known, square, rivals, can_win)], patch)
            copy_winners(patch, square, channels)
    return channels


@inner
def _settle(
    channels: Bytes, leaders: NDArray[np.int16], rows: Pixels, band: int, cols: Pixels, contested: Ints
) -> int:
    """A band's pixels hold what their corners agree on; the number of runs where they do not, first in `contested`."""
    top, bottom = rows.runs[band], rows.runs[band + 1]
    count = 0
    for run in range(cols.runs.size - 1):
        square = square_at(rows, band, cols, run)
        agreed = agreed_code(leaders, square)
        for x in range(square.left, square.right):
            channels[top, x] = agreed & CHANNEL
        contested[count] = run
        count += agreed == UNCERTAIN
    for y in range(top + 1, bottom):
        for x in range(cols.share.size):
            channels[y, x] = channels[top, x]
    return count


@inner
def _find_rivals(cells: Floats, known: Survey, square: Square, rivals: Bytes, can_win: Bytes) -> int:
    """How many channels can win in a square: the first of `rivals`, ascending.

    One that lies below the mean of the corners' leaders at every corner is nowhere between them the largest.
    """
    north, south, west, east = square.north, square.south, square.west, square.east
    leaders = (
        known.leaders[north, west] & CHANNEL,
        known.leaders[north, east] & CHANNEL,
        known.leaders[south, west] & CHANNEL,
        known.leaders[south, east] & CHANNEL,
    )
    certain = known.certain[north]
    north_west = _mean(cells, north, west, leaders) - certain
    north_east = _mean(cells, north, east, leaders) - certain
    south_west = _mean(cells, south, west, leaders) - certain
    south_east = _mean(cells, south, east, leaders) - certain
    for k in range(cells.shape[2]):
        can_win[k] = not (
            (cells[north, west, k] < north_west)
            & (cells[north, east, k] < north_east)
            & (cells[south, west, k] < south_west)
            & (cells[south, east, k] < south_east)
        )
    count = 0
    for k in range(cells.shape[2]):
        rivals[count] = k
        count += can_win[k]
    return count


@inner
def _mean(cells: Floats, i: int, j: int, channels: tuple[int, int, int, int]) -> np.float32:
    a, b, c, d = channels
    total: np.float32 = (cells[i, j, a] + cells[i, j, b]) + (cells[i, j, c] + cells[i, j, d])
    return _QUARTER * total


@inner
def _decide(cells: Floats, square: Square, rivals: Bytes, patch: Patch) -> None:
    """patch.winner is the first of the rivals whose interpolated value is the largest."""
    down, across, best, winner = patch.down, patch.across, patch.best, patch.winner
    corners = corners_of(cells, square, rivals[0])
    for at in range(area(square)):
        best[at], winner[at] = value_between(corners, down[at], across[at]), rivals[0]
    for c in range(1, rivals.size):
        channel = np.float32(rivals[c])
        corners = corners_of(cells, square, rivals[c])
        for at in range(area(square)):
            value, leader = value_between(corners, down[at], across[at]), best[at]
            best[at] = max(leader, value) + KEPT
            winner[at] = (channel if value > leader else winner[at]) + KEPT
