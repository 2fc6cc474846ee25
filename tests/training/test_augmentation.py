"""What is done to a crop beyond zoom, flips and light, against scipy, Pillow, torchvision and the codes' formulas."""

from __future__ import annotations

import cmath
import colorsys
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from made_chips import MadeReader, band
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, stats
from torchvision.transforms.v2 import functional

from aerial_seg.bands import IMAGENET_BANDS, Band
from aerial_seg.errors import SettingsError
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.training.crops import CropDataset, cut
from aerial_seg.training.loader import Loader
from aerial_seg.training.samples.chip_store import ChipStore
from aerial_seg.training.samples.colour import blurred, coloured
from aerial_seg.training.samples.draws import Draw, More, draw
from aerial_seg.training.samples.pixels import Pixels
from aerial_seg.training.samples.places import place

PARTS = st.floats(0, 1, exclude_max=True)
ANGLES = st.integers(-1800, 1799).map(lambda tenths: tenths / 10 + 0.037)
"""At whole angles places lie on the very edge between two pixels, which is rounded apart."""
STILL = {"flips": False, "rot90": False, "scale": (1, 1), "brightness": 0, "contrast": 0, "band_noise": 0}


def change(*, angle: float = 0.0, zoom: float = 0.0, down: float = 0.0, across: float = 0.0) -> Draw:
    return Draw(zoom, down, across, 0, (False, False), (1.0,), (0.0,), More(angle, False, 0.0, 1.0, 0))


def cropped(
    pixels: Pixels, drawn: Draw, told: AugmentationSettings, *, crop: int, mean: float = 9.0
) -> tuple[NDArray[np.generic], NDArray[np.uint8], NDArray[np.uint8], bool]:
    """image (C,S,S), labels (S,S), measured (S,S) of a crop, and whether all is said to be measured."""
    height, width = pixels.labels.shape
    there = place(drawn, told, height=height, width=width, crop=crop)
    kind = np.uint8 if pixels.image.dtype == np.uint8 else np.float32
    into = (
        np.full((crop, crop, len(pixels.image)), 77, kind),
        np.full((crop, crop), 77, np.uint8),
        np.full((crop, crop), 77, np.uint8),
    )
    bands = (band(pixels.image.dtype.name, mean=mean),) * len(pixels.image)
    measured = cut(pixels.cut((there.rows, there.cols)), there, drawn, bands, into)
    return into[0].transpose(2, 0, 1), into[1], into[2], measured


def noise(height: int, width: int, *, count: int = 2, dtype: str = "float32", holes: float = 0.0) -> Pixels:
    return MadeReader([(height, width)], dtype=dtype, count=count, holes=holes).pixels(0)


@settings(max_examples=examples(60))
@given(
    angle=ANGLES,
    down=PARTS,
    across=PARTS,
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    crop=st.integers(1, 60),
    holes=st.sampled_from([0.0, 0.3]),
)
def test_a_crop_is_cut_from_the_image_turned_as_a_whole(
    angle: float, down: float, across: float, height: int, width: int, crop: int, holes: float
) -> None:
    """semseg's order: the image turns inside its own frame, which is cut then. The oracle is scipy on all of it."""
    pixels, told = noise(height, width, holes=holes), AugmentationSettings(stay_inside=False, scale=(1, 1))
    drawn = change(angle=angle, down=down, across=across)
    image, labels, measured, is_all = cropped(pixels, drawn, told, crop=crop)
    there = place(change(down=down, across=across), told, height=height, width=width, crop=crop)
    spot = (
        slice(there.top, there.top + there.height),
        slice(there.left, there.left + there.width),
    )
    valid = np.ones((height, width), bool) if pixels.valid is None else pixels.valid

    def turned(array: NDArray[np.generic], order: int, beyond: float) -> NDArray[np.float64]:
        """Frame pixel o shows place c + R(o − c), angles counter-clockwise for who looks at it."""
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        matrix, centre = np.array([[cos, sin], [-sin, cos]]), (np.array(array.shape) - 1) / 2
        return ndimage.affine_transform(
            array.astype(np.float64),
            matrix,
            centre - matrix @ centre,
            order=order,
            mode="grid-constant",
            cval=beyond,
        )

    def framed(array: NDArray[np.float64], beyond: float) -> NDArray[np.float64]:
        found = np.full((crop, crop), float(beyond))
        found[spot] = array[there.rows, there.cols]
        return found

    gapless = np.where(valid, pixels.image, 9.0)
    wanted = [framed(turned(own, 1, 9.0), 0) for own in gapless]
    np.testing.assert_allclose(image, wanted, atol=0.01)  # of 200: the grid is in float32
    seen = framed(turned(pixels.labels, 0, 255), 255), framed(turned(valid, 0, 0), 0)
    np.testing.assert_array_equal(labels, seen[0])
    np.testing.assert_array_equal(measured, seen[1])
    assert is_all == measured.all()


@pytest.mark.parametrize("angle", [10.0, -10.0, 90.0, 33.3])
def test_turning_goes_counter_clockwise_as_in_pillow_and_torchvision(angle: float) -> None:
    pixels = noise(60, 60, count=1, dtype="uint8")
    told = AugmentationSettings(stay_inside=False, scale=(1, 1))
    image, labels, _, _ = cropped(pixels, change(angle=angle), told, crop=60, mean=0.0)
    theirs = np.array(Image.fromarray(pixels.labels).rotate(angle, Image.Resampling.NEAREST, fillcolor=255))
    assert (labels == theirs).mean() > 0.998
    tensor = torch.from_numpy(pixels.image.copy())
    near = functional.rotate(tensor, angle, functional.InterpolationMode.BILINEAR, fill=[0.0]).numpy()
    inside = slice(12, -12), slice(12, -12)
    assert np.abs(image[0].astype(int) - near[0].astype(int))[inside].max() <= 1


@settings(max_examples=examples(60))
@given(
    angle=ANGLES,
    zoom=PARTS,
    down=PARTS,
    across=PARTS,
    inside=st.booleans(),
    aspect=st.sampled_from([0, 0.15]),
)
def test_zoom_comes_before_the_turn_and_all_follows_the_image(
    angle: float, zoom: float, down: float, across: float, inside: bool, aspect: float
) -> None:
    """Of a smooth image the crop shows the formula's values where its labels say that it looks."""
    height, width, crop = 150, 130, 48

    def formula(row: NDArray[np.float64], col: NDArray[np.float64]) -> NDArray[np.float64]:
        return 100 + 40 * np.sin(row / 15) + 40 * np.cos(col / 19)

    row, col = np.mgrid[:height, :width] + 0.5
    halves = (row < 71).astype(np.uint8) + 2 * (col < 57)
    pixels = Pixels(formula(row, col)[None].astype(np.float32), None, halves.astype(np.uint8))
    told = AugmentationSettings(stay_inside=inside, scale=(0.6, 1.8), aspect=aspect)
    drawn = change(angle=angle, zoom=zoom, down=down, across=across)
    there = place(drawn, told, height=height, width=width, crop=crop)
    image, labels, measured, _ = cropped(pixels, drawn, told, crop=crop)
    assert there.turn is not None
    # Independent of the code: by complex numbers, from the crop's middle pixel on.
    down_step, across_step = there.turn.steps
    plane = np.arange(crop)[None] + 1j * np.arange(crop)[:, None] + (0.5 + 0.5j) - (crop / 2) * (1 + 1j)
    plane *= cmath.exp(1j * math.radians(angle))  # rows grow downwards
    middle = [line[0] + crop / 2 * (line[1] + line[2]) for line in (there.turn.rows, there.turn.cols)]
    rows, cols = middle[0] + down_step * plane.imag, middle[1] + across_step * plane.real
    in_image = (rows > 0) & (rows < height) & (cols > 0) & (cols < width)
    assert (measured == in_image).mean() > 0.999
    known = measured == 1
    wanted = ((np.floor(rows) + 0.5 < 71) + 2 * (np.floor(cols) + 0.5 < 57))[known]
    assert (labels[known] == wanted).mean() > 0.999
    assert (labels[~known] == 255).all()
    core = ndimage.binary_erosion(in_image, iterations=4, border_value=1)
    core &= (rows > 4) & (rows < height - 4) & (cols > 4) & (cols < width - 4)
    assert np.abs(image[0] - formula(rows, cols))[core].max(initial=0) < 1.5


@given(
    angle=ANGLES,
    zoom=PARTS,
    down=PARTS,
    across=PARTS,
    height=st.integers(30, 90),
    width=st.integers(30, 90),
)
def test_a_turned_crop_that_stays_inside_is_all_image(
    angle: float, zoom: float, down: float, across: float, height: int, width: int
) -> None:
    """Its largest zoom fits, whatever the angle: a crop of 20 px turned is less than 29 px."""
    told = AugmentationSettings(scale=(0.5, 1.0))
    drawn = change(angle=angle, zoom=zoom, down=down, across=across)
    _, labels, measured, is_all = cropped(noise(height, width), drawn, told, crop=20)
    assert is_all
    assert measured.all()
    assert (labels != 255).all()


@settings(max_examples=examples(40))
@given(
    angle=ANGLES,
    count=st.integers(1, 9),
    side=st.integers(20, 60),
    dtype=st.sampled_from(["uint8", "uint16"]),
)
def test_bytes_and_wide_integers_turn_as_floats_do(angle: float, count: int, side: int, dtype: str) -> None:
    pixels = noise(side, side, count=count, dtype=dtype)
    floats = Pixels(pixels.image.astype(np.float32), None, pixels.labels)
    told = AugmentationSettings(stay_inside=False, scale=(0.8, 0.8))
    got, wanted = (cropped(one, change(angle=angle), told, crop=32)[0] for one in (pixels, floats))
    assert got.dtype == (np.uint8 if dtype == "uint8" else np.float32)
    assert np.abs(got - wanted).max() < (1.51 if dtype == "uint8" else 1e-3)  # bytes are rounded twice


def test_what_unmeasured_pixels_hold_reaches_no_other_pixel_of_a_turned_crop() -> None:
    image, labels = np.full((3, 40, 40), 100, np.float32), np.zeros((40, 40), np.uint8)
    valid = np.ones((40, 40), bool)
    valid[:, :15] = False
    image[:, ~valid] = np.nan
    labels[~valid] = 255
    told = AugmentationSettings(stay_inside=False, scale=(0.8, 0.8))
    got, seen, measured, is_all = cropped(Pixels(image, valid, labels), change(angle=30), told, crop=32)
    assert not is_all
    assert np.isfinite(got).all()
    assert 0.3 < 1 - measured.mean() < 0.5
    np.testing.assert_array_equal(seen == 255, measured == 0)


def test_part_of_the_crops_is_turned_by_angles_of_all_sizes() -> None:
    told = AugmentationSettings(rotation=10, rotation_probability=0.5)
    angles = np.array([draw(0, k, told, bands=3).more.angle for k in range(2000)])  # type: ignore[union-attr]
    assert 0.46 < (angles != 0).mean() < 0.54
    assert stats.kstest(angles[angles != 0], stats.uniform(-10, 20).cdf).pvalue > 1e-3


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("side", [3, 5, 7])
@given(height=st.integers(1, 20), width=st.integers(1, 20), count=st.integers(1, 5))
@settings(max_examples=examples(20))
def test_blur_is_opencvs_gaussian_of_no_sigma(
    side: int, dtype: str, height: int, width: int, count: int
) -> None:
    """3 and 5: binomial. 7: nearly its formula, 0.3·((7 − 1)/2 − 1) + 0.8 = 1.4. The oracle is scipy's mirror image."""
    image = noise(height, width, count=count, dtype=dtype).image.transpose(1, 2, 0)
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
    names = bands_called("Blue", "green", "RED")
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
        there = place(draw(3, k, told, bands=1), told, height=size[0], width=size[1], crop=crop)
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
    there = place(change(), told, height=height, width=width, crop=40)
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
