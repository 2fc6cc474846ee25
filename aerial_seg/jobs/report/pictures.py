"""Rasters in as few pixels as a page shows: overviews are read where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.errors import CRSError
from rasterio.io import DatasetReader
from rasterio.warp import reproject
from rasterio.windows import Window

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import Extent
from aerial_seg.geo.raster.opening import UNUSABLE, open_dataset, telling_whose
from aerial_seg.geo.raster.raster_info import RasterInfo
from aerial_seg.geo.systems import require_common, same_local
from aerial_seg.legend import IGNORE, Legend

Pixels = NDArray[np.uint8]

_DARK, _BRIGHT = 2.0, 98.0
_CACHE = 64 * 2**20
_EDGE = 20
"""Parts of each side of a picture's outline, so that bent sides are followed."""
_COLOURS = ("red", "green", "blue")


@dataclass(frozen=True, slots=True)
class Shown:
    """A part of the map's grid and the pixels (h, w) that it is shown in."""

    where: Extent
    height: int
    width: int

    def grid(self, whole: Grid) -> Grid:
        """Where these pixels lie."""
        rows, cols = self.where.rows, self.where.cols
        part = whole.window(top=rows.start, left=cols.start, height=len(rows), width=len(cols))
        return part.resized(height=self.height, width=self.width)

    @property
    def window(self) -> Window:
        """As rasterio names it."""
        rows, cols = self.where.rows, self.where.cols
        return Window(cols.start, rows.start, len(cols), len(rows))


def _small_cache() -> rasterio.Env:
    """By default GDAL keeps blocks in a twentieth of the machine's memory; hardly one is read twice here."""
    return rasterio.Env(GDAL_CACHEMAX=_CACHE)


def class_pictures(path: Path, legend: Legend, shown: Sequence[Shown]) -> list[Pixels]:
    """(h, w) channels of a mask for each part, 255 where there is none: of each pixel the class in its middle."""
    values, order = np.sort(legend.values), np.argsort(legend.values)
    found = []
    with _small_cache(), open_dataset(path) as dataset, telling_whose(path, UNUSABLE):
        for one in shown:
            size = (one.height, one.width)
            read = dataset.read(1, window=one.window, out_shape=size)
            measured = dataset.read_masks(1, window=one.window, out_shape=size) > 0
            place = np.searchsorted(values, read).clip(0, len(values) - 1)
            known = measured & (values[place] == read)
            found.append(np.where(known, order[place], IGNORE).astype(np.uint8))
    return found


def level_pictures(path: Path, shown: Sequence[Shown]) -> list[Pixels]:
    """(h, w) means of a confidence raster's levels for each part, 255 where there are none."""
    found = []
    with _small_cache(), open_dataset(path) as dataset, telling_whose(path, UNUSABLE):
        for one in shown:
            size = (one.height, one.width)
            read = dataset.read(
                1, window=one.window, out_shape=size, resampling=Resampling.average, masked=True
            )
            found.append(np.asarray(read.filled(IGNORE), np.uint8))
    return found


def image_pictures(path: Path, grid: Grid, shown: Sequence[Shown]) -> list[Pixels]:
    """(h, w, 3) colours of imagery on the map's grid for each part, white where nothing was measured.

    8-bit bands as they are, others between two percentiles of the first part. Raises InputError for imagery that the
    map does not lie on, or without a CRS where the map has one.
    """
    with _small_cache(), open_dataset(path) as dataset, telling_whose(path, UNUSABLE):
        info = RasterInfo.of(dataset, path)
        _check(path, info.grid, grid)
        bands = _bands(info)
        read = [_read(dataset, info, bands, grid, one) for one in shown]
        palette = dataset.colormap(bands[0]) if info.has_palette else None
    if not read[0][1].any():
        raise InputError(
            f"{path} shows nothing of the map's ground, wanted the imagery that it was made from"
        )
    if palette is not None:
        table = np.full((256, 3), 255, np.uint8)
        for value, rgba in palette.items():
            table[value if value < 256 else 255] = rgba[:3]
        return [_white(table[image[0].clip(0, 255).astype(np.uint8)], valid) for image, valid in read]
    dark, bright = _stretch(*read[0], info.dtype)
    return [_white(_scaled(image, dark, bright), valid) for image, valid in read]


def _check(path: Path, own: Grid, grid: Grid) -> None:
    if (own.crs is None) != (grid.crs is None):
        bare, other = (path, "map") if own.crs is None else ("the map", "imagery")
        raise InputError(f"{bare} has no CRS and the {other} one; give it its CRS (gdal_edit.py -a_srs)")
    if own.crs is not None and grid.crs is not None:
        require_common(own.crs, str(path), grid.crs, "the map")
    if own.crs is None and own.shape != grid.shape:
        raise InputError(
            f"{path} has {own.width} × {own.height} pixels and the map {grid.width} × {grid.height}, and neither has a "
            "CRS, wanted the imagery that the map was made from"
        )


def _bands(info: RasterInfo) -> list[int]:
    """The numbers of red, green and blue where bands are called so, else the first three; of fewer the first."""
    names = [name.strip().lower() for name in info.names]
    if all(names.count(colour) == 1 for colour in _COLOURS):
        return [info.bands[names.index(colour)] for colour in _COLOURS]
    return list(info.bands[:3] if len(info.bands) >= 3 and not info.has_palette else info.bands[:1])


def _read(
    dataset: DatasetReader, info: RasterInfo, bands: list[int], grid: Grid, shown: Shown
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """image (b, h, w) and valid (h, w) of a part of the map's grid."""
    own, wanted = info.grid, shown.grid(grid)
    resampling = Resampling.nearest if info.has_palette else Resampling.average
    if own.crs is None or (own.shape, own.transform, own.crs) == (grid.shape, grid.transform, grid.crs):
        size = (shown.height, shown.width)
        image = dataset.read(bands, window=shown.window, out_shape=(len(bands), *size), resampling=resampling)
        valid = _valid(dataset, bands, shown.window, size) > 0
        return image.astype(np.float32), valid
    blank = np.zeros((len(bands), *wanted.shape), np.float32), np.zeros(wanted.shape, bool)
    box = _box(wanted, own)
    if box is None:
        return blank
    left, top, width, height, per_pixel = box
    size = (max(1, round(height / per_pixel)), max(1, round(width / per_pixel)))
    window = Window(left, top, width, height)
    read = dataset.read(bands, window=window, out_shape=(len(bands), *size), resampling=resampling)
    mask = _valid(dataset, bands, window, size)
    transform = (
        own.transform * Affine.translation(left, top) * Affine.scale(width / size[1], height / size[0])
    )
    image, valid = blank[0], np.zeros(wanted.shape, np.uint8)
    try:
        for source, target, method in (
            (read.astype(np.float32), image, Resampling.nearest if info.has_palette else Resampling.bilinear),
            (mask, valid, Resampling.nearest),
        ):
            reproject(
                source, target, src_transform=transform, dst_transform=wanted.transform, resampling=method,
                src_crs=wanted.crs if _alike(own, wanted) else own.crs, dst_crs=wanted.crs,
            )  # fmt: skip
    except CRSError as error:
        raise InputError(
            f"{info.path} cannot be laid on the map ({error}); warp it first (gdalwarp)"
        ) from error
    return image, valid > 0


def _box(wanted: Grid, own: Grid) -> tuple[int, int, int, int, float] | None:
    """left, top, width, height of what is to be read, and its pixels for one that is shown; None beyond the imagery."""
    across, down = np.linspace(0, wanted.width, _EDGE + 1), np.linspace(0, wanted.height, _EDGE + 1)
    cols, rows = (axis.ravel() for axis in np.meshgrid(across, down))
    a, b, c, d, e, f = tuple(wanted.transform)[:6]
    x, y = cols * a + rows * b + c, cols * d + rows * e + f
    if own.crs is not None and wanted.crs is not None and not _alike(own, wanted):
        x, y = Transformer.from_crs(wanted.crs, own.crs, always_xy=True).transform(x, y)
    a, b, c, d, e, f = tuple(~own.transform)[:6]
    places = np.column_stack([x * a + y * b + c, x * d + y * e + f])
    places = places[np.isfinite(places).all(axis=1)]
    if not len(places):
        return None
    low, high = places.min(axis=0), places.max(axis=0)
    per_pixel = max(1.0, float(np.sqrt(np.prod((high - low) / (wanted.width, wanted.height)))))
    margin = 2 * per_pixel
    left, top = np.floor(np.clip(low - margin, 0, None)).astype(np.int64).tolist()
    right = min(own.width, int(np.ceil(high[0] + margin)))
    bottom = min(own.height, int(np.ceil(high[1] + margin)))
    if right <= left or bottom <= top:
        return None
    return left, top, right - left, bottom - top, per_pixel


def _valid(dataset: DatasetReader, bands: list[int], window: Window, size: tuple[int, int]) -> Pixels:
    """(h, w), 255 where any band is measured. dataset_mask makes a mask of all the raster first."""
    masks = dataset.read_masks(bands, window=window, out_shape=(len(bands), *size))
    found: Pixels = masks.max(axis=0)
    return found


def _alike(one: Grid, other: Grid) -> bool:
    return one.crs == other.crs or same_local(one.crs, other.crs)


def _stretch(
    image: NDArray[np.float32], valid: NDArray[np.bool_], dtype: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(b,) what is black and what is white."""
    if dtype == "uint8":
        return np.zeros(len(image)), np.full(len(image), 255.0)
    numbers = image[:, valid & np.isfinite(image).all(axis=0)].astype(np.float64)
    if not numbers.size:
        return np.zeros(len(image)), np.ones(len(image))
    dark, bright = np.percentile(numbers, [_DARK, _BRIGHT], axis=1)
    return dark, np.where(bright > dark, bright, dark + 1)


def _scaled(image: NDArray[np.float32], dark: NDArray[np.float64], bright: NDArray[np.float64]) -> Pixels:
    levels = (image - dark[:, None, None]) / (bright - dark)[:, None, None] * 255
    levels = levels if len(levels) == 3 else np.repeat(levels[:1], 3, axis=0)
    return np.moveaxis(np.clip(np.rint(np.nan_to_num(levels)), 0, 255), 0, -1).astype(np.uint8)


def _white(colours: Pixels, valid: NDArray[np.bool_]) -> Pixels:
    picture: Pixels = np.where(valid[..., None], colours, np.uint8(255))
    return picture
