"""What all channels say about every pixel: probabilities, and by how much the largest value leads.

Where the leader's probability rounds to 1 at all four corners of a square it does so between them: its lead over each
other channel is interpolated, and the sum of the exponentials of their lags is convex. Such squares are skipped.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from aerial_seg.numba_kernels import Bytes, Floats, inner, kernel
from aerial_seg.tiling.kernels import ALL_EQUAL, CHANNEL, UNCERTAIN, Survey
from aerial_seg.tiling.squares import (
    KEPT,
    MAX_AREA,
    Patch,
    Pixels,
    Square,
    agreed_code,
    area,
    copy_bytes,
    copy_winners,
    corners_of,
    make_patch,
    spread_shares,
    square_at,
    value_between,
)

_INFINITE, _ONE, _HALF = np.float32(np.inf), np.float32(1), np.float32(0.5)
_SURE = np.float32(250)  # probability 1: a step is 0.004, and 255 stays free for nodata
_NO_DOUBT = np.float32(1 / 520)  # 1/500 would round to 1 in real numbers


class Layers(NamedTuple):
    """What is wanted of a block of pixels; arrays without elements are not.

    channels, confidence (n, W) uint8; probabilities (K, n, W) uint8; margin (n, W) float32.
    softmaxed: cells hold probabilities; else these are the softmax of the interpolated logits.
    """

    channels: Bytes
    confidence: Bytes
    probabilities: Bytes
    margin: Floats
    softmaxed: bool


@kernel
def doubts(cells: Floats, known: Survey, softmaxed: bool) -> Floats:
    """What the leader's probability lacks to 1 at every cell, at most: (h, w); ∞ where no channel leads for certain."""
    doubt = np.full(known.leaders.shape, _INFINITE)
    for i in range(cells.shape[0]):
        for j in range(cells.shape[1]):
            leader = known.leaders[i, j]
            if leader <= CHANNEL:
                best = cells[i, j, leader]
                doubt[i, j] = _ONE - best if softmaxed else _sum_of_exp(cells, i, j, best) - _ONE
    return doubt


@inner
def _sum_of_exp(cells: Floats, i: int, j: int, best: np.float32) -> np.float32:
    total = np.float32(0)
    for k in range(cells.shape[2]):
        total += _exp(cells[i, j, k] - best)
    return total


@kernel
def fill_layers(
    cells: Floats, known: Survey, doubt: Floats, rows: Pixels, cols: Pixels, layers: Layers
) -> None:
    """The wanted layers hold what interpolating all channels gives."""
    values, patch = np.empty((cells.shape[2], MAX_AREA), np.float32), make_patch()
    even = _byte(_ONE / np.float32(cells.shape[2]))
    for band in range(rows.runs.size - 1):
        for run in range(cols.runs.size - 1):
            square = square_at(rows, band, cols, run)
            agreed = UNCERTAIN if layers.margin.size else agreed_code(known.leaders, square)
            if agreed <= CHANNEL and _largest_doubt(doubt, square) <= _NO_DOUBT:
                _store_alike(square, agreed, (_byte(_ONE), np.uint8(0)), layers)
            elif agreed == ALL_EQUAL:
                _store_alike(square, 0, (even, even), layers)
            else:
                spread_shares(rows, cols, square, patch)
                _interpolate(cells, square, patch, values)
                _rank(values, area(square), patch)
                _store(values, patch, square, layers)


@kernel
def fill_layers_of_cells(cells: Floats, layers: Layers) -> None:
    """As fill_layers, where every pixel is a cell (n, W, K): strips of a row take the place of squares."""
    values, patch = np.empty((cells.shape[2], MAX_AREA), np.float32), make_patch()
    for y in range(cells.shape[0]):
        for left in range(0, cells.shape[1], MAX_AREA):
            strip = Square(y, y + 1, left, min(left + MAX_AREA, cells.shape[1]), y, y, left, left)
            for at in range(area(strip)):
                for k in range(cells.shape[2]):
                    values[k, at] = cells[y, left + at, k]
            _rank(values, area(strip), patch)
            _store(values, patch, strip, layers)


@inner
def _largest_doubt(doubt: Floats, square: Square) -> np.float32:
    return max(
        max(doubt[square.north, square.west], doubt[square.north, square.east]),
        max(doubt[square.south, square.west], doubt[square.south, square.east]),
    )


@inner
def _store_alike(square: Square, channel: int, bytes_: tuple[np.uint8, np.uint8], layers: Layers) -> None:
    """All pixels of the square have this channel; bytes_: its probability and that of the others."""
    own, other = bytes_
    for y in range(square.top, square.bottom):
        for x in range(square.left, square.right):
            layers.channels[y, x] = channel
    if layers.confidence.size:
        for y in range(square.top, square.bottom):
            for x in range(square.left, square.right):
                layers.confidence[y, x] = own
    for k in range(layers.probabilities.shape[0]):
        for y in range(square.top, square.bottom):
            for x in range(square.left, square.right):
                layers.probabilities[k, y, x] = own if k == channel else other


@inner
def _interpolate(cells: Floats, square: Square, patch: Patch, values: Floats) -> None:
    """values (K, MAX_RUN²) are those of the square's pixels."""
    down, across = patch.down, patch.across
    for k in range(cells.shape[2]):
        corners = corners_of(cells, square, k)
        for at in range(area(square)):
            values[k, at] = value_between(corners, down[at], across[at])


@inner
def _rank(values: Floats, size: int, patch: Patch) -> None:
    """patch.best, second and winner are known; values are taken for probabilities."""
    best, second, winner, scale = patch.best, patch.second, patch.winner, patch.scale
    for at in range(size):
        best[at], second[at], winner[at], scale[at] = values[0, at], -_INFINITE, 0, _ONE
    for k in range(1, values.shape[0]):
        channel = np.float32(k)
        for at in range(size):
            value, leader = values[k, at], best[at]
            second[at] = max(second[at], min(value, leader)) + KEPT
            best[at] = max(leader, value) + KEPT
            winner[at] = (channel if value > leader else winner[at]) + KEPT


@inner
def _store(values: Floats, patch: Patch, square: Square, layers: Layers) -> None:
    """The wanted layers hold the square's pixels; values and patch are changed."""
    copy_winners(patch, square, layers.channels)
    if layers.margin.size:
        at = 0
        for y in range(square.top, square.bottom):
            for x in range(square.left, square.right):
                layers.margin[y, x] = patch.best[at] - patch.second[at]
                at += 1
    if not layers.softmaxed and layers.confidence.size + layers.probabilities.size:
        _softmax(values, area(square), patch)
    if layers.confidence.size:
        for at in range(area(square)):
            patch.bytes[at] = _byte(patch.best[at] * patch.scale[at])
        copy_bytes(patch, square, layers.confidence)
    for k in range(layers.probabilities.shape[0]):
        for at in range(area(square)):
            patch.bytes[at] = _byte(values[k, at] * patch.scale[at])
        copy_bytes(patch, square, layers.probabilities[k])


@inner
def _softmax(values: Floats, size: int, patch: Patch) -> None:
    """values · scale, and best · scale, are the softmax of what the values were."""
    best, scale = patch.best, patch.scale
    for at in range(size):
        scale[at] = 0
    for k in range(values.shape[0]):
        for at in range(size):
            values[k, at] = _exp(values[k, at] - best[at])
            scale[at] += values[k, at]
    for at in range(size):
        best[at], scale[at] = _ONE, _ONE / scale[at]


_EXP_FLOOR, _SIXTY_FOURTH = np.float32(-20), np.float32(1 / 64)
_THIRD, _FOURTH, _FIFTH, _SIXTH = (np.float32(1 / factorial) for factorial in (6, 24, 120, 720))


@inner
def _exp(x: np.float32) -> np.float32:
    """e to the x ≤ 0, at most 1e-5 of it wrong, never below e⁻²⁰; unlike a call of exp, it is vectorised.

    The Taylor series of e to the x/64, six times squared.
    """
    y = max(x, _EXP_FLOOR) * _SIXTY_FOURTH
    e = _ONE + y * (_ONE + y * (_HALF + y * (_THIRD + y * (_FOURTH + y * (_FIFTH + y * _SIXTH)))))
    for _ in range(6):
        e = e * e
    return e


@inner
def _byte(probability: np.float32) -> np.uint8:
    return np.uint8(_SURE * probability + _HALF)
