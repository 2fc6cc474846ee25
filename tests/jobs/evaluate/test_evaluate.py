"""Scores against scikit-learn, on masks and on models."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from shapely import box
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
    precision_score,
    recall_score,
)

from aerial_seg.bands import normalise
from aerial_seg.errors import InputError
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.jobs.evaluate import evaluate_mask, evaluate_model_on_chips, evaluate_model_on_rasters
from aerial_seg.jobs.predict.job import PredictSettings
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import Legend, make_legend
from aerial_seg.metrics import Scores
from aerial_seg.models.file import TrainedModel
from aerial_seg.outputs.mask import LEGEND_TAG

LEGEND = make_legend({0: "background", 3: "road", 9: "water"}, background=[0])
NO_SETTINGS = LabelSettings()


@pytest.fixture
def write_mask(write_raster: Callable[..., Path]) -> Callable[..., Path]:
    """Writes values (H,W) as a mask with a legend; 255 is nodata."""

    def write(path: Path, values: np.ndarray, legend: Legend = LEGEND) -> Path:
        write_raster(path, values[None].astype(np.uint8), nodata=255)
        with rasterio.open(path, "r+") as file:
            file.update_tags(**{LEGEND_TAG: legend.model_dump_json()})
        return path

    return write


def check_against_sklearn(scores: Scores, truth: np.ndarray, said: np.ndarray, values: list[int]) -> None:
    both = (truth != 255) & (said != 255)
    truth, said = truth[both], said[both]
    np.testing.assert_array_equal(scores.confusion, confusion_matrix(truth, said, labels=values))
    for k, value in enumerate(values):
        got = scores.classes[k]
        assert got.pixels == (truth == value).sum()
        is_true, is_said = truth == value, said == value
        # scikit-learn's Jaccard index knows no NaN for a class that is nowhere.
        iou = jaccard_score(is_true, is_said) if (is_true | is_said).any() else np.nan
        rates = (
            score(is_true, is_said, zero_division=np.nan)
            for score in (f1_score, precision_score, recall_score)
        )
        np.testing.assert_allclose((got.iou, got.f1, got.precision, got.recall), (iou, *rates), rtol=1e-12)
    counted = [c.iou for c in scores.classes if not math.isnan(c.iou)]
    assert scores.counted == len(counted)
    assert scores.miou == pytest.approx(np.mean(counted))
    assert scores.pixel_accuracy == pytest.approx(accuracy_score(truth, said))


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_a_mask_are_scikit_learns(
    seed: int, write_mask: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    random = np.random.default_rng(seed)
    # More rows than are scored at once, so that the counts of several reads are summed.
    shape = (1100, 30)
    truth = random.choice([0, 3, 9, 255], shape, p=[0.4, 0.3, 0.2, 0.1])
    said = np.where(random.random(shape) < 0.6, truth, random.choice([0, 3, 9, 255], shape))
    mask = write_mask(tmp_path / "mask.tif", said)
    labels = write_raster(tmp_path / "labels.tif", truth[None].astype(np.uint8), nodata=255)
    report = evaluate_mask(mask, [str(labels)], NO_SETTINGS)
    check_against_sklearn(report.scores, truth, said, [0, 3, 9])
    assert report.scores.ignored == (truth == 255).sum()
    assert report.scores.unpredicted == ((truth != 255) & (said == 255)).sum()


def test_a_wide_mask_is_compared_in_parts_of_its_width(
    write_mask: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, truth = (np.random.default_rng(seed).choice([0, 3, 9, 255], (30, 100)) for seed in (4, 5))
    mask, labels = write_mask(tmp_path / "m.tif", said), write_mask(tmp_path / "t.tif", truth)
    widths: list[int] = []
    read = Raster.read

    def watched(raster: Raster, **window: int) -> tuple[np.ndarray, np.ndarray]:
        widths.append(window["width"])
        return read(raster, **window)

    monkeypatch.setattr("aerial_seg.jobs.mask_scores._COLUMNS_AT_ONCE", 30)
    monkeypatch.setattr(Raster, "read", watched)
    report = evaluate_mask(mask, [str(labels)], NO_SETTINGS)
    check_against_sklearn(report.scores, truth, said, [0, 3, 9])
    assert widths == [30, 30, 30, 10]


def test_a_class_that_is_nowhere_is_not_counted_and_null_in_json(
    write_mask: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[:5] = 3
    mask = write_mask(tmp_path / "mask.tif", np.zeros((20, 20)))
    labels = write_raster(tmp_path / "labels.tif", truth[None])
    scores = evaluate_mask(mask, [str(labels)], NO_SETTINGS).scores
    check_against_sklearn(scores, truth, np.zeros((20, 20)), [0, 3, 9])
    assert scores.counted == 2
    document = json.loads(json.dumps(scores.as_json(), allow_nan=False))
    assert document["classes_counted"] == 2
    assert document["classes"][2] == {
        "name": "water", "iou": None, "f1": None, "precision": None, "recall": None, "pixels": 0
    }  # fmt: skip


def test_polygons_are_burnt_on_the_masks_own_grid(write_mask: Callable, tmp_path: Path) -> None:
    said = np.zeros((40, 50), np.uint8)
    said[10:20, 5:25] = 3
    mask = write_mask(tmp_path / "mask.tif", said, make_legend({0: "background", 3: "road"}, background=[0]))
    outline = box(500_005, 5_200_000 - 20, 500_025, 5_200_000 - 10)
    frame = geopandas.GeoDataFrame({"class": ["road"]}, geometry=[outline], crs="EPSG:32633")
    frame.to_crs("EPSG:4326").to_file(tmp_path / "truth.gpkg")
    settings = LabelSettings(class_field="class")
    scores = evaluate_mask(mask, [str(tmp_path / "truth.gpkg")], settings).scores
    assert scores.miou == 1.0


def test_areas_that_say_what_was_trained_on_are_scored_all_the_same_and_that_is_told(
    write_mask: Callable, tmp_path: Path
) -> None:
    said = np.zeros((40, 50), np.uint8)
    said[10:20, 5:25] = 3
    mask = write_mask(tmp_path / "mask.tif", said, make_legend({0: "background", 3: "road"}, background=[0]))
    outline = box(500_005, 5_200_000 - 20, 500_025, 5_200_000 - 10)
    geopandas.GeoDataFrame({"class": ["road"]}, geometry=[outline], crs="EPSG:32633").to_file(
        tmp_path / "truth.gpkg"
    )
    areas = [box(500_000, 5_199_960, 500_010, 5_200_000), box(500_010, 5_199_960, 500_030, 5_200_000)]
    for name, columns in (("split.gpkg", {"split": ["train", "test"]}), ("plain.gpkg", {"name": ["a", "b"]})):
        geopandas.GeoDataFrame(columns, geometry=areas, crs="EPSG:32633").to_file(tmp_path / name)
        settings = LabelSettings(class_field="class", labelled_area=str(tmp_path / name))
        report = evaluate_mask(mask, [str(tmp_path / "truth.gpkg")], settings)
        assert np.sum(report.scores.confusion) == 30 * 40
        told = [note for note in report.notes if "all of the labelled area is scored" in note]
        assert bool(told) == ("split" in columns)


def test_labels_of_another_class_are_refused_by_name(
    write_mask: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    mask = write_mask(tmp_path / "mask.tif", np.zeros((20, 20)))
    truth = np.zeros((1, 20, 20), np.uint8)
    truth[0, 0, :4] = 5
    labels = write_raster(tmp_path / "labels.tif", truth)
    with pytest.raises(InputError, match=r"5 \(4 times\).*0=background, 3=road, 9=water"):
        evaluate_mask(mask, [str(labels)], NO_SETTINGS)


def test_a_mask_value_outside_its_legend_is_refused(
    write_mask: Callable, write_raster: Callable, tmp_path: Path
) -> None:
    mask = write_mask(tmp_path / "mask.tif", np.full((20, 20), 4))
    labels = write_raster(tmp_path / "labels.tif", np.zeros((1, 20, 20), np.uint8))
    with pytest.raises(InputError, match=r"holds value 4, wanted only values of its legend \(0, 3, 9\)"):
        evaluate_mask(mask, [str(labels)], NO_SETTINGS)


@pytest.fixture
def scene(write_raster: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """A raster of 2 bands, labels of the pointwise model's classes with a margin of unlabelled, and both arrays."""
    random = np.random.default_rng(4)
    image = random.integers(0, 256, (2, 128, 96), dtype=np.uint8)
    truth = random.choice([0, 10, 20], (128, 96)).astype(np.uint8)
    truth[:7] = 255
    source = write_raster(tmp_path / "in.tif", image)
    labels = write_raster(tmp_path / "labels.tif", truth[None], nodata=255)
    return source, labels, image, truth


def answers(model: TrainedModel, image: np.ndarray) -> np.ndarray:
    """What a pointwise model of stride 1 says of every pixel, by hand."""
    normal = normalise(image, np.ones(image.shape[1:], bool), model.card.bands)
    layer = model.network.get_submodule("classify")
    weight, bias = (tensor.detach().numpy() for tensor in (layer.weight, layer.bias))
    logits = np.einsum("kc,chw->khw", weight[:, :, 0, 0], normal) + bias[:, None, None]
    return model.card.legend.value_table()[logits.argmax(axis=0)]


def test_a_model_is_scored_on_rasters(
    scene: tuple, pointwise: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, labels, image, truth = scene
    model = pointwise(origin_step=8)
    monkeypatch.setattr("aerial_seg.jobs.predict.plan.load_model", lambda path: model)
    monkeypatch.setattr("aerial_seg.jobs.evaluate.read_card", lambda path: model.card)
    report = evaluate_model_on_rasters(
        Path("m.safetensors"),
        [str(source)],
        [str(labels)],
        NO_SETTINGS,
        prediction=PredictSettings(precision="fp32"),
    )
    check_against_sklearn(report.scores, truth, answers(model, image), [0, 10, 20])


def test_labels_are_checked_before_a_model_runs(
    scene: tuple, pointwise: Callable, write_raster: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _, _, truth = scene
    far = write_raster(tmp_path / "far.tif", truth[None], corner=(600_000.0, 5_300_000.0), nodata=255)
    card = pointwise(origin_step=8).card
    monkeypatch.setattr("aerial_seg.jobs.evaluate.read_card", lambda path: card)
    monkeypatch.setattr("aerial_seg.jobs.evaluate.predict", lambda *_: pytest.fail("the model ran"))
    with pytest.raises(InputError, match=r"do not overlap .*in\.tif: labels lon .* imagery lon"):
        evaluate_model_on_rasters(
            Path("m.safetensors"), [str(source)], [str(far)], NO_SETTINGS, prediction=PredictSettings()
        )


def test_a_model_is_scored_on_the_chips_of_a_split(
    scene: tuple, pointwise: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, labels, image, truth = scene
    named = LabelSettings(classes={0: "background", 10: "road", 20: "water"})
    # 40 px divide neither side: the chips at the edges are padded, and the padding must not count.
    settings = TileSettings(labels=named, chip_size=40, block=1, val="0", test="0")
    tile([str(source)], [str(labels)], tmp_path / "chips", settings)
    model = pointwise(origin_step=8)
    monkeypatch.setattr("aerial_seg.jobs.evaluate.load_model", lambda path: model)
    report = evaluate_model_on_chips(Path("m.safetensors"), tmp_path / "chips", split="train", device="cpu")
    check_against_sklearn(report.scores, truth, answers(model, image), [0, 10, 20])
    with pytest.raises(InputError, match=r"no chip in split 'test'; it has train"):
        evaluate_model_on_chips(Path("m.safetensors"), tmp_path / "chips", split="test")


def test_a_model_of_other_classes_is_refused(
    scene: tuple, pointwise: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, labels, _, _ = scene
    settings = TileSettings(chip_size=64, block=1, val="0", test="0")
    tile([str(source)], [str(labels)], tmp_path / "chips", settings)
    monkeypatch.setattr("aerial_seg.jobs.evaluate.load_model", lambda path: pointwise())
    with pytest.raises(
        InputError, match=r"knows background, road, water .* the dataset has class 0, class 10"
    ):
        evaluate_model_on_chips(Path("m.safetensors"), tmp_path / "chips")
