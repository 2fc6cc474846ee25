from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_chips import MadeReader, band
from numpy.typing import NDArray

from aerial_seg.bands import normalise
from aerial_seg.errors import InputError
from aerial_seg.recipe.crop_size import height_and_width
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.recipe.loading import load_recipe, recipe_names
from aerial_seg.training.crops import CropDataset, cut
from aerial_seg.training.samples.chip_store import ChipStore
from aerial_seg.training.samples.draws import Draw, draw
from aerial_seg.training.samples.pixels import Pixels
from aerial_seg.training.samples.places import place

STILL = AugmentationSettings(flips=False, rot90=False, scale=(1, 1), brightness=0, contrast=0, band_noise=0)
PLAIN = (band("float32"),)


def upright(zoom: float = 0.0, down: float = 0.0, across: float = 0.0) -> Draw:
    return Draw(zoom, down, across, 0, (False, False), (1.0,), (0.0,))


def cropped(
    image: NDArray[np.generic],
    labels: NDArray[np.uint8],
    change: Draw,
    *,
    crop: int | tuple[int, int],
    scale: tuple[float, float] = (1.0, 1.0),
    stay_inside: bool = False,
    valid: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8], bool]:
    """image (C,H,W), labels (H,W), measured (H,W) of a crop, and whether all is said to be measured."""
    height, width = labels.shape
    size = height_and_width(crop)
    settings = AugmentationSettings(scale=scale, stay_inside=stay_inside)
    there = place(change, settings, height=height, width=width, crop=size)
    kind = np.uint8 if image.dtype == np.uint8 else np.float32
    into = (
        np.full((*size, len(image)), 77, kind),
        np.full(size, 77, np.uint8),
        np.full(size, 77, np.uint8),
    )
    bands = (band(image.dtype.name, mean=9.0),) * len(image)
    pixels = Pixels(image, valid, labels).cut((there.rows, there.cols))
    whole = cut(pixels, there, change, bands, into, settings)
    return into[0].transpose(2, 0, 1), into[1], into[2], whole


def places(side: int = 40) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """An image that tells the place of every pixel, and labels that follow from it."""
    image = np.arange(1, side**2 + 1, dtype=np.float32).reshape(1, side, side)
    return image, ((image[0] - 1) // side % 7).astype(np.uint8)


PARTS = st.floats(0, 1, exclude_max=True)


@given(down=PARTS, across=PARTS, crop=st.tuples(st.integers(8, 60), st.integers(8, 60)))
def test_without_zoom_image_and_labels_are_the_same_window(
    down: float, across: float, crop: tuple[int, int]
) -> None:
    image, labels, measured, whole = cropped(*places(), upright(0, down, across), crop=crop)
    inside = image[0] > 0
    assert (labels[inside] == (image[0][inside] - 1) // 40 % 7).all()
    assert (labels[~inside] == 255).all()
    np.testing.assert_array_equal(measured, inside)
    assert inside.sum() == min(crop[0], 40) * min(crop[1], 40)
    assert whole == (max(crop) <= 40)


@given(zoom=PARTS, down=PARTS, across=PARTS, low=st.floats(0.4, 1), high=st.floats(1, 2.5))
def test_zoomed_labels_stay_class_numbers_at_the_images_pixel_centres(
    zoom: float, down: float, across: float, low: float, high: float
) -> None:
    """A vertical step edge lies at the same place in image and labels, whatever the zoom, up to the padding."""
    image = np.zeros((1, 64, 64), np.float32)
    image[:, :, 32:] = 100.0
    labels = (image[0] > 50).astype(np.uint8)
    image, labels, measured, _ = cropped(
        image, labels, upright(zoom, down, across), crop=48, scale=(low, high)
    )
    known = labels != 255
    assert set(labels[known].tolist()) <= {0, 1}
    np.testing.assert_array_equal(measured, known)
    sharp = known & ((image[0] < 20) | (image[0] > 80))
    assert ((labels == 1) == (image[0] > 50))[sharp].all()


@given(zoom=PARTS, down=PARTS, across=PARTS)
def test_padding_comes_after_the_zoom_and_blurs_no_edge(zoom: float, down: float, across: float) -> None:
    """Before, the rim of what was padded was a mixture of the image and the mean."""
    image, labels = np.full((2, 30, 30), 50.0, np.float32), np.full((30, 30), 3, np.uint8)
    image, labels, measured, whole = cropped(
        image, labels, upright(zoom, down, across), crop=32, scale=(0.4, 0.9)
    )
    assert not whole
    np.testing.assert_allclose(image, np.where(measured, 50.0, 0.0)[None].repeat(2, 0), atol=1e-4)
    np.testing.assert_array_equal(labels, np.where(measured, 3, 255))


@given(
    zoom=PARTS,
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    crop=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    scale=st.tuples(st.floats(0.2, 1.5), st.floats(0.2, 5)),
)
def test_a_zoom_that_stays_inside_pads_only_where_the_largest_would(
    zoom: float, height: int, width: int, crop: tuple[int, int], scale: tuple[float, float]
) -> None:
    def placed(stay_inside: bool, zoom: float = zoom):
        return place(
            upright(zoom, 0.5, 0.5),
            AugmentationSettings(scale=scale, stay_inside=stay_inside),
            height=height,
            width=width,
            crop=crop,
        )

    inside = placed(stay_inside=True)
    pads = (inside.height, inside.width) != crop
    sides = list(zip(crop, (height, width), strict=True))
    possible = all(round(side / max(scale)) <= length for side, length in sides)
    assert not (possible and pads)
    if not possible:  # then as little is padded as can be
        for (side, length), filled in zip(sides, (inside.height, inside.width), strict=True):
            assert filled >= min(side, math.floor(length * max(scale)) - 1)
    assert 0 <= inside.top <= crop[0] - inside.height
    assert 0 <= inside.left <= crop[1] - inside.width
    if all(side / min(scale) <= length for side, length in sides):
        assert inside == placed(stay_inside=False)


def test_zooms_are_log_uniform_in_what_is_possible() -> None:
    sides = []
    for k in range(1000):
        change = upright((k + 0.5) / 1000, 0.5, 0.5)
        there = place(change, AugmentationSettings(scale=(0.5, 2)), height=512, width=600, crop=(400, 400))
        sides.append(there.rows.stop - there.rows.start)
    factors = np.log(400 / np.array(sides))
    assert factors.min() == pytest.approx(math.log(400 / 512), abs=0.01)
    assert factors.max() == pytest.approx(math.log(2), abs=0.01)
    assert np.mean(factors) == pytest.approx((math.log(400 / 512) + math.log(2)) / 2, abs=0.01)


def padded_share(name: str, chip: int, samples: int = 400) -> float:
    """Of the pixels of a recipe's crops of chips of this size."""
    recipe = load_recipe(name)
    crop, settings = recipe.training.crop_size, recipe.augmentation
    inside = 0
    for index in range(samples):
        there = place(draw(0, index, settings, bands=3), settings, height=chip, width=chip, crop=crop)
        inside += there.height * there.width
    return 1 - inside / (samples * math.prod(crop))


@pytest.mark.parametrize("chip", [256, 512])
@pytest.mark.parametrize(
    "name", [name for name in recipe_names() if load_recipe(name).data.benchmark is None]
)
def test_shipped_recipes_pad_nothing_of_usual_chips(name: str, chip: int) -> None:
    """A tenth of a default run's pixels were padding before."""
    assert padded_share(name, chip) == 0


@pytest.mark.parametrize("name", [name for name in recipe_names() if load_recipe(name).data.benchmark])
def test_the_papers_recipes_keep_the_papers_scales(name: str) -> None:
    """Uniform (PSPNet, mmseg, ssseg, tensorpack), or each of a grid alike (DeepLabv3); zoom 1 is of the base size."""
    settings = load_recipe(name).augmentation.model_copy(update={"aspect": 0.0, "rotation": 0.0})
    assert not settings.stay_inside
    low, high = settings.scale
    base = 1.0 if settings.base_size is None else min(settings.base_size) / 500
    zooms = []
    for index in range(2000):
        there = place(draw(0, index, settings, bands=3), settings, height=500, width=500, crop=(100, 100))
        zooms.append(100 / (there.rows.stop - there.rows.start) / base)
    if settings.scale_distribution == "grid":
        steps = np.arange(low, high + 0.01, settings.scale_step)
        nearest = np.abs(np.subtract.outer(zooms, steps)).argmin(axis=1)
        assert np.abs(zooms - steps[nearest]).max() < 0.02
        assert np.bincount(nearest, minlength=len(steps)).min() > 2000 / len(steps) * 0.8
    else:
        assert settings.scale_distribution == "uniform"
        assert np.histogram(zooms, 4, (low - 0.01, high + 0.03))[0].min() > 400


@given(turns=st.integers(0, 3), rows=st.booleans(), cols=st.booleans())
def test_turns_and_flips_move_image_and_labels_together(turns: int, rows: bool, cols: bool) -> None:
    image, labels = places()
    change = Draw(0, 0, 0, turns, (rows, cols), (1.0,), (0.0,))
    turned, moved, _, _ = cropped(image, labels, change, crop=40)
    wanted = np.rot90(image[0], turns)
    wanted = wanted[::-1] if rows else wanted
    wanted = wanted[:, ::-1] if cols else wanted
    np.testing.assert_array_equal(turned[0], wanted)
    np.testing.assert_array_equal(moved, (turned[0] - 1) // 40 % 7)


def test_all_eight_symmetries_occur_equally_often() -> None:
    seen: dict[bytes, int] = {}
    for index in range(800):
        change = draw(1, index, AugmentationSettings(), bands=1)
        view = np.rot90(np.arange(4).reshape(2, 2), change.turns)
        for axis in (0, 1):
            view = np.flip(view, axis) if change.flips[axis] else view
        seen[view.tobytes()] = seen.get(view.tobytes(), 0) + 1
    assert len(seen) == 8
    assert min(seen.values()) > 60


@pytest.mark.parametrize(
    ("flips", "rows", "cols"), [(True, True, True), ("horizontal", False, True), (False, False, False)]
)
def test_flips_are_those_that_are_asked_for(flips: object, rows: bool, cols: bool) -> None:
    settings = AugmentationSettings.model_validate({"flips": flips, "rot90": False})
    drawn = [draw(0, index, settings, bands=3) for index in range(400)]
    for axis, may in enumerate((rows, cols)):
        count = sum(change.flips[axis] for change in drawn)
        assert 140 < count < 260 if may else count == 0
    assert all(change.turns == 0 for change in drawn)


def test_light_changes_stay_within_the_settings() -> None:
    settings = AugmentationSettings(brightness=0.3, contrast=0.2, band_noise=0.1)
    drawn = [draw(0, index, settings, bands=4) for index in range(500)]
    gains, shifts = (np.array([getattr(one, name) for one in drawn]) for name in ("gain", "shift"))
    for values, most in ((gains - 1, 0.2), (shifts, 0.3)):
        assert np.abs(values).max() <= most * 1.1
        assert np.abs(values).max() > most * 0.95
        apart = values - values.mean(axis=1, keepdims=True)
        assert 0 < np.abs(apart).max() <= most * 0.2


@given(
    dtype=st.sampled_from(["uint8", "uint16", "int16", "float32"]),
    count=st.integers(1, 9),
    holes=st.sampled_from([0.0, 0.3]),
    index=st.integers(0, 20),
)
def test_a_crop_is_the_chips_pixels_normalised_and_lit_after_the_cut(
    dtype: str, count: int, holes: float, index: int
) -> None:
    """Against the other order, in float64: the whole chip normalised, then changed; unmeasured pixels are the mean."""
    reader = MadeReader([(20, 20)], dtype=dtype, count=count, holes=holes)
    settings = AugmentationSettings(scale=(1, 1), flips=False, rot90=False)
    image, labels = CropDataset(ChipStore(reader), length=30, crop=20, augmentation=settings, seed=4)[index]
    pixels, change = reader.pixels(0), draw(4, index, settings, bands=count)
    valid = np.ones((20, 20), bool) if pixels.valid is None else pixels.valid
    wanted = normalise(pixels.image, valid, reader.bands).astype(np.float64)
    wanted = (wanted * np.array(change.gain)[:, None, None] + np.array(change.shift)[:, None, None]) * valid
    np.testing.assert_allclose(image.numpy(), wanted, atol=1e-5)
    np.testing.assert_array_equal(labels.numpy(), pixels.labels)
    assert (image.dtype, labels.dtype) == (torch.float32, torch.int64)


@given(count=st.integers(1, 9), side=st.integers(20, 60))
def test_bytes_are_zoomed_to_half_a_grey_value_of_what_floats_are(count: int, side: int) -> None:
    random = np.random.default_rng(side)
    image = random.integers(0, 256, (side, side, count)).astype(np.uint8).transpose(2, 0, 1)
    labels = np.zeros((side, side), np.uint8)
    change = upright()
    kinds = (image, image.astype(np.float32))
    as_bytes, as_floats = (
        cropped(kind, labels, change, crop=32, scale=(32 / side,) * 2)[0] for kind in kinds
    )
    assert np.abs(as_bytes - as_floats).max() < 1.01


def test_what_unmeasured_pixels_hold_reaches_no_other_pixel() -> None:
    image, labels = np.full((3, 40, 40), 100, np.float32), np.zeros((40, 40), np.uint8)
    valid = np.ones((40, 40), bool)
    valid[:, :15] = False
    image[:, ~valid] = np.nan
    got, _, measured, whole = cropped(image, labels, upright(), crop=32, scale=(0.8, 0.8), valid=valid)
    assert not whole
    assert np.isfinite(got).all()
    assert 0.35 < 1 - measured.mean() < 0.4


def crops(seed: int = 0, *, chips: int = 3, length: int = 30, crop: int = 16) -> CropDataset:
    reader = MadeReader([(40, 40)] * chips)
    return CropDataset(
        ChipStore(reader), length=length, crop=crop, augmentation=AugmentationSettings(), seed=seed
    )


def test_a_sample_depends_on_seed_and_number_only() -> None:
    forward = [crops()[i][0] for i in range(10)]
    backward = [crops()[i][0] for i in reversed(range(10))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert any(not torch.equal(a, crops(1)[i][0]) for i, a in enumerate(forward))


def test_every_chip_is_used_once_before_any_is_used_again_and_can_be_named() -> None:
    reader = MadeReader([(9, 9)] * 5)
    made = CropDataset(ChipStore(reader, budget=0), length=20, crop=8, augmentation=STILL, seed=3)
    for index in range(20):
        made[index]
    turns = [reader.read_so_far[k : k + 5] for k in range(0, 20, 5)]
    assert all(sorted(turn) == [0, 1, 2, 3, 4] for turn in turns)
    assert len(set(map(tuple, turns))) > 1
    assert [made.chip_of(index) for index in range(20)] == [f"chip {number}" for number in reader.read_so_far]


def test_chips_of_another_dtype_than_the_datasets_are_told() -> None:
    reader = MadeReader([(20, 20)])
    wide = reader.pixels(0)
    reader.pixels = lambda index: Pixels(wide.image.astype(np.uint16), None, wide.labels)  # type: ignore[method-assign]
    made = CropDataset(ChipStore(reader, budget=0), length=1, crop=8, augmentation=STILL, seed=0)
    with pytest.raises(InputError, match=r"chip 0 holds uint16, .* uint8; make the chips again"):
        made[0]
