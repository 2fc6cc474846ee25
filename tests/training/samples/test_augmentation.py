"""What is done to a crop beyond zoom, flips and light, against scipy, Pillow, torchvision and the codes' formulas."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from made_chips import MadeReader
from numpy.typing import NDArray
from scipy import ndimage, stats
from torchvision.transforms.v2 import functional

from aerial_seg.bands import IMAGENET_BANDS, Band
from aerial_seg.errors import SettingsError
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.training.crops import CropDataset
from aerial_seg.training.loader import Loader
from aerial_seg.training.samples.chip_store import ChipStore
from aerial_seg.training.samples.colour import blurred, coloured
from aerial_seg.training.samples.draws import draw
from aerial_seg.training.samples.places import place

STILL = {"flips": False, "rot90": False, "scale": (1, 1), "brightness": 0, "contrast": 0, "band_noise": 0}


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("side", [3, 5, 7])
@given(height=st.integers(1, 20), width=st.integers(1, 20), count=st.integers(1, 5))
@settings(max_examples=examples(20))
def test_blur_is_opencvs_gaussian_of_no_sigma(
    side: int, dtype: str, height: int, width: int, count: int
) -> None:
    """3 and 5: binomial. 7: nearly its formula, 0.3·((7 − 1)/2 − 1) + 0.8 = 1.4. The oracle is scipy's mirror image."""
    image = MadeReader([(height, width)], dtype=dtype, count=count).pixels(0).image.transpose(1, 2, 0)
    numbers = {3: [1, 2, 1], 5: [1, 4, 6, 4, 1], 7: [2, 7, 14, 18, 14, 7, 2]}[side]
    kernel = np.array(numbers) / sum(numbers)
    wanted = image.astype(np.float64)
    for axis in (0, 1):
        wanted = ndimage.correlate1d(wanted, kernel, axis=axis, mode="mirror")
    got = blurred(image, side)
    assert got.dtype == image.dtype
    if dtype == "uint8":
        np.testing.assert_array_equal(got, np.floor(wanted + 0.5))
    else:
        np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_part_of_the_crops_is_blurred_and_none_of_their_labels() -> None:
    store, plain = ChipStore(MadeReader([(30, 30)] * 3)), AugmentationSettings(**STILL)
    sharp, soft = (
        CropDataset(store, length=200, crop=24, augmentation=told, seed=1)
        for told in (plain, AugmentationSettings(**STILL, blur=0.5))
    )
    changed = 0
    for k in range(200):
        (image, labels), (blurry, same) = sharp[k], soft[k]
        assert torch.equal(labels, same)
        changed += not torch.equal(image, blurry)
    assert 75 < changed < 125


def hsv(pixels: NDArray[np.float64], hue: float, saturation: float) -> NDArray[np.float64]:
    """RGB in 0–1 (N,3), one pixel after another by the standard library."""
    found = []
    for red, green, blue in pixels:
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        found.append(colorsys.hsv_to_rgb((h + hue / 360) % 1, min(1.0, s * saturation), v))
    return np.array(found)


@settings(max_examples=examples(40))
@given(hue=st.floats(-180, 180), saturation=st.floats(0, 2), seed=st.integers(0, 99), grey=st.booleans())
def test_hue_and_saturation_are_those_of_hsv(hue: float, saturation: float, seed: int, grey: bool) -> None:
    pixels = np.random.default_rng(seed).random((5, 4, 3))
    if grey:
        pixels[0], pixels[1] = 0.0, pixels[1, :, :1]
    wanted = hsv(pixels.reshape(-1, 3), hue, saturation).reshape(pixels.shape)
    got = coloured(pixels.astype(np.float32), IMAGENET_BANDS, hue=hue, saturation=saturation)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    wide = coloured(pixels.astype(np.float32) * 10_000, IMAGENET_BANDS, hue=hue, saturation=saturation)
    np.testing.assert_allclose(wide / 10_000, wanted, atol=1e-5)
    backwards = coloured(
        pixels[..., ::-1].astype(np.float32), IMAGENET_BANDS[::-1], hue=hue, saturation=saturation
    )
    np.testing.assert_allclose(backwards[..., ::-1], wanted, atol=1e-5)
    theirs = functional.adjust_hue(torch.from_numpy(pixels).permute(2, 0, 1), max(-0.5, min(0.5, hue / 360)))
    alone = coloured(pixels.astype(np.float32), IMAGENET_BANDS, hue=hue, saturation=1)
    np.testing.assert_allclose(alone, theirs.permute(1, 2, 0), atol=1e-5)


@settings(max_examples=examples(20))
@given(
    hue=st.floats(-40, 40), saturation=st.floats(0.5, 1), gain=st.floats(0.5, 1.5), shift=st.floats(-0.1, 0.3)
)
def test_colour_before_light_is_light_before_colour(
    hue: float, saturation: float, gain: float, shift: float
) -> None:
    """mmseg tosses a coin for the order of contrast: where nothing is clipped, it changes nothing."""
    pixels = np.random.default_rng(0).uniform(0.3, 0.7, (6, 6, 3)).astype(np.float32)

    def colour(image: NDArray[np.float32]) -> NDArray[np.generic]:
        return coloured(image, IMAGENET_BANDS, hue=hue, saturation=saturation)

    np.testing.assert_allclose(colour(pixels * gain + shift), colour(pixels) * gain + shift, atol=1e-5)


def bands_called(*names: str) -> tuple[Band, ...]:
    return tuple(Band(name=name, dtype="uint8", mean=100, std=50, p2=0, p98=255) for name in names)


@pytest.mark.parametrize("names", [("red", "green", "blue", "nir"), ("nir", "red", "green"), ("gray",)])
def test_hue_of_other_images_than_colour_ones_is_refused(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MadeReader, "bands", property(lambda self: bands_called(*names)))
    store = ChipStore(MadeReader([(20, 20)], count=len(names)))

    def crops(told: AugmentationSettings) -> CropDataset:
        return CropDataset(store, length=2, crop=16, augmentation=told, seed=0)

    told = AugmentationSettings(hue=36, saturation=0.5)
    with pytest.raises(
        SettingsError,
        match=rf"hue is 36 and augmentation.saturation is 0.5, but .* {', '.join(names)}, wanted red, green and blue",
    ):
        crops(told)
    assert len(crops(told.model_copy(update={"hue": 0.0, "saturation": 0.0}))[0]) == 2


def test_colours_change_by_chance_and_about_the_bands_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = bands_called("B", "green", "RED")
    monkeypatch.setattr(MadeReader, "bands", property(lambda self: names))
    store = ChipStore(MadeReader([(20, 20)] * 3))
    told = AugmentationSettings(**STILL, hue=36, saturation=0.5, light_probability=0.5)
    plain, colour = (
        CropDataset(store, length=200, crop=16, augmentation=one, seed=0)
        for one in (AugmentationSettings(**STILL), told)
    )
    drawn = [draw(0, k, told, bands=3).more for k in range(200)]
    for k in (0, 1, 2, 3, 4, 5):
        own = drawn[k]
        assert own is not None
        raw = (plain[k][0].double() * 50 + 100).numpy()[::-1] / 255
        wanted = hsv(raw.reshape(3, -1).T, own.hue, own.saturation).T.reshape(raw.shape)
        got = (colour[k][0].double() * 50 + 100).numpy()[::-1] / 255
        assert np.abs(got - wanted).max() < 0.51 / 255
    for changed in ([one.hue != 0 for one in drawn if one], [one.saturation != 1 for one in drawn if one]):
        assert 75 < sum(changed) < 125


def test_light_changes_in_part_of_the_crops() -> None:
    told = AugmentationSettings(light_probability=0.5)
    drawn = [draw(0, k, told, bands=3) for k in range(1000)]
    always = [draw(0, k, AugmentationSettings(), bands=3) for k in range(1000)]
    still = [(one.gain == (1.0,) * 3, one.shift == (0.0,) * 3) for one in drawn]
    for own in (0, 1):
        assert 440 < sum(one[own] for one in still) < 560
    assert 200 < sum(map(all, still)) < 300  # each by a chance of its own
    for one, before in zip(drawn, always, strict=True):
        assert one.gain in (before.gain, (1.0,) * 3)
        assert one.shift in (before.shift, (0.0,) * 3)


def test_contrast_about_zero_multiplies_the_pixels_as_they_are() -> None:
    """mmseg's: alpha times the values of the file."""
    reader = MadeReader([(20, 20)], mean=120.0, std=40.0)
    told = AugmentationSettings(**STILL | {"contrast": 0.5, "contrast_about": "zero"})
    crops = CropDataset(ChipStore(reader), length=20, crop=20, augmentation=told, seed=4)
    for k in range(20):
        gain = draw(4, k, told, bands=3).gain[0]
        wanted = (reader.pixels(0).image * gain - 120) / 40
        np.testing.assert_allclose(crops[k][0].numpy(), wanted, atol=1e-5)


def zooms(
    told: AugmentationSettings, size: tuple[int, int], count: int, crop: int = 2000
) -> NDArray[np.float64]:
    """(count, 2) zooms of height and width, to a part in a thousand."""
    found = []
    for k in range(count):
        there = place(draw(3, k, told, bands=1), told, height=size[0], width=size[1], crop=(crop, crop))
        assert there.turn is None
        found.append(
            (
                there.height / (there.rows.stop - there.rows.start),
                there.width / (there.cols.stop - there.cols.start),
            )
        )
    return np.array(found)


def test_uniform_zooms_are_uniform() -> None:
    told = AugmentationSettings(scale_distribution="uniform", stay_inside=False)
    found = zooms(told, (9000, 9000), 1000)[:, 0]
    assert stats.kstest(found, stats.uniform(0.5, 1.5).cdf).pvalue > 1e-3
    fitting = zooms(told.model_copy(update={"stay_inside": True}), (2500, 3000), 1000)[:, 0]
    assert stats.kstest(fitting, stats.uniform(0.8, 1.2).cdf).pvalue > 1e-3


def test_zooms_of_a_grid_are_its_steps() -> None:
    """The DeepLab authors' 0.5, 0.75 … 2: seven, equally often."""
    told = AugmentationSettings(scale_distribution="grid", scale_step=0.25, stay_inside=False)
    found = np.unique(zooms(told, (9000, 9000), 1400)[:, 0].round(3), return_counts=True)
    np.testing.assert_allclose(found[0], np.arange(0.5, 2.01, 0.25), atol=2e-3)
    assert stats.chisquare(found[1]).pvalue > 1e-3
    fitting = told.model_copy(update={"stay_inside": True})
    assert set(zooms(fitting, (2000, 2500), 300)[:, 0].round(3)) == {1, 1.25, 1.5, 1.75, 2}
    with pytest.raises(SettingsError, match=r"wanted a scale_step with it; add scale_step = 0\.25"):
        AugmentationSettings(scale_distribution="grid")
    with pytest.raises(SettingsError, match="scale_distribution is 'uniform', which has no steps"):
        AugmentationSettings(scale_distribution="uniform", scale_step=0.25)


@given(height=st.integers(50, 4000), width=st.integers(50, 4000))
def test_a_base_size_is_what_zoom_one_fits_an_image_into(height: int, width: int) -> None:
    """mmcv's rescale_size: the smaller of long edge over long side and short edge over short side."""
    told = AugmentationSettings(scale=(1, 1), base_size=(2048, 512), stay_inside=False)
    there = place(draw(0, 0, told, bands=1), told, height=height, width=width, crop=(40, 40))
    wanted = min(2048 / max(height, width), 512 / min(height, width))
    assert there.rows.stop - there.rows.start == min(height, max(1, round(40 / wanted)))


def test_height_and_width_are_zoomed_apart_as_tensorpack_does() -> None:
    """Two uniform zooms, drawn again until their ratio is within 15 % of 1."""
    told = AugmentationSettings(
        scale=(0.7, 1.5), scale_distribution="uniform", aspect=0.15, stay_inside=False
    )
    found = zooms(told, (9000, 9000), 1500)
    assert np.abs(found[:, 1] / found[:, 0] - 1).max() < 0.151
    random = np.random.default_rng(0)
    pairs = random.uniform(0.7, 1.5, (40_000, 2))
    theirs = pairs[np.abs(pairs[:, 1] / pairs[:, 0] - 1) < 0.15]
    for own, their in (
        (found[:, 0], theirs[:, 0]),
        (found[:, 1], theirs[:, 1]),
        (found[:, 1] / found[:, 0], theirs[:, 1] / theirs[:, 0]),
    ):
        assert stats.ks_2samp(own, their).pvalue > 1e-3


EVERYTHING = AugmentationSettings(
    scale=(0.6, 1.7),
    scale_distribution="uniform",
    base_size=(60, 40),
    aspect=0.2,
    stay_inside=False,
    rotation=25,
    rotation_probability=0.7,
    blur=0.5,
    blur_side=3,
    light_probability=0.5,
    light_range=(0.0, 200.0),
    cat_max_ratio=0.3,
)


@pytest.mark.parametrize(("dtype", "count"), [("uint8", 3), ("uint16", 5)])
def test_a_sample_with_all_of_it_depends_on_seed_and_number_only(dtype: str, count: int) -> None:
    """From chips that are kept or read each time, in any order, by workers or not."""

    def crops(budget: int | None) -> CropDataset:
        store = ChipStore(
            MadeReader([(40, 60), (50, 30)], dtype=dtype, count=count, holes=0.1), budget=budget
        )
        return CropDataset(store, length=16, crop=24, augmentation=EVERYTHING, seed=5, balanced=0.5)

    wanted = [crops(None)[k] for k in range(16)]
    others = [crops(0)[k] for k in reversed(range(16))][::-1]
    batches = list(Loader(crops(None), batch_size=4, workers=2))
    loaded = [(batch[0][k], batch[1][k]) for batch in batches for k in range(4)]
    for image, labels in (*zip(wanted, others, strict=True), *zip(wanted, loaded, strict=True)):
        assert torch.equal(image[0], labels[0])
        assert torch.equal(image[1], labels[1])
    assert len({image.numpy().tobytes() for image, _ in wanted}) == 16
