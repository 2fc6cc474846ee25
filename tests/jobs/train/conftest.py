"""A run so small that it can be stopped and gone on with many times."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from ended_early import CPU, Asking
from shapely import box

from aerial_seg.errors import Interrupted
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.train.job import train
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.models.build import build_network
from aerial_seg.models.meta import build_on_meta
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import parse_recipe
from aerial_seg.recipe.model import ModelSettings

RECIPE = """
[model]
architecture = "fcn"
encoder = "tu-mobilenetv3_small_050"
output_stride = 32
head_channels = 8
auxiliary = false
dropout = 0.5
[training]
iterations = 7
batch_size = 2
crop = 32
optimizer = "adamw"
learning_rate = 2e-3
validate_every = 3
ema_decay = 0.5
calibrate = true
workers = 0
[prediction]
tile_size = 256
"""
"""With dropout, so that random numbers count; validated after 3, 6 and 7 updates."""

MakeRecipe = Callable[..., Recipe]
Sums = dict[str, str]


def make_chips(folder: Path, *, val: str = "0.3", seed: int = 0) -> Path:
    """A dataset of 16 chips of 32 pixels a side, bright squares being buildings."""
    folder.mkdir(parents=True, exist_ok=True)
    transform = Affine(0.5, 0, 500000, 0, -0.5, 5000000)
    squares = [
        box(500000 + x, 5000000 - y - 8, 500000 + x + 8, 5000000 - y)
        for x in (2, 24, 46)
        for y in (4, 26, 48)
    ]
    frame = geopandas.GeoDataFrame({"kind": ["building"] * len(squares)}, geometry=squares, crs="EPSG:32633")
    burnt = rasterio.features.rasterize(frame.geometry, out_shape=(128, 128), transform=transform)
    image = np.random.default_rng(seed).integers(20, 90, (3, 128, 128)).astype(np.uint8)
    image[:, burnt == 1] += 120
    with rasterio.open(
        folder / "image.tif", "w", driver="GTiff", height=128, width=128, count=3, dtype="uint8", crs="EPSG:32633",
        transform=transform,
    ) as file:  # fmt: skip
        file.write(image)
    frame.to_file(folder / "labels.gpkg")
    settings = TileSettings(
        labels=LabelSettings(class_field="kind"), chip_size=32, block=1, val=val, test="0"
    )
    tile([str(folder / "image.tif")], [str(folder / "labels.gpkg")], folder / "chips", settings)
    return folder / "chips"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Of layers so small that several threads take a hundred times as long to agree as to compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def _built_once() -> Iterator[None]:
    """Networks are copies of ones that were built: building takes longer than training them here."""
    built: dict[str, tuple[Network, torch.Tensor]] = {}

    def build(settings: ModelSettings, *, bands: int, classes: int) -> Network:
        key = repr((settings, bands, classes))
        if key not in built:
            built[key] = build_network(settings, bands=bands, classes=classes), torch.get_rng_state()
        network, randoms = built[key]
        torch.set_rng_state(randoms)
        return copy.deepcopy(network)

    shapes: dict[str, Network] = {}

    def on_meta(settings: ModelSettings, *, bands: int, classes: int) -> Network:
        key = repr((settings, bands, classes))
        if key not in shapes:
            shapes[key] = build_on_meta(settings, bands=bands, classes=classes)
        return shapes[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aerial_seg.jobs.train.preparing.build_network", build)
        patch.setattr("aerial_seg.jobs.train.preparing.build_on_meta", on_meta)
        patch.setattr("aerial_seg.jobs.train.model_files.build_on_meta", on_meta)
        # Pictures take as long as all else here; tests/jobs/test_train.py looks at them.
        patch.setattr("aerial_seg.jobs.train.job.pictures", lambda *given, events: nullcontext(()))
        yield


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chips(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def chips_without_val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chips(tmp_path_factory.mktemp("without"), val="0")


@pytest.fixture(scope="session")
def small() -> MakeRecipe:
    """`small(iterations=9)`: the recipe above with other values of its keys."""

    def make(**changes: object) -> Recipe:
        text = RECIPE
        for key, value in changes.items():
            line = next(line for line in RECIPE.splitlines() if line.startswith(f"{key} ="))
            text = text.replace(line, f"{key} = {value}")
        return parse_recipe(text, "small")

    return make


@pytest.fixture(scope="session")
def sums() -> Callable[[Path], Sums]:
    """`sums(run)`: what must be equal to the byte, however a run was stopped and gone on with."""

    def of(run: Path) -> Sums:
        names = ("best.safetensors", "last.safetensors", "log.csv")
        return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names}

    return of


@pytest.fixture
def finished(chips: Path, small: MakeRecipe, tmp_path: Path, made: Path) -> Path:
    """A copy of a finished run of 7 updates."""
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture(scope="module")
def made(chips: Path, small: MakeRecipe) -> Path:
    return train(chips, small(), chips.parent / "finished", CPU).run


@pytest.fixture(scope="module")
def stopped_at_4(chips: Path, small: MakeRecipe) -> Path:
    run = chips.parent / "stopped"
    with pytest.raises(Interrupted):
        train(chips, small(), run, CPU, callbacks=[Asking(4)])
    return run


@pytest.fixture
def unfinished(stopped_at_4: Path, tmp_path: Path) -> Path:
    """A copy of a run that was stopped after 4 of 7 updates."""
    return Path(shutil.copytree(stopped_at_4, tmp_path / "run"))
