"""A recipe of several stages on the command line: foretold, trained, looked at, by one command each."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from aerial_seg.jobs.train import dry_run
from aerial_seg.recipe.document import Recipe

RECIPE = """
[model]
architecture = "fcn"
encoder = "tu-test_resnet"
output_stride = 16
head_channels = 8
auxiliary = false
[training]
iterations = 4
batch_size = 2
crop = 32
workers = 0
[prediction]
tile_size = 64
[[stage]]
name = "fine"
training.learning_rate = 1e-3
training.iterations = 9
training.warmup = 2
"""
TRAIN = ("train", "chips", "--recipe", "mine.toml", "--device", "cpu", "-o", "run")
SET = ("--set", "stage.fine.training.iterations=2")


def test_stages_are_foretold_trained_and_shown(
    run: Callable, raster: Callable[..., Path], labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "_SECONDS", 0.1)
    (tmp_path / "mine.toml").write_text(RECIPE, encoding="utf-8")
    command = ("tile", raster("in.tif"), "--labels", labels, "--classes", "1=road,2=car")
    assert run(*command, "--chip-size", 32, "--block", 1, "-o", "chips").code == 0

    told = run(*TRAIN, *SET, "--dry-run")
    assert told.code == 0, told
    lines = told.out.splitlines()
    recipe = tomllib.loads(
        "\n".join(lines[: next(k for k, line in enumerate(lines) if line.startswith("stage  "))])
    )
    assert Recipe.model_validate(recipe).by_stage()[1].training.iterations == 2
    assert [line for line in lines if line.startswith("stage  ")] == [
        "stage     1 of 2",
        "stage     2 of 2 fine",
    ]
    assert [line.partition("for ")[2] for line in lines if line.startswith(("time", "in all"))] == [
        "4 iterations", "2 iterations", "all stages that are left",
    ]  # fmt: skip
    assert "stage-1 (as much)" in told.out
    assert "note: stage 2 of 2 (fine): training.warmup is 2 updates, of which there are 2" in told.err
    assert not (tmp_path / "run").exists()

    done = run(*TRAIN, *SET, "--json")
    assert done.code == 0, done
    document = json.loads(done.out)
    assert document["stage"] == {"number": 2, "of": 2, "name": "fine"}
    assert [one["model"] for one in document["earlier"]] == ["run/stage-1/best.safetensors"]
    for words in (
        "stage 1 of 2\n",
        "stage 2 of 2 (fine)\n",
        "note: stage 2 of 2 (fine) begins with stage-1/last.safetensors",
        "note: training.warmup is 2 updates, of which there are 2",
    ):
        assert words in done.err
    shown = run("info", "run")
    assert "stage   2 of 2 (fine), of which all that follows is" in shown.out
    assert "stage   1 is finished: 4 iterations, best mIoU" in shown.out
    assert "done    iteration 2 of 2" in shown.out
    assert run("info", "run/best.safetensors").code == 0
