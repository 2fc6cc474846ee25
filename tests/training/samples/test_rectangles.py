"""Crops that are no squares: the windows that numpy cuts by the same numbers, and what cannot be done with them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from made_chips import MadeReader
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from aerial_seg.errors import SettingsError
from aerial_seg.models.network import Network, check_shapes
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import change_recipe, load_recipe, parse_recipe
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.training.crops import CropDataset
from aerial_seg.training.loader import Loader
from aerial_seg.training.samples.chip_store import ChipStore
from aerial_seg.training.samples.choice import place_by_labels
from aerial_seg.training.samples.draws import draw, key_of_places
from aerial_seg.training.samples.places import place
from aerial_seg.training.samples.resizing import nearest

SIZES = st.tuples(st.integers(1, 60), st.integers(1, 60))


def windowed(array: NDArray[np.generic], size: tuple[int, int], parts: tuple[float, float], beyond: float):
    """(height, width) of the array's last two axes, at these parts of the room that there is; `beyond` around it."""
    for axis, (side, part) in enumerate(zip(size, parts, strict=True), start=array.ndim - 2):
        room = side - array.shape[axis]
        if room > 0:
            before = int(part * (room + 1))
            widths = [(0, 0)] * array.ndim
            widths[axis] = before, room - before
            array = np.pad(array, widths, constant_values=beyond)
        else:
            begin = int(part * (1 - room))
            array = np.take(array, range(begin, begin + side), axis=axis)
    return array


@settings(max_examples=examples(100))
@given(
    crop=SIZES,
    chip=SIZES,
    index=st.integers(0, 30),
    dtype=st.sampled_from(["uint8", "float32"]),
    holes=st.sampled_from([0.0, 0.3]),
    flips=st.sampled_from([True, "horizontal", False]),
)
def test_a_sample_is_the_window_that_numpy_cuts(
    crop: tuple[int, int], chip: tuple[int, int], index: int, dtype: str, holes: float, flips: bool | str
) -> None:
    """Without zoom: image in units of the standard deviation, padding and holes the mean, labels ignored there."""
    reader = MadeReader([chip], dtype=dtype, count=3, holes=holes)
    told = AugmentationSettings(
        scale=(1, 1), stay_inside=False, rot90=False, flips=flips, brightness=0, contrast=0, band_noise=0
    )
    made = CropDataset(ChipStore(reader), length=31, crop=crop, augmentation=told, seed=5)
    image, labels = made[index]
    assert (image.shape, labels.shape) == ((3, *crop), crop)
    numbers = draw(5, index, told, bands=3)
    pixels = reader.pixels(0)
    valid = np.ones(chip, bool) if pixels.valid is None else pixels.valid
    units = np.where(valid, (pixels.image.astype(np.float64) - 100) / 50, 0.0)
    parts = numbers.down, numbers.across
    wanted, classes = windowed(units, crop, parts, 0.0), windowed(pixels.labels, crop, parts, 255)
    for axis, flipped in zip((-2, -1), numbers.flips, strict=True):
        wanted, classes = (np.flip(one, axis) if flipped else one for one in (wanted, classes))
    np.testing.assert_allclose(image.numpy(), wanted, atol=1e-5)
    np.testing.assert_array_equal(labels.numpy(), classes)


@settings(max_examples=examples(60))
@given(crop=st.tuples(st.integers(4, 60), st.integers(4, 60)), index=st.integers(0, 10**6))
def test_a_zoomed_sample_is_the_window_that_pillow_resizes(crop: tuple[int, int], index: int) -> None:
    """One zoom for height and width, whatever the crop's shape; images antialiased, labels the nearest."""
    reader = MadeReader([(120, 140)], dtype="uint8", count=1, mean=0.0, std=1.0)
    told = AugmentationSettings(
        scale=(0.5, 2), scale_distribution="uniform", stay_inside=False, flips=False, rot90=False,
        brightness=0, contrast=0, band_noise=0,
    )  # fmt: skip
    made = CropDataset(ChipStore(reader), length=10**6 + 1, crop=crop, augmentation=told, seed=5)
    image, labels = made[index]
    numbers, pixels = draw(5, index, told, bands=1), reader.pixels(0)
    zoom = 0.5 + 1.5 * numbers.zoom
    sides = [max(1, round(side / zoom)) for side in crop]
    top, left = (
        int(part * (length - side + 1))
        for part, length, side in zip((numbers.down, numbers.across), (120, 140), sides, strict=True)
    )
    window = slice(top, top + sides[0]), slice(left, left + sides[1])
    size = crop[1], crop[0]
    resized = Image.fromarray(pixels.image[0][window]).resize(size, Image.Resampling.BILINEAR)
    assert np.abs(image[0].numpy() - np.asarray(resized, np.float32)).max() <= 1.01
    near = Image.fromarray(pixels.labels[window]).resize(size, Image.Resampling.NEAREST)
    # Where a pixel's centre lies on the very edge between two of the image, Pillow's floats take either.
    clear = [
        ((2 * np.arange(side) + 1) * seen % (2 * side)) != 0 for side, seen in zip(crop, sides, strict=True)
    ]
    np.testing.assert_array_equal(
        labels.numpy()[clear[0]][:, clear[1]], np.asarray(near)[clear[0]][:, clear[1]]
    )


@settings(max_examples=examples(60))
@given(
    index=st.integers(0, 10**6),
    crop=st.sampled_from([(12, 40), (40, 12), (20, 30)]),
    inside=st.booleans(),
    rotation=st.sampled_from([0, 15]),
)
def test_of_rectangles_too_those_of_one_class_are_placed_anew(
    index: int, crop: tuple[int, int], inside: bool, rotation: int
) -> None:
    """Of an image of two halves: a first place that holds both stays, another is left."""
    labels = np.zeros((90, 100), np.uint8)
    labels[:, 50:] = 1
    mixed = AugmentationSettings(
        cat_max_ratio=0.9, scale=(0.8, 1.2), stay_inside=inside, rotation=rotation, rot90=False
    )
    anywhere = mixed.model_copy(update={"cat_max_ratio": 1.0})
    there, first = (
        place_by_labels(
            labels, draw(2, index, told, bands=1), told, crop=crop, balanced=0.0, key=key_of_places(2, index)
        )
        for told in (mixed, anywhere)
    )
    seen, before = (nearest(labels[one.rows, one.cols], one, 255) for one in (there, first))
    if not rotation or inside:
        assert seen.shape == before.shape == crop  # nothing is padded: the image is larger than any window
    share = max(np.mean(before[before != 255] == k) for k in (0, 1))
    assert (there == first) == (share < 0.9)


@pytest.mark.parametrize("crop", [(16, 40), (40, 16)])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("rotation", [10, 180])
def test_a_turned_rectangle_holds_the_pixel_that_it_is_to_hold(
    crop: tuple[int, int], inside: bool, rotation: int
) -> None:
    """So far from the image's edges that none of its places is one where the crop would leave the image."""
    labels = np.zeros((200, 200), np.uint8)
    labels[99:102, 94:97] = 1
    told = AugmentationSettings(scale=(0.8, 1.5), stay_inside=inside, rotation=rotation, rot90=False)
    for index in range(30):
        change = draw(2, index, told, bands=1)
        there = place(change, told, height=200, width=200, crop=crop, held=(100, 95))
        seen = nearest(labels[there.rows, there.cols], there, 255)
        assert seen.shape == crop
        assert (seen == 1).any()


def test_batches_of_workers_hold_them_as_they_are() -> None:
    reader = MadeReader([(20, 44)] * 5, holes=0.1)
    told = AugmentationSettings(scale=(0.7, 1.5), stay_inside=False, rot90=False)
    made = CropDataset(ChipStore(reader), length=12, crop=(8, 24), augmentation=told, seed=3)
    number = 0
    for images, labels in Loader(made, batch_size=4, workers=2):
        wanted = [made[k] for k in range(number, number + 4)]
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images, torch.stack([image for image, _ in wanted]))
        assert torch.equal(labels, torch.stack([own for _, own in wanted]))
        number += 4
    assert number == 12


# What is refused


TURNS = (
    "rot90 turns crops by quarters, which makes 64x32 pixels of 32x64 (height, width); "
    "set augmentation.rot90 = false"
)


def test_quarter_turns_are_refused_wherever_they_are_asked_for() -> None:
    """In a recipe, in a further stage of one, and of who makes crops without a recipe; the remedy is one."""
    with pytest.raises(SettingsError, match=re.escape(TURNS)):
        load_recipe("default", ["training.crop=[32, 64]"])
    told = load_recipe("default", ["training.crop=[32, 64]", "augmentation.rot90=false"])
    assert told.training.crop_size == (32, 64)
    later = '[[stage]]\nname = "wide"\n[stage.training]\ncrop = [32, 64]\n'
    with pytest.raises(SettingsError, match=re.escape(f"'stage.0': {TURNS}")):
        parse_recipe(later, "mine.toml")
    staged = parse_recipe(f"{later}[stage.augmentation]\nrot90 = false\n", "mine.toml").by_stage()
    assert [one.training.crop for one in staged] == [256, (32, 64)]
    store = ChipStore(MadeReader([(40, 80)]))
    with pytest.raises(SettingsError, match=re.escape(TURNS)):
        CropDataset(store, length=1, crop=(32, 64), augmentation=AugmentationSettings(), seed=0)
    made = CropDataset(store, length=1, crop=(32, 64), augmentation=told.augmentation, seed=0)
    assert made[0][0].shape == (3, 32, 64)


def test_two_sides_that_are_alike_are_a_square() -> None:
    told = load_recipe("default", ["training.crop=[32, 32]"])
    assert told.augmentation.rot90
    reader = MadeReader([(40, 80)])
    one, other = (
        CropDataset(ChipStore(reader), length=20, crop=crop, augmentation=told.augmentation, seed=0)
        for crop in (told.training.crop, 32)
    )
    for k in range(20):
        assert torch.equal(one[k][0], other[k][0])


@pytest.mark.parametrize(
    "crop",
    [
        "[32]",
        "[32, 64, 3]",
        "[0, 64]",
        "[32, 1.5]",
        "[]",
        "512x1024",
        "0",
        "[32, 70000]",
        "{ h = 1 }",
    ],
)
def test_what_is_no_size_is_told_in_one_line(crop: str) -> None:
    with pytest.raises(SettingsError) as told:
        load_recipe("default", ["augmentation.rot90=false", f"training.crop={crop}"])
    line = str(told.value)
    assert line.endswith(
        ": wanted one number of pixels (a square) or [height, width], each a whole number from 1 to 65,536"
    )
    assert "'training.crop' is " in line
    assert "\n" not in line


def test_a_recipe_is_written_and_read_strictly_as_runs_and_cards_do() -> None:
    for crop, written in ((64, 64), ([32, 64], [32, 64]), ((32, 32), [32, 32])):
        recipe = change_recipe(Recipe(), {"augmentation.rot90": False, "training.crop": crop})
        assert recipe.model_dump(mode="json")["training"]["crop"] == written
        assert Recipe.model_validate_json(recipe.model_dump_json(), strict=True) == recipe
        assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_each_side_is_one_that_the_network_takes() -> None:
    """PSPNet with align_corners has sides of 8k + 1: the message names the side and the nearest, which are taken."""
    geometry = ModelGeometry(8, 8, 8, align_corners=True)
    geometry.check_crop(height=513, width=1025)
    with pytest.raises(
        SettingsError, match=r"training\.crop's width 1024 is not of the form 8·n \+ 1.*1017 or 1025"
    ):
        geometry.check_crop(height=513, width=1024)
    geometry.check_crop(height=513, width=1017)
    with pytest.raises(SettingsError, match=r"training\.crop's height 512 .*try 505 or 513"):
        geometry.check_crop(height=512, width=1025)
    with pytest.raises(SettingsError, match=r"^training\.crop 512 is not of the form"):
        geometry.check_crop(height=512, width=512)


class Pointwise(Network):
    """Logits at every pixel, of an image that is `cut` columns narrower."""

    def __init__(self, cut: int = 0) -> None:
        super().__init__()
        self.geometry, self.cut, self.conv = ModelGeometry(1, 1, 1), cut, nn.Conv2d(3, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        """image (N,3,H,W) to logits (N,2,H,W − cut)."""
        logits: Tensor = self.conv(image[..., : image.shape[-1] - self.cut])
        return logits


def test_a_network_of_ones_own_is_tried_with_crops_as_they_are() -> None:
    check_shapes(Pointwise(), bands=3, classes=2, crop=(8, 24))
    with pytest.raises(
        SettingsError, match=r"shape \(1, 2, 8, 23\) of an image \(1, 3, 8, 24\), wanted \(1, 2, 8, 24\)"
    ):
        check_shapes(Pointwise(1), bands=3, classes=2, crop=(8, 24))


def test_hard_pixels_are_counted_in_both_sides() -> None:
    told = ["augmentation.rot90=false", "training.loss=ohem", "training.crop=[256, 512]"]
    assert load_recipe("default", told).training.hard_at_least == 100_000
    told[-1] = "training.crop=[128, 512]"
    with pytest.raises(SettingsError, match=r"a crop of 128x512 has 65,536 pixels: .*ohem_min_kept = 12500,"):
        load_recipe("default", told)
    assert load_recipe("default", [*told, "training.ohem_min_kept=12500"]).training.hard_at_least == 12_500
