"""Pixels of one class told apart without a raster of their own: a tag in the low bits of the code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import SettingsError
from aerial_seg.polygonize.batch import NONE, Codes
from aerial_seg.polygonize.row_chunks import Rows

_CELL_BITS = 2


@dataclass(frozen=True, slots=True)
class Tags:
    """How many bits of a code are tags. Raises SettingsError when that leaves no room for the classes."""

    bits: int
    classes: int

    def __post_init__(self) -> None:
        room = NONE >> self.bits
        if self.classes > room:
            raise SettingsError(
                f"the mask has {self.classes:,} classes, wanted at most {room:,} to tell objects or cells of one class "
                "apart; leave out --split-grid or --instances"
            )

    def untagged(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The class codes of tagged ones."""
        return codes >> self.bits

    def table(self, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """wanted (65536,) bool by class code → by tagged code."""
        tagged = np.zeros(NONE + 1, bool)
        codes = np.arange(NONE)
        tagged[:-1] = wanted[codes >> self.bits]
        return tagged


def with_tags(codes: Codes, tags: NDArray[np.integer], bits: int) -> Codes:
    """The codes with a tag below 2^bits each; NONE stays."""
    tagged = (codes << np.uint16(bits)) | tags.astype(np.uint16)
    tagged[codes == NONE] = NONE
    return tagged


def cut_by_grid(
    rows: Rows, cell: int, *, top: int = 0, left: int = 0
) -> Iterator[tuple[Codes, NDArray[np.uint8] | None]]:
    """The same rows, tagged with 2 bits so that patches end at every multiple of `cell` rows and columns.

    top, left: where they lie in the raster whose rows and columns are counted.
    """
    for codes, levels in rows:
        down = (np.arange(top, top + codes.shape[0]) // cell) % 2
        across = (np.arange(left, left + codes.shape[1]) // cell) % 2
        yield with_tags(codes, 2 * down[:, None] + across, _CELL_BITS), levels
        top += codes.shape[0]


def tag_bits(*, grid: bool, objects_bits: int) -> int:
    """Bits that both kinds of tags take together."""
    return (_CELL_BITS if grid else 0) + objects_bits
