"""DeepLabv3's training on VOC as one call: trainaug at output stride 16, then trainval at 8 with a lower rate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aerial_seg.errors import InputError
from aerial_seg.jobs.train.data import Dataset, open_dataset
from aerial_seg.jobs.train.dry_run import forecast_training
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.models.build import build_network
from aerial_seg.models.file import load_model
from aerial_seg.models.restride import with_output_stride
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import change_recipe, load_recipe, parse_recipe

CPU = TrainSettings(device="cpu", tensorboard=False)
RECIPE = """
[data]
benchmark = "voc"
train = "trainaug"
[model]
architecture = "deeplabv3"
encoder = "resnet18"
output_stride = 16
multi_grid = [1, 2]
head_channels = 8
auxiliary = false
[training]
iterations = 3
batch_size = 2
crop = 32
learning_rate = 0.007
validate_every = 2
workers = 0
[prediction]
tile_size = 64
[[stage]]
name = "trainval"
data.train = "trainval"
model.output_stride = 8
[stage.training]
iterations = 2
learning_rate = 0.001
"""


@pytest.fixture
def recipe() -> Recipe:
    return parse_recipe(RECIPE, "voc")


@pytest.mark.slow
def test_one_call_is_two_with_the_weights_and_the_strides_said(
    recipe: Recipe, voc_root: Path, tmp_path: Path
) -> None:
    pytest.importorskip("scipy.io")
    run = train(voc_root, recipe, tmp_path / "run", CPU).run
    first, second = recipe.by_stage()
    weights = train(voc_root, first, tmp_path / "first", CPU).run / "last.safetensors"
    alone = change_recipe(second, {"model.weights": str(weights)})
    again = train(voc_root, alone, tmp_path / "second", CPU).run
    for ours, theirs in ((run / "stage-1", weights.parent), (run, again)):
        assert (ours / "log.csv").read_bytes() == (theirs / "log.csv").read_bytes()
        for name in ("last.safetensors", "best.safetensors"):
            one, other = load_file(ours / name), load_file(theirs / name)
            assert all(torch.equal(one[key], other[key]) for key in {*one, *other})

    # What the second stage begins with are the first one's weights restrided, which building at 8 alone is not.
    before = with_output_stride(load_model(run / "stage-1" / "last.safetensors"), 8).network
    settings = (
        second.model.model_copy(update={"weights": "none", "trained_stride": at}) for at in (16, None)
    )
    begun, anew = (build_network(one, bands=3, classes=21) for one in settings)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    for network, is_same in ((begun, True), (anew, False)):
        network.load_state_dict(load_file(run / "stage-1" / "last.safetensors"))
        with torch.inference_mode():
            assert torch.equal(network.eval()(image), before(image)) == is_same
    made = load_model(run / "best.safetensors")
    assert made.network.geometry == begun.geometry
    assert (made.card.recipe.data.train, made.card.recipe.training.learning_rate) == ("trainval", 0.001)


def test_a_list_that_the_second_stage_lacks_is_told_before_the_first(
    recipe: Recipe, voc_root: Path, tmp_path: Path
) -> None:
    pytest.importorskip("scipy.io")
    (voc_root / "ImageSets" / "Segmentation" / "trainval.txt").unlink()
    for work in (train, forecast_training):
        with pytest.raises(InputError, match=r"stage 2 of 2 \(trainval\): .*trainval\.txt"):
            work(voc_root, recipe, tmp_path / "run", CPU)  # type: ignore[operator]
        assert not (tmp_path / "run").exists()


def test_the_next_stages_data_are_opened_once(
    recipe: Recipe, voc_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run opens a later stage's again when that begins, which may be days later; a dry run has looked at them."""
    pytest.importorskip("scipy.io")
    opened: list[str] = []

    def noting(root: Path, asked: Recipe) -> Dataset:
        opened.append(asked.data.train)
        return open_dataset(root, asked)

    monkeypatch.setattr("aerial_seg.jobs.train.preparing.open_dataset", noting)
    monkeypatch.setattr("aerial_seg.jobs.train.dry_run._SECONDS", 0.1)
    one = change_recipe(recipe, {"training.iterations": 1, "stage.0.training.iterations": 1})
    forecast_training(voc_root, one, tmp_path / "dry", CPU)
    assert opened == ["trainaug", "trainval"]
    opened.clear()
    train(voc_root, one, tmp_path / "run", CPU)
    assert opened == ["trainaug", "trainval", "trainval"]


@pytest.mark.slow
def test_coco_and_then_voc_are_trained_on_by_one_command(
    coco_root: Path, voc_root: Path, tmp_path: Path
) -> None:
    """One folder holds both, by links here; the second stage goes on with the first one's weights and classes."""
    pytest.importorskip("scipy.io")
    both = tmp_path / "both"
    both.mkdir()
    (both / "coco").symlink_to(coco_root)
    (both / "VOCdevkit").symlink_to(voc_root.parent)
    (both / "SBD").symlink_to(voc_root.parent.parent / "SBD")
    small = {
        "model.encoder": "resnet18", "model.weights": "none", "model.multi_grid": [1, 2], "model.head_channels": 8,
        "training.batch_size": 2, "training.crop": 33, "training.iterations": 2, "training.validate_every": 2,
        "training.workers": 0, "prediction.tile_size": 65, "stage.voc.training.iterations": 1,
    }  # fmt: skip
    asked = load_recipe("voc/deeplabv3-coco", small)
    report = train(both, asked, tmp_path / "run", CPU)
    assert [one.data.benchmark for one in asked.by_stage()] == ["coco", "voc"]
    notes = json.loads((tmp_path / "run" / "stage-1" / "run.json").read_text(encoding="utf-8"))["notes"]
    assert any("split train of COCO has 3 of 6 images" in note for note in notes)
    made = load_model(report.model)
    assert (made.card.recipe.data.benchmark, made.card.recipe.training.learning_rate) == ("voc", 0.0001)
    (voc_root.parent / "VOC2012").rename(voc_root.parent / "away")
    with pytest.raises(InputError, match=r"stage 2 of 2 \(voc\): "):
        train(both, asked, tmp_path / "other", CPU)
