"""What the pixels of each band are like, counted chip by chip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aerial_seg.bands import LARGEST, PERCENTS, SMALLEST, Band, BandStatistics
from aerial_seg.errors import InputError
from aerial_seg.geo.raster.values.percentiles import percentiles_of
from aerial_seg.mentions import setting
from aerial_seg.printable import shortened

_EPS = np.finfo(np.float32).eps


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
        self._count = 0
        self._mean = np.zeros(len(self._names))
        self._squares = np.zeros(len(self._names))
        self._least = np.full(len(self._names), np.inf)
        self._most = np.full(len(self._names), -np.inf)
        self._ranks = [percentiles_of(dtype) for _ in self._names]

    @property
    def pixels(self) -> int:
        """Valid pixels counted so far."""
        return self._count

    def add(self, image: NDArray[np.generic], valid: NDArray[np.bool_]) -> None:
        """Count the valid pixels of image (C,H,W)."""
        stored = image[:, valid]
        pixels = stored.astype(np.float64, order="C")  # sums run the same whatever the image's strides
        count = pixels.shape[1]
        if count == 0:
            return
        # Chan's parallel update: no catastrophic cancellation on uint16 data. What is no number is told at the end.
        with np.errstate(invalid="ignore", over="ignore"):
            mean = pixels.mean(axis=1)
            delta = mean - self._mean
            total = self._count + count
            self._squares += ((pixels - mean[:, None]) ** 2).sum(
                axis=1
            ) + delta**2 * self._count * count / total
            self._mean += delta * count / total
        self._count = total
        self._least = np.minimum(self._least, pixels.min(axis=1))
        self._most = np.maximum(self._most, pixels.max(axis=1))
        for ranks, band in zip(self._ranks, stored, strict=True):
            ranks.add(np.ascontiguousarray(band))

    def statistics(self) -> tuple[BandStatistics, ...]:
        """All that is known so far. Raises ValueError where no pixel was counted, InputError for what is no number."""
        if self._count == 0:
            raise ValueError("no valid pixel was counted")
        std = np.sqrt(self._squares / self._count)
        self._require_numbers(std)
        return tuple(
            BandStatistics(
                name=name,
                pixels=self._count,
                mean=float(self._mean[i]),
                std=float(std[i]),
                minimum=float(self._least[i]),
                maximum=float(self._most[i]),
                percentiles=dict(zip(map(str, PERCENTS), self._ranks[i].at(PERCENTS), strict=True)),
                rank_error=self._ranks[i].rank_error,
            )
            for i, name in enumerate(self._names)
        )

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

    def _require_numbers(self, std: NDArray[np.float64]) -> None:
        for name, *facts in zip(self._names, self._mean, std, strict=True):
            if not np.isfinite(facts).all() or np.abs(facts).max() > LARGEST:
                raise InputError(
                    f"band '{shortened(name)}' has a mean of {facts[0]:g} and a deviation of {facts[1]:g} over its "
                    f"valid pixels; declare what is no measurement as nodata ({setting('nodata')}, "
                    "gdal_edit.py -a_nodata)"
                )
