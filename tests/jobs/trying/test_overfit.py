"""Whether a network learns at all is tried on a few chips, and the model never passes for another one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aerial_seg.errors import OutputError, SettingsError
from aerial_seg.jobs.train.data import open_dataset
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.overfit import few_chips, without_augmentation
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.models.file import load_model, read_card
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import change_recipe
from aerial_seg.training.crops import CropDataset
from aerial_seg.training.samples import chip_store


def test_a_network_learns_two_chips_by_heart_and_its_model_says_so(
    chips: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    report = train(chips, recipe, run, TrainSettings(device="cpu", overfit=2))
    assert report.scores is not None
    assert report.scores.miou > 0.95
    assert report.notes[0].startswith("this run trains and validates on the same 2 chips")
    # Both splits are the same two chips of 64 × 64 pixels.
    assert sum(one.pixels for one in report.scores.classes) == 2 * 64 * 64
    model = load_model(report.model)
    assert model.card.overfit == 2
    (note,) = model.notes
    assert "was trained on 2 chips only" in note
    assert json.loads((run / "run.json").read_text())["overfit"] == 2
    for other in (None, 3):
        settings = TrainSettings(device="cpu", overfit=other)
        with pytest.raises(OutputError, match="finished run"):
            train(chips, recipe, run, settings)


def test_a_dataset_without_validation_chips_tells_too_whether_a_network_learns(
    without: Path, recipe: Recipe, tmp_path: Path
) -> None:
    """The first validation ended in an AssertionError: there were chips to validate on, and nobody to do it."""
    short = change_recipe(recipe, {"training.iterations": 2, "training.monitor": "iou_building"})
    report = train(without, short, tmp_path / "run", TrainSettings(device="cpu", overfit=2))
    assert report.scores is not None
    assert sum(one.pixels for one in report.scores.classes) == 2 * 64 * 64
    assert report.intervals is not None
    assert (report.intervals.unit, report.intervals.units) == ("chip", 2)
    scenes = change_recipe(short, {"training.validate_on": "scenes"})
    with pytest.raises(SettingsError, match="scenes, but the chips that are validated on lie in no scenes"):
        train(without, scenes, tmp_path / "other", TrainSettings(device="cpu", overfit=2))


def test_an_unfinished_run_of_other_chips_is_no_run_to_go_on_with(
    chips: Path, recipe: Recipe, tmp_path: Path
) -> None:
    plain = without_augmentation(recipe)
    run = tmp_path / "run"
    train(
        chips, change_recipe(plain, {"training.iterations": 1}), run, TrainSettings(device="cpu", overfit=2)
    )
    document = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(document | {"state": "stopped"}))
    with pytest.raises(OutputError, match=r"another job .*overfit"):
        train(chips, change_recipe(plain, {"training.iterations": 1}), run, TrainSettings(device="cpu"))


def test_crops_of_such_a_run_are_the_chips_as_they_are(chips: Path, recipe: Recipe) -> None:
    few = few_chips(open_dataset(chips, recipe), 3)
    plain = without_augmentation(recipe)
    crops = CropDataset(few.data.train, length=6, crop=64, augmentation=plain.augmentation, seed=0)
    seen = set()
    for index in range(6):
        image, labels = crops[index]
        # Crops are multiplied by 1/std, whole chips divided by std.
        same = [k for k in range(3) if torch.allclose(few.data.train[k][0], image, atol=1e-5)]
        assert len(same) == 1
        assert torch.equal(few.data.train[same[0]][1].long(), labels)
        seen.add(same[0])
    assert seen == {0, 1, 2}


def test_decoded_chips_of_both_splits_take_one_quarter_of_the_memory(
    chips: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each split took one."""
    whole = open_dataset(chips, recipe).data
    assert whole.val is not None
    each = whole.train.room // len(whole.train)
    for kept in ((8, 0), (11, 2)):
        monkeypatch.setattr(chip_store, "available_memory", lambda kept=kept: 4 * sum(kept) * each)
        data = open_dataset(chips, recipe).data
        assert data.val is not None
        assert (data.train.room, data.val.room) == tuple(count * each for count in kept)


def test_the_chips_are_those_that_show_most(chips: Path, recipe: Recipe) -> None:
    """Buildings lie on the upper half only: without a choice there might be nothing to learn."""
    few = few_chips(open_dataset(chips, recipe), 2)
    assert few.data.val is not None
    for k in range(2):
        assert set(np.unique(few.data.train[k][1])) == {0, 1}
        assert torch.equal(few.data.train[k][0], few.data.val[k][0])


def test_more_chips_than_there_are_and_many_processes_are_refused(
    chips: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match=r"`overfit` is 900, but there are \d+ training chips"):
        train(chips, recipe, tmp_path / "run", TrainSettings(overfit=900))
    with pytest.raises(SettingsError, match=r"`overfit` .* `processes`"):
        TrainSettings(overfit=2, processes=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(
            SettingsError, match=r"`overfit` .* torchrun started 2; start it without torchrun"
        ):
            train(chips, recipe, tmp_path / "run", TrainSettings(overfit=2, device="cpu"))
    assert list(tmp_path.iterdir()) == []


def test_models_of_before_are_no_such_models(chips: Path, recipe: Recipe, tmp_path: Path) -> None:
    short = change_recipe(recipe, {"training.iterations": 1})
    report = train(chips, short, tmp_path / "run", TrainSettings(device="cpu"))
    assert read_card(report.model).overfit is None
    assert load_model(report.model).notes == ()
