"""What the pixels of each band are like, counted chip by chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aerial_seg.bands import LARGEST, PERCENTS, SMALLEST, Band, BandStatistics
from aerial_seg.errors import InputError
from aerial_seg.geo.raster.values.byte_counts import byte_counts
from aerial_seg.geo.raster.values.percentiles import RankSketch, ValueCounts, percentiles_of
from aerial_seg.mentions import setting
from aerial_seg.printable import shortened

_EPS = np.finfo(np.float32).eps
_MOST_BANDS = 16
"""Of a chip whose counts are worth keeping: they take 1 KB a band, which of hundreds would be much."""

Pixels = NDArray[np.generic]
Valid = NDArray[np.bool_]


def value_counts(image: Pixels, valid: Valid) -> NDArray[np.uint32] | None:
    """Count each value of the valid pixels of image (C,H,W), of 8 bits: (C,256), from the least on; else None.

    None also for many bands: what is kept of each chip is to be little.
    """
    if image.dtype.itemsize != 1 or len(image) > _MOST_BANDS:
        return None
    whole = bool(valid.all())
    counts = np.zeros((len(image), 256), np.uint32)
    for row, band in zip(counts, image, strict=True):
        row[:] = byte_counts((band if whole else band[valid]).view(np.uint8))
    # As bytes the negative ones come last.
    return np.roll(counts, 128, axis=1) if image.dtype.kind == "i" else counts


class BandAccumulator:
    """Per-band statistics of any number of chips, in memory that does not grow with them.

    Mean and standard deviation are those of all pixels. Percentiles are, too, of 8- and 16-bit integers; of other types
    their ranks are off by at most what `statistics` tells: see percentiles.
    """

    def __init__(self, names: Sequence[str], dtype: str, scaled: Sequence[bool] = ()) -> None:
        """scaled: see Band; none by default."""
        self._names = tuple(names)
        self._scaled = tuple(scaled) or (False,) * len(self._names)
        self._dtype = dtype
        self._bands = [_band(percentiles_of(dtype)) for _ in self._names]

    @property
    def pixels(self) -> int:
        """Valid pixels counted so far."""
        return self._bands[0].moments().count

    def add(self, image: Pixels, valid: Valid) -> None:
        """Count the valid pixels of image (C,H,W)."""
        for band, pixels in zip(self._bands, image, strict=True):
            band.add(pixels[valid])

    def add_counts(self, counts: NDArray[np.uint32]) -> None:
        """Count what `value_counts` has counted, of images of the accumulator's type."""
        for band, row in zip(self._bands, counts, strict=True):
            assert isinstance(band, _Counted)
            band.ranks.include(row.astype(np.int64))

    def statistics(self) -> tuple[BandStatistics, ...]:
        """All that is known so far. Raises ValueError where no pixel was counted, InputError for what is no number."""
        if self.pixels == 0:
            raise ValueError("no valid pixel was counted")
        told = []
        for name, band in zip(self._names, self._bands, strict=True):
            moments = band.moments()
            std = float(np.sqrt(moments.squares / moments.count))
            _require_numbers(name, moments.mean, std)
            told.append(
                BandStatistics(
                    name=name,
                    pixels=moments.count,
                    mean=moments.mean,
                    std=std,
                    minimum=moments.least,
                    maximum=moments.most,
                    percentiles=dict(zip(map(str, PERCENTS), band.ranks.at(PERCENTS), strict=True)),
                    rank_error=band.ranks.rank_error,
                )
            )
        return tuple(told)

    def bands(self) -> tuple[Band, ...]:
        """The statistics so far; a constant band gets std 1 so that it normalises to 0."""
        return tuple(
            Band(
                name=one.name,
                dtype=self._dtype,
                mean=one.mean,
                # Less than float32 resolves at this mean is rounding, not signal.
                std=one.std if one.std > max(float(_EPS) * abs(one.mean), SMALLEST) else 1.0,
                p2=one.percentiles["2"],
                p98=one.percentiles["98"],
                scaled=scaled,
            )
            for one, scaled in zip(self.statistics(), self._scaled, strict=True)
        )


@dataclass(frozen=True, slots=True)
class _Moments:
    """squares: the sum of squared distances from the mean."""

    count: int
    mean: float
    squares: float
    least: float
    most: float


class _Counted:
    """A band of a type with few values: from how often each is there all else follows."""

    def __init__(self, ranks: ValueCounts) -> None:
        self.ranks = ranks

    def add(self, values: Pixels) -> None:
        self.ranks.add(values)

    def moments(self) -> _Moments:
        return _Moments(*self.ranks.moments())


class _Streamed:
    """A band of another type, chip by chip."""

    def __init__(self, ranks: RankSketch) -> None:
        self.ranks = ranks
        self._count = 0
        self._mean, self._squares, self._least, self._most = 0.0, 0.0, np.inf, -np.inf

    def add(self, values: Pixels) -> None:
        pixels = np.ascontiguousarray(values, np.float64)  # sums run the same whatever the strides
        count = len(pixels)
        if count == 0:
            return
        # Chan's parallel update: no catastrophic cancellation. What is no number is told at the end.
        with np.errstate(invalid="ignore", over="ignore"):
            mean = pixels.mean()
            delta = mean - self._mean
            total = self._count + count
            self._squares += ((pixels - mean) ** 2).sum() + delta**2 * self._count * count / total
            self._mean += delta * count / total
        self._count = total
        self._least = min(self._least, pixels.min())
        self._most = max(self._most, pixels.max())
        self.ranks.add(values)

    def moments(self) -> _Moments:
        return _Moments(
            self._count, float(self._mean), float(self._squares), float(self._least), float(self._most)
        )


def _band(ranks: ValueCounts | RankSketch) -> _Counted | _Streamed:
    return _Counted(ranks) if isinstance(ranks, ValueCounts) else _Streamed(ranks)


def _require_numbers(name: str, mean: float, std: float) -> None:
    if not np.isfinite([mean, std]).all() or max(abs(mean), abs(std)) > LARGEST:
        raise InputError(
            f"band '{shortened(name)}' has a mean of {mean:g} and a deviation of {std:g} over its "
            f"valid pixels; declare what is no measurement as nodata ({setting('nodata')}, "
            "gdal_edit.py -a_nodata)"
        )
