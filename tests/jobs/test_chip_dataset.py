"""The chips that `tile` cut, in a training loop that is nobody's but the test's."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from shapely.geometry import box
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import aerial_seg
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.training.chip_dataset import ChipDataset

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile

CORNER = Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000)
SIDE, CHIP = 160, 32


@pytest.fixture
def chips(raster_file: RasterFile, polygon_file: PolygonFile) -> Path:
    """25 chips of three bands; the west is building, and bright; a strip was not measured."""
    random = np.random.default_rng(0)
    image = random.integers(1, 90, (3, SIDE, SIDE), dtype=np.uint8)
    image[:, :, : SIDE // 2] += 120
    image[:, :6] = 0
    raster = raster_file("image.tif", image, transform=CORNER, nodata=0)
    left, top, half = CORNER.c, CORNER.f, SIDE / 4
    west = box(left, top - 2 * half, left + half, top)
    labels = polygon_file("labels.gpkg", [west], {"class": ["building"]})
    labelling = LabelSettings(class_field="class", outside="background")
    settings = TileSettings(labels=labelling, chip_size=CHIP, block=1, val="0.2", test="0.2")
    tile([str(raster)], [str(labels)], raster.parent / "chips", settings)
    return raster.parent / "chips"


def test_items_are_the_chips_normalised_and_the_channels_of_their_labels(chips: Path) -> None:
    data = aerial_seg.ChipDataset(chips, split="train")
    assert len(data) == len(data.names) > 8
    assert data.gsd == pytest.approx(0.5, rel=1e-2)
    assert [band.dtype for band in data.bands] == ["uint8"] * 3
    for index, name in enumerate(data.names):
        image, labels = data[index]
        assert (image.shape, image.dtype) == ((3, CHIP, CHIP), torch.float32)
        assert (labels.shape, labels.dtype) == ((CHIP, CHIP), torch.int64)
        with rasterio.open(chips / "images" / f"{name}.tif") as file:
            pixels, valid = file.read(), file.dataset_mask() > 0
        with rasterio.open(chips / "labels" / f"{name}.tif") as file:
            values = file.read(1)
        for band, plane, own in zip(data.bands, pixels, image.numpy(), strict=True):
            wanted = (plane.astype(float) - band.mean) / band.std
            np.testing.assert_allclose(own[valid], wanted[valid], atol=1e-5)
            assert (own[~valid] == 0).all()
        channels = [255 if v == 255 else data.legend.values.index(v) for v in values[valid].tolist()]
        assert labels.numpy()[valid].tolist() == channels
        assert (labels.numpy()[~valid] == 255).all()
    with pytest.raises(IndexError):
        data[len(data)]
    splits = [set(ChipDataset(chips, split).names) for split in ("train", "val", "test")]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 25


def test_three_steps_of_a_plain_loop_with_a_spawned_worker(chips: Path) -> None:
    data = ChipDataset(str(chips))
    loader = DataLoader(data, batch_size=4, num_workers=1, multiprocessing_context="spawn")
    torch.manual_seed(0)
    network = torch.nn.Conv2d(len(data.bands), len(data.legend), 1)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5)
    losses: list[float] = []
    for (images, labels), _ in zip(loader, range(3), strict=False):
        loss = cross_entropy(network(images), labels, ignore_index=255)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert len(losses) == 3
    assert losses[2] < losses[0]
    assert len(pickle.dumps(data)) < 100_000


def test_crops_are_those_of_the_seed_and_of_the_number_alone(chips: Path) -> None:
    data = ChipDataset(chips)
    one, other = (data.crops(24, length=30, seed=3) for _ in range(2))
    samples = list(one)
    assert len(samples) == 30
    image, labels = other[17]
    assert torch.equal(image, samples[17][0])
    assert torch.equal(labels, samples[17][1])
    assert (image.shape, labels.shape, labels.dtype) == ((3, 24, 24), (24, 24), torch.int64)
    assert not torch.equal(data.crops(24, length=30, seed=4)[17][0], image)
    with pytest.raises(SettingsError, match="crop is 0"):
        data.crops(0, length=1)


def test_crops_have_any_height_and_width_but_turn_by_quarters_as_squares_alone(chips: Path) -> None:
    data, upright = ChipDataset(chips), AugmentationSettings(rot90=False)
    for crop in ((24, 40), (40, 24)):
        image, labels = data.crops(crop, length=3, augmentation=upright)[2]
        assert (image.shape, labels.shape) == ((3, *crop), crop)
    with pytest.raises(
        SettingsError, match=r"makes 40x24 pixels of 24x40 .* set augmentation\.rot90 = false"
    ):
        data.crops((24, 40), length=3)
    for crop in ((24, 0), (24, 24, 24), (24,)):
        with pytest.raises(SettingsError, match=r"wanted a side or \(height, width\) of at least 1 pixel"):
            data.crops(crop, length=1, augmentation=upright)  # type: ignore[arg-type]


def test_a_transform_changes_image_and_labels_together(chips: Path) -> None:
    plain = ChipDataset(chips)

    def turned(image: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return image.flip(-1), labels.flip(-1)

    image, labels = ChipDataset(chips, transform=turned)[2]
    assert torch.equal(image.flip(-1), plain[2][0])
    assert torch.equal(labels.flip(-1), plain[2][1])


@pytest.mark.parametrize("split", ["trian", None, 3])
def test_a_split_that_there_is_not_is_refused(chips: Path, split: Any) -> None:
    with pytest.raises(SettingsError, match="wanted one of train, val, test"):
        ChipDataset(chips, split)


def test_a_folder_without_chips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a chip dataset"):
        ChipDataset(tmp_path)
