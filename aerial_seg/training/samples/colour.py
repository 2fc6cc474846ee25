"""Crops blurred, lit, and their colours turned and paled: what is done to images alone, after they are cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aerial_seg.band_names import RGB, role
from aerial_seg.bands import Band
from aerial_seg.errors import SettingsError
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.training.samples.draws import Draw

_KERNELS: dict[int, tuple[float, ...]] = {
    3: (0.25, 0.5, 0.25),
    5: (0.0625, 0.25, 0.375, 0.25, 0.0625),
    7: (0.03125, 0.109375, 0.21875, 0.28125, 0.21875, 0.109375, 0.03125),
}
"""OpenCV's Gaussian kernels where no sigma is given: up to 7 pixels numbers of their own (getGaussianKernel)."""


def require_colours(settings: AugmentationSettings, bands: Sequence[Band]) -> None:
    """Raises SettingsError where hue or saturation are to change in images that are not of red, green and blue."""
    asked = [key for key in ("hue", "saturation") if getattr(settings, key)]
    if asked and sorted(str(role(band.name)) for band in bands) != sorted(RGB):
        told = " and ".join(f"augmentation.{key} is {getattr(settings, key):g}" for key in asked)
        raise SettingsError(
            f"{told}, but the images' bands are {', '.join(band.name for band in bands)}, wanted red, green and blue "
            f"and no other; set {' and '.join(f'augmentation.{key}' for key in asked)} to 0"
        )


def blurred(image: NDArray[np.generic], side: int) -> NDArray[np.generic]:
    """The image (H,W,C) blurred by a Gaussian kernel of `side` pixels; at the rim its mirror image counts."""
    found, half = image.astype(np.float32), side // 2
    for axis in (0, 1):
        along = np.moveaxis(found, axis, 0)
        padded = np.pad(along, ((half, half), (0, 0), (0, 0)), mode="reflect")
        total = np.zeros(along.shape, np.float32)
        for k, weight in enumerate(_KERNELS[side]):
            total += np.float32(weight) * padded[k : k + len(along)]
        found = np.moveaxis(total, 0, axis)
    return _as_before(found, image)


def coloured(
    image: NDArray[np.generic], bands: Sequence[Band], *, hue: float, saturation: float
) -> NDArray[np.generic]:
    """The image (H,W,3) with its hue turned by so many degrees and its saturation multiplied, in the sense of HSV.

    A pixel's largest value stays as it is; its smallest may fall to 0 and no further, as a saturation of 1.
    """
    roles = [role(band.name) for band in bands]
    order = [roles.index(colour) for colour in RGB]
    red, green, blue = (image[..., k].astype(np.float32) for k in order)
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    chroma = high - low
    divisor = np.where(chroma > 0, chroma, 1)
    # The hue in sixths of the circle: 0 red, 2 green, 4 blue.
    sixths = np.where(
        high == red,
        (green - blue) / divisor,
        np.where(high == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sixths += np.float32(hue / 60)
    if saturation > 1:
        most = np.maximum(chroma, high)  # where the smallest is below 0 already it goes no further
        chroma = np.minimum(chroma * np.float32(saturation), most)
    else:
        chroma = chroma * np.float32(saturation)
    found = np.empty(image.shape, np.float32)
    for place, start in zip(order, (5, 3, 1), strict=True):
        away = np.mod(sixths + np.float32(start), 6)
        found[..., place] = high - chroma * np.clip(np.minimum(away, 4 - away), 0, 1)
    return _as_before(found, image)


def lit(
    image: NDArray[np.generic], change: Draw, bands: Sequence[Band], settings: AugmentationSettings
) -> NDArray[np.generic]:
    """The image (H,W,C) in the light and the colours that were drawn, step by step and never beyond light_range.

    Bytes lose their fractions behind brightness and contrast. Source: mmseg's and ssseg's PhotoMetricDistortion, whose
    hue and saturation are of 8 bits, too; here they are exact.
    """
    more = change.more
    assert settings.light_range is not None
    assert more is not None
    low, high = settings.light_range
    gain, shift = (np.asarray(one, np.float32) for one in (change.gain, change.shift))
    middle = 0.0 if settings.contrast_about == "zero" else [band.mean for band in bands]
    still = np.asarray(middle, np.float32)

    def clipped(values: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.clip(values.astype(np.float32), low, high).astype(image.dtype)

    def contrasted(values: NDArray[np.generic]) -> NDArray[np.generic]:
        return clipped((values.astype(np.float32) - still) * gain + still) if np.any(gain != 1) else values

    found = clipped(image.astype(np.float32) + shift * np.float32(high - low)) if np.any(shift) else image
    if more.contrast_first:
        found = contrasted(found)
    if more.hue or more.saturation != 1:
        found = clipped(coloured(found, bands, hue=more.hue, saturation=more.saturation))
    return found if more.contrast_first else contrasted(found)


def _as_before(found: NDArray[np.float32], image: NDArray[np.generic]) -> NDArray[np.generic]:
    if image.dtype == np.uint8:
        whole: NDArray[np.generic] = np.clip(np.floor(found + 0.5), 0, 255).astype(np.uint8)
        return whole
    return found
