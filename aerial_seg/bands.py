"""What a model was trained on, band by band: the contract that a raster must meet and the normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from aerial_seg.errors import InputError
from aerial_seg.mentions import setting
from aerial_seg.printable import name_problem, shortened

_LARGEST, _SMALLEST = 1e30, 1e-30
"""Of what pixels hold: they are normalised in float32, which ends at 3e38 and 1e-38."""
DTYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64",
)  # fmt: skip
"""What pixels can be; complex numbers are no brightness."""

Value = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]
Gsd = Annotated[float, Field(ge=1e-9, le=1e6)]
"""Metres per pixel, from microscopes to whole continents in a pixel."""


class Band(BaseModel):
    """One spectral band; its statistics are over valid training pixels, in the raster's own units."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    dtype: str
    mean: Value
    std: Annotated[float, Field(ge=_SMALLEST, le=_LARGEST)]
    p2: Value
    p98: Value

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


class BandAccumulator:
    """Per-band statistics of any number of chips, exact in mean and std, sampled in the percentiles."""

    _SAMPLE_PER_CHIP = 4096

    def __init__(self, names: Sequence[str], dtype: str) -> None:
        self._names = tuple(names)
        self._dtype = dtype
        self._count = 0
        self._mean = np.zeros(len(self._names))
        self._squares = np.zeros(len(self._names))
        self._samples: list[NDArray[np.float32]] = []

    @property
    def pixels(self) -> int:
        """Valid pixels counted so far."""
        return self._count

    def add(self, image: NDArray[np.generic], valid: NDArray[np.bool_]) -> None:
        """Count the valid pixels of image (C,H,W)."""
        pixels = image[:, valid].astype(
            np.float64, order="C"
        )  # sums run the same whatever the image's strides
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
        step = max(1, count // self._SAMPLE_PER_CHIP)
        self._samples.append(pixels[:, ::step].astype(np.float32))

    def bands(self) -> tuple[Band, ...]:
        """The statistics so far; a constant band gets std 1 so that it normalises to 0."""
        if self._count == 0:
            raise ValueError("no valid pixel was counted")
        std = np.sqrt(self._squares / self._count)
        for name, *facts in zip(self._names, self._mean, std, strict=True):
            if not np.isfinite(facts).all() or np.abs(facts).max() > _LARGEST:
                raise InputError(
                    f"band '{shortened(name)}' has a mean of {facts[0]:g} and a deviation of {facts[1]:g} over its "
                    f"valid pixels; declare what is no measurement as nodata ({setting('nodata')}, "
                    "gdal_edit.py -a_nodata)"
                )
        # Less than float32 resolves at this mean is rounding, not signal.
        std[(std <= np.finfo(np.float32).eps * np.abs(self._mean)) | (std < _SMALLEST)] = 1.0
        low, high = np.percentile(np.concatenate(self._samples, axis=1), [2, 98], axis=1)
        return tuple(
            Band(
                name=name,
                dtype=self._dtype,
                mean=float(self._mean[i]),
                std=float(std[i]),
                p2=float(low[i]),
                p98=float(high[i]),
            )
            for i, name in enumerate(self._names)
        )
