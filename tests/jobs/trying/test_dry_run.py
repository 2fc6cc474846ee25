"""A dry run says what a run would take and refuses what it would refuse, and leaves the picture at the most."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from aerial_seg.cli.reports.recipe_text import toml_lines
from aerial_seg.cli.train import command
from aerial_seg.errors import AerialSegError, OutputError, SettingsError
from aerial_seg.jobs.train import dry_run, time_limit
from aerial_seg.jobs.train.company import Plan
from aerial_seg.jobs.train.data import open_dataset
from aerial_seg.jobs.train.dry_run import forecast_training
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.jobs.train.time_limit import Timing
from aerial_seg.models.build import build_network
from aerial_seg.models.device import CPU as CPU_ITSELF
from aerial_seg.models.network import Network, encoder_of
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import change_recipe, load_recipe, parse_recipe, recipe_names
from aerial_seg.training.batches import training_crops
from aerial_seg.training.freezing import Freezing
from aerial_seg.training.validation.outcome import Outcome
from aerial_seg.training.validation.validator import SceneValidator, Tell, untold

CPU = TrainSettings(device="cpu")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few updates are enough here."""
    monkeypatch.setattr(dry_run, "_SECONDS", 0.1)


def test_it_measures_and_leaves_nothing_but_the_picture(chips: Path, recipe: Recipe, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in chips.rglob("*")}
    picture = tmp_path / "batch.png"
    made = forecast_training(chips, recipe, tmp_path / "run", CPU, picture=picture)
    assert [path.name for path in tmp_path.iterdir()] == ["batch.png"]
    assert {path: path.stat().st_mtime_ns for path in chips.rglob("*")} == before
    assert made.recipe == recipe
    assert made.seconds_per_iteration > 0
    assert made.seconds == pytest.approx(30 * made.seconds_per_iteration + made.seconds_per_validation)
    assert made.memory > 100 * 2**20
    assert made.gpu_memory is None
    assert made.chips == {"train": 11, "val": 3}
    report = train(chips, change_recipe(recipe, {"training.iterations": 1}), tmp_path / "run", CPU)
    assert made.files["best.safetensors"] == pytest.approx(report.model.stat().st_size, rel=0.02)
    state = tmp_path / "run" / "training.safetensors"
    assert made.files[state.name] == pytest.approx(state.stat().st_size, rel=0.02)
    drawn = {path.name for path in (tmp_path / "run").iterdir()} - {"tensorboard"}
    assert set(made.files) == drawn


@pytest.mark.parametrize("height", [64, 32])
def test_the_picture_shows_the_crops_that_are_trained_on_first(
    chips: Path, recipe: Recipe, tmp_path: Path, height: int
) -> None:
    """Its panels are 64 pixels wide here, 120 + 6 from one to the next; images on the left, labels on the right."""
    turning = change_recipe(
        recipe,
        {
            "training.batch_size": 3,
            "training.crop": [height, 64],
            "augmentation.rot90": height == 64,
            "augmentation.brightness": 0.0,
            "augmentation.contrast": 0.0,
        },
    )
    forecast_training(chips, turning, tmp_path / "run", CPU, picture=tmp_path / "batch.png")
    opened = open_dataset(chips, turning)
    crops = training_crops(opened.data, turning)
    mean, std = (np.array([getattr(band, key) for band in opened.bands]) for key in ("mean", "std"))
    colours = [np.array(entry.rgb) for entry in opened.legend.entries]
    with Image.open(tmp_path / "batch.png") as file:
        sheet = np.asarray(file).astype(float)
    seen = [0, 0]
    for k in range(3):
        image, labels = crops[k]
        left, top = 6 + k * 2 * 126, 3 * 20 + 20
        assert image.shape == (len(mean), height, 64)
        shown = sheet[top : top + height, left : left + 64]
        expected = np.moveaxis(image.numpy(), 0, -1) * std + mean
        measured = (image != 0).any(dim=0).numpy()
        assert np.abs(shown - np.clip(expected, 0, 255))[measured].max() <= 1
        painted = sheet[top : top + height, left + 126 : left + 126 + 64]
        for channel, colour in enumerate(colours):
            here = (labels.numpy() == channel) & measured
            assert np.abs(painted - (0.45 * shown + 0.55 * colour))[here].max(initial=0) <= 1.5
            seen[channel] += here.sum()
    assert min(seen) > 100


def test_validations_and_what_is_done_count(
    chips: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seconds an update; three chips of validation, of which one was timed for five seconds."""
    monkeypatch.setattr(dry_run, "_CHIPS", 1)
    monkeypatch.setattr(dry_run, "time_run", lambda *given, most: Timing(2.0, 5.0))
    asked = change_recipe(recipe, {"training.iterations": 35, "training.validate_every": 10})
    made = forecast_training(chips, asked, tmp_path / "run", CPU)
    assert made.seconds_per_validation == pytest.approx(15.0)
    assert made.seconds == pytest.approx(35 * 2 + 4 * 15)
    limited = TrainSettings(device="cpu", time_limit="100s")
    made = forecast_training(chips, asked, tmp_path / "run", limited)
    assert made.iterations == (100 * time_limit.SHARE - 15) // (2 + 1.5)
    run = tmp_path / "run"
    train(chips, change_recipe(asked, {"training.iterations": 1}), run, CPU)
    document = json.loads((run / "run.json").read_text())
    goes_on = {"state": "stopped", "iteration": 12, "iterations": 35, "recipe": asked.model_dump(mode="json")}
    (run / "run.json").write_text(json.dumps(document | goes_on))
    made = forecast_training(chips, asked, run, CPU)
    assert (made.done, made.iterations) == (12, 35)
    assert made.seconds == pytest.approx(23 * 2 + 3 * 15)


def test_updates_with_a_frozen_part_and_without_it_count_by_their_numbers(
    chips: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second while the encoder is frozen, two seconds later, five for the three chips."""
    asked = change_recipe(
        recipe, {"training.iterations": 35, "training.freeze": "encoder", "training.freeze_iterations": 10}
    )
    timed: list[list[bool]] = []

    def as_if(most: float, network: Network, data: object, tried: Recipe, computing: object) -> float:
        freezing, held = Freezing(network, tried.training), []
        for update in range(12):
            freezing.before_update(update)
            held.append(not any(one.requires_grad for one in encoder_of(network)[1].parameters()))
        timed.append(held)
        return 1.0 if held[-1] else 2.0

    monkeypatch.setattr(time_limit, "_seconds_per_step", as_if)
    monkeypatch.setattr(time_limit, "_seconds", lambda work: 5.0)
    network = build_network(asked.model, bands=3, classes=2)
    data = open_dataset(chips, asked).data
    timing = time_limit.time_run(network, data, asked, Plan.of(CPU, asked, CPU_ITSELF, None).alone(), most=1)
    assert timing == Timing(step=2.0, validation=5.0, frozen=1.0, held=10)
    assert timed == [[True] * 12, [True] + [False] * 11]
    assert timing.updates(0, 35) == 10 + 25 * 2
    assert timing.updates(4, 8) == 4
    assert timing.updates(12, 35) == 23 * 2
    for seconds in (5.0, 9.7, 20.0, 20.5, 26.0, 100.0):
        count = time_limit.fitting(seconds, timing, 10)
        taken = [timing.updates(0, n) + n * 5 / 10 + 5 for n in (count, count + 1)]
        assert taken[0] <= seconds < taken[1]
    monkeypatch.setattr(dry_run, "time_run", lambda *given, most: timing)
    monkeypatch.setattr(
        "aerial_seg.jobs.train.preparing.check_freezing", lambda recipe: None
    )  # no weights here
    made = forecast_training(chips, asked, tmp_path / "run", CPU)
    assert made.seconds == pytest.approx(10 + 25 * 2 + 2 * 5)
    assert made.seconds_per_iteration == pytest.approx(60 / 35)


def test_scenes_are_timed_as_they_are_validated(
    chips: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were timed as whole chips, of which some stood for all."""
    monkeypatch.setattr(dry_run, "_CHIPS", 1)
    mapped: list[int] = []

    class Counting(SceneValidator):
        def __call__(self, network: Network, device: torch.device, tell: Tell = untold) -> Outcome:
            mapped.append(sum(len(one.parts) for scene in self.scenes for one in scene.rectangles))
            return SceneValidator.__call__(self, network, device)

    monkeypatch.setattr("aerial_seg.jobs.train.validation.SceneValidator", Counting)
    seconds: list[float] = []
    measure = time_limit._seconds
    monkeypatch.setattr(time_limit, "_seconds", lambda work: (seconds.append(measure(work)), seconds[-1])[1])
    asked = change_recipe(recipe, {"training.validate_on": "scenes"})
    made = forecast_training(chips, asked, tmp_path / "run", CPU)
    assert mapped == [3]
    assert made.seconds_per_validation == seconds[0]


def test_it_refuses_what_validation_would_refuse(
    chips: Path, without: Path, recipe: Recipe, tmp_path: Path
) -> None:
    for dataset, changes in (
        (chips, {"training.monitor": "iou_foo"}),
        (chips, {"training.monitor": "loss", "training.validate_on": "scenes"}),
        (without, {"training.patience": 3}),
    ):
        asked, told = change_recipe(recipe, changes), []
        for call in (forecast_training, train):
            with pytest.raises(SettingsError) as refused:
                call(dataset, asked, tmp_path / "run", CPU)
            told.append(str(refused.value))
        assert told[0] == told[1]
    assert list(tmp_path.iterdir()) == []


def test_it_refuses_what_training_would_refuse(chips: Path, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    wide = change_recipe(recipe, {"training.crop": [64, 70], "augmentation.rot90": False})
    cases = [
        (recipe, tmp_path, None, OutputError, "exists already"),
        (change_recipe(recipe, {"training.crop": 70}), tmp_path / "run", None, AerialSegError, "try 64 or"),
        (wide, tmp_path / "run", None, AerialSegError, r"training\.crop's width 70 .* try 64 or"),
        (recipe, tmp_path / "run", tmp_path / "batch.jpg", SettingsError, r"ends in \.png"),
        (recipe, tmp_path / "run", tmp_path / "mine.txt" / "batch.png", OutputError, "not a folder"),
    ]
    for asked, run, picture, kind, message in cases:
        with pytest.raises(kind, match=message):
            forecast_training(chips, asked, run, CPU, picture=picture)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", recipe_names())
def test_the_recipe_that_is_printed_is_the_recipe(name: str) -> None:
    recipe = load_recipe(name)
    text = "\n".join(toml_lines(recipe.model_dump(mode="json")))
    assert parse_recipe(text, "printed") == recipe
    assert set(tomllib.loads(text)) | {"stage"} == set(Recipe.model_fields)


def test_the_command_prints_it_or_gives_json(chips: Path, recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text("\n".join(toml_lines(recipe.model_dump(mode="json"))))
    words = [str(chips), "--recipe", str(file), "-o", str(tmp_path / "run"), "--device", "cpu"]
    shown = CliRunner().invoke(command, [*words, "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert parse_recipe(shown.stdout.partition("\ndata ")[0], "printed") == recipe
    assert "11 chips to train on, 3 to validate on" in shown.stdout
    assert "images/s" in shown.stdout
    told = json.loads(CliRunner().invoke(command, [*words, "--dry-run", "--json"]).stdout)
    assert told["recipe"] == recipe.model_dump(mode="json")
    assert told["iterations"] == 30
    refused = CliRunner().invoke(command, [*words, "--picture", str(tmp_path / "b.png")])
    assert refused.exit_code == 2
    assert "add --dry-run" in refused.output
    assert [path.name for path in tmp_path.iterdir()] == ["r.toml"]
