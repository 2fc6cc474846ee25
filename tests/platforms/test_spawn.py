"""Workers that begin from nothing, as on Windows and macOS, do what forked ones do."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

from aerial_seg.errors import InputError
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import parse_recipe
from aerial_seg.training.crops import ChipReader, ChipStore, CropDataset
from aerial_seg.training.manifest import open_manifest

RECIPE = """
[model]
output_stride = 16
head_channels = 8
auxiliary = false
[training]
workers = {workers}
iterations = 2
batch_size = 2
crop = 32
validate_every = 2
"""


@pytest.fixture
def spawned() -> Iterator[None]:
    """Processes start as they do on Windows and macOS: with nothing but what they are handed."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.fixture
def chips(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(1, 200, (3, 96, 96)).astype(np.uint8)
    truth = (values[:1] > 100).astype(np.uint8)
    for name, bands in (("image.tif", values), ("labels.tif", truth)):
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", height=96, width=96, count=len(bands), dtype="uint8",
            crs="EPSG:32633", transform=Affine(1, 0, 500_000, 0, -1, 5_000_000),
        ) as file:  # fmt: skip
            file.write(bands)
    tile(
        [str(tmp_path / "image.tif")],
        [str(tmp_path / "labels.tif")],
        tmp_path / "chips",
        TileSettings(chip_size=32, block=1),
    )
    return tmp_path / "chips"


def recipe(workers: int) -> Recipe:
    return parse_recipe(RECIPE.format(workers=workers), "test")


def test_what_a_worker_is_handed_can_be_sent(chips: Path) -> None:
    manifest = open_manifest(chips)
    reader = ChipReader(manifest.chips, manifest.document.bands, manifest.document.legend)
    crops = CropDataset(ChipStore(reader), length=8, crop=32, augmentation=AugmentationSettings(), seed=0)
    sent = pickle.loads(pickle.dumps(crops))
    for number in range(8):
        for got, wanted in zip(sent[number], crops[number], strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.slow
def test_a_model_is_the_same_with_workers_that_begin_from_nothing(
    chips: Path, tmp_path: Path, spawned: None
) -> None:
    for workers in (0, 2):
        train(chips, recipe(workers), tmp_path / str(workers), TrainSettings(device="cpu"))
    alone, helped = (tmp_path / name / "log.csv" for name in ("0", "2"))
    assert alone.read_bytes() == helped.read_bytes()


@pytest.mark.slow
def test_a_worker_that_begins_from_nothing_tells_a_damaged_chip_in_one_line(
    chips: Path, tmp_path: Path, spawned: None
) -> None:
    for image in (chips / "images").glob("*.tif"):
        image.write_bytes(image.read_bytes()[:40])
    with pytest.raises(InputError) as told:
        train(chips, recipe(1), tmp_path / "run", TrainSettings(device="cpu"))
    assert "\n" not in str(told.value)
    assert ".tif" in str(told.value)
