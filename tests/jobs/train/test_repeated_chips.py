"""A recipe may take chips of rare classes more often: from the index of the dataset to the samples of the run."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shapely import box
from tile_town import X, Y, run, scene

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.train.data import Dataset, open_dataset
from aerial_seg.jobs.train.overfit import few_chips
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.recipe.loading import load_recipe
from aerial_seg.training.batches import training_crops
from aerial_seg.training.chip_dataset import ChipDataset
from aerial_seg.training.loader import Loader

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile

RECIPE = load_recipe("default", {"training.crop": 16, "training.batch_size": 4, "training.iterations": 34})
OFTEN = load_recipe(
    "default",
    {
        "training.crop": 16,
        "training.batch_size": 4,
        "training.iterations": 34,
        "sampling.repeat_threshold": 0.5,
    },
)


@pytest.fixture
def chips(raster_file: RasterFile, polygon_file: PolygonFile) -> Path:
    """16 chips of 20 px: roofs in all, a well in two."""
    image = raster_file("a.tif", scene(80, 80))
    spots = [(10 * col, 10 * row) for row in range(4) for col in range(4)]
    shapes = [box(X + x + 1, Y - y - 5, X + x + 5, Y - y - 1) for x, y in [*spots]]
    shapes += [box(X + x + 6, Y - y - 9, X + x + 9, Y - y - 6) for x, y in (spots[2], spots[9])]
    labels = polygon_file("l.gpkg", shapes, {"kind": ["roof"] * 16 + ["well"] * 2})
    settings = TileSettings(
        chip_size=20, block=1, val="0", test="0", labels=LabelSettings(class_field="kind")
    )
    return run([image], labels, settings).dataset


def taken(data: Dataset, recipe: object = OFTEN) -> Counter[str]:
    crops = training_crops(data.data, recipe)  # type: ignore[arg-type]
    return Counter(crops.chip_of(k) for k in range(len(crops)))


def test_chips_of_a_rare_class_come_as_often_as_the_recipe_says(chips: Path) -> None:
    """Wells are in 2 of 16 chips: √(0.5 / 0.125) = 2, so a turn is 18 samples and 136 crops are 7.56 turns."""
    data = open_dataset(chips, OFTEN)
    assert data.notes == (
        "training chips that hold well (12.5 % of them) 2 times as often as others: 16 chips make 18 samples a turn, "
        "and the recipe's 136 crops are 7.56 turns",
    )
    found = taken(data)
    rare = {"a_0000_0002", "a_0002_0001"}
    assert set(found) == {f"a_{row:04d}_{col:04d}" for row in range(4) for col in range(4)}
    for chip, count in found.items():
        assert count in ({14, 15, 16} if chip in rare else {7, 8})
    plain = open_dataset(chips, RECIPE)
    assert (plain.notes, plain.data.repeats) == ((), None)
    assert set(taken(plain, RECIPE).values()) == {8, 9}
    assert few_chips(data, 3).data.repeats is None


def test_chips_of_a_hard_class_come_as_often_as_the_recipe_says(chips: Path) -> None:
    hard = load_recipe("default", {"training.crop": 16, "training.batch_size": 4, "training.iterations": 9,
                                   "sampling.repeat_classes": {"well": 11}})  # fmt: skip
    data = open_dataset(chips, hard)
    assert data.notes == (
        "training chips that hold well (2) 11 times as often as others, by sampling.repeat_classes: 2 of 16 chips make "
        "36 samples a turn, and the recipe's 36 crops are 1 turns",
    )
    found = taken(data, hard)
    assert {found["a_0000_0002"], found["a_0002_0001"]} == {11}
    assert sorted(found.values()) == [1] * 14 + [11] * 2
    with sqlite3.connect(chips / "chips.gpkg") as base:
        base.execute("ALTER TABLE chips RENAME COLUMN px_well TO wells")
    with pytest.raises(
        InputError, match=r"sampling\.repeat_classes names classes, but the index of .* 16 training"
    ):
        open_dataset(chips, hard)


def test_colours_of_other_chips_than_photographs_are_refused_when_they_are_opened(chips: Path) -> None:
    names = [band.name for band in open_dataset(chips, RECIPE).bands]
    assert sorted(names) != ["blue", "green", "red"]
    hued = RECIPE.model_copy(update={"augmentation": AugmentationSettings(hue=18)})
    with pytest.raises(
        SettingsError, match=r"hue is 18, but the images' bands are .*; set augmentation.hue to 0"
    ):
        open_dataset(chips, hued)


@pytest.mark.slow
def test_crops_of_anybody_s_loop_repeat_chips_as_the_recipe_does(chips: Path) -> None:
    data = ChipDataset(chips)
    crops = data.crops(16, length=136, repeat_threshold=0.5)
    found = Counter(crops.chip_of(k) for k in range(136))
    assert {found["a_0000_0002"], found["a_0002_0001"]} <= {14, 15, 16}
    assert set(Counter(data.crops(16, length=136).chip_of(k) for k in range(136)).values()) == {8, 9}
    with pytest.raises(
        SettingsError, match=r"repeat_threshold is 5, wanted a share of the chips from 0 to 1"
    ):
        data.crops(16, length=1, repeat_threshold=5)


def test_workers_change_nothing(chips: Path) -> None:
    data = open_dataset(chips, OFTEN)
    crops = training_crops(data.data, OFTEN)
    made = [[labels.numpy().copy() for _, labels in Loader(crops, batch_size=4, workers=n)] for n in (0, 2)]
    assert len(made[0]) == 34
    assert all((a == b).all() for a, b in zip(*made, strict=True))


def test_an_index_that_counts_no_pixels_is_told(chips: Path) -> None:
    with sqlite3.connect(chips / "chips.gpkg") as base:
        base.execute("ALTER TABLE chips RENAME COLUMN px_well TO wells")
    with pytest.raises(InputError, match=r"repeat_threshold is 0.5, but the index of .* 16 training chips"):
        open_dataset(chips, OFTEN)
    assert len(open_dataset(chips, RECIPE).data.train) == 16
