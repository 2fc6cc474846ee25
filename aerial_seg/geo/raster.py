"""Reading rasters: pixels in their own dtype, and beside them which of them were measured."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid

_EXACT = 1e-9
"""Warp tolerance in pixels that leaves GDAL's window-dependent approximation no room; 0 itself makes rasterio fail."""

_COMPUTED_BLOCK = (512, 512)
"""VRTs and warps name small blocks of their own; the files behind them are mostly cut like this."""

Pixels = NDArray[np.generic]
Valid = NDArray[np.bool_]


@contextmanager
def open_dataset(path: Path | str) -> Iterator[DatasetReader]:
    """The opened raster. Raises InputError when there is none at `path` or GDAL cannot read it."""
    text = str(path)
    is_local = not text.startswith(("/vsi", "http://", "https://", "s3://", "<VRTDataset"))
    if is_local and not Path(text).exists():
        raise InputError(f"{text} does not exist; check the path")
    try:
        with warnings.catch_warnings():
            # Said by us where it matters, as an error with its remedy.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(text)
    except RasterioError as error:
        raise InputError(
            f"{text} is not a raster that GDAL can read ({error}); wanted a GeoTIFF, VRT or another GDAL format"
        ) from error
    with dataset:
        if dataset.count == 0:
            raise InputError(f"{text} holds no raster band; name one of its subdatasets instead")
        yield dataset


def grid_of(dataset: DatasetReader) -> Grid:
    """The grid of an opened raster; its CRS is None when the file has none."""
    crs = CRS.from_user_input(dataset.crs) if dataset.crs else None
    return Grid(crs=crs, transform=dataset.transform, height=dataset.height, width=dataset.width)


@dataclass(frozen=True, slots=True)
class RasterInfo:
    """What a raster file holds, without its pixels. `bands` are the 1-based numbers that are not `alpha`."""

    path: str
    grid: Grid
    bands: tuple[int, ...]
    names: tuple[str, ...]
    dtype: str
    nodata: float | None
    control_points: bool = False
    alpha: int | None = None

    @classmethod
    def of(cls, dataset: DatasetReader, path: Path | str) -> RasterInfo:
        """The facts of an opened raster. Raises InputError for complex numbers."""
        alpha = ColorInterp.alpha
        bands = tuple(
            b for b, meaning in zip(dataset.indexes, dataset.colorinterp, strict=True) if meaning != alpha
        )
        if not bands:
            raise InputError(f"{path} holds only an alpha band; wanted at least one band of imagery")
        dtypes = [dataset.dtypes[b - 1] for b in bands]
        # By name: numpy does not know GDAL's complex_int16.
        if any(dtype.startswith("complex") for dtype in dtypes):
            raise InputError(
                f"{path} holds complex numbers ({dtypes[0]}); wanted integers or floats: convert it first"
            )
        dtype = str(np.result_type(*dtypes))
        names = tuple(dataset.descriptions[b - 1] or dataset.colorinterp[b - 1].name for b in bands)
        if len(set(names)) < len(names):
            names = tuple(dataset.descriptions[b - 1] or f"band {b}" for b in bands)
        return cls(
            path=str(path),
            grid=grid_of(dataset),
            bands=bands,
            names=names,
            dtype=dtype,
            nodata=dataset.nodata,
            control_points=bool(dataset.gcps[0]),
            alpha=_alpha_band(dataset),
        )


def _alpha_band(dataset: DatasetReader | WarpedVRT) -> int | None:
    meanings = list(dataset.colorinterp)
    return meanings.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in meanings else None


def raster_info(path: Path | str) -> RasterInfo:
    """The facts of the raster at `path`."""
    with open_dataset(path) as dataset:
        return RasterInfo.of(dataset, path)


def require_crs(info: RasterInfo) -> None:
    """Raises InputError, telling the remedies, unless the raster is georeferenced."""
    if info.grid.crs is not None:
        return
    if info.control_points:
        raise InputError(
            f"{info.path} is placed by ground control points only, wanted a grid with a CRS; "
            "warp it first (gdalwarp), or pass --no-georef to work in pixel coordinates"
        )
    raise InputError(
        f"{info.path} has no CRS, wanted a georeferenced raster; give it one (gdal_edit.py -a_srs EPSG:…), "
        "or pass --no-georef to work in pixel coordinates"
    )


def _require_value(info: RasterInfo, nodata: float) -> None:
    dtype = np.dtype(info.dtype)
    if dtype.kind == "f":
        return
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if not (low <= nodata <= high and nodata == int(nodata)):
        raise InputError(
            f"--nodata {nodata:g} cannot occur in {info.path}, whose pixels are {info.dtype}; "
            f"wanted a whole number {low}..{high}, or leave it out"
        )


class Raster:
    """An opened raster read by windows, on its own grid or resampled to another pixel size.

    A pixel is valid unless the file's nodata value, mask or alpha says otherwise, or a band is not a number; with a
    `nodata` of the caller's, unless every band equals it.
    """

    def __init__(self, path: Path | str, *, nodata: float | None = None, georeferenced: bool = True) -> None:
        self._context = open_dataset(path)
        self._dataset = self._context.__enter__()
        self._source: DatasetReader | WarpedVRT = self._dataset
        self._nodata = nodata
        try:
            self.info = RasterInfo.of(self._dataset, path)
            self.grid = self.info.grid
            if georeferenced:
                require_crs(self.info)
            if nodata is not None:
                _require_value(self.info, nodata)
        except InputError:
            self._context.__exit__(None, None, None)
            raise

    def __enter__(self) -> Raster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._source is not self._dataset:
            self._source.close()
        self._context.__exit__(kind, error, trace)

    def resample(self, grid: Grid) -> None:
        """Read from now on as if the raster had this grid, which cuts the same ground into other pixels.

        AVERAGE to coarser pixels, BILINEAR to finer ones; the same whatever the windows.
        """
        if grid.shape == self.info.grid.shape:
            return
        coarser = grid.height * grid.width < self.info.grid.height * self.info.grid.width
        nodata = self.info.nodata if self._nodata is None else self._nodata
        has_mask = nodata is not None or MaskFlags.per_dataset in self._dataset.mask_flag_enums[0]
        self._source = WarpedVRT(
            self._dataset,
            crs=self._dataset.crs,
            transform=grid.transform,
            height=grid.height,
            width=grid.width,
            resampling=Resampling.average if coarser else Resampling.bilinear,
            tolerance=_EXACT,
            src_nodata=nodata,
            # What is measured comes out as alpha: with a nodata value GDAL would move valid pixels off that value.
            nodata=None,
            add_alpha=has_mask and self.info.alpha is None,
            # A pixel is nodata when all its bands are; GDAL's default drops a saturated band of a valid pixel.
            UNIFIED_SRC_NODATA="YES",
        )
        self.grid = grid

    @property
    def files(self) -> tuple[str, ...]:
        """The files it is read from, as GDAL names them: sidecars and a VRT's members included."""
        return tuple(self._dataset.files)

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns of what is best read at once: the file's blocks; a larger piece of what GDAL computes."""
        if self._source is not self._dataset or self._dataset.driver == "VRT":
            return _COMPUTED_BLOCK
        rows, cols = self._dataset.block_shapes[0]
        return rows, cols

    def read(self, *, top: int, left: int, height: int, width: int) -> tuple[Pixels, Valid]:
        """image (C,h,w) in the raster's dtype and valid (h,w); outside the raster zeros that are not valid.

        Raises InputError naming file and window when a block cannot be read: never zeros in silence.
        """
        image = np.zeros((len(self.info.bands), height, width), self.info.dtype)
        valid = np.zeros((height, width), bool)
        rows = slice(max(top, 0), min(top + height, self.grid.height))
        cols = slice(max(left, 0), min(left + width, self.grid.width))
        if rows.start >= rows.stop or cols.start >= cols.stop:
            return image, valid
        window = Window(cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start)
        inside = slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left)
        try:
            image[(slice(None), *inside)] = self._source.read(self.info.bands, window=window)
            valid[inside] = self._measured(image[(slice(None), *inside)], window)
        except RasterioError as error:
            raise InputError(
                f"{self.info.path} could not be read at row {window.row_off}, column {window.col_off}, "
                f"{window.width} × {window.height} px ({error}); the file is damaged or incomplete: copy it again"
            ) from error
        return image, valid

    def _measured(self, image: Pixels, window: Window) -> Valid:
        if self._nodata is not None and self._source is self._dataset:
            same = np.isnan(image) if math.isnan(self._nodata) else image == self._nodata
            valid = ~np.all(same, axis=0)
        else:
            valid = self._source.dataset_mask(window=window) > 0
            # GDAL sees a mask in an alpha band only where there are one or three other bands.
            alpha = _alpha_band(self._source)
            if alpha is not None:
                valid &= self._source.read(alpha, window=window) > 0
        if image.dtype.kind == "f":
            valid &= np.isfinite(image).all(axis=0)
        return np.asarray(valid, bool)
