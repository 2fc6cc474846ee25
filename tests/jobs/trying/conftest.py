"""A few chips that are quick to learn: bright squares on noise."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from shapely.geometry import box

from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import parse_recipe

RECIPE = """
[model]
architecture = "Unet"
encoder = "resnet18"
options = { encoder_depth = 3, decoder_channels = [32, 16, 8] }
[training]
iterations = 30
batch_size = 2
crop = 64
optimizer = "adamw"
learning_rate = 2e-3
validate_every = 30
[prediction]
tile_size = 128
"""


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return parse_recipe(RECIPE, "test")


@pytest.fixture(scope="session")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 chips of 64 px, of which the upper half shows buildings."""
    folder = tmp_path_factory.mktemp("chips")
    random = np.random.default_rng(0)
    image = random.integers(20, 90, (3, 256, 256)).astype(np.uint8)
    tops, lefts = range(4, 110, 32), range(6, 230, 32)
    for top in tops:
        for left in lefts:
            image[:, top : top + 20, left : left + 20] += 120
    transform = Affine(0.5, 0, 500000, 0, -0.5, 5000000)
    squares = [
        box(500000 + left / 2, 5000000 - (top + 20) / 2, 500000 + (left + 20) / 2, 5000000 - top / 2)
        for top in tops
        for left in lefts
    ]
    frame = geopandas.GeoDataFrame({"kind": ["building"] * len(squares)}, geometry=squares, crs="EPSG:32633")
    with rasterio.open(
        folder / "image.tif", "w", driver="GTiff", height=256, width=256, count=3, dtype="uint8", crs="EPSG:32633",
        transform=transform,
    ) as file:  # fmt: skip
        file.write(image)
    frame.to_file(folder / "labels.gpkg")
    for name, val, test in (("chips", "0.2", "0.1"), ("without", "0", "0")):
        settings = TileSettings(
            labels=LabelSettings(class_field="kind"), chip_size=64, block=1, val=val, test=test
        )
        tile([str(folder / "image.tif")], [str(folder / "labels.gpkg")], folder / name, settings)
    return folder / "chips"


@pytest.fixture
def without(chips: Path) -> Path:
    """The same ground without validation chips."""
    return chips.parent / "without"
