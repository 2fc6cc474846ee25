"""What is drawn for a training sample: numbers that follow from (seed, i) alone, whatever its image turns out to be."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.training.samples.numbers import key_of, uniforms

_CHANGES, _MORE, _STRETCH, _PLACES = 2, 4, 5, 6
"""Keep these numbers apart from others of the same seed, and what some recipes ask for from what all do."""
_FIXED, _FIXED_MORE = 8, 10


@dataclass(frozen=True, slots=True)
class More:
    """Hold what only some recipes ask for.

    angle: degrees, counter-clockwise. is_blurred: whether the crop is. hue: degrees. saturation: a factor. stretch:
    key of the numbers that zooms of height and width are drawn from, if they differ. contrast_first: whether contrast
    comes before hue and saturation, where that makes a difference.
    """

    angle: float
    is_blurred: bool
    hue: float
    saturation: float
    stretch: int
    contrast_first: bool = False


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
    more: More | None = None


def draw(seed: int, index: int, settings: AugmentationSettings, *, bands: int) -> Draw:
    """The changes of sample `index` of the run with this seed."""
    zoom, down, across, turn, rows, cols, light, dark, *noise = uniforms(
        key_of(seed, _CHANGES, index), _FIXED + 2 * bands
    )
    both, brightness, contrast = settings.flips is True, settings.brightness, settings.contrast
    drawn = Draw(
        zoom,
        down,
        across,
        turns=int(turn * 4) if settings.rot90 else 0,
        flips=(both and rows < 0.5, (both or settings.flips == "horizontal") and cols < 0.5),
        gain=tuple([1 + contrast * wobble for wobble in _wobble(light, noise[:bands], settings.band_noise)]),
        shift=tuple([brightness * wobble for wobble in _wobble(dark, noise[bands:], settings.band_noise)]),
    )
    return _with_more(drawn, seed, index, settings) if _asks_for_more(settings) else drawn


def key_of_places(seed: int, index: int) -> int:
    """The key of the numbers by which sample `index` is placed where its labels are looked at first."""
    return key_of(seed, _PLACES, index)


def _asks_for_more(settings: AugmentationSettings) -> bool:
    """Whether the recipe has a change that those of before had not: their samples stay as they were, bit for bit."""
    return bool(
        settings.rotation
        or settings.blur
        or settings.aspect
        or settings.hue
        or settings.saturation
        or settings.light_range
        or settings.light_probability < 1
    )


def _with_more(drawn: Draw, seed: int, index: int, settings: AugmentationSettings) -> Draw:
    turns, angle, blurs, lifts, spreads, colours, saturation, tints, hue, first = uniforms(
        key_of(seed, _MORE, index), _FIXED_MORE
    )
    often, bands = settings.light_probability, len(drawn.gain)
    more = More(
        angle=settings.rotation * (2 * angle - 1) if turns < settings.rotation_probability else 0.0,
        is_blurred=blurs < settings.blur,
        hue=settings.hue * (2 * hue - 1) if tints < often else 0.0,
        saturation=1 + settings.saturation * (2 * saturation - 1) if colours < often else 1.0,
        stretch=key_of(seed, _STRETCH, index),
        contrast_first=first < 0.5,
    )
    return replace(
        drawn,
        gain=drawn.gain if spreads < often else (1.0,) * bands,
        shift=drawn.shift if lifts < often else (0.0,) * bands,
        more=more,
    )


def _wobble(for_all: float, for_each: list[float], noise: float) -> list[float]:
    """A number in ±1 for all bands plus one in ±noise for each."""
    return [2 * for_all - 1 + noise * (2 * own - 1) for own in for_each]
