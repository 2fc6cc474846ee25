from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.recipe import AugmentationSettings
from aerial_seg.training.crops import ChipStore, CropDataset, change_light, cut, turn_and_flip

STILL = AugmentationSettings(flips=False, rot90=False, scale=(1, 1), brightness=0, contrast=0, band_noise=0)


class Store:
    """Chips whose image tells the place of every pixel, so that image and labels can be compared."""

    def __init__(self, count: int = 3, side: int = 40) -> None:
        self.count, self.side = count, side

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        place = torch.arange(self.side**2, dtype=torch.float32).reshape(1, self.side, self.side) + 1
        labels = ((place[0] - 1) // self.side % 7).to(torch.uint8)
        return torch.cat([place, torch.full_like(place, index + 1)]), labels


class Reader:
    """Samples of the given sides, all alike within; notes what is read."""

    def __init__(self, sides: list[int]) -> None:
        self.sides = sides
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.sides)

    def __getitem__(self, index: int):
        self.read.append(index)
        side = self.sides[index]
        return torch.full((2, side, side), float(index)), torch.full((side, side), index, dtype=torch.uint8)

    def bytes(self, index: int) -> int:
        """Two bands of float32 and one of uint8."""
        return 9 * self.sides[index] ** 2


@given(sides=st.lists(st.integers(1, 9), min_size=1, max_size=8), budget=st.integers(0, 3000), data=st.data())
def test_a_store_gives_what_its_reader_gives_and_keeps_no_more_than_its_budget(
    sides: list[int], budget: int, data: st.DataObject
) -> None:
    reader = Reader(sides)
    asked = data.draw(st.lists(st.integers(0, len(sides) - 1), max_size=30))
    store = ChipStore(reader, budget=budget)
    assert len(store) == len(sides)
    for index in asked:
        image, labels = store[index]
        assert image.shape == (2, sides[index], sides[index])
        assert (image == index).all()
        assert (labels == index).all()
    spared = {index for index in asked if reader.read.count(index) < asked.count(index)}
    assert sum(map(reader.bytes, spared)) <= budget
    if budget >= sum(map(reader.bytes, range(len(sides)))):
        assert sorted(reader.read) == sorted(set(asked))


@given(seed=st.integers(0, 500), crop=st.integers(8, 60))
def test_without_zoom_image_and_labels_are_the_same_window(seed: int, crop: int) -> None:
    image, labels = Store()[0]
    image, labels = cut(image, labels, crop=crop, scale=(1, 1), random=np.random.default_rng(seed))
    assert image.shape[1:] == labels.shape == (crop, crop)
    inside = image[0] > 0
    assert torch.equal(labels[inside].long(), ((image[0][inside] - 1) // 40 % 7).long())
    assert (labels[~inside] == 255).all()
    assert inside.sum() == min(crop, 40) ** 2


@given(seed=st.integers(0, 300), low=st.floats(0.4, 1), high=st.floats(1, 2.5))
def test_zoomed_labels_stay_class_numbers_at_the_images_pixel_centres(
    seed: int, low: float, high: float
) -> None:
    """A vertical step edge lies at the same place in image and labels, whatever the zoom."""
    image = torch.zeros(1, 64, 64)
    image[:, :, 32:] = 1.0
    labels = (image[0] > 0.5).to(torch.uint8)
    image, labels = cut(image, labels, crop=48, scale=(low, high), random=np.random.default_rng(seed))
    known = labels != 255
    assert set(labels[known].tolist()) <= {0, 1}
    sharp = known & ((image[0] < 0.2) | (image[0] > 0.8)) & ((image[0] - 0.5).abs() > 0.3)
    edge = torch.nn.functional.max_pool2d((labels == 255).float()[None], 5, 1, 2)[0] > 0
    agree = (labels == 1) == (image[0] > 0.5)
    assert agree[sharp & ~edge].all()


@given(seed=st.integers(0, 200))
def test_turns_and_flips_move_image_and_labels_together(seed: int) -> None:
    image, labels = Store()[0]
    turned, moved = turn_and_flip(image, labels, AugmentationSettings(), np.random.default_rng(seed))
    assert torch.equal(moved.long(), ((turned[0] - 1) // 40 % 7).long())
    assert sorted(turned[0].flatten().tolist()) == sorted(image[0].flatten().tolist())


@given(seed=st.integers(0, 200), rows=st.integers(1, 9), cols=st.integers(2, 9))
def test_horizontal_flips_mirror_left_and_right_together_and_never_rows(
    seed: int, rows: int, cols: int
) -> None:
    place = torch.arange(rows * cols).reshape(rows, cols)
    settings = AugmentationSettings(flips="horizontal", rot90=False)
    image, labels = turn_and_flip(
        place[None].float(), place.to(torch.uint8), settings, np.random.default_rng(seed)
    )
    assert torch.equal(image[0].long(), labels.long())
    assert torch.equal(labels.long() // cols, place // cols)
    assert torch.equal(labels.long(), place) or torch.equal(labels.long(), place.flip(1))


def test_horizontal_flips_come_about_every_other_time() -> None:
    settings = AugmentationSettings(flips="horizontal", rot90=False)
    image, labels = Store(side=4)[0]
    flipped = [
        not torch.equal(turn_and_flip(image, labels, settings, np.random.default_rng(seed))[0], image)
        for seed in range(200)
    ]
    assert 60 < sum(flipped) < 140


def test_all_eight_symmetries_occur() -> None:
    image, labels = Store(side=4)[0]
    seen = {
        tuple(
            turn_and_flip(image, labels, AugmentationSettings(), np.random.default_rng(seed))[0][0]
            .flatten()
            .tolist()
        )
        for seed in range(200)
    }
    assert len(seen) == 8


def test_unmeasured_pixels_stay_at_the_training_mean() -> None:
    image = torch.randn(5, 8, 8)
    image[:, :3] = 0
    changed = change_light(image, AugmentationSettings(), np.random.default_rng(0))
    assert (changed[:, :3] == 0).all()
    assert not torch.equal(changed, image)


def test_light_changes_stay_within_the_settings() -> None:
    image = torch.ones(4, 2, 2)
    settings = AugmentationSettings(brightness=0.3, contrast=0.2, band_noise=0.1)
    values = torch.stack([change_light(image, settings, np.random.default_rng(k)) for k in range(300)])
    assert (values - 1).abs().max() <= (0.3 + 0.2) * 1.1 + 1e-6
    assert values.std() > 0.1


def test_a_sample_depends_on_seed_and_number_only() -> None:
    def samples(seed: int) -> CropDataset:
        return CropDataset(Store(), length=30, crop=16, augmentation=AugmentationSettings(), seed=seed)

    forward = [samples(0)[i][0] for i in range(10)]
    backward = [samples(0)[i][0] for i in reversed(range(10))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert any(not torch.equal(a, samples(1)[i][0]) for i, a in enumerate(forward))


def test_every_chip_is_used_once_before_any_is_used_again() -> None:
    crops = CropDataset(Store(count=5), length=20, crop=8, augmentation=STILL, seed=3)
    chips = [int(crops[i][0][1].max()) for i in range(20)]
    assert all(sorted(chips[k : k + 5]) == [1, 2, 3, 4, 5] for k in range(0, 20, 5))
    assert len({tuple(chips[k : k + 5]) for k in range(0, 20, 5)}) > 1


@pytest.mark.parametrize("crop", [16, 33])
def test_labels_come_as_int64(crop: int) -> None:
    image, labels = CropDataset(Store(), length=1, crop=crop, augmentation=STILL, seed=0)[0]
    assert image.dtype == torch.float32
    assert labels.dtype == torch.int64
