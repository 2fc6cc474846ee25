"""Which pixels of an opened raster were measured: what its mask, its alpha and its values say together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.values.fill import (
    PLAUSIBLE,
    Pixels,
    Valid,
    beyond,
    equals,
    plausible,
    stands_alone,
    unmeasured,
)
from aerial_seg.mentions import setting

_REACH = 2
"""Source pixels around a window that resampling may look at."""


def alpha_band(dataset: DatasetReader | WarpedVRT) -> int | None:
    """The number of the first band that is flagged alpha, from 1."""
    meanings = list(dataset.colorinterp)
    return meanings.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in meanings else None


@dataclass(frozen=True, slots=True)
class Opened:
    """What is read: bands of a dataset on its own grid. alpha: its number; None for one that is imagery, and without.

    values: of each band the nodata value; callers_nodata: whether they are the caller's, not the file's.
    """

    dataset: DatasetReader
    name: str
    bands: tuple[int, ...]
    dtype: str
    grid: Grid
    alpha: int | None
    values: tuple[float | None, ...]
    callers_nodata: bool


class MeasuredPixels:
    """Answer for windows of a raster which pixels were measured; what GDAL says of all bands is asked for once."""

    def __init__(self, opened: Opened, source: DatasetReader | WarpedVRT, shown: Grid) -> None:
        """source: the raster's own dataset, or what resamples it to the grid `shown`."""
        self._opened, self._source, self._shown = opened, source, shown
        self._is_own = source is opened.dataset
        self._alpha = opened.alpha if self._is_own else alpha_band(source)
        flags = opened.dataset.mask_flag_enums
        self.has_mask_file = MaskFlags.per_dataset in flags[0]
        self._all_count = self._is_own and all(one == [MaskFlags.all_valid] for one in flags)
        self.alone: tuple[tuple[int, float], ...] = ()
        """Bands, from 0, with values that make a pixel unmeasured whatever the other bands hold; see fill."""
        if len(opened.values) > 1 and (opened.callers_nodata or not self.has_mask_file):
            self.alone = tuple(
                (band, value)
                for band, value in enumerate(opened.values)
                if value is not None and stands_alone(value, opened.dtype)
            )

    def of(self, image: Pixels, window: Window) -> Valid | None:
        """valid (h,w) of the pixels of image (C,h,w) that lie in this window; None where all of them are.

        Raises InputError where resampling has mixed in what is no number.
        """
        valid = self._told(image, window)
        # GDAL sees a mask in an alpha band only where there are one or three other bands.
        if self._alpha is not None:
            opaque = self._source.read(self._alpha, window=window) > 0
            valid = opaque if valid is None else valid & opaque
        if image.dtype.kind == "f":
            finite = plausible(image)
            if not self._is_own and self._is_spoilt(valid, finite, window):
                raise InputError(
                    f"{self._opened.name} holds NaN or infinite pixels, or such beyond ±{PLAUSIBLE:.0g}, that its "
                    f"nodata value {self._opened.values[0]} does not tell of, and resampling would spread them; tell "
                    f"the value ({setting('nodata')}), or make them nodata (gdalwarp -srcnodata nan -dstnodata …)"
                )
            valid = finite if valid is None else valid & finite
        return None if valid is None else np.asarray(valid, bool)

    def _told(self, image: Pixels, window: Window) -> Valid | None:
        """By the mask and the values."""
        if self._opened.callers_nodata and self._is_own:
            gone = unmeasured(image, self._opened.values)
            valid = np.ones(image.shape[1:], bool) if gone is None else ~gone
            return valid & (self._source.dataset_mask(window=window) > 0) if self.has_mask_file else valid
        if self._all_count:
            return None
        valid = np.asarray(self._source.dataset_mask(window=window) > 0)
        for band, value in self.alone if self._is_own else ():
            valid &= ~equals(image[band], value)
        return valid

    def _is_spoilt(self, valid: Valid | None, finite: Valid, window: Window) -> bool:
        """Whether resampling mixed into these pixels what is no number."""
        nodata = self._source.nodata
        if nodata is None or not math.isnan(nodata):
            return bool((~finite if valid is None else valid & ~finite).any())
        # A band whose nodata is NaN may hold NaN, but GDAL also makes NaN of what is infinite.
        if finite.all():
            return False
        opened = self._opened
        place = window_below(opened.grid, self._shown, window)
        infinite = beyond(opened.dataset.read(opened.bands, window=place))
        if infinite.any() and self.has_mask_file:
            infinite &= opened.dataset.dataset_mask(window=place) > 0
        return bool(infinite.any())


def window_below(own: Grid, shown: Grid, window: Window) -> Window:
    """The window of a raster's own grid that resampling to a window of the grid `shown` may look at."""
    to_own = ~own.transform * shown.transform
    cols, rows = window.col_off, window.row_off
    corners: Sequence[tuple[float, float]] = [
        to_own * (cols + w, rows + h) for w in (0, window.width) for h in (0, window.height)
    ]
    x, y = zip(*corners, strict=True)
    height, width = own.shape
    left, top = max(0, math.floor(min(x)) - _REACH), max(0, math.floor(min(y)) - _REACH)
    right, bottom = min(width, math.ceil(max(x)) + _REACH), min(height, math.ceil(max(y)) + _REACH)
    return Window(left, top, right - left, bottom - top)
