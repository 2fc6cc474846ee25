"""A source raster of which only the ground of some chips is shown, as if it was put together from their files."""

from __future__ import annotations

from collections.abc import Set
from functools import partial

import numpy as np

from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.values.fill import Pixels, Valid
from aerial_seg.geo.windows.source import WindowSource

Cell = tuple[int, int]


class SeenRaster(Raster):
    """Read a source as its chips show it: what lies in no seen cell of the chip grid is 0 and not measured."""

    def __init__(self, source: WindowSource, seen: Set[Cell], *, size: int) -> None:
        """seen: rows and columns of cells of size × size pixels."""
        super().__init__(
            source.opened_as, nodata=source.nodata, georeferenced=source.georeferenced, choice=source.choice
        )
        source.set_up(self)
        self._seen, self._size = seen, size

    def read_into(self, image: Pixels, *, top: int, left: int) -> Valid | None:
        """image (C,h,w) holds a window inside the raster; valid (h,w), None where all of it is measured and seen."""
        valid = super().read_into(image, top=top, left=left)
        height, width = image.shape[1:]
        hidden = [
            (slice(max(0, row * self._size - top), (row + 1) * self._size - top),
             slice(max(0, col * self._size - left), (col + 1) * self._size - left))
            for row in range(top // self._size, (top + height - 1) // self._size + 1)
            for col in range(left // self._size, (left + width - 1) // self._size + 1)
            if (row, col) not in self._seen
        ]  # fmt: skip
        if not hidden:
            return valid
        measured = np.ones((height, width), np.bool_) if valid is None else valid
        for rows, cols in hidden:
            image[:, rows, cols] = 0
            measured[rows, cols] = False
        return measured


def opens_seen(source: WindowSource, seen: Set[Cell], *, size: int) -> partial[SeenRaster]:
    """What opens the raster when its scene is mapped."""
    return partial(SeenRaster, source, frozenset(seen), size=size)
