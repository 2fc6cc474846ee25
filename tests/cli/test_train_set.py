"""train --set KEY=VALUE: every key of a recipe, once each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = """
[model]
architecture = "fcn"
output_stride = 16
head_channels = 8
auxiliary = false
[training]
iterations = 9
batch_size = 2
crop = 32
[prediction]
tile_size = 64
"""
TRAIN = ("train", "chips", "--recipe", "mine.toml", "--device", "cpu", "-o", "run")


@pytest.fixture
def chips(run: Callable, raster: Callable[..., Path], labels: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE, encoding="utf-8")
    command = ("tile", raster("in.tif"), "--labels", labels, "--classes", "1=road,2=car")
    assert run(*command, "--chip-size", 32, "--block", 1, "-o", "chips").code == 0


def test_keys_are_set_and_bad_ones_told(
    run: Callable, refused: Callable[..., str], chips: None, tmp_path: Path
) -> None:
    assert "did you mean 'training.crop'?" in refused(*TRAIN, "--set", "training.crob=64", code=2)
    assert "wanted KEY=VALUE" in refused(*TRAIN, "--set", "training.crop", code=2)
    assert "leave one of them out" in refused(
        *TRAIN, "--set", "model.weights=none", "--weights", "none", code=2
    )
    assert not (tmp_path / "run").exists()
    changes = ("training.iterations=1", "training.class_weights.car=2.5", "model.head=no-concat")
    done = run(*TRAIN, "--precision", "fp32", *(word for one in changes for word in ("--set", one)))
    assert done.code == 0, done
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["recipe"]["training"]["iterations"] == told["iterations"] == 1
    assert told["recipe"]["training"]["class_weights"] == {"car": 2.5}
    assert told["recipe"]["model"]["head"] == "no-concat"
    assert (told["precision"], told["processes"], told["accumulate"]) == ("fp32", 1, 1)
