"""train --weights: none, a name, a file, and what is told about each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch

from aerial_seg.models.file import load_model
from aerial_seg.recipe import loading

RECIPE = """
[model]
architecture = "fcn"
output_stride = 16
head_channels = 8
auxiliary = false
weights = "imagenet"
[training]
iterations = 1
batch_size = 2
crop = 32
validate_every = 1
[prediction]
tile_size = 128
"""


@pytest.fixture
def chips(run: Callable, raster: Callable[..., Path], labels: Path, tmp_path: Path) -> Path:
    """Chips of the test's raster and a recipe, mine.toml, that wants imagenet."""
    (tmp_path / "mine.toml").write_text(RECIPE, encoding="utf-8")
    command = ("tile", raster("in.tif"), "--labels", labels, "--classes", "1=road,2=car")
    assert run(*command, "--chip-size", 32, "--block", 1, "-o", "chips").code == 0
    return tmp_path / "chips"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", fails)


TRAIN = ("train", "chips", "--recipe", "mine.toml", "--device", "cpu", "-o", "run")


def test_none_and_a_file_always_work_where_imagenet_needs_internet(
    run: Callable, refused: Callable[..., str], models: Callable[..., Path], chips: Path, tmp_path: Path
) -> None:
    line = refused(*TRAIN, code=2)
    assert "the imagenet weights of resnet18 could not be downloaded" in line
    assert "none" in line
    assert "FILE" in line

    fresh = run(*TRAIN, "--weights", "none")
    assert fresh.code == 0, fresh.err
    assert "note: started" not in fresh.err
    assert load_model(tmp_path / "run/best.safetensors").card.recipe.model.weights == "none"

    tuned = run(*TRAIN, "--weights", models("fcn", "resnet18"), "--overwrite", "--json")
    assert tuned.code == 0, tuned.err
    assert "note: started from the model" in tuned.err
    assert "note: 1 of 2 classes begin as the model's by name: road" in tuned.err
    assert len(json.loads(tuned.out)["notes"]) == 2
    assert load_model(tmp_path / "run/best.safetensors").card.recipe.model.weights == str(
        models("fcn", "resnet18")
    )


def test_without_a_recipe_the_default_is_taken_and_told(
    run: Callable, chips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = loading.shipped_text
    quick = RECIPE.replace("imagenet", "none")
    monkeypatch.setattr(
        loading, "shipped_text", lambda folder, name: quick if name == "default" else shipped(folder, name)
    )
    done = run("train", "chips", "--device", "cpu", "-o", "run", "--json")
    assert done.code == 0, done.err
    said = "no --recipe was given: the recipe default is taken (fcn, resnet18, 1 iterations)"
    assert f"note: {said}" in done.err
    assert json.loads(done.out)["notes"] == [said]
    assert (
        "no --recipe"
        not in run("train", "chips", "--recipe", "default", "--device", "cpu", "-o", "named").err
    )


def test_weights_that_cannot_be_used_are_one_line(refused: Callable[..., str], chips: Path) -> None:
    assert "gone.pth do not exist or are no file" in refused(*TRAIN, "--weights", "gone.pth")
    assert "did you mean 'imagenet'?" in refused(*TRAIN, "--weights", "imagnet", code=2)
    torch.save(torch.nn.Conv2d(1, 1, 1), "code.pt")
    assert "is refused: its pickle asks to run or build torch.nn" in refused(*TRAIN, "--weights", "code.pt")
