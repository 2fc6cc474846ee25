"""A raster as it was opened once, and windows of it that are read later, elsewhere, and come out the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from affine import Affine

from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.band_choice import ALL_BANDS, BandChoice
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.values.fill import Pixels, Valid
from aerial_seg.geo.windows.handles import lent


@dataclass(frozen=True, slots=True)
class WindowSource:
    """Say how a raster is opened so that equal windows of it hold equal pixels: all that `Raster` was told.

    name: what people call it. opened_as: a path, address or VRT. transform, height, width: of the grid that it is read
    on, which is its own or one that it is resampled to. scaled: of each band whether scale and offset are applied.
    version: another one where files of these names may hold something else: no raster that waits open is taken for it.
    """

    name: str
    opened_as: str
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int
    nodata: float | None = None
    georeferenced: bool = True
    choice: BandChoice = ALL_BANDS
    scaled: tuple[bool, ...] = ()
    version: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        opened_as: str,
        grid: Grid,
        *,
        nodata: float | None = None,
        choice: BandChoice = ALL_BANDS,
        georeferenced: bool = True,
    ) -> WindowSource:
        """The source as it is read on this grid."""
        a, b, c, d, e, f = tuple(grid.transform)[:6]
        place = (a, b, c, d, e, f)
        return cls(name, opened_as, place, grid.height, grid.width, nodata, georeferenced, choice)

    def open(self) -> Raster:
        """The raster, opened and read on the grid. Raises InputError where it cannot be."""
        raster = Raster(
            self.opened_as, nodata=self.nodata, georeferenced=self.georeferenced, choice=self.choice
        )
        try:
            self.set_up(raster)
        except BaseException:
            raster.__exit__(None, None, None)
            raise
        return raster

    def set_up(self, raster: Raster) -> None:
        """`raster`, opened from here, is read on the grid and with the scaling from now on."""
        place = Affine(*self.transform)
        raster.resample(Grid(raster.info.grid.crs, place, height=self.height, width=self.width))
        raster.scale(self.scaled)


@dataclass(frozen=True, slots=True)
class SourceWindow:
    """A square window of a source, which may reach beyond it to the south and east: nothing is measured there."""

    source: WindowSource
    top: int
    left: int
    side: int

    def __str__(self) -> str:
        """As messages name it: `ortho.tif (row 512, column 1024)`."""
        return f"{self.source.name} (row {self.top}, column {self.left})"

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.side, self.side

    def read(self, rows: slice, cols: slice) -> tuple[Pixels, Valid | None]:
        """image (C,h,w) and valid (h,w) of a part of the window.

        Band after band in memory: GDAL takes twice as long to lay a pixel's bands beside each other out of its blocks.
        valid: None where all is measured. Raises InputError as `Raster.read` does.
        """
        with lent(self.source) as raster:
            return read_part(raster, range(rows.start, rows.stop), range(cols.start, cols.stop), self)


def read_part(raster: Raster, rows: range, cols: range, window: SourceWindow) -> tuple[Pixels, Valid | None]:
    """As SourceWindow.read, of an opened raster."""
    top, left, size = window.top + rows.start, window.left + cols.start, (len(rows), len(cols))
    height, width = (
        max(0, min(start + length, end) - start)
        for start, length, end in zip((top, left), size, raster.grid.shape, strict=True)
    )
    if (height, width) == size:
        image = _pixels(raster, size)
        return image, raster.read_into(image, top=top, left=left)
    image, valid = _pixels(raster, size), np.zeros(size, np.bool_)
    image[...] = 0
    if height and width:
        inside = slice(0, height), slice(0, width)
        measured = raster.read_into(image[(slice(None), *inside)], top=top, left=left)
        valid[inside] = True if measured is None else measured
    return image, valid


def _pixels(raster: Raster, size: tuple[int, int]) -> Pixels:
    return np.empty((len(raster.info.bands), *size), raster.info.dtype)
