"""The law of validation by scenes: its score is that of `evaluate` for the map that `predict` writes, same ground."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.jobs.evaluate import evaluate_mask
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, save_model
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import PredictionSettings, Recipe
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.training.manifest import Manifest, open_manifest
from aerial_seg.training.validation.calibration import threshold_bias
from aerial_seg.training.validation.chip_scenes import chip_scenes, rectangles
from aerial_seg.training.validation.scenes import ScenePart, validate_scenes
from aerial_seg.training.validation.tallies import Tallies

CPU = torch.device("cpu")
HEIGHT, WIDTH, CHIP = 110, 150, 32
TRANSFORM = Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000)
NAMES = ("background", "road", "water")
UNET = ModelSettings(architecture="Unet", encoder="resnet18", options={"decoder_channels": [16, 16, 8, 8, 8]})
FCN = ModelSettings(architecture="fcn", encoder="resnet18", output_stride=16, head_channels=16)


def write(path: Path, image: np.ndarray, valid: np.ndarray | None = None, nodata: int | None = None) -> Path:
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", height=image.shape[1], width=image.shape[2], count=len(image), dtype="uint8",
            crs="EPSG:32645", transform=TRANSFORM, nodata=nodata,
        ) as file,
    ):  # fmt: skip
        file.write(image)
        if valid is not None:
            file.write_mask(valid)
    return path


@dataclass(frozen=True)
class Case:
    """A raster with a hole, its labels of so many classes, and what `tile` made of both."""

    raster: Path
    truth: np.ndarray
    manifest: Manifest

    def validation_truth(self, path: Path) -> Path:
        """The labels of the validation chips alone, as a raster."""
        own = np.full((HEIGHT, WIDTH), 255, np.uint8)
        for chip in self.manifest.split("val"):
            assert chip.place is not None
            window = tuple(slice(k * CHIP, (k + 1) * CHIP) for k in (chip.place.row, chip.place.col))
            own[window] = self.truth[window]
        return write(path, own[None], nodata=255)


def case(folder: Path, classes: int, seed: int = 0) -> Case:
    random = np.random.default_rng(seed)
    image = random.integers(1, 255, (2, HEIGHT, WIDTH)).astype(np.uint8)
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[30:55, 40:75] = False
    truth = random.integers(0, classes, (HEIGHT, WIDTH)).astype(np.uint8)
    truth[random.random(truth.shape) < 0.1] = 255
    truth[::CHIP, ::CHIP] = 0  # every chip has a label, so that none is missing
    raster = write(folder / "image.tif", image, valid)
    labels = write(folder / "labels.tif", truth[None], nodata=255)
    settings = TileSettings(
        chip_size=CHIP,
        block=1,
        val="0.3",
        test="0.2",
        seed=seed,
        labels=LabelSettings(classes=dict(enumerate(NAMES[:classes]))),
    )
    tile([str(raster)], [str(labels)], folder / "chips", settings)
    return Case(raster, np.where(valid, truth, 255).astype(np.uint8), open_manifest(folder / "chips"))


def network_and_card(
    model: ModelSettings, manifest: Manifest, bias: tuple[float, ...] | None = None, side: int = 64
) -> tuple[Network, ModelCard]:
    torch.manual_seed(3)
    document = manifest.document
    classes = len(document.legend)
    network = build_network(model, bands=len(document.bands), classes=classes)
    card = ModelCard(
        tool_version="test",
        recipe=Recipe(
            model=model,
            prediction=PredictionSettings(tile_size=side, halo=0, overlap=side // 2, batch_size=3),
        ),
        legend=document.legend,
        bands=document.bands,
        gsd=document.gsd,
        class_bias=bias or (0.0,) * classes,
        iteration=1,
        validation_miou=None,
        data_fingerprint=document.fingerprint,
    )
    return network, card


def by_scenes(case: Case, network: Network, card: ModelCard, folder: Path, side: int = 64) -> Tallies:
    scenes, notes = chip_scenes(case.manifest, "val", folder, side=side)
    assert notes == ()
    network.train()
    told: list[tuple[int, int]] = []
    tallies = validate_scenes(network, scenes, card, device=CPU, tell=lambda *counts: told.append(counts))
    assert network.training
    parts = sum(len(one.parts) for scene in scenes for one in scene.rectangles)
    assert told == sorted(told)
    assert told[-1] == (parts, parts)
    return tallies


def by_map(case: Case, network: Network, card: ModelCard, folder: Path) -> np.ndarray:
    save_model(network.state_dict(), card, folder / "model.safetensors")
    mask = folder / "mask.tif"
    settings = PredictSettings(engine="eager", device="cpu", overwrite=True)
    predict(folder / "model.safetensors", [case.raster], mask, settings)
    report = evaluate_mask(mask, [str(case.validation_truth(folder / "truth.tif"))])
    return np.array(report.scores.confusion)


@pytest.mark.parametrize(
    "model", [pytest.param(UNET, id="Unet"), pytest.param(FCN, id="fcn", marks=pytest.mark.slow)]
)
def test_the_score_of_scenes_is_that_of_the_written_map(model: ModelSettings, tmp_path: Path) -> None:
    made = case(tmp_path, classes=3)
    network, card = network_and_card(model, made.manifest)
    tallies = by_scenes(made, network, card, tmp_path)
    wanted = by_map(made, network, card, tmp_path)
    assert (wanted > 0).any(axis=0).sum() > 1, "a map of one class proves little"
    np.testing.assert_array_equal(tallies.matrix().counts, wanted)


@pytest.mark.slow
def test_the_score_at_any_threshold_is_that_of_the_map_with_its_bias(tmp_path: Path) -> None:
    """From one map all thresholds are scored: that `predict` adds a bias before it blends moves pixels by rounding."""
    made = case(tmp_path, classes=2)
    network, card = network_and_card(UNET, made.manifest)
    tallies = by_scenes(made, network, card, tmp_path)
    scored = []
    for threshold in (0.5, 0.42, 0.61):
        biased = card.model_copy(update={"class_bias": threshold_bias(threshold)})
        scored.append(by_map(made, network, biased, tmp_path))
        assert np.abs(tallies.matrix(threshold).counts - scored[-1]).sum() <= 2
    assert not np.array_equal(scored[0], scored[1])


def test_a_chips_own_counts_are_those_of_its_window_of_the_map(tmp_path: Path) -> None:
    made = case(tmp_path, classes=3)
    network, card = network_and_card(FCN, made.manifest)
    tallies = by_scenes(made, network, card, tmp_path)
    by_map(made, network, card, tmp_path)
    with rasterio.open(tmp_path / "mask.tif") as file:
        mask = file.read(1)
    chips = {chip.name: chip for chip in made.manifest.split("val")}
    assert {score.name for score in tallies.scored()} == set(chips)
    for score in tallies.scored():
        place = chips[score.name].place
        assert place is not None
        window = tuple(slice(k * CHIP, (k + 1) * CHIP) for k in (place.row, place.col))
        truth, said = made.truth[window], mask[window]
        counts = np.zeros((3, 3), int)
        for true, predicted in zip(truth[truth != 255], said[truth != 255], strict=True):
            counts[true, predicted] += 1
        np.testing.assert_array_equal(score.confusion, counts)


@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
@settings(max_examples=examples(100))
def test_rectangles_hold_every_part_once_and_nothing_else(cells: set[tuple[int, int]]) -> None:
    parts = {
        (i, j): ScenePart(f"{i},{j}", range(i * 8, i * 8 + 8), range(j * 8, j * 8 + 8), lambda: np.zeros(0))
        for i, j in cells
    }
    found = list(rectangles(parts))
    names = [part.name for one in found for part in one.parts]
    assert sorted(names) == sorted(part.name for part in parts.values())
    for one in found:
        assert len(one.rows) * len(one.cols) == 64 * len(one.parts)
