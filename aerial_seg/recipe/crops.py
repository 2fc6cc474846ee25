"""Recipe settings of the training crops: how often each chip is taken, and how it is changed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aerial_seg.recipe.section import Fraction, Section, Zoom


class AugmentationSettings(Section):
    """Changes of a training crop; validation sees none of them.

    flips: up-down and left-right, each by chance; "horizontal": left-right only, for photographs that have an up.
    scale: smallest and largest zoom, in between log-uniform. stay_inside: only zooms whose window fits into the chip,
    log-uniform from crop / chip (where `scale` begins below it) to the largest: a crop as large as its chip is never
    zoomed out, and nothing is padded but where even the largest zoom asks for more than there is. False, as in the
    papers' recipes: all of `scale`, and what lies beyond the image is padded with the training mean. brightness and
    contrast: largest change, in units of the training standard deviation, of all bands alike; band_noise: what each
    band adds to that on its own, as a part of it.
    """

    flips: Literal["horizontal"] | bool = True
    rot90: bool = True
    scale: tuple[Zoom, Zoom] = (0.5, 2.0)
    stay_inside: bool = True
    brightness: Annotated[float, Field(ge=0, le=100)] = 0.2
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.2
    band_noise: Annotated[float, Field(ge=0, le=100)] = 0.25


class SamplingSettings(Section):
    """Which training chips are taken how often; validation takes each once.

    repeat_threshold: a class that a smaller share of the training chips holds is rare, and chips that hold it come
    √(threshold / share) times as often as others (LVIS' repeat factor sampling); 0: every chip as often as any other.
    It raises no class's weight in the loss, see training.class_weights.
    """

    repeat_threshold: Fraction = 0.0
