"""Which pixels the cells of one axis of a feature map can see, through one layer after another: integers only."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_NOWHERE = np.int64(2**62)


@dataclass(frozen=True, slots=True, eq=False)
class CellExtent:
    """What each of n cells can see of the image's pixels along its axis.

    low, high (n,) int64: the first and the last pixel; high < low: none. whole (n,) bool: True where no padding and no
    border was in the way, so that the cell has the value that it has in an endless image.
    """

    low: Ints
    high: Ints
    whole: Bools

    def __len__(self) -> int:
        return self.low.size


@dataclass(frozen=True, slots=True, eq=False)
class InputIndices:
    """Which input cells each of m output cells is made of.

    cells (m, k) int64: their numbers; those outside the input are padding. used (m, k) bool: False for a place in the
    table that stands for nothing. repeats: True where the input's border cell stands in for what is outside.
    """

    cells: Ints
    used: Bools
    repeats: bool = False


def pixels(count: int) -> CellExtent:
    """Every pixel sees itself."""
    numbers = np.arange(count, dtype=np.int64)
    return CellExtent(numbers, numbers, np.ones(count, np.bool_))


def through(extent: CellExtent, indices: InputIndices) -> CellExtent:
    """What the output cells see when the input cells see `extent`."""
    last = len(extent) - 1
    inside = (indices.cells >= 0) & (indices.cells <= last)
    at = np.clip(indices.cells, 0, last)
    counted = indices.used if indices.repeats else indices.used & inside
    clear = ~indices.used | (inside & extent.whole[at])
    return CellExtent(
        low=np.where(counted, extent.low[at], _NOWHERE).min(axis=1),
        high=np.where(counted, extent.high[at], -1).max(axis=1),
        whole=np.logical_and.reduce(clear, axis=1),
    )


def together(one: CellExtent, other: CellExtent) -> CellExtent:
    """What a cell sees that is made of the cell at the same place in both."""
    return CellExtent(
        low=np.minimum(one.low, other.low),
        high=np.maximum(one.high, other.high),
        whole=one.whole & other.whole,
    )


def window(count: int, kernel: int, *, stride: int, padding: int, dilation: int) -> InputIndices:
    """Output cell j of a convolution or pooling sees the cells j·stride − padding + k·dilation, k < kernel."""
    return _always(_column(count) * stride - padding + np.arange(kernel, dtype=np.int64) * dilation)


def spread(count: int, kernel: int, *, stride: int, padding: int, dilation: int) -> InputIndices:
    """Output cell j of a transposed convolution sees the cells i of j = i·stride − padding + k·dilation, k < kernel."""
    scaled = _column(count) + padding - np.arange(kernel, dtype=np.int64) * dilation
    cells, rest = np.divmod(scaled, stride)
    return InputIndices(cells, rest == 0)


def shifted(count: int, start: int, step: int = 1) -> InputIndices:
    """Output cell j is cell start + j·step: a slice, or padding where that is outside."""
    return _always(_column(count) * step + start)


def mirrored(count: int, size: int, padding: int) -> InputIndices:
    """Output cell j is cell j − padding of an input of `size` cells, mirrored at its borders (reflection padding)."""
    cells = np.abs(_column(count) - padding)
    border = size - 1
    inner = border - np.abs(border - cells)
    # The mirror image comes second, as a cell outside, so that it counts as padding.
    outside = _column(count) - padding
    return InputIndices(np.concatenate([inner, outside], axis=1), np.ones((count, 2), np.bool_))


def repeated(count: int, padding: int) -> InputIndices:
    """Output cell j is cell j − padding, or the border's where that is outside (replication padding)."""
    return InputIndices(_column(count) - padding, np.ones((count, 1), np.bool_), repeats=True)


def enlarged(count: int, factor: int) -> InputIndices:
    """Output cell j is cell ⌊j / factor⌋: places that were channels."""
    return _always(_column(count) // factor)


def nearest(count: int, ratio: Fraction) -> InputIndices:
    """Output cell j is cell ⌊j·ratio⌋ (torch's `nearest`)."""
    return _between(_column(count) * ratio.numerator, ratio.denominator, reach=(0, 0))


def linear(count: int, ratio: Fraction, *, align_corners: bool) -> InputIndices:
    """Output cell j lies between two cells around its place; on a cell exactly it sees that one only."""
    return _between(*_places(count, ratio, align_corners), reach=(0, 1))


def cubic(count: int, ratio: Fraction, *, align_corners: bool) -> InputIndices:
    """Output cell j is made of two cells on either side of its place."""
    return _between(*_places(count, ratio, align_corners), reach=(-1, 2))


def _places(count: int, ratio: Fraction, align_corners: bool) -> tuple[Ints, int]:
    """The places of the output cells among the input's, as numerators and their common denominator."""
    over, under = ratio.numerator, ratio.denominator
    if align_corners:
        return _column(count) * over, under
    return (2 * _column(count) + 1) * over - under, 2 * under


def _between(places: Ints, under: int, *, reach: tuple[int, int]) -> InputIndices:
    """The cells ⌊place⌋ + reach, or one cell for a place on it; what is outside is the border's cell again.

    Torch computes places in floating point, exactly where the denominator is a power of two. Elsewhere a place on a
    cell may come out just before it, so that the cell before ⌊place⌋ is counted too.
    """
    floors, rest = np.divmod(places, under)
    exact = under & (under - 1) == 0
    steps = np.arange(reach[0] if exact else reach[0] - 1, reach[1] + 1, dtype=np.int64)
    used = (steps == 0) | (rest != 0) | (not exact)
    return InputIndices(floors + steps, used, repeats=True)


def _column(count: int) -> Ints:
    return np.arange(count, dtype=np.int64)[:, None]


def _always(cells: Ints) -> InputIndices:
    return InputIndices(cells, np.ones(cells.shape, np.bool_))
