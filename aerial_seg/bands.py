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
    ValidationError,
    model_serializer,
    model_validator,
)

from aerial_seg.documents import problem_of
from aerial_seg.errors import SettingsError
from aerial_seg.mentions import setting
from aerial_seg.printable import name_problem, shortened

LARGEST, SMALLEST = 1e30, 1e-30
"""Of what pixels hold: they are normalised in float32, which ends at 3e38 and 1e-38."""
DTYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64",
)  # fmt: skip
"""What pixels can be; complex numbers are no brightness."""

Value = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Gsd = Annotated[float, Field(ge=1e-9, le=1e6)]
"""Metres per pixel, from microscopes to whole continents in a pixel."""


class Band(BaseModel):
    """One spectral band; its statistics are over valid training pixels, in the raster's own units.

    scaled: whether the scale and offset that the rasters declare were applied; what a model is shown needs them, too.
    stored_offsets: where they were not though some rasters declare an offset, each that they declare, 0 for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    dtype: str
    mean: Value
    std: Annotated[float, Field(ge=SMALLEST, le=LARGEST)]
    p2: Value
    p98: Value
    scaled: bool = False
    stored_offsets: tuple[Value, ...] = ()

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keys that older versions do not know are there only where they say something."""
        document: dict[str, Any] = dump(self)
        for key in ("scaled", "stored_offsets"):
            if not document.get(key):
                document.pop(key, None)
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


def trained_band(name: str, dtype: str, *, mean: float, std: float) -> Band:
    """A band of which only its normalisation is known: shown from 0 to 255 (bytes), or two deviations about its mean.

    Raises SettingsError for what no band can be.
    """
    is_byte = dtype == "uint8"
    low, high = (0.0, 255.0) if is_byte else (mean - 2 * std, mean + 2 * std)
    try:
        return Band(name=name, dtype=dtype, mean=mean, std=std, p2=low, p98=high)
    except ValidationError as error:
        raise SettingsError(
            f"{setting('bands')} has '{shortened(name)}' with mean {mean:g} and std {std:g} ({problem_of(error)}); "
            "wanted a name, a mean and a std above 0"
        ) from error


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
    std: Annotated[float, Field(ge=0, le=LARGEST)]
    minimum: Value
    maximum: Value
    percentiles: dict[str, Value]
    rank_error: Annotated[float, Field(ge=0, le=1)]
