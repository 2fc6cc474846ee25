"""A window of an image becomes a crop: zoomed and turned, images bilinear, labels and what is measured nearest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import grid_sample, interpolate

from aerial_seg.bands import Band
from aerial_seg.legend import IGNORE
from aerial_seg.training.samples.pixels import Pixels
from aerial_seg.training.samples.places import Place

_FAST_BANDS = 4
"""More than so many bands of bytes at once leave torch's vectorised way of resizing them."""

Values = TypeVar("Values", bound=np.generic)


def zoomed(pixels: Pixels, there: Place, bands: Sequence[Band], *, as_bytes: bool) -> NDArray[np.generic]:
    """The image of a window as (height, width, C): uint8 if as_bytes, else float32.

    pixels: of the window. Zooming is bilinear, antialiased; so is turning, which comes after it. What was not measured,
    and what lies beyond a turned image, is the training mean.
    """
    image = _without_gaps(pixels, bands)
    if there.turn is None:
        return _resized(image, (there.height, there.width), as_bytes=as_bytes)
    size = tuple(
        max(1, round(side / step)) for side, step in zip(pixels.labels.shape, there.turn.steps, strict=True)
    )
    mean = torch.tensor([band.mean for band in bands], dtype=torch.float32)[:, None, None]
    near = torch.from_numpy(_resized(image, (size[0], size[1]), as_bytes=as_bytes))
    # Bands one after another, of which torch samples three times as fast; what is beyond the window counts as 0.
    apart = near.permute(2, 0, 1).contiguous().to(torch.float32).sub_(mean)
    down, across = _seen(there)
    height, width = pixels.labels.shape
    grid = np.stack([across * (2 / width) - 1, down * (2 / height) - 1], axis=-1).astype(np.float32)
    found = grid_sample(apart[None], torch.from_numpy(grid)[None], mode="bilinear", align_corners=False)[0]
    found += mean
    if as_bytes:
        found = found.round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(found.permute(1, 2, 0).numpy())


def looked_up(pixels: Pixels, there: Place) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """The labels of a window as a crop, and where it was measured; None: everywhere."""
    if there.turn is None:
        valid = None if pixels.valid is None else nearest(pixels.valid, there, beyond=0)
        return nearest(pixels.labels, there, IGNORE), valid
    places, outside = _spots(there, pixels.labels.shape)
    valid = ~outside if pixels.valid is None else pixels.valid.ravel()[places] & ~outside
    return np.where(outside, np.uint8(IGNORE), pixels.labels.ravel()[places]), valid


def nearest(array: NDArray[Values], there: Place, beyond: int) -> NDArray[Values]:
    """What a window (h,w) holds where the centres of the pixels (height, width) lie; `beyond` outside a turned one."""
    if there.turn is None:
        rows, cols = (
            _centres(old, new) for old, new in zip(array.shape, (there.height, there.width), strict=True)
        )
        return array[rows][:, cols]
    places, outside = _spots(there, array.shape)
    found = array.ravel()[places]
    found[outside] = beyond
    return found


def _spots(there: Place, shape: tuple[int, ...]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The number of the pixel of a window that each pixel of a turned crop shows, and whether it is none: then 0."""
    down, across = (np.floor(one).astype(np.intp) for one in _seen(there))
    outside = (down < 0) | (down >= shape[0]) | (across < 0) | (across >= shape[1])
    return np.where(outside, 0, down * shape[1] + across), outside


def _seen(there: Place) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Which place of its window each pixel of a turned crop shows: (height, width) rows and columns."""
    assert there.turn is not None
    pixels = np.arange(there.height) + 0.5, np.arange(there.width) + 0.5
    found = [
        (line[0] - window.start + line[1] * pixels[0])[:, None] + (line[2] * pixels[1])[None]
        for line, window in ((there.turn.rows, there.rows), (there.turn.cols, there.cols))
    ]
    return found[0], found[1]


def _centres(old: int, new: int) -> NDArray[np.intp]:
    """For each of `new` pixels along a side the one of `old` that its centre lies in."""
    return (np.arange(new, dtype=np.intp) * 2 + 1) * old // (2 * new)


def _without_gaps(pixels: Pixels, bands: Sequence[Band]) -> NDArray[np.generic]:
    """The image (C,h,w) with the training mean where nothing was measured: it may hold anything there."""
    if pixels.valid is None:
        return pixels.image
    mean = np.array([band.mean for band in bands])[:, None, None]
    if pixels.image.dtype.kind in "iu":
        mean = mean.round()
    return np.where(pixels.valid, pixels.image, mean.astype(pixels.image.dtype))


def _resized(image: NDArray[np.generic], size: tuple[int, int], *, as_bytes: bool) -> NDArray[np.generic]:
    """The image (C,h,w) as (height, width, C), float32 unless as_bytes, which is four times as fast."""
    rows = image.transpose(1, 2, 0)[None].astype(np.uint8 if as_bytes else np.float32, order="C", copy=True)
    if image.shape[1:] == size:
        return np.asarray(rows[0])
    at_once = _FAST_BANDS if as_bytes else len(image)
    resized = [
        # Taken for channels-last, and given back so, thanks to the stride of the one image.
        interpolate(torch.from_numpy(part).permute(0, 3, 1, 2), size, mode="bilinear", antialias=True)
        for k in range(0, len(image), at_once)
        for part in (np.ascontiguousarray(rows[..., k : k + at_once]),)
    ]
    parts = [part[0].permute(1, 2, 0).numpy() for part in resized]
    return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2))
