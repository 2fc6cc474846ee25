"""Images as people look at them: red, green and blue, of whatever bands and numbers there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aerial_seg.bands import Band
from aerial_seg.crf.guide import guide_image

Pixels = NDArray[np.uint8]


def natural_colours(image: NDArray[np.float32], bands: Sequence[Band]) -> Pixels:
    """(H,W,3) of a normalised image (C,H,W): red, green and blue where bands are called so, else the first three.

    Of one or two bands the first, in grey. Unmeasured pixels, which are 0 in all bands, are white.
    """
    mean = np.array([band.mean for band in bands], np.float32)[:, None, None]
    std = np.array([band.std for band in bands], np.float32)[:, None, None]
    return stored_colours(image * std + mean, ~(image == 0).all(axis=0), bands)


def stored_colours(image: NDArray[np.generic], valid: NDArray[np.bool_], bands: Sequence[Band]) -> Pixels:
    """The same of an image (C,H,W) in the units of its bands; valid (H,W) True = measured.

    8-bit bands are shown as they are, others between the 2nd and the 98th percentile of the training pixels.
    """
    shown = guide_image(image, bands)
    shown = shown if len(shown) == 3 else np.repeat(shown[:1], 3, axis=0)
    shown[:, ~valid] = 255
    picture: Pixels = np.clip(np.rint(np.moveaxis(shown, 0, -1)), 0, 255).astype(np.uint8)
    return picture
