"""The image whose edges a field follows: three bands of a raster in grey levels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aerial_seg.bands import Band
from aerial_seg.crf.dense import MOST_CHANNELS

_COLOURS = ("red", "green", "blue")
_WHITE = 255.0


def guide_image(image: NDArray[np.generic], bands: Sequence[Band]) -> NDArray[np.float32]:
    """The guide (c,h,w) float32, c ≤ 3, in grey levels 0–255, of image (C,H,W) with these bands.

    The bands named red, green and blue, else the first three (or all, of fewer). 8-bit bands are taken as they are;
    others are stretched so that the 2nd percentile of the model's training pixels is 0 and the 98th is 255, and cut
    off there: the numbers are frozen with the model, never a block's. Invalid pixels hold anything.
    """
    chosen = guide_bands(bands)
    return np.stack([_grey_levels(image[k], bands[k]) for k in chosen])


def guide_bands(bands: Sequence[Band]) -> tuple[int, ...]:
    """The numbers of the bands that the guide is made of, counted from 0."""
    names = [band.name.strip().lower() for band in bands]
    if all(names.count(colour) == 1 for colour in _COLOURS):
        return tuple(names.index(colour) for colour in _COLOURS)
    return tuple(range(min(MOST_CHANNELS, len(bands))))


def _grey_levels(plane: NDArray[np.generic], band: Band) -> NDArray[np.float32]:
    values = plane.astype(np.float32)
    if band.dtype == "uint8":
        return values
    if band.p98 <= band.p2:
        return np.zeros_like(values)
    values -= np.float32(band.p2)
    values *= np.float32(_WHITE / (band.p98 - band.p2))
    return np.clip(values, 0, np.float32(_WHITE), out=values)
