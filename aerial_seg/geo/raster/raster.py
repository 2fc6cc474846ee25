"""Reading rasters: pixels in their own dtype, and beside them which of them were measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.band_choice import ALL_BANDS, BandChoice
from aerial_seg.geo.raster.chosen_bands import chosen_vrt, measured_vrt, nodata_differs
from aerial_seg.geo.raster.covered import Extent, covered_extent
from aerial_seg.geo.raster.opening import UNUSABLE, open_chosen, open_dataset, telling_whose
from aerial_seg.geo.raster.raster_info import (
    RasterInfo,
    require_crs,
    require_value,
    scalings_of,
    stacked_info,
)
from aerial_seg.geo.raster.remote import is_remote, read_patiently
from aerial_seg.geo.raster.statistics import StoredPixels
from aerial_seg.geo.raster.values.fill import Pixels, Valid, as_held
from aerial_seg.geo.raster.values.measured import MeasuredPixels, Opened
from aerial_seg.geo.raster.values.scaling import SCALED_DTYPE, apply_scalings
from aerial_seg.mentions import SAME_CALL
from aerial_seg.paths import StrPath, as_name

EXACT = 1e-9
"""Warp tolerance in pixels that leaves GDAL's window-dependent approximation no room; 0 itself makes rasterio fail."""

_BLOCK_BY_BLOCK = {"GDAL_VRT_WARP_USE_DATASET_RASTERIO": "NO"}
"""Else a warp computes just the window asked for, and where it begins decides how 2 to 5 pixels of 10,000 round."""

_LARGEST_BLOCK = 2**31 - 1
"""Bytes, in GDAL."""
_COMPUTED_BLOCK = (512, 512)
"""VRTs and warps name small blocks of their own; the files behind them are mostly cut like this."""


def raster_info(path: Path | str, choice: BandChoice = ALL_BANDS) -> RasterInfo:
    """The facts of the raster at `path`, as far as its chosen bands (and what is stacked on it) go."""
    with Raster(path, georeferenced=False, choice=choice) as raster:
        return raster.info


def _resampling(own: Grid, wanted: Grid) -> Resampling:
    if own.shape == wanted.shape:
        return Resampling.nearest
    coarser = wanted.height * wanted.width < own.height * own.width
    return Resampling.average if coarser else Resampling.bilinear


class Raster:
    """Open a raster and read it by windows, on its own grid or resampled to another pixel size.

    A pixel is valid unless the file's mask or alpha says otherwise, a band holds no plausible number, or the nodata
    values say so: the caller's `nodata`, or else the file's own. See values.fill.
    """

    def __init__(
        self,
        path: StrPath,
        *,
        nodata: float | None = None,
        georeferenced: bool = True,
        choice: BandChoice = ALL_BANDS,
        opened: DatasetReader | None = None,
        all_cores: bool = False,
    ) -> None:
        """`nodata` is about the raster itself, not about files that `choice` stacks on it.

        opened: the raster's dataset, where it is open already; who opened it closes it. all_cores: to decode large
        windows; small ones take longer then.
        """
        # An address stays a text: a Path would lose one of its slashes.
        self._path = path if isinstance(path, Path) else as_name(path, "path")
        self._nodata, self._choice = nodata, choice
        self._georeferenced, self._all_cores = georeferenced, all_cores
        self.scaled: tuple[bool, ...] = ()
        """Of each band whether `read` gives what its numbers mean by the file's scale and offset; empty for none."""
        self._open(opened)

    def _open(self, opened: DatasetReader | None = None) -> None:
        path, nodata, choice = self._path, self._nodata, self._choice
        with ExitStack() as kept, telling_whose(path, UNUSABLE):
            self._file = (
                kept.enter_context(open_dataset(path, all_cores=self._all_cores))
                if opened is None
                else opened
            )
            self._dataset = self._file
            self._own = RasterInfo.of(self._file, path)
            self.grid = self._own.grid
            if self._georeferenced:
                require_crs(self._own)
            paths = (str(path), *choice.stack)
            all_cores = self._all_cores
            stacked = [kept.enter_context(open_dataset(file, all_cores=all_cores)) for file in choice.stack]
            counts = [int(one.count) for one in (self._file, *stacked)]
            parts = choice.parts(counts, paths)
            shown = self._own
            differs = nodata is None and nodata_differs(self._file, shown.bands)
            numbers = parts[0] or (shown.bands if differs else ())
            if numbers:
                self._dataset = kept.enter_context(open_chosen(chosen_vrt(self._file, numbers, nodata), path))
                chosen = RasterInfo.of(self._dataset, path)
                self._own = replace(
                    chosen,
                    grid=shown.grid,
                    unplaced=shown.unplaced,
                    alpha_of_file=shown.alpha,
                    has_palette=shown.has_palette,
                    files=shown.files,
                    scalings=scalings_of(self._file, numbers),
                )
            if parts[0]:
                shown = replace(self._own, bands=parts[0], nodata=self._file.nodatavals[parts[0][0] - 1])
            if nodata is not None:
                require_value(self._own, nodata)
            own = self._file.nodatavals  # rasterio asks GDAL for all bands
            self._values = tuple(own[number - 1] if nodata is None else nodata for number in shown.bands)
            self._numbers = shown.bands
            self._stacked = tuple(
                kept.enter_context(Raster(file, georeferenced=False, choice=BandChoice(part), opened=one))
                for file, one, part in zip(choice.stack, stacked, parts[1:], strict=True)
            )
            self._order = choice.order(counts)
            infos = [shown, *(member.info for member in self._stacked)]
            self.info: RasterInfo = stacked_info(infos, counts, self._order)
            if choice.numbers:
                self.info = replace(self.info, bands=choice.numbers, names=choice.names or self.info.names)
            self._read_from(self._dataset, self.grid)
            self._context = kept.pop_all()
            self.scale(self.scaled)

    def __enter__(self) -> Raster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._source is not self._dataset:
            self._source.close()
        self._context.__exit__(kind, error, trace)

    def another(self) -> Raster:
        """The same raster opened once more, on its own grid: two threads may not read one."""
        kept = {"georeferenced": self._georeferenced, "all_cores": self._all_cores}
        again = Raster(self._path, nodata=self._nodata, choice=self._choice, **kept)
        again.scale(self.scaled)
        return again

    def scale(self, bands: Sequence[bool]) -> None:
        """Read from now on what the stored numbers of these bands mean: times scale plus offset, as float32 all.

        bands: of each band of `info` whether it is meant. Nothing changes where none is.
        """
        if any(bands):
            self.scaled = tuple(bands)
            self.info = replace(self.info, dtype=SCALED_DTYPE)

    @property
    def stored(self) -> StoredPixels:
        """The same pixels as the files hold them, whatever `scale` says."""
        return StoredPixels(self)

    def resample(self, grid: Grid) -> None:
        """Read from now on as if the raster had this grid, which cuts the same ground into other pixels.

        AVERAGE to coarser pixels, BILINEAR to finer ones, the same pixels for as many; the same whatever the windows.
        Raises InputError where GDAL cannot.
        """
        with telling_whose(self._path, UNUSABLE):
            self._resample(grid)

    def _resample(self, grid: Grid) -> None:
        own = self.info.grid
        if (grid.shape, grid.is_mirrored) == (own.shape, own.is_mirrored):
            return
        nodata = self._own.nodata if self._nodata is None else self._nodata
        masked = bool(self._measured.alone)
        if masked:
            # GDAL mixes in what one band declares where the others were measured.
            self._dataset = self._context.enter_context(
                open_chosen(measured_vrt(self._file, self._numbers, self._nodata), self._path)
            )
            places = tuple(range(1, len(self._numbers) + 1))
            self._own = replace(self._own, bands=places, alpha=None, nodata=None)
            nodata = None
        if nodata is not None and np.dtype(self._own.dtype).kind == "f":
            nodata = as_held(nodata, self._own.dtype)
        elif np.dtype(self._own.dtype).kind == "f":
            nodata = math.nan  # else one that is no number spoils all that are averaged with it
        by_nan = nodata is not None and math.isnan(nodata)
        has_mask = masked or nodata is not None or self._measured.has_mask_file
        warped = WarpedVRT(
            self._dataset,
            crs=self._dataset.crs,
            transform=grid.transform,
            height=grid.height,
            width=grid.width,
            resampling=_resampling(own, grid),
            tolerance=EXACT,
            src_nodata=nodata,
            # What is measured comes out as alpha: with a nodata value GDAL would move valid pixels off that value. But
            # one band that is no number is enough, and alpha tells of all bands together: each shows its own.
            nodata=nodata if by_nan else None,
            add_alpha=has_mask and not by_nan and self._own.alpha is None,
            # A pixel is nodata when all its bands are; GDAL's default drops a saturated band of a valid pixel.
            UNIFIED_SRC_NODATA="PARTIAL" if by_nan else "YES",
        )
        self._read_from(warped, grid)
        self.grid = grid
        for member in self._stacked:
            member.resample(grid)

    def _read_from(self, source: DatasetReader | WarpedVRT, shown: Grid) -> None:
        self._source, own = source, self._own
        opened = Opened(
            dataset=self._dataset,
            name=own.path,
            bands=own.bands,
            dtype=own.dtype,
            grid=own.grid,
            alpha=own.alpha,
            values=self._values,
            callers_nodata=self._nodata is not None,
        )
        self._measured = MeasuredPixels(opened, source, shown)

    @property
    def nodata_values(self) -> tuple[float | None, ...]:
        """Of each band of `info` the value that means "not measured" where all bands have theirs; None without one.

        A mask tells by itself what was measured: values tell nothing then.
        """
        own = (
            (None,) * len(self._values)
            if self._measured.has_mask_file and self._nodata is None
            else self._values
        )
        found = (*own, *(value for member in self._stacked for value in member.nodata_values))
        return tuple(found[place] for place in self._order) if self._order else found

    @property
    def declared(self) -> tuple[float | None, ...]:
        """Of each band of `info` the nodata value, also where a mask tells what was measured."""
        found = (*self._values, *(value for member in self._stacked for value in member.declared))
        return tuple(found[place] for place in self._order) if self._order else found

    @property
    def files(self) -> tuple[str, ...]:
        """The files it is read from, as GDAL names them: sidecars and a VRT's members included."""
        return (*self._file.files, *(file for member in self._stacked for file in member.files))

    @property
    def tags(self) -> dict[str, str]:
        """What the file says of itself by name, cameras' words (EXIF) and satellites' (IMAGERY) included."""
        with telling_whose(self._path, UNUSABLE):
            spaces = ("EXIF", "IMAGERY", None)
            return {name: text for space in spaces for name, text in self._file.tags(ns=space).items()}

    @property
    def _remedy(self) -> str:
        if is_remote(self._path):
            return f"the server failed again and again: see that it is up, and {SAME_CALL}"
        if self.is_virtual:
            return "a file that the VRT shows is damaged or incomplete: find it (gdalinfo -checksum), copy it again"
        return "the file is damaged or incomplete: copy it again"

    @property
    def is_virtual(self) -> bool:
        """Whether it, or what is stacked on it, is a VRT: pixels of other files."""
        return self._file.driver == "VRT" or any(member.is_virtual for member in self._stacked)

    def measured_extent(self) -> Extent:
        """Rows and columns outside of which nothing is measured, as far as that is known without reading them.

        On its own grid, before `resample`. What a file does not hold looks alike everywhere, so one pixel of it tells
        whether such pixels count as measured. Raises InputError for a file that holds nothing though it all counts.
        """
        whole = Extent.whole(*self.info.grid.shape)
        if self._source is not self._dataset or is_remote(self._path):
            return whole
        held = covered_extent(self._file)
        found = held or Extent(range(1), range(1))
        height, width = self.info.grid.shape
        beside = (
            *((row, 0) for row in (0, height - 1) if row not in found.rows),
            *((0, col) for col in (0, width - 1) if col not in found.cols),
        )
        for top, left in beside[:1]:
            pixel = np.empty((len(self._own.bands), 1, 1), self._own.dtype)
            measured = self._read_own(pixel, top, left)
            if measured is not None and not measured.any():
                return found
        if held is None:
            raise InputError(
                f"{self.info.path} claims {whole.pixels:,} pixels and holds none: all are the value that stands for "
                "what was never written, and no nodata value says so; copy it again, or declare the value "
                "(gdal_edit.py -a_nodata 0)"
            )
        return whole

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns of what is best read at once: the file's blocks; a larger piece of what GDAL computes."""
        if self._source is not self._dataset or self.is_virtual:
            return _COMPUTED_BLOCK
        rows, cols = self._file.block_shapes[0]
        if rows * cols * np.dtype(self._own.dtype).itemsize > _LARGEST_BLOCK:
            raise InputError(
                f"{self._path} is stored in blocks of {cols:,} × {rows:,} px, which GDAL cannot read; the file is "
                "damaged: copy it again"
            )
        return rows, cols

    def read(self, *, top: int, left: int, height: int, width: int) -> tuple[Pixels, Valid]:
        """image (C,h,w) in the raster's dtype and valid (h,w); outside the raster zeros that are not valid.

        Raises InputError naming file and window when a block cannot be read: never zeros in silence.
        """
        image = np.zeros((len(self.info.bands), height, width), self.info.dtype)
        valid = np.zeros((height, width), bool)
        rows = slice(max(top, 0), min(top + height, self.grid.height))
        cols = slice(max(left, 0), min(left + width, self.grid.width))
        if rows.start < rows.stop and cols.start < cols.stop:
            inside = slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left)
            measured = self.read_into(image[(slice(None), *inside)], top=rows.start, left=cols.start)
            valid[inside] = True if measured is None else measured
        return image, valid

    def read_into(self, image: Pixels, *, top: int, left: int) -> Valid | None:
        """image (C,h,w), of any strides, holds a window inside the raster; valid (h,w), None where all of it is.

        Raises InputError as `read` does.
        """
        if not self.scaled:
            return self.read_stored(image, top=top, left=left)
        stored = np.empty(image.shape, self.stored_dtype)
        valid = self.read_stored(stored, top=top, left=left)
        apply_scalings(stored, image, self.info.scalings, self.scaled)
        return valid

    @property
    def stored_dtype(self) -> str:
        """The type that holds all bands as the files do."""
        return str(np.result_type(self._own.dtype, *(member.info.dtype for member in self._stacked)))

    def read_stored(self, image: Pixels, *, top: int, left: int) -> Valid | None:
        """As read_into, what the files hold."""
        if not self._stacked:
            return self._read_own(image, top, left)
        shape = image.shape[1:]
        parts, valid = [], None
        for member in (None, *self._stacked):
            of = self._own if member is None else member.info
            part = np.empty((len(of.bands), *shape), of.dtype)
            measured = (self._read_own if member is None else member.read_into)(part, top=top, left=left)
            if measured is not None:
                valid = measured if valid is None else valid & measured
            parts.append(part)
        together = [band for part in parts for band in part]
        for number, into in zip(self._order or range(len(together)), image, strict=True):
            into[:] = together[number]
        return valid

    def _read_own(self, image: Pixels, top: int, left: int) -> Valid | None:
        window = Window(left, top, image.shape[2], image.shape[1])
        place = f"row {top}, column {left}, {window.width} × {window.height} px"
        with telling_whose(self.info.path, f"could not be read at {place} ({{error}}); {self._remedy}"):
            return read_patiently(self._path, lambda: self._pixels(image, window), self._open_again)

    def _pixels(self, image: Pixels, window: Window) -> Valid | None:
        with nullcontext() if self._source is self._dataset else rasterio.Env(**_BLOCK_BY_BLOCK):
            self._source.read(self._own.bands, window=window, out=image)
            return self._measured.of(image, window)

    def _open_again(self) -> None:
        """Nothing that GDAL remembers of the raster is believed any more."""
        grid = self.grid
        self.__exit__(None, None, None)
        self._open()
        self.resample(grid)
