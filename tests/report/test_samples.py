"""Which validation chips are looked at, and what a picture of them shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from laws import examples
from PIL import Image

from aerial_seg.bands import Band, normalise
from aerial_seg.legend import make_legend
from aerial_seg.metrics import ConfusionMatrix
from aerial_seg.report.chip_views import ChipViews
from aerial_seg.report.colours import natural_colours
from aerial_seg.report.samples import SamplesPicture, Shown, caption, choose_chips, draw_samples
from aerial_seg.training.callbacks import Checkpoint

LEGEND = make_legend({0: "background", 3: "building"})
K = 3
matrices = st.lists(hnp.arrays(np.int64, (K, K), elements=st.integers(0, 50)), max_size=30)


def cost_of(confusions: Sequence[np.ndarray], chip: int) -> float:
    """What a chip takes from the sum of IoUs: its errors of each class as a share of the union over all chips."""
    total = sum(confusions)
    own = confusions[chip]
    errors = own.sum(axis=0) + own.sum(axis=1) - 2 * np.diag(own)
    union = total.sum(axis=0) + total.sum(axis=1) - np.diag(total)
    return float((errors / np.maximum(union, 1)).sum())


@given(confusions=matrices, most=st.integers(1, 5))
@settings(max_examples=examples(100))
def test_the_chips_that_cost_most_come_first_and_none_twice(
    confusions: list[np.ndarray[Any, Any]], most: int
) -> None:
    choice = choose_chips(confusions, most=most)
    labelled = {k for k, counts in enumerate(confusions) if counts.sum()}
    chosen = [*choice.worst, *choice.typical]
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= labelled
    assert len(chosen) == min(2 * most, len(labelled))
    costs = {k: cost_of(confusions, k) for k in labelled}
    ranks = [costs[k] for k in choice.worst]
    assert ranks == sorted(ranks, reverse=True)
    assert all(costs[k] <= min(ranks) + 1e-12 for k in labelled - set(choice.worst))
    if len(labelled) >= 6 * most:
        quarter, rest = len(labelled) / 4, sorted(costs.values())
        assert all(rest[int(quarter)] <= costs[k] <= rest[int(3 * quarter)] for k in choice.typical)


def test_a_chip_with_three_pixels_of_a_class_is_not_the_worst() -> None:
    """Its IoU of buildings is 0, but another one lost a thousand of them."""
    few = np.array([[997, 0], [3, 0]])
    many = np.array([[4000, 0], [1000, 2000]])
    assert choose_chips([few, many, few], most=1).worst == (1,)


def test_a_caption_tells_the_classes_that_are_there_the_worst_first() -> None:
    counts = np.array([[90, 10], [5, 15]])
    assert caption("a", counts, LEGEND) == "a: IoU building 0.50, background 0.86"
    assert caption("b", np.array([[9, 0], [0, 0]]), LEGEND) == "b: IoU background 1.00"
    many = make_legend({k: f"c{k}" for k in range(5)})
    assert caption("c", np.eye(5, dtype=np.int64), many) == "c: IoU c0 1.00, c1 1.00, c2 1.00 and 2 better"


def bands(*names: str, dtype: str = "uint8", p98: float = 200) -> tuple[Band, ...]:
    return tuple(
        Band(name=name, dtype=dtype, mean=90 + k, std=30 + k, p2=50, p98=p98) for k, name in enumerate(names)
    )


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("red", "green", "blue"), (0, 1, 2)),
        (("Blue", "nir", "Green", "Red"), (3, 2, 0)),
        (("b1", "b2", "b3", "b4"), (0, 1, 2)),
        (("height",), (0, 0, 0)),
        (("vv", "vh"), (0, 0, 0)),
    ],
)
def test_colours_are_red_green_and_blue_where_bands_are_called_so(
    names: tuple[str, ...], shown: tuple[int, ...]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (len(names), 5, 7)).astype(np.uint8)
    valid = np.ones((5, 7), np.bool_)
    valid[2, 3] = False
    picture = natural_colours(normalise(pixels, valid, bands(*names)), bands(*names))
    expected = np.moveaxis(pixels[list(shown)], 0, -1).copy()
    expected[2, 3] = 255
    assert np.array_equal(picture, expected)


def test_other_than_8_bits_are_stretched_between_the_percentiles_of_training() -> None:
    pixels = np.array([0, 50, 1050, 2050, 9000], np.uint16).reshape(1, 1, 5)
    of = bands("b", dtype="uint16", p98=2050)
    picture = natural_colours(normalise(pixels, np.ones((1, 5), np.bool_), of), of)
    assert picture[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def panel(path: Path, number: int, *, left: int = 0) -> np.ndarray[Any, Any]:
    """The middle of a panel of the first row: 256 pixels wide, 6 between them."""
    with Image.open(path) as picture:
        middle = left + 6 + number * 262 + 128
        return np.asarray(picture)[188, middle - 100 : middle + 100]


def test_a_panel_shows_image_labels_map_and_errors(tmp_path: Path) -> None:
    """A grey chip, building on the left half, mapped as building everywhere, unlabelled in the last eighth."""
    truth = np.zeros((256, 256), np.uint8)
    truth[:, :128], truth[:, 224:] = 1, 255
    chip = Shown("chip", np.full((256, 256, 3), 100, np.uint8), truth, np.ones((256, 256), np.uint8))
    path = tmp_path / "samples.png"
    draw_samples([chip], [], LEGEND, path, title="title")
    ground, building = (np.array(entry.rgb) for entry in LEGEND.entries)
    assert (panel(path, 0) == 100).all()
    labels = panel(path, 1)
    assert np.abs(labels[50] - (45 + 0.55 * building)).max() <= 1
    assert np.abs(labels[150] - (45 + 0.55 * ground)).max() <= 1
    assert (labels[199] == 255).all()
    assert np.abs(panel(path, 2) - (45 + 0.55 * building)).max() <= 1
    errors = panel(path, 3)
    assert errors[50].tolist() == [45, 45, 45]
    assert errors[150].tolist() == [255, 40, 40]
    assert errors[199].tolist() == [45, 45, 45]


def test_pictures_of_large_narrow_and_many_coloured_chips_stay_small(tmp_path: Path) -> None:
    many = make_legend({k: f"class number {k}" for k in range(150)})
    random = np.random.default_rng(0)
    chips = [
        Shown(
            "n" * 900,
            *(random.integers(0, 150, shape).astype(np.uint8) for shape in ((h, w, 3), (h, w), (h, w))),
        )
        for h, w in ((1024, 1024), (3, 2000), (2000, 3), (1, 1))
    ]
    draw_samples(chips, chips, many, tmp_path / "samples.png", title="title")
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.width == 2 * (4 * 256 + 3 * 6 + 6) + 6
        assert picture.height < 1000


@dataclass(frozen=True)
class Score:
    name: str
    confusion: np.ndarray[Any, Any]


def test_the_picture_follows_the_validation_and_is_not_there_without_chips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chips are found by their names, and their maps are those of the checkpoint."""
    truth = [np.full((20, 20), k % 2, np.uint8) for k in range(5)]
    samples = [(torch.full((1, 20, 20), k - 2.0), torch.from_numpy(labels)) for k, labels in enumerate(truth)]
    asked: list[tuple[int, tuple[int, ...]]] = []

    def maps(checkpoint: Checkpoint, numbers: Sequence[int]) -> list[Any]:
        asked.append((checkpoint.iteration, tuple(numbers)))
        return [truth[k] if k else 1 - truth[k] for k in numbers]

    views = ChipViews(samples, [f"chip{k}" for k in range(5)], bands("b"), LEGEND, maps)  # type: ignore[arg-type]
    drawn: list[Any] = []
    monkeypatch.setattr(
        "aerial_seg.report.samples.draw_samples",
        lambda worst, typical, legend, path, title: (drawn.append((worst, typical, title)), path.touch()),
    )
    callback = SamplesPicture(views, tmp_path / "samples.png")
    callback.on_start(0, 40)
    callback.on_validation(Checkpoint(10, {}, None))
    assert list(tmp_path.iterdir()) == []
    scores = []
    for k in (4, 3, 2, 1, 0):  # another order than that of the numbers
        matrix = ConfusionMatrix(2)
        matrix.add(truth[k], maps(Checkpoint(0, {}, None), [k])[0])
        scores.append(Score(f"chip{k}", matrix.counts))
    asked.clear()
    callback.on_validation(Checkpoint(20, {}, None, chips=tuple(scores)))  # type: ignore[arg-type]
    callback.on_end(20)
    ((worst, typical, title),) = drawn
    assert worst[0].caption == "chip0: IoU background 0.00, building 0.00"
    assert np.array_equal(worst[0].truth, truth[0])
    assert np.array_equal(worst[0].predicted, 1 - truth[0])
    assert len(worst) + len(typical) == 5
    assert {iteration for iteration, _ in asked} == {20}
    assert title == "Validation chips at iteration 20 of 40"
    of_scenes = SamplesPicture(views, tmp_path / "samples.png", of_scenes=True)
    of_scenes.on_validation(Checkpoint(20, {}, None, chips=tuple(scores)))  # type: ignore[arg-type]
    assert drawn[1][2].endswith("; mIoU and IoU are of whole scenes, the maps here of each chip alone")
