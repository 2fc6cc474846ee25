"""What TensorBoard's own reader finds in the files of a run."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from run_watched import NAMES, drive, loss_of, scores
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aerial_seg.bands import Band
from aerial_seg.legend import make_legend
from aerial_seg.recipe.loading import load_recipe
from aerial_seg.report import tensorboard
from aerial_seg.report.chip_views import ChipViews
from aerial_seg.training.callbacks import Checkpoint

LEGEND = make_legend({0: NAMES[0], 7: NAMES[1]})
BANDS = tuple(
    Band(name=name, dtype="uint8", mean=100, std=50, p2=0, p98=255) for name in ("blue", "green", "red")
)


class Chips:
    """Six chips of 8 × 600 pixels; chip k holds one value everywhere, and buildings on its left half."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        colour = torch.tensor([10.0 * k, 20.0, 30.0])
        labels = torch.zeros((8, 600), dtype=torch.uint8)
        labels[:, :300], labels[0, 0] = 1, 255
        return ((colour - 100) / 50)[:, None, None].expand(3, 8, 600), labels


def maps(checkpoint: Checkpoint, numbers: Any) -> list[Any]:
    """All building, from iteration 20 on all background."""
    return [np.full((8, 600), 1 if checkpoint.iteration < 20 else 0, np.uint8) for _ in numbers]


def callback(folder: Path) -> tensorboard.TensorBoard:
    chips = ChipViews(Chips(), [f"chip{k}" for k in range(6)], BANDS, LEGEND, maps)
    settings = load_recipe("unet").model_dump(mode="json")
    return tensorboard.TensorBoard(folder, legend=LEGEND, settings=settings, chips=chips)


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def curve(events: EventAccumulator, tag: str) -> dict[int, float]:
    """The points of a curve, in order and each once."""
    steps = [event.step for event in events.Scalars(tag)]
    assert steps == sorted(set(steps))
    return {event.step: event.value for event in events.Scalars(tag)}


def test_a_run_that_went_on_has_every_point_once(tmp_path: Path) -> None:
    killed = callback(tmp_path)
    drive([killed], last=27, iterations=40, every=10, ends=False)
    killed.close()
    drive([callback(tmp_path)], first=20, last=40, iterations=40, every=10)
    events = read(tmp_path)
    assert curve(events, "train/loss") == pytest.approx({k: loss_of(k) for k in range(1, 41)})
    rates = {k: 0.1 * (1 - (k - 1) / 40) for k in range(1, 41)}
    assert curve(events, "train/learning_rate") == pytest.approx(rates)
    expected = {k: scores(50 + k // 10) for k in (10, 20, 30, 40)}
    assert curve(events, "validation/mIoU") == pytest.approx({k: one.miou for k, one in expected.items()})
    for c, name in enumerate(NAMES):
        ious = {k: one.classes[c].iou for k, one in expected.items()}
        assert curve(events, f"IoU/{name}") == pytest.approx(ious)
    speed = curve(events, "train/images_per_second")
    # The first update of a process, and the one after a validation, have no time of their own.
    assert set(speed) == set(range(2, 41)) - {21}
    assert min(speed.values()) > 0


def test_a_run_that_begins_again_has_every_point_once(tmp_path: Path) -> None:
    """It was killed before its first checkpoint, and had all it had drawn until then twice."""
    killed = callback(tmp_path)
    drive([killed], last=7, iterations=12, every=5, ends=False)
    killed.close()
    drive([callback(tmp_path)], last=12, iterations=12, every=5)
    assert len(list(tmp_path.iterdir())) == 2
    events = read(tmp_path)
    assert curve(events, "train/loss") == pytest.approx({k: loss_of(k) for k in range(1, 13)})
    assert set(curve(events, "validation/mIoU")) == {5, 10}
    assert [event.step for event in events.Images("chip0/map")] == [5, 10]
    for tag in ("chip0/image", "chip0/label"):
        assert [event.step for event in events.Images(tag)] == [0]


def picture(encoded: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image)


def test_some_chips_are_shown_with_label_and_map_in_the_classes_colours(tmp_path: Path) -> None:
    drive([callback(tmp_path)], last=20, iterations=20, every=10)
    events = read(tmp_path)
    shown = ("chip0", "chip2", "chip3", "chip5")
    assert set(events.Tags()["images"]) == {
        f"{name}/{what}" for name in shown for what in ("image", "label", "map")
    }
    ground, building = (np.array(entry.rgb) for entry in LEGEND.entries)
    (image,) = events.Images("chip3/image")
    assert (picture(image.encoded_image_string) == [30, 20, 30]).all()
    (label,) = events.Images("chip3/label")
    drawn = picture(label.encoded_image_string)
    # 600 pixels are thinned out to 300.
    assert drawn.shape == (4, 300, 3)
    assert (drawn[0, 0] == 255).all()
    assert (drawn[1, :150] == building).all()
    assert (drawn[:, 150:] == ground).all()
    for event, step, colour in zip(events.Images("chip3/map"), (10, 20), (building, ground), strict=True):
        assert event.step == step
        assert (picture(event.encoded_image_string) == colour).all()


def test_hyperparameters_are_those_of_the_recipe(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    drive([callback(tmp_path)], last=2, iterations=2, every=2)
    content = read(tmp_path).SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    told = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    recipe = load_recipe("unet")
    assert told["training.learning_rate"].number_value == recipe.training.learning_rate
    assert told["model.encoder"].string_value == recipe.model.encoder
    assert told["model.auxiliary"].number_value == recipe.model.auxiliary
    assert told["augmentation.scale"].string_value == str(list(recipe.augmentation.scale))


def test_long_runs_have_few_points_that_are_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "MOST_POINTS", 10)
    drive([callback(tmp_path)], last=41, iterations=41, every=41)
    points = curve(read(tmp_path), "train/loss")
    means = {k: float(np.mean([loss_of(j) for j in range(k - 3, k + 1)])) for k in range(4, 41, 4)}
    assert points == pytest.approx(means)


def test_without_the_package_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tensorboard.is_installed()
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "tensorboard")
    assert not tensorboard.is_installed()
    assert 'pip install "aerial-seg[tensorboard]"' in tensorboard.MISSING
