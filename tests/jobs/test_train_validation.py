"""What a run's validation decides: the best checkpoint, the end of the run, the threshold; and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner
from rasterio.features import rasterize
from shapely import box

from aerial_seg.cli.evaluate import command as evaluate_command
from aerial_seg.cli.info import command as info_command
from aerial_seg.errors import Interrupted, SettingsError
from aerial_seg.jobs.evaluate import evaluate_model_on_chips
from aerial_seg.jobs.info.job import info
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.models.file import load_model, read_card
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import parse_recipe
from aerial_seg.recipe.training import TrainingSettings
from aerial_seg.training.callbacks import Callback, Checkpoint, Step
from aerial_seg.training.manifest import open_manifest
from aerial_seg.training.validation import validator
from aerial_seg.training.validation.outcome import Outcome

RECIPE = """
[model]
architecture = "fcn"
output_stride = 16
head_channels = 8
auxiliary = false
[training]
iterations = 12
batch_size = 1
crop = 32
optimizer = "adamw"
learning_rate = 2e-3
validate_every = 2
calibrate = true
[prediction]
tile_size = 128
"""
CPU = TrainSettings(device="cpu")


def recipe(**changes: object) -> Recipe:
    whole = parse_recipe(RECIPE, "test")
    training = TrainingSettings(**(dict(whole.training) | changes))
    return whole.model_copy(update={"training": training})


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with image.tif of 128² px, whose bright squares are labels.gpkg."""
    folder = tmp_path_factory.mktemp("ground")
    random = np.random.default_rng(0)
    image = random.integers(20, 90, (3, 128, 128)).astype(np.uint8)
    squares = [
        box(500000 + x, 5000000 - y - 8, 500000 + x + 8, 5000000 - y)
        for x in range(2, 60, 14)
        for y in range(3, 58, 12)
    ]
    transform = Affine(0.5, 0, 500000, 0, -0.5, 5000000)
    frame = geopandas.GeoDataFrame({"kind": ["building"] * len(squares)}, geometry=squares, crs="EPSG:32633")
    image[:, rasterize(frame.geometry, out_shape=(128, 128), transform=transform) == 1] += 120
    with rasterio.open(
        folder / "image.tif", "w", driver="GTiff", height=128, width=128, count=3, dtype="uint8",
        crs="EPSG:32633", transform=transform,
    ) as file:  # fmt: skip
        file.write(image)
    frame.to_file(folder / "labels.gpkg")
    for name, val in (("chips", "0.3"), ("without", "0")):
        settings = TileSettings(
            labels=LabelSettings(class_field="kind"), chip_size=32, block=1, val=val, test="0"
        )
        tile([str(folder / "image.tif")], [str(folder / "labels.gpkg")], folder / name, settings)
    return folder


@pytest.fixture
def chips(cut: Path) -> Path:
    return cut / "chips"


class Watching(Callback):
    """Keeps the checkpoints of validations; interrupts before a given update, once."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.checkpoints: list[Checkpoint] = []
        self._after = interrupt_after

    def on_step(self, step: Step) -> None:
        if step.iteration == self._after:
            raise KeyboardInterrupt

    def on_validation(self, checkpoint: Checkpoint) -> None:
        self.checkpoints.append(checkpoint)


def valued(monkeypatch: pytest.MonkeyPatch, values: list[float | None]) -> None:
    """The validations to come have these values."""
    judge, coming = validator.judge, iter(values)

    def as_told(*args: object, **settings: object) -> Outcome:
        return replace(judge(*args, **settings), value=next(coming))

    monkeypatch.setattr(validator, "judge", as_told)


def test_without_validation_chips_the_last_weights_are_the_best_in_file_and_word(
    cut: Path, tmp_path: Path
) -> None:
    """The first checkpoint was: its mIoU of −1 was never beaten, while the note said the last."""
    report = train(cut / "without", recipe(iterations=4), tmp_path / "run", CPU)
    assert report.best_iteration == report.iterations == 4
    best, last = (read_card(tmp_path / "run" / f"{name}.safetensors") for name in ("best", "last"))
    assert best.iteration == last.iteration == 4
    assert best == last
    assert best.validated is None
    weights = [load_model(tmp_path / "run" / f"{name}.safetensors").sha256 for name in ("best", "last")]
    assert weights[0] == weights[1]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["best_iteration"] == 4


@pytest.mark.parametrize("interrupted", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_ends_when_its_patience_is_over_and_says_so(
    chips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    valued(monkeypatch, [0.3, 0.5, 0.4, 0.5, 0.9, 0.9])
    wanted = recipe(patience=2, monitor="iou_building")
    if interrupted:
        with pytest.raises(Interrupted):
            train(chips, wanted, tmp_path / "run", CPU, callbacks=[Watching(interrupt_after=7)])
    watching = Watching()
    report = train(chips, wanted, tmp_path / "run", CPU, callbacks=[watching])
    assert [one.iteration for one in watching.checkpoints] == ([8] if interrupted else [2, 4, 6, 8])
    assert (report.iterations, report.best_iteration) == (8, 4)
    (note,) = (note for note in report.notes if note.startswith("stopped"))
    assert note == (
        "stopped at iteration 8 of 12: 2 validations in a row brought no better iou_building than iteration 4"
    )
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (told["state"], told["iteration"], told["iterations"]) == ("finished", 8, 12)
    assert read_card(tmp_path / "run" / "best.safetensors").iteration == 4
    assert read_card(tmp_path / "run" / "best.safetensors").finished


def test_the_best_is_by_the_monitored_score_at_the_threshold_that_ships(chips: Path, tmp_path: Path) -> None:
    watching = Watching()
    report = train(
        chips,
        recipe(iterations=6, monitor="recall_building", calibrate=False),
        tmp_path / "run",
        CPU,
        callbacks=[watching],
    )
    values = {one.iteration: one.outcome.value for one in watching.checkpoints if one.outcome}
    by_hand = {one.iteration: one.scores.classes[1].recall for one in watching.checkpoints if one.scores}
    assert values == by_hand
    assert report.best_iteration == max(values, key=lambda iteration: (values[iteration], -iteration))
    by_loss = Watching()
    report = train(
        chips, recipe(iterations=4, monitor="loss"), tmp_path / "by_loss", CPU, callbacks=[by_loss]
    )
    losses = {one.iteration: one.outcome.loss for one in by_loss.checkpoints if one.outcome}
    assert report.best_iteration == min(losses, key=lambda iteration: (losses[iteration], iteration))


def test_every_chip_is_told_with_its_own_counts(chips: Path, tmp_path: Path) -> None:
    watching = Watching()
    train(chips, recipe(iterations=2), tmp_path / "run", CPU, callbacks=[watching])
    (checkpoint,) = watching.checkpoints
    names = [chip.name for chip in open_manifest(chips).split("val")]
    assert [chip.name for chip in checkpoint.chips] == names
    assert checkpoint.scores is not None
    assert sum(chip.confusion for chip in checkpoint.chips).tolist() == [
        list(row) for row in checkpoint.scores.confusion
    ]


def test_few_pixels_leave_the_threshold_at_one_half_and_the_scores_in_doubt(
    chips: Path, tmp_path: Path
) -> None:
    report = train(chips, recipe(iterations=2), tmp_path / "run", CPU)
    assert report.threshold == 0.5
    (note,) = (doubt for doubt in report.doubts if "decision threshold stayed 0.5" in doubt)
    assert "fewer than 10,000 of a class are too few" in note
    card = read_card(tmp_path / "run" / "best.safetensors")
    assert card.class_bias == (0.0, 0.0)
    assert card.validated is not None
    assert card.validated.doubts == report.doubts
    assert (card.validated.unit, card.validated.units) == ("split block", 5)
    assert report.intervals is not None
    low, high = report.intervals.of("miou")
    assert card.validated.intervals["miou"] == (low, high)
    assert card.validation_miou is not None
    assert low <= card.validation_miou <= high
    told = json.loads((tmp_path / "run" / "run.json").read_text())["validation"]
    assert told["uncertainty"]["intervals"]["miou"] == [low, high]
    assert tuple(told["notes"]) == report.doubts
    # Whoever is handed the model sees it, too.
    facts = info(tmp_path / "run" / "best.safetensors")["validation"]
    assert facts["intervals"]["miou"] == (low, high)
    done = CliRunner().invoke(info_command, [str(tmp_path / "run" / "best.safetensors")])
    said = " ".join(done.output.split())
    assert f"mIoU {low:.3f} to {high:.3f}, over 5 split blocks, on whole chips" in said
    assert "the decision threshold stayed 0.5" in said


def test_scenes_are_what_the_model_is_chosen_by_and_evaluate_finds_the_same(
    chips: Path, tmp_path: Path
) -> None:
    report = train(chips, recipe(iterations=2, validate_on="scenes"), tmp_path / "run", CPU)
    again = evaluate_model_on_chips(report.model, chips, split="val", device="cpu", on="scenes")
    assert report.scores is not None
    assert again.scores.confusion == report.scores.confusion
    assert again.intervals == report.intervals
    card = read_card(report.model)
    assert card.validated is not None
    assert card.validated.on == "scenes"
    whole = evaluate_model_on_chips(report.model, chips, split="val", device="cpu")
    assert sum(map(sum, whole.scores.confusion)) == sum(map(sum, again.scores.confusion))
    arguments = [
        str(report.model),
        str(chips),
        "--split",
        "val",
        "--on",
        "scenes",
        "--device",
        "cpu",
    ]
    done = CliRunner().invoke(evaluate_command, arguments)
    assert done.exit_code == 0, done.output
    low, high = again.intervals.of("iou_building") if again.intervals else (0, 0)
    assert f"{low:.3f}–{high:.3f}" in done.output
    assert "95 % intervals: a bootstrap over 5 split blocks" in done.output


@pytest.mark.parametrize(
    ("which", "changes", "message"),
    [
        ("chips", {"monitor": "iou_bulding"}, "did you mean 'iou_building'"),
        ("chips", {"monitor": "loss", "validate_on": "scenes"}, "loss, which is not known of scenes"),
        ("without", {"patience": 3}, "training.patience is 3, but the dataset has no validation chips"),
        ("without", {"monitor": "iou_building"}, "training.monitor is iou_building, but the dataset has no"),
        ("without", {"validate_on": "scenes"}, "training.validate_on is scenes, but the dataset has no"),
    ],
)
def test_what_cannot_apply_is_refused_before_training(
    cut: Path, tmp_path: Path, which: str, changes: dict, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        train(cut / which, recipe(**changes), tmp_path / "run", CPU)
    assert not (tmp_path / "run").exists()


def test_a_class_that_no_validation_pixel_is_of_cannot_be_monitored(cut: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    labels = np.zeros((1, 128, 128), np.uint8)
    labels[:, :, :32] = random.integers(0, 3, (1, 128, 32))
    with rasterio.open(cut / "image.tif") as image:
        profile = image.profile | {"count": 1}
    with rasterio.open(tmp_path / "labels.tif", "w", **profile) as file:
        file.write(labels)
    for side, name in ((slice(0, 64), "west"), (slice(64, 128), "east")):
        with rasterio.open(cut / "image.tif") as image:
            window = rasterio.windows.Window(side.start, 0, 64, 128)
            pixels, transform = image.read(window=window), image.window_transform(window)
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", **(profile | {"count": 3, "width": 64, "transform": transform})
        ) as file:
            file.write(pixels)
    named = LabelSettings(classes={0: "ground", 1: "road", 2: "water"})
    settings = TileSettings(labels=named, chip_size=32, split_by="source", val="east.tif", test="0")
    tile([str(tmp_path / "west.tif"), str(tmp_path / "east.tif")], [str(tmp_path / "labels.tif")],
         tmp_path / "chips", settings)  # fmt: skip
    with pytest.raises(SettingsError, match="iou_water, but no validation pixel is water; use miou"):
        train(tmp_path / "chips", recipe(monitor="iou_water"), tmp_path / "run", CPU)
    assert not (tmp_path / "run").exists()
