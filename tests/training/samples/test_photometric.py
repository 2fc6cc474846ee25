"""Light and colours step by step and clipped, as mmseg's and ssseg's PhotoMetricDistortion: against its formula."""

from __future__ import annotations

import colorsys
import re
from dataclasses import replace

import numpy as np
import pytest
from made_chips import MadeReader
from numpy.typing import NDArray

from aerial_seg.bands import Band
from aerial_seg.errors import SettingsError
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.recipe.loading import load_recipe
from aerial_seg.training.crops import CropDataset
from aerial_seg.training.samples.chip_store import ChipStore
from aerial_seg.training.samples.colour import lit
from aerial_seg.training.samples.draws import Draw, draw

THEIRS = AugmentationSettings(
    flips=False, rot90=False, scale=(1, 1), band_noise=0.0, brightness=32 / 255, contrast=0.5, hue=36.0, saturation=0.5,
    contrast_about="zero", light_probability=0.5, light_range=(0.0, 255.0),
)  # fmt: skip
MEAN, STD = 100.0, 50.0
BANDS = tuple(
    Band(name=name, dtype="uint8", mean=MEAN, std=STD, p2=0, p98=255) for name in ("red", "green", "blue")
)


class Photographs(MadeReader):
    """Bytes of red, green and blue."""

    @property
    def bands(self) -> tuple[Band, ...]:
        return BANDS


def as_written(image: NDArray[np.uint8], change: Draw, gain: float, shift: float) -> NDArray[np.uint8]:
    """The published formula on (H,W,3), pixel by pixel: v + β, α·v and HSV in turn, each clipped, fractions cut off."""
    more = change.more
    assert more is not None

    def step(value: float) -> int:
        return int(min(255.0, max(0.0, value)))

    found = np.empty_like(image)
    for at in np.ndindex(image.shape[:2]):
        red, green, blue = (step(np.float32(value) + np.float32(shift)) for value in image[at])
        if more.contrast_first:
            red, green, blue = (step(np.float32(value) * np.float32(gain)) for value in (red, green, blue))
        if more.hue or more.saturation != 1:
            h, s, v = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
            turned = colorsys.hsv_to_rgb((h + more.hue / 360) % 1, min(1.0, s * more.saturation), v)
            red, green, blue = (int(255 * value + 0.5) for value in turned)
        if not more.contrast_first:
            red, green, blue = (step(np.float32(value) * np.float32(gain)) for value in (red, green, blue))
        found[at] = red, green, blue
    return found


def crops(told: AugmentationSettings, length: int) -> CropDataset:
    return CropDataset(
        ChipStore(Photographs([(12, 12)] * 3, mean=128.0, std=70.0)),
        length=length,
        crop=12,
        augmentation=told,
        seed=2,
    )


def values(crops: CropDataset, k: int) -> NDArray[np.uint8]:
    """The bytes (H,W,3) of a sample, from what a network sees."""
    seen = (crops[k][0].double().numpy() * STD + MEAN).transpose(1, 2, 0)
    assert np.abs(seen - seen.round()).max() < 1e-3
    assert seen.min() > -0.5
    assert seen.max() < 255.5
    return seen.round().astype(np.uint8)


def test_crops_are_those_of_the_published_formula() -> None:
    plain = crops(AugmentationSettings(**{**still(), "light_probability": 1.0}), 60)
    made, kinds = crops(THEIRS, 60), set()
    for k in range(60):
        change = draw(2, k, THEIRS, bands=3)
        assert change.more is not None
        gain, shift = change.gain[0], change.shift[0] * 255
        assert change.gain == (gain,) * 3
        assert change.shift == (change.shift[0],) * 3
        assert abs(shift) <= 32
        wanted = as_written(values(plain, k), change, gain, shift)
        away = np.abs(values(made, k).astype(int) - wanted.astype(int))
        # HSV there and back may lie on a half: one more or less, and as much times alpha where contrast comes last.
        assert away.max() <= 2
        assert (away > 0).mean() < 0.02
        kinds.add(
            (
                change.more.contrast_first,
                gain != 1,
                shift != 0,
                change.more.hue != 0,
                change.more.saturation != 1,
            )
        )
    assert len(kinds) > 20  # of 32


def still() -> dict[str, object]:
    """Settings of crops as they lie there."""
    return {
        "flips": False, "rot90": False, "scale": (1, 1), "brightness": 0.0, "contrast": 0.0, "band_noise": 0.0,
    }  # fmt: skip


def test_contrast_comes_first_in_half_of_the_crops_and_that_is_seen() -> None:
    changes = [draw(0, k, THEIRS, bands=3) for k in range(1000)]
    firsts = [one.more is not None and one.more.contrast_first for one in changes]
    assert 440 < sum(firsts) < 560
    more = changes[0].more
    assert more is not None
    image, gain = np.array([[[250, 150, 120]]], np.uint8), (1.5,) * 3
    found = {}
    for first in (True, False):
        own = replace(more, hue=0.0, saturation=0.5, contrast_first=first)
        change = replace(changes[0], gain=gain, shift=(0.0,) * 3, more=own)
        found[first] = lit(image, change, BANDS, THEIRS).ravel().tolist()
    # 250·1.5, clipped, 150·1.5, 120·1.5, then half way to the largest; and the other way round.
    assert found == {True: [255, 240, 218], False: [255, 255, 255]}


@pytest.mark.parametrize(("about", "wanted"), [("zero", 0.0), ("mean", MEAN)])
def test_values_that_are_no_bytes_keep_their_fractions_within_the_range(about: str, wanted: float) -> None:
    """Reflectances of two bands: brightness in units of the range, contrast about zero or the mean."""
    told = AugmentationSettings(
        **{
            **still(),
            "brightness": 0.3,
            "contrast": 0.5,
            "contrast_about": about,
            "light_range": (50.0, 150.0),
        }
    )
    reader = MadeReader([(20, 20)], mean=MEAN, std=STD, dtype="float32", count=2)
    made = CropDataset(ChipStore(reader), length=12, crop=20, augmentation=told, seed=4)
    for k in range(12):
        change = draw(4, k, told, bands=2)
        lifted = np.clip(reader.pixels(0).image + 100 * np.array(change.shift)[:, None, None], 50, 150)
        gain = np.array(change.gain)[:, None, None]
        light = np.clip((lifted - wanted) * gain + wanted, 50, 150)
        np.testing.assert_allclose(made[k][0].numpy(), (light - MEAN) / STD, atol=1e-4)


def test_a_range_that_does_not_rise_is_refused() -> None:
    with pytest.raises(
        SettingsError, match=re.escape("light_range is [255.0, 0.0]") + r".*write \[0\.0, 255\.0\]"
    ):
        AugmentationSettings(light_range=(255.0, 0.0))
    AugmentationSettings(light_range=(0.0, 255.0))


@pytest.mark.parametrize("name", ["voc/fcn", "ade20k/fcn", "cityscapes/fcn", "ade20k/deeplabv3"])
def test_the_recipes_of_these_codes_have_it(name: str) -> None:
    told = load_recipe(name).augmentation
    assert told.light_range == (0.0, 255.0)
    assert abs(told.brightness * 255 - 32) < 1e-3
    for key in ("contrast", "hue", "saturation", "contrast_about", "light_probability", "band_noise"):
        assert getattr(told, key) == getattr(THEIRS, key)
