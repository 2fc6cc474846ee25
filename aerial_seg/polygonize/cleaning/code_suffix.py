"""Pixels of one class told apart without a raster of their own: a suffix in the low bits of the code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import SettingsError
from aerial_seg.mentions import setting
from aerial_seg.polygonize.batch import NONE, Codes
from aerial_seg.polygonize.row_chunks import Rows

_CELL_BITS = 2


@dataclass(frozen=True, slots=True)
class CodeSuffix:
    """How many bits of a code are its suffix. Raises SettingsError when that leaves no room for the classes."""

    bits: int
    classes: int

    def __post_init__(self) -> None:
        room = NONE >> self.bits
        if self.classes > room:
            raise SettingsError(
                f"the mask has {self.classes:,} classes, wanted at most {room:,} to tell objects or cells of one class "
                f"apart; leave out {setting('split_grid')} or {setting('instances')}"
            )

    def without_suffix(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The class codes of suffixed ones."""
        return codes >> self.bits

    def table(self, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """wanted (65536,) bool by class code → by suffixed code."""
        suffixed = np.zeros(NONE + 1, bool)
        codes = np.arange(NONE)
        suffixed[:-1] = wanted[codes >> self.bits]
        return suffixed


def with_suffixes(codes: Codes, suffixes: NDArray[np.integer], bits: int) -> Codes:
    """The codes with a suffix below 2^bits each; NONE stays."""
    suffixed = (codes << np.uint16(bits)) | suffixes.astype(np.uint16)
    suffixed[codes == NONE] = NONE
    return suffixed


def cut_by_grid(
    rows: Rows, cell: int, *, top: int = 0, left: int = 0
) -> Iterator[tuple[Codes, NDArray[np.uint8] | None]]:
    """The same rows, suffixed with 2 bits so that patches end at every multiple of `cell` rows and columns.

    top, left: where they lie in the raster whose rows and columns are counted.
    """
    for codes, levels in rows:
        down = (np.arange(top, top + codes.shape[0]) // cell) % 2
        across = (np.arange(left, left + codes.shape[1]) // cell) % 2
        yield with_suffixes(codes, 2 * down[:, None] + across, _CELL_BITS), levels
        top += codes.shape[0]


def suffix_bits(*, grid: bool, objects_bits: int) -> int:
    """Bits that both kinds of suffixes take together."""
    return (_CELL_BITS if grid else 0) + objects_bits
