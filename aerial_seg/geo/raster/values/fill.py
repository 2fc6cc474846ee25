"""Which values of a band are no measurements: what it declares, and what no sensor gives.

A nodata value may be one that is also measured: 0 is darkness, 255 in uint8 is saturation. Such a pixel is unmeasured
where all bands that declare a value have theirs. Other values are never measured: −9999, −32768 in int16, −3.4e38, NaN.
Then one band is enough, as with a number that is none: what stands in that band is not to be taken for brightness.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PLAUSIBLE = 1e30
"""Beyond it, on either side, nothing was measured: files hold −3.4e38 and 1e37 for what is missing, declared or not."""
_LEAST = -999.0
"""Negative brightness, heights and decibels end far above; what people fill rasters with begins here."""
_USUAL = (
    -999.0, -9999.0, -99999.0, -999999.0, -32767.0, -32768.0, -2147483647.0, -2147483648.0, 9999.0, 99999.0, 999999.0,
)  # fmt: skip
"""Fillers of long tradition. The positive ones may also be measured: all are only looked for, see `suspects`."""
_HUGE = 1e10
"""No unit in use has brightness or heights beyond it; climate models write 1e15 and 1e20 for what is missing."""

Pixels = NDArray[np.generic]
Valid = NDArray[np.bool_]


def stands_alone(value: float, dtype: str | np.dtype[Any]) -> bool:
    """Whether a declared value is never measured, so that one band that has it makes a pixel unmeasured."""
    kind = np.dtype(dtype)
    if math.isnan(value):
        return True
    if kind.kind == "u" or (kind.kind == "i" and kind.itemsize == 1):
        # All of 256 values may be brightness.
        return False
    ends = (np.iinfo(kind).min, np.iinfo(kind).max) if kind.kind == "i" else (-PLAUSIBLE, PLAUSIBLE)
    return value <= _LEAST or value >= ends[1]


def as_held(value: float, dtype: str | np.dtype[np.generic]) -> float:
    """The value as pixels of this type of floats hold it: −3.4e38 is −3.39999995e38 in float32."""
    with np.errstate(over="ignore"):
        return float(np.asarray(value).astype(dtype))


def equals(band: NDArray[np.generic], value: float) -> Valid:
    """Where a band (h,w) has this value; NaN equals itself, and a value is compared as the band can hold it."""
    if math.isnan(value):
        return np.asarray(np.isnan(band) if band.dtype.kind == "f" else np.zeros(band.shape, bool), bool)
    if band.dtype.kind == "f":
        return np.asarray(band == as_held(value, band.dtype), bool)
    return np.asarray(band == value, bool)


def unmeasured(image: Pixels, values: Sequence[float | None]) -> Valid | None:
    """Where the values of image (C,h,w) say that nothing was measured; None where they cannot say it.

    values: what each band declares, None for nothing.
    """
    found: Valid | None = None
    together: Valid | None = None
    for band, value in zip(image, values, strict=True):
        if value is None:
            continue
        here = equals(band, value)
        if stands_alone(value, image.dtype):
            found = here if found is None else found | here
        else:
            together = here if together is None else together & here
    if found is None or together is None:
        return together if found is None else found
    return found | together


def plausible(image: Pixels) -> Valid:
    """Where all bands of image (C,h,w), of floats, hold numbers that something can have measured."""
    everywhere: Valid = np.ones(image.shape[1:], bool)
    for band in image:
        everywhere &= _plausible(band)
    return everywhere


def _plausible(band: NDArray[np.generic]) -> Valid:
    # float16 ends at 65,504.
    if band.dtype.itemsize < 4:
        return np.asarray(np.isfinite(band), bool)
    return np.asarray(np.abs(band) <= PLAUSIBLE, bool)


def beyond(image: Pixels) -> Valid:
    """Where some band of image (C,h,w), of floats, is infinite or beyond what is plausible; NaN is not."""
    somewhere: Valid = np.zeros(image.shape[1:], bool)
    for band in image:
        somewhere |= ~_plausible(band) & ~np.isnan(band)
    return somewhere


def suspects(pixels: Pixels) -> dict[float, int]:
    """Value → count of what among these measured values of one band is rather a filler than a measurement.

    pixels: of any shape. Empty for unsigned and for 8-bit integers, where every value may be brightness.
    """
    kind: np.dtype[Any] = pixels.dtype
    if kind.kind == "u" or kind.itemsize == 1 or not pixels.size:
        return {}
    low, high = float(pixels.min()), float(pixels.max())
    looked_for = [value for value in _USUAL if low <= value <= high]
    if kind.kind == "i":
        ends = np.iinfo(kind)
        looked_for += [float(end) for end in (ends.min, ends.max) if low <= end <= high]
    else:
        looked_for += [end for end in sorted({low, high}) if abs(end) > _HUGE]
        # As the pixels hold them: two of the usual ones are one number in float32.
        looked_for = list(dict.fromkeys(as_held(value, kind) for value in looked_for))
    counts = {value: int(np.count_nonzero(pixels == value)) for value in looked_for}
    return {value: count for value, count in counts.items() if count}


class FillerTally:
    """Count what pixels hold that is rather a filler than a measurement, and that nothing declares."""

    def __init__(self, declared: Sequence[float | None]) -> None:
        """declared: of each band its nodata value; what it tells of is no news."""
        self._declared = tuple(declared)
        self._suspects: Counter[tuple[int, float]] = Counter()
        self._beyond: Counter[tuple[int, float]] = Counter()
        self._partly, self._pixels = 0, 0

    def add(self, image: Pixels, valid: Valid) -> None:
        """Look at image (C,h,w) or (C,n), valid (h,w) or (n,)."""
        if image.dtype.kind == "u":
            return
        self._pixels += valid.size
        self._partly += self._in_some_bands(image)
        for band, (pixels, declared) in enumerate(zip(image, self._declared, strict=True)):
            for value, count in suspects(pixels[valid]).items():
                if value != declared:
                    self._suspects[band, value] += count
            if image.dtype.kind == "f":
                far = beyond(pixels[None]) & ~valid
                if declared is not None:
                    far &= ~equals(pixels, declared)
                if far.any():
                    self._beyond[band, float(pixels[far][0])] += int(np.count_nonzero(far))

    def include(self, other: FillerTally) -> None:
        """Count what another one has looked at, too."""
        self._suspects.update(other._suspects)
        self._beyond.update(other._beyond)
        self._partly += other._partly
        self._pixels += other._pixels

    def _in_some_bands(self, image: Pixels) -> int:
        """Pixels that one band's own value makes unmeasured while another band was measured."""
        here = [
            (equals(band, value), stands_alone(value, image.dtype))
            for band, value in zip(image, self._declared, strict=True)
            if value is not None
        ]
        alone = [found for found, by_itself in here if by_itself]
        if not alone or len(image) == 1:
            return 0
        gone: Valid = np.logical_or.reduce(alone)
        if len(here) == len(image):
            gone = gone & ~np.logical_and.reduce([found for found, _ in here])
        return int(np.count_nonzero(gone))

    def notes(self, name: str, bands: Sequence[str], nodata: Callable[[float], str]) -> list[str]:
        """What to say of the raster `name`; nodata: the setting that declares a value, in the words of messages."""
        told = []
        if self._partly:
            told.append(
                f"{self._partly:,} of the {self._pixels:,} pixels of {name} that were looked at have the nodata value "
                "in some bands, not in all, and count as not measured"
            )
        for (band, value), count in self._beyond.most_common(1):
            total, number = sum(self._beyond.values()), f"{value:.9g}"
            told.append(
                f"{total:,} pixels of {name} hold in some band what nothing measures (first {number} in {bands[band]}: "
                f"{count:,}) and count as not measured, though no nodata value says so; if that is right, pass "
                f"{nodata(float(number))}, or declare it (gdal_edit.py -a_nodata {number})"
            )
        for (band, value), count in self._suspects.most_common(1):
            others = len(self._suspects) - 1
            told.append(
                f"{count:,} pixels of {name} are {value:.9g} in {bands[band]} and count as measured"
                f"{f' ({others} more such values or bands)' if others else ''}; if that means that nothing was "
                f"measured, pass {nodata(value)}, or declare it (gdal_edit.py -a_nodata {value:.9g})"
            )
        return told
