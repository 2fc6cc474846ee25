"""What is drawn for a training sample: numbers that follow from (seed, i) alone, whatever its image turns out to be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.training.samples.numbers import key_of, uniforms

_CHANGES = 2
"""Keeps these numbers apart from others of the same seed."""
_FIXED = 8


@dataclass(frozen=True, slots=True)
class Draw:
    """Hold the changes of one sample.

    zoom, down, across: in [0, 1), the place within the zooms that are possible, and of the window in its image. turns:
    quarter turns, counter-clockwise. flips: of rows and of columns, after the turns. gain, shift: of each band.
    """

    zoom: float
    down: float
    across: float
    turns: int
    flips: tuple[bool, bool]
    gain: tuple[float, ...]
    shift: tuple[float, ...]


def draw(seed: int, index: int, settings: AugmentationSettings, *, bands: int) -> Draw:
    """The changes of sample `index` of the run with this seed."""
    zoom, down, across, turn, rows, cols, light, dark, *noise = uniforms(
        key_of(seed, _CHANGES, index), _FIXED + 2 * bands
    )
    both = settings.flips is True
    return Draw(
        zoom,
        down,
        across,
        turns=int(turn * 4) if settings.rot90 else 0,
        flips=(both and rows < 0.5, (both or settings.flips == "horizontal") and cols < 0.5),
        gain=tuple(
            1 + settings.contrast * wobble for wobble in _wobble(light, noise[:bands], settings.band_noise)
        ),
        shift=tuple(
            settings.brightness * wobble for wobble in _wobble(dark, noise[bands:], settings.band_noise)
        ),
    )


def _wobble(for_all: float, for_each: list[float], noise: float) -> list[float]:
    """A number in ±1 for all bands plus one in ±noise for each."""
    return [2 * for_all - 1 + noise * (2 * own - 1) for own in for_each]


@dataclass(frozen=True, slots=True)
class Place:
    """Say what of an image becomes which part of a crop.

    rows, cols: inside the image. height, width: of that part in the crop, whose first pixel is at (top, left); the rest
    of the crop is padding.
    """

    rows: slice
    cols: slice
    height: int
    width: int
    top: int
    left: int


def place(
    change: Draw, *, height: int, width: int, crop: int, scale: tuple[float, float], stay_inside: bool
) -> Place:
    """Where the crop of `crop` pixels a side is cut from an image of this height and width.

    The zoom is log-uniform in `scale`. stay_inside: in that part of `scale` whose windows fit into the image; where
    none does, the largest zoom. A window that does not fit slides over the image.
    """
    low, high = math.log(min(scale)), math.log(max(scale))
    if stay_inside:
        low = min(high, max(low, math.log(crop / min(height, width))))
    side = max(1, round(crop / math.exp(low + change.zoom * (high - low))))
    rows, tall, top = _along(height, side, crop, change.down)
    cols, wide, left = _along(width, side, crop, change.across)
    return Place(rows, cols, tall, wide, top, left)


def _along(length: int, side: int, crop: int, where: float) -> tuple[slice, int, int]:
    """Pixels of the image, their number in the crop and their first place there, along one axis."""
    room = abs(length - side)
    offset = int(where * (room + 1))
    if side <= length:
        return slice(offset, offset + side), crop, 0
    size = max(1, round(length * crop / side))
    return slice(0, length), size, min(round(offset * crop / side), crop - size)
