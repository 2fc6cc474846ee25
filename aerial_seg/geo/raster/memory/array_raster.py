"""Pixels that lie in memory, read as a raster file is: by windows, each with what was measured of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType

import numpy as np
import rasterio
from rasterio.crs import CRS as RasterioCRS
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile

from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import Extent
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.raster_info import RasterInfo, require_value
from aerial_seg.geo.raster.statistics import StoredPixels
from aerial_seg.geo.raster.values.fill import Pixels, Valid, beyond, plausible, stands_alone, unmeasured
from aerial_seg.geo.raster.values.scaling import SCALED_DTYPE, Scaling, apply_scalings

_BLOCK = (512, 512)
"""Rows and columns that readers of files take at once; here it only says how much is worked on at a time."""
_AT_ONCE = 4_000_000
"""Values that are looked at together for what was measured."""


class ArrayRaster:
    """An image in memory that is read as a Raster is, without copies: what `read` gives are views.

    A pixel is valid under the same rules as a file's: unless `valid` says otherwise, a band holds no plausible number,
    or all bands equal `nodata` (one band, where it is a value that nothing measures: see values.fill). The image is not
    changed and must not change meanwhile.
    """

    def __init__(
        self,
        image: Pixels,
        *,
        grid: Grid,
        name: str = "the array",
        names: Sequence[str] = (),
        valid: Valid | None = None,
        nodata: float | None = None,
        files: Sequence[str] = (),
        scalings: Sequence[Scaling] = (),
    ) -> None:
        """image (C,H,W) of the grid's shape; valid (H,W) True = measured. names: of the bands; name: for messages.
        files: those that the pixels were read from. scalings: what these declare; nobody can say of plain arrays.

        Raises InputError for a nodata value that no pixel can have.
        """
        if image.ndim != 3 or image.shape[1:] != grid.shape:
            raise ValueError(f"an image of shape {image.shape} on a grid of {grid.shape}")
        self.grid = grid
        count = len(image)
        self.info = RasterInfo(
            path=name,
            grid=grid,
            bands=tuple(range(1, count + 1)),
            names=tuple(names) or tuple(f"band {k}" for k in range(1, count + 1)),
            dtype=str(image.dtype),
            nodata=nodata,
            scalings=tuple(scalings),
        )
        if nodata is not None:
            require_value(self.info, nodata)
        self._image, self._nodata, self.files = image, nodata, tuple(files)
        self._stored, self.stored_dtype = image, self.info.dtype
        self.scaled: tuple[bool, ...] = ()
        """Of each band whether its numbers were brought to what they mean; empty for none."""
        self._own_mask = valid is not None and not bool(valid.all())
        self._valid = _measured(image, valid if self._own_mask else None, nodata)

    def __enter__(self) -> ArrayRaster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def scale(self, bands: Sequence[bool]) -> None:
        """See Raster.scale; the pixels lie in memory once more then."""
        if any(bands):
            self.scaled = tuple(bands)
            self._image = np.empty(self._stored.shape, SCALED_DTYPE)
            apply_scalings(self._stored, self._image, self.info.scalings, bands)
            self.info = replace(self.info, dtype=SCALED_DTYPE)

    @property
    def stored(self) -> StoredPixels:
        """See Raster.stored."""
        return StoredPixels(self)

    def read_stored(self, image: Pixels, *, top: int, left: int) -> Valid | None:
        """See Raster.read_stored."""
        rows, cols = slice(top, top + image.shape[1]), slice(left, left + image.shape[2])
        image[:] = self._stored[:, rows, cols]
        return self._valid[rows, cols]

    @property
    def declared(self) -> tuple[float | None, ...]:
        """Of each band the same."""
        return (self._nodata,) * len(self._image)

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns of what is worked on at once."""
        return _BLOCK

    @property
    def nodata_values(self) -> tuple[float | None, ...]:
        """Of each band the same: see Readable."""
        return (self._nodata,) * len(self._image)

    @property
    def is_virtual(self) -> bool:
        """It is no VRT."""
        return False

    def measured_extent(self) -> Extent:
        """All of it: to look at its pixels is cheap."""
        return Extent.whole(*self.grid.shape)

    def read(self, *, top: int, left: int, height: int, width: int) -> tuple[Pixels, Valid]:
        """image (C,h,w) and valid (h,w), views inside the raster; outside of it zeros that are not valid."""
        rows = slice(max(top, 0), min(top + height, self.grid.height))
        cols = slice(max(left, 0), min(left + width, self.grid.width))
        inside = rows.stop - rows.start, cols.stop - cols.start
        if inside == (height, width):
            return self._image[:, rows, cols], self._valid[rows, cols]
        image = np.zeros((len(self._image), height, width), self._image.dtype)
        valid = np.zeros((height, width), bool)
        if min(inside) > 0:
            place = (
                slice(rows.start - top, rows.stop - top),
                slice(cols.start - left, cols.stop - left),
            )
            image[(slice(None), *place)] = self._image[:, rows, cols]
            valid[place] = self._valid[rows, cols]
        return image, valid

    @contextmanager
    def resampled(self, grid: Grid) -> Iterator[Raster]:
        """The same ground on another grid, resampled as a file of these pixels would be: see Raster.resample.

        GDAL resamples files: meanwhile the pixels lie in memory once more.
        """
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), MemoryFile() as memory:
            self._save(memory)
            with Raster(memory.name, georeferenced=False) as raster:
                raster.resample(grid)
                raster.scale(self.scaled)
                yield raster

    def _save(self, memory: MemoryFile) -> None:
        alone = self._nodata is not None and stands_alone(self._nodata, self._stored.dtype)
        by_value = None if self._own_mask or alone else self._nodata
        count, height, width = self._stored.shape
        crs = self.grid.crs
        with memory.open(
            driver="GTiff",
            height=height,
            width=width,
            count=count,
            # GDAL's formats know no float16; the network's input is float32 all the same.
            dtype="float32" if self.stored_dtype == "float16" else self.stored_dtype,
            crs=RasterioCRS.from_wkt(crs.to_wkt()) if crs is not None else None,
            transform=self.grid.transform,
            nodata=by_value,
            photometric="MINISBLACK",
            interleave="band",
            BIGTIFF="IF_SAFER",
        ) as file:
            # Without this GDAL takes a fourth uint8 band for alpha, and its zeros for nodata.
            file.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * (count - 1)
            file.write(self._stored)
            if self.scaled:
                file.scales = [one.scale for one in self.info.scalings]
                file.offsets = [one.offset for one in self.info.scalings]
            # Raster itself sees what is no number, band by band; what is infinite it refuses unless a mask hides it.
            if self._own_mask or alone or (by_value is None and self._holds_infinity()):
                file.write_mask(self._valid)

    def _holds_infinity(self) -> bool:
        return self._stored.dtype.kind == "f" and bool(beyond(self._stored).any())


def _measured(image: Pixels, valid: Valid | None, nodata: float | None) -> Valid:
    """Which pixels (H,W) count as measured; one True for all where nothing can tell otherwise."""
    height, width = image.shape[1:]
    is_float = image.dtype.kind == "f"
    if nodata is None and not is_float:
        return np.broadcast_to(np.True_, (height, width)) if valid is None else valid
    found = np.ones((height, width), bool) if valid is None else valid.copy()
    at_once = max(1, _AT_ONCE // max(1, width * len(image)))
    for top in range(0, height, at_once):
        rows = slice(top, top + at_once)
        gone = unmeasured(image[:, rows], (nodata,) * len(image))
        if gone is not None:
            found[rows] &= ~gone
        if is_float:
            found[rows] &= plausible(image[:, rows])
    return found
