"""Crops that are placed by their image's labels: not of one class alone, and where a class is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from made_chips import MadeReader
from numpy.typing import NDArray

from aerial_seg.recipe.crop_size import height_and_width
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.training.crops import CropDataset
from aerial_seg.training.samples.chip_store import ChipStore
from aerial_seg.training.samples.choice import place_by_labels
from aerial_seg.training.samples.draws import draw, key_of_places
from aerial_seg.training.samples.pixels import Pixels
from aerial_seg.training.samples.places import Place, place
from aerial_seg.training.samples.resizing import nearest

MIXED = AugmentationSettings(cat_max_ratio=0.75, scale=(0.7, 1.5))
ANYWHERE = MIXED.model_copy(update={"cat_max_ratio": 1.0})
Crop = int | tuple[int, int]


def placed(
    labels: NDArray[np.uint8], index: int, told: AugmentationSettings, *, crop: Crop, balanced: float = 0.0
) -> Place:
    drawn = draw(2, index, told, bands=1)
    size = height_and_width(crop)
    return place_by_labels(labels, drawn, told, crop=size, balanced=balanced, key=key_of_places(2, index))


def first(labels: NDArray[np.uint8], index: int, told: AugmentationSettings, *, crop: Crop) -> Place:
    """Where the crop would be without looking."""
    height, width = labels.shape
    size = height_and_width(crop)
    return place(draw(2, index, told, bands=1), told, height=height, width=width, crop=size)


def shares(labels: NDArray[np.uint8], there: Place) -> NDArray[np.float64]:
    """Of each class among the crop's labelled pixels."""
    seen = nearest(labels[there.rows, there.cols], there, 255)
    counts = np.array([(seen == k).sum() for k in range(5)])
    return counts / max(1, counts.sum())


def corner(side: int = 90) -> NDArray[np.uint8]:
    """Class 1 in a quarter, class 0 elsewhere."""
    labels = np.zeros((side, side), np.uint8)
    labels[: side // 2, : side // 2] = 1
    return labels


@settings(max_examples=examples(100))
@given(index=st.integers(0, 10**6), angle=st.sampled_from([0.0, 15.0]))
def test_a_crop_of_one_class_is_placed_anew_and_a_mixed_one_is_not(index: int, angle: float) -> None:
    told = MIXED.model_copy(update={"rotation": angle})
    there, before = placed(corner(), index, told, crop=20), first(corner(), index, told, crop=20)
    assert there.height == there.width == 20
    if shares(corner(), before).max() < 0.75:
        assert there == before
    elif there.turn is None or before.turn is None:  # its zoom stays
        assert (there.rows.stop - there.rows.start) == (before.rows.stop - before.rows.start)
    else:
        assert there.turn.steps == before.turn.steps


def test_ten_places_are_looked_at_and_the_last_stays() -> None:
    """A fifth of the places are mixed: without a second try most crops are of one class; with ten 0.8^10 = 0.11 are."""
    labels, many = corner(), 600
    alone = np.mean([shares(labels, first(labels, k, ANYWHERE, crop=20)).max() >= 0.75 for k in range(many)])
    tried = np.mean([shares(labels, placed(labels, k, MIXED, crop=20)).max() >= 0.75 for k in range(many)])
    assert 0.7 < alone < 0.95
    assert abs(tried - alone**10) < 0.05
    one = np.zeros((50, 50), np.uint8)  # nowhere mixed: it ends, and wherever it ends is a place
    for k in range(30):
        there = placed(one, k, MIXED, crop=20)
        assert 0 <= there.rows.start < there.rows.stop <= 50


@pytest.mark.parametrize(("minor", "stays"), [(40, True), (10, False)])
def test_unlabelled_pixels_count_neither_as_a_class_nor_among_all(minor: int, stays: bool) -> None:
    """Nine tenths are void everywhere. 60 % of the rest are no reason to go on, and 90 % of it are one."""
    random = np.random.default_rng(0)
    labels = (random.random((80, 80)) < minor / 100).astype(np.uint8)
    labels[random.random((80, 80)) < 0.9] = 255
    told = MIXED.model_copy(update={"scale": (1, 1)})
    same = [placed(labels, k, told, crop=60) == first(labels, k, told, crop=60) for k in range(40)]
    assert all(same) if stays else not any(same)


def test_an_image_without_a_label_has_crops_as_any_other() -> None:
    """No class to draw, no share to take: nothing is divided by zero, and the labels are all ignored."""
    reader = MadeReader([(40, 40)])
    plain = reader.pixels(0)
    reader.pixels = lambda index: Pixels(plain.image, None, np.full((40, 40), 255, np.uint8))  # type: ignore[method-assign]
    crops = CropDataset(ChipStore(reader), length=8, crop=16, augmentation=MIXED, seed=0, balanced=1.0)
    for image, labels in (crops[k] for k in range(8)):
        assert torch.isfinite(image).all()
        assert (labels == 255).all()


def spots() -> NDArray[np.uint8]:
    """Class 1 is a spot of 3 px in 120 × 150, class 2 a row along the lower edge, 255 a stripe, 0 the rest."""
    labels = np.zeros((120, 150), np.uint8)
    labels[:, 60:90] = 255
    labels[20:23, 130:133] = 1
    labels[-1] = 2
    return labels


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 2.0)])
def test_each_class_of_an_image_is_in_its_share_of_the_crops(
    inside: bool, scale: tuple[float, float]
) -> None:
    told = AugmentationSettings(scale=scale, stay_inside=inside)
    held = np.zeros(3)
    for k in range(300):
        there = placed(spots(), k, told, crop=24, balanced=1.0)
        window = spots()[there.rows, there.cols]
        held += [(window == value).any() for value in range(3)]
        assert (there.height, there.width) == (24, 24) or not inside
    # A third each is drawn; the large one is in nearly every crop anyway, and the others in hardly any.
    assert (held[1:] > 300 / 3 - 30).all()
    unseen = np.zeros(3)
    for k in range(300):
        there = first(spots(), k, told, crop=24)
        unseen += [(spots()[there.rows, there.cols] == value).any() for value in range(3)]
    assert unseen[1] < held[1] / 2
    half = [placed(spots(), k, told, crop=24, balanced=0.5) for k in range(300)]
    unmoved = sum(there == first(spots(), k, told, crop=24) for k, there in enumerate(half))
    assert 120 < unmoved < 180


def test_a_rare_class_is_drawn_as_its_weight_says_and_a_foreign_one_is_not() -> None:
    """One pixel of each class in a field of void: which of them a crop holds is which was drawn."""
    labels = np.full((60, 60), 255, np.uint8)
    places = {0: (5, 5), 1: (5, 50), 3: (50, 5)}
    for value, place_of in places.items():
        labels[place_of] = value
    weights = (1.0, 3.0, 100.0, 6.0)  # class 2 is not in the image
    drawn, count = np.zeros(4), 2000
    told = AugmentationSettings(scale=(1, 1))
    for k in range(count):
        there = place_by_labels(
            labels,
            draw(2, k, told, bands=1),
            told,
            crop=(8, 8),
            balanced=1.0,
            key=key_of_places(2, k),
            weights=weights,
        )
        window = labels[there.rows, there.cols]
        drawn[np.unique(window[window != 255])] += 1
    assert drawn.sum() == count
    assert drawn / count == pytest.approx([0.1, 0.3, 0.0, 0.6], abs=0.04)


@settings(max_examples=examples(100))
@given(
    index=st.integers(0, 10**6),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    crop=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    inside=st.booleans(),
    row=st.floats(0, 1, exclude_max=True),
    col=st.floats(0, 1, exclude_max=True),
)
def test_the_pixel_is_held_and_nothing_is_padded_for_it(
    index: int, height: int, width: int, crop: tuple[int, int], inside: bool, row: float, col: float
) -> None:
    labels = np.full((height, width), 255, np.uint8)
    spot = int(row * height), int(col * width)
    labels[spot] = 4
    told = AugmentationSettings(scale=(0.4, 2), stay_inside=inside)
    there, before = (
        placed(labels, index, told, crop=crop, balanced=1.0),
        first(labels, index, told, crop=crop),
    )
    assert (labels[there.rows, there.cols] == 4).any()
    assert (there.height, there.width) == (before.height, before.width)


@settings(max_examples=examples(100))
@given(
    index=st.integers(0, 10**6),
    inside=st.booleans(),
    row=st.integers(20, 69),
    col=st.integers(20, 79),
    angle=st.sampled_from([10, 180]),
)
def test_a_turned_crop_holds_the_pixel_too(index: int, inside: bool, row: int, col: int, angle: int) -> None:
    """Far enough from the corners that it stays in the turned image's frame, and within reach of a turned square."""
    labels = np.zeros((90, 100), np.uint8)
    labels[row - 1 : row + 2, col - 1 : col + 2] = 1
    told = AugmentationSettings(scale=(0.8, 1.5), stay_inside=inside, rotation=angle)
    drawn = draw(2, index, told, bands=1)
    # Half of the keys draw the other class: as many until it is this one.
    for key in range(60):
        there = place_by_labels(labels, drawn, told, crop=(30, 30), balanced=1.0, key=key)
        seen = nearest(labels[there.rows, there.cols], there, 255)
        if (seen == 1).any():
            break
    assert (seen == 1).any()


def test_chips_are_read_whole_only_where_labels_are_looked_at() -> None:
    class Noting(MadeReader):
        asked: list[tuple[int, int]]

        def read(self, index: int, *choose: object) -> Pixels:
            found = super().read(index, *choose)  # type: ignore[arg-type]
            self.asked.append(found.labels.shape)
            return found

    for balanced, told in ((0.0, ANYWHERE), (0.0, MIXED), (0.5, ANYWHERE)):
        reader = Noting([(70, 80)])
        reader.asked = []
        crops = CropDataset(
            ChipStore(reader, budget=0), length=5, crop=16, augmentation=told, seed=0, balanced=balanced
        )
        for k in range(5):
            crops[k]
        assert len(reader.asked) == 5  # once each, however many places are looked at
        assert (set(reader.asked) == {(70, 80)}) == (told is MIXED or balanced > 0)
