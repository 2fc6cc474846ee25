"""Training that starts from weights: a model's, an encoder's, none; and what is told before anything slow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import timm
import torch
import torchvision
from affine import Affine
from laws import few
from shapely import box

from aerial_seg.bands import Band
from aerial_seg.errors import InputError, Interrupted, SettingsError
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import make_legend
from aerial_seg.models import weights_source as hub
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, load_model, save_model
from aerial_seg.models.network import Network
from aerial_seg.models.pretrained import spread_bands
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import parse_recipe
from aerial_seg.training.callbacks import Callback, Step

BANDS = ("red", "green", "blue", "nir")
RECIPE = """
[model]
architecture = "fcn"
output_stride = 32
head_channels = 8
auxiliary = false
weights = "{weights}"
[training]
iterations = 1
batch_size = 2
crop = 32
learning_rate = 1e-9
weight_decay = 0.0
validate_every = 1
[prediction]
tile_size = 256
"""
"""One step so short that the weights stay what they were."""


def recipe(weights: object) -> Recipe:
    return parse_recipe(RECIPE.format(weights=weights), "test")


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chips of four bands, red, green, blue and nir; classes background, building and road."""
    folder = tmp_path_factory.mktemp("weights")
    transform = Affine(0.5, 0, 500000, 0, -0.5, 5000000)
    with rasterio.open(
        folder / "image.tif", "w", driver="GTiff", height=128, width=128, count=4, dtype="uint8", crs="EPSG:32633",
        transform=transform, photometric="MINISBLACK",
    ) as file:  # fmt: skip
        file.write(np.random.default_rng(0).integers(1, 250, (4, 128, 128)).astype(np.uint8))
        file.descriptions = BANDS
    squares = [box(500000 + x, 4999936, 500010 + x, 5000000) for x in (4, 24, 44)]
    frame = geopandas.GeoDataFrame(
        {"kind": ["building", "road", "building"]}, geometry=squares, crs="EPSG:32633"
    )
    frame.to_file(folder / "labels.gpkg")
    settings = TileSettings(
        labels=LabelSettings(class_field="kind"), chip_size=32, block=1, val="0.2", test="0"
    )
    tile([str(folder / "image.tif")], [str(folder / "labels.gpkg")], folder / "chips", settings)
    return folder / "chips"


def model_file(path: Path, *, bands: Sequence[str], classes: Sequence[str]) -> Network:
    """The network whose random weights lie in the model file `path`."""
    torch.manual_seed(1)
    settings = recipe("none").model
    network = build_network(settings, bands=len(bands), classes=len(classes))
    card = ModelCard(
        tool_version="test",
        recipe=Recipe(model=settings),
        legend=make_legend(dict(enumerate(classes))),
        bands=tuple(Band(name=name, dtype="uint8", mean=120, std=60, p2=0, p98=255) for name in bands),
        gsd=1.0,
        class_bias=(0.0,) * len(classes),
        iteration=1,
        validation_miou=None,
        data_fingerprint="none",
    )
    save_model(network.state_dict(), card, path)
    return network


def test_a_model_is_tuned_to_other_bands_and_classes(
    chips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = model_file(Path("old.safetensors"), bands=BANDS[:3], classes=("background", "building"))
    report = train(chips, recipe("old.safetensors"), tmp_path / "run", TrainSettings(device="cpu"))
    assert len(report.notes) == 3
    assert report.notes[0].startswith("started from the model old.safetensors: ")
    assert "from 3 bands (red, green, blue) to red, green, blue, nir" in report.notes[1]
    assert "2 of 3 classes begin as the model's by name: background, building" in report.notes[2]

    made = load_model(report.model)
    assert made.card.recipe.model.weights == "old.safetensors"
    held, ours = source.state_dict(), made.network.state_dict()
    torch.testing.assert_close(ours["encoder.layer4.1.conv2.weight"], held["encoder.layer4.1.conv2.weight"])
    first = "encoder.conv1.weight"
    torch.testing.assert_close(ours[first], spread_bands(held[first], BANDS[:3], BANDS))
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert document["weights_sha256"] == hashlib.sha256(Path("old.safetensors").read_bytes()).hexdigest()

    # The run's own model begins the next one, whole.
    again = train(chips, recipe(report.model), tmp_path / "next", TrainSettings(device="cpu"))
    (note,) = again.notes
    assert "tensors" in note
    assert "fresh" not in note


def test_an_encoder_of_torchvisions_is_a_beginning(chips: Path, tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(theirs, tmp_path / "resnet18.pth")
    report = train(chips, recipe(tmp_path / "resnet18.pth"), tmp_path / "run", TrainSettings(device="cpu"))
    assert "2 of a classifier left out (fc.weight, fc.bias)" in report.notes[0]
    ours = load_model(report.model).network.state_dict()
    torch.testing.assert_close(ours["encoder.layer3.0.conv1.weight"], theirs["layer3.0.conv1.weight"])


def test_a_frozen_encoder_is_the_files_after_training_with_validations_between(
    chips: Path, tmp_path: Path
) -> None:
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    theirs["bn1.running_mean"] += 0.5
    torch.save(theirs, tmp_path / "resnet18.pth")
    text = RECIPE.format(weights=tmp_path / "resnet18.pth").replace("iterations = 1", "iterations = 4")
    text = text.replace("learning_rate = 1e-9", 'learning_rate = 1e-2\nema_decay = 0.5\nfreeze = "encoder"')
    report = train(chips, parse_recipe(text, "test"), tmp_path / "run", TrainSettings(device="cpu"))
    assert "batch norms stay as they are for 4 iterations" in report.notes[-1]
    ours = load_model(report.model).network.state_dict()
    kept = [name for name in theirs if not name.startswith(("fc.", "conv1."))]
    assert len(kept) == 119
    assert all(torch.equal(ours[f"encoder.{name}"], theirs[name]) for name in kept)


class StopsAfter(Callback):
    """As Ctrl-C does, after an update and before it is kept."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_step(self, step: Step) -> None:
        if step.iteration == self.iteration:
            raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", few(["adamw", "sgd"], quick=1))
def test_a_run_stopped_before_or_after_its_encoder_was_let_go_ends_with_the_same_bytes(
    chips: Path, tmp_path: Path, optimizer: str
) -> None:
    """Moments of the encoder are there after the third update only."""
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "little.pth")
    text = RECIPE.format(weights=tmp_path / "little.pth").replace("iterations = 1", "iterations = 4")
    text = text.replace('"fcn"', '"fcn"\nencoder = "tu-test_resnet"').replace(
        "learning_rate = 1e-9",
        f'learning_rate = 1e-3\nfreeze = "encoder"\nfreeze_iterations = 2\noptimizer = "{optimizer}"',
    )
    chosen, settings = parse_recipe(text, "test"), TrainSettings(device="cpu")
    whole = train(chips, chosen, tmp_path / "whole", settings)
    for stop in (2, 3, 4):  # the state of the update before is on the disk
        run = tmp_path / f"stopped_{stop}"
        with pytest.raises(Interrupted):
            train(chips, chosen, run, settings, callbacks=[StopsAfter(stop)])
        again = train(chips, chosen, run, settings)
        assert again.model.read_bytes() == whole.model.read_bytes()


def test_a_random_encoder_is_not_frozen_in_silence(chips: Path, tmp_path: Path) -> None:
    text = RECIPE.format(weights="none").replace("iterations = 1", 'iterations = 1\nfreeze = "encoder"')
    with pytest.raises(SettingsError, match="the encoder begins at random"):
        train(chips, parse_recipe(text, "test"), tmp_path / "run", TrainSettings(device="cpu"))
    assert list(tmp_path.iterdir()) == []


def test_no_weights_leave_no_notes(chips: Path, tmp_path: Path) -> None:
    report = train(chips, recipe("none"), tmp_path / "run", TrainSettings(device="cpu"))
    assert report.notes == ()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["weights_sha256"] is None


def test_weights_that_cannot_be_had_are_told_before_the_data_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(hub.huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(hub.huggingface_hub, "get_hf_file_metadata", offline)
    cases = (
        (tmp_path / "gone.pth", InputError, r"gone\.pth do not exist"),
        ("imagnet", SettingsError, "did you mean 'imagenet'"),
        ("imagenet", SettingsError, "could not be downloaded"),
    )
    for weights, kind, message in cases:
        with pytest.raises(kind, match=message):
            train(tmp_path / "no_data", recipe(weights), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_do_not_fit_leave_nothing_behind(chips: Path, tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "little.pth")
    with pytest.raises(InputError, match=r"little\.pth is no state dict .* missing \(bn1\.weight"):
        train(chips, recipe(tmp_path / "little.pth"), tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["little.pth"]
