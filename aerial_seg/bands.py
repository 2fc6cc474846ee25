"""What a model was trained on, band by band: the contract that a raster must meet and the normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from aerial_seg.errors import InputError
from aerial_seg.mentions import setting
from aerial_seg.percentiles import percentiles_of
from aerial_seg.printable import name_problem, shortened

_LARGEST, _SMALLEST = 1e30, 1e-30
"""Of what pixels hold: they are normalised in float32, which ends at 3e38 and 1e-38."""
_EPS = np.finfo(np.float32).eps
DTYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64",
)  # fmt: skip
"""What pixels can be; complex numbers are no brightness."""

Value = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]
Gsd = Annotated[float, Field(ge=1e-9, le=1e6)]
"""Metres per pixel, from microscopes to whole continents in a pixel."""


class Band(BaseModel):
    """One spectral band; its statistics are over valid training pixels, in the raster's own units.

    scaled: whether the scale and offset that the rasters declare were applied; what a model is shown needs them, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    dtype: str
    mean: Value
    std: Annotated[float, Field(ge=_SMALLEST, le=_LARGEST)]
    p2: Value
    p98: Value
    scaled: bool = False

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A key that older versions do not know is there only where it says something."""
        document: dict[str, Any] = dump(self)
        if not self.scaled:
            document.pop("scaled", None)
        return document

    @model_validator(mode="after")
    def _can_be(self) -> Band:
        problem = name_problem(self.name)
        if problem is not None:
            raise ValueError(f"band name '{shortened(self.name)}' cannot be one: {problem}")
        if self.dtype not in DTYPES:
            raise ValueError(f"band dtype is '{shortened(self.dtype)}', wanted one of {', '.join(DTYPES)}")
        if self.p2 > self.p98:
            raise ValueError(f"of band '{self.name}', p2 is {self.p2:g}, above its p98 of {self.p98:g}")
        return self


IMAGENET_BANDS = tuple(
    Band(name=name, dtype="uint8", mean=mean, std=std, p2=0, p98=255)
    for name, mean, std in (
        ("red", 123.675, 58.395),
        ("green", 116.28, 57.12),
        ("blue", 103.53, 57.375),
    )
)
"""RGB of 0–255 with ImageNet's statistics: mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225) times 255."""


def normalise(
    image: NDArray[np.generic], valid: NDArray[np.bool_], bands: Sequence[Band]
) -> NDArray[np.float32]:
    """The image in units of the training standard deviation, invalid pixels at the training mean (0).

    image (C,H,W) any dtype, valid (H,W) True = measured → (C,H,W) float32. The numbers are frozen, never a tile's.
    """
    mean = np.array([band.mean for band in bands], np.float32)[:, None, None]
    std = np.array([band.std for band in bands], np.float32)[:, None, None]
    scaled = (image.astype(np.float32) - mean) / std
    return np.where(valid, scaled, np.float32(0))


PERCENTS = (1, 2, 5, 25, 50, 75, 95, 98, 99)
"""Of the percentiles that a dataset tells; a model's file holds the 2nd and the 98th."""


class BandStatistics(BaseModel):
    """What the measured training pixels of a band are like.

    percentiles: by per cent. rank_error: share of all pixels by which the rank of a percentile may be off; 0 where they
    are those of numpy.percentile over all pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    pixels: Annotated[int, Field(gt=0)]
    mean: Value
    std: Annotated[float, Field(ge=0, le=_LARGEST)]
    minimum: Value
    maximum: Value
    percentiles: dict[str, Value]
    rank_error: Annotated[float, Field(ge=0, le=1)]


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
                std=one.std if one.std > max(float(_EPS) * abs(one.mean), _SMALLEST) else 1.0,
                p2=one.percentiles["2"],
                p98=one.percentiles["98"],
                scaled=scaled,
            )
            for one, scaled in zip(self.statistics(), self._scaled, strict=True)
        )

    def _require_numbers(self, std: NDArray[np.float64]) -> None:
        for name, *facts in zip(self._names, self._mean, std, strict=True):
            if not np.isfinite(facts).all() or np.abs(facts).max() > _LARGEST:
                raise InputError(
                    f"band '{shortened(name)}' has a mean of {facts[0]:g} and a deviation of {facts[1]:g} over its "
                    f"valid pixels; declare what is no measurement as nodata ({setting('nodata')}, "
                    "gdal_edit.py -a_nodata)"
                )
