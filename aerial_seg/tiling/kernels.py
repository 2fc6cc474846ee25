"""The loops over the lattice's cells that numpy is too slow for: adding tiles, and who leads at a cell."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Bytes, Floats, inner, kernel


@kernel
def add_weighted(
    sums: Floats,
    sums_at: tuple[int, int],
    logits: Floats,
    logits_at: tuple[int, int],
    row_shares: Floats,
    col_shares: Floats,
) -> None:
    """sums (h, w, K) from `sums_at` on have grown by the logits (n, m, K) from `logits_at` on, times both shares."""
    top, left = sums_at
    from_top, from_left = logits_at
    for i in range(row_shares.size):
        for j in range(col_shares.size):
            share = row_shares[i] * col_shares[j]
            for k in range(sums.shape[2]):
                sums[top + i, left + j, k] += share * logits[from_top + i, from_left + j, k]


@kernel
def largest_channels(cells: Floats) -> Bytes:
    """The channel with the largest value of every cell, the first one in a tie: (h, w, K) → (h, w) uint8."""
    channels = np.empty(cells.shape[:2], np.uint8)
    for i in range(cells.shape[0]):
        for j in range(cells.shape[1]):
            channels[i, j] = _first_largest(cells, i, j)
    return channels


@inner
def _first_largest(cells: Floats, i: int, j: int) -> int:
    best, channel = cells[i, j, 0], 0
    for k in range(1, cells.shape[2]):
        larger = cells[i, j, k] > best
        best = cells[i, j, k] if larger else best
        channel = k if larger else channel
    return channel


# The certain lead.
#
# Between four cells every interpolated value is a convex combination of the corners' values, so a channel that leads at
# all four corners leads at every pixel between them: of the real numbers. In float32 it does if it leads by more than
# rounding can undo. low + (high − low)·share rounds three times: among |values| ≤ M and with u = 2⁻²⁴ it is off by 5uM
# at most; twice in a row (down the rows, then across the columns) by 10uM; the difference of two channels by 20uM, or
# by 24uM if one of the two is a mean of four. So a lead of 32uM = 2⁻¹⁹M is certain.

_CERTAIN = np.float32(2.0**-19)
_TINY = np.float32(2.0**-100)  # products of smaller numbers may underflow
_WITHOUT_SIGN = np.int32(0x7FFFFFFF)

CHANNEL, UNCERTAIN, ALL_EQUAL = 0x0FF, 0x100, 0x200


class Survey(NamedTuple):
    """What is known of every cell before interpolating.

    leaders (h, w) int16: the channel that leads at this cell for certain; ALL_EQUAL if all channels have one value
            (between such cells they tie everywhere); else the first largest channel | UNCERTAIN.
    certain (h,): the lead that rounding cannot undo between this row of cells and its neighbours.
    """

    leaders: NDArray[np.int16]
    certain: Floats


@kernel
def survey(cells: Floats) -> Survey:
    """The survey of finished cells (h, w, K), finite, h ≥ 1 and K ≤ 255."""
    height, width, _ = cells.shape
    leaders = np.empty((height, width), np.int16)
    certain = np.empty(height, np.float32)
    bits = cells.reshape(height, -1).view(np.int32)
    sizes = np.empty(height, np.int32)
    sizes[0] = _largest_size(bits, 0)
    for i in range(height):
        above, below = max(i - 1, 0), min(i + 1, height - 1)
        sizes[below] = _largest_size(bits, below)
        certain[i] = max(sizes[above : below + 1].view(np.float32).max(), _TINY) * _CERTAIN
        west = 0
        for j in range(width):
            north = leaders[above, j] & CHANNEL if i else west
            leaders[i, j] = _leader(cells, i, j, (west, north), certain[i])
            west = leaders[i, j] & CHANNEL
    return Survey(leaders, certain)


@inner
def _largest_size(bits: NDArray[np.int32], i: int) -> np.int32:
    """The bits of the largest |value| in a row of cells: maxima of integers are vectorised, those of floats are not."""
    largest = np.int32(0)
    for at in range(bits.shape[1]):
        largest = max(largest, bits[i, at] & _WITHOUT_SIGN)
    return largest


@inner
def _leader(cells: Floats, i: int, j: int, guesses: tuple[int, int], certain: np.float32) -> int:
    """The cell's code in a Survey; fast where one of the guesses, its neighbours' leaders, is right."""
    for guess in guesses:
        if _leads(cells, i, j, guess, certain):
            return guess
    if _are_all_equal(cells, i, j):
        return ALL_EQUAL
    leader = _first_largest(cells, i, j)
    return leader if _leads(cells, i, j, leader, certain) else leader | UNCERTAIN


@inner
def _leads(cells: Floats, i: int, j: int, channel: int, certain: np.float32) -> bool:
    """True when all other channels lie below this one for certain."""
    threshold = cells[i, j, channel] - certain
    close = 0
    for k in range(cells.shape[2]):
        if cells[i, j, k] >= threshold:
            close += 1
    return close == 1


@inner
def _are_all_equal(cells: Floats, i: int, j: int) -> bool:
    different = 0
    for k in range(cells.shape[2]):
        if cells[i, j, k] != cells[i, j, 0]:
            different += 1
    return different == 0
