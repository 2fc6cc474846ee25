"""A short run on a scene that colour solves: files, log, card, determinism, and that it learns."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from laws import few
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from shapely import box

from aerial_seg.errors import AerialSegError, InputError, SettingsError
from aerial_seg.geo.raster import unchanged
from aerial_seg.geo.raster.unchanged import ChangedError
from aerial_seg.jobs.evaluate import evaluate_model_on_chips
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.models.file import load_model
from aerial_seg.recipe.document import DataSettings, Recipe
from aerial_seg.recipe.loading import parse_recipe
from aerial_seg.training.manifest import open_manifest

RECIPE = """
[model]
output_stride = 16
head_channels = 16
[training]
iterations = 12
batch_size = 4
crop = 64
optimizer = "adamw"
learning_rate = 2e-3
validate_every = 6
ema_decay = 0.5
calibrate = true
[prediction]
tile_size = 128
"""


def recipe(**changes: str) -> Recipe:
    text = RECIPE
    for key, value in changes.items():
        before = next(line for line in RECIPE.splitlines() if line.startswith(f"{key} ="))
        text = text.replace(before, f"{key} = {value}")
    return parse_recipe(text, "test")


DRAWN = ("curves.png", "samples.png", "tensorboard")
"""What a run draws at its first validation."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 256² image whose bright squares are the buildings."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    image = random.integers(20, 90, (3, 256, 256)).astype(np.uint8)
    squares = [
        box(500000 + x, 5000000 - y - 10, 500000 + x + 12, 5000000 - y)
        for x in range(4, 120, 24)
        for y in range(6, 118, 22)
    ]
    transform = Affine(0.5, 0, 500000, 0, -0.5, 5000000)
    frame = geopandas.GeoDataFrame({"kind": ["building"] * len(squares)}, geometry=squares, crs="EPSG:32633")
    burnt = rasterio.features.rasterize(frame.geometry, out_shape=(256, 256), transform=transform)
    image[:, burnt == 1] += 120
    with rasterio.open(
        folder / "image.tif", "w", driver="GTiff", height=256, width=256, count=3, dtype="uint8",
        crs="EPSG:32633", transform=transform,
    ) as file:  # fmt: skip
        file.write(image)
    frame.to_file(folder / "labels.gpkg")
    settings = TileSettings(
        labels=LabelSettings(class_field="kind"), chip_size=64, block=1, val="0.2", test="0.2"
    )
    tile([str(folder / "image.tif")], [str(folder / "labels.gpkg")], folder / "chips", settings)
    return folder / "chips"


@pytest.fixture(scope="module")
def run(dataset: Path) -> Path:
    return train(dataset, recipe(), dataset.parent / "run").run


def test_a_run_leaves_models_log_curves_and_summary(run: Path) -> None:
    assert {p.name for p in run.iterdir()} == {
        "best.safetensors", "last.safetensors", "training.safetensors", "log.csv", "run.json", *DRAWN,
    }  # fmt: skip
    assert (run / "curves.png").read_bytes()[:4] == b"\x89PNG"
    summary = json.loads((run / "run.json").read_text())
    assert summary["recipe"]["training"]["iterations"] == 12
    assert (summary["state"], summary["iteration"], summary["iterations"]) == ("finished", 12, 12)
    assert not run.with_name("run.work").exists()


def test_the_log_holds_every_iteration_and_its_validations(run: Path) -> None:
    rows = list(csv.DictReader((run / "log.csv").open()))
    assert [int(row["iteration"]) for row in rows] == list(range(1, 13))
    assert [i for i, row in enumerate(rows, start=1) if row["miou"]] == [6, 12]
    assert float(rows[0]["learning_rate"]) == pytest.approx(2e-3)
    assert set(rows[0]) == {"iteration", "loss", "learning_rate", "miou", "iou_background", "iou_building"}


def test_it_learns(run: Path) -> None:
    losses = [float(row["loss"]) for row in csv.DictReader((run / "log.csv").open())]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_the_best_model_is_the_best_validation_and_carries_what_predict_needs(
    run: Path, dataset: Path
) -> None:
    rows = [row for row in csv.DictReader((run / "log.csv").open()) if row["miou"]]
    card = load_model(run / "best.safetensors").card
    assert card.validation_miou == pytest.approx(max(float(row["miou"]) for row in rows), abs=1e-5)
    assert load_model(run / "last.safetensors").card.iteration == 12
    assert card.legend.names == ("background", "building")
    assert card.gsd == pytest.approx(0.5, rel=0.01)
    assert card.class_bias[0] == 0
    assert card.recipe == recipe()


@pytest.mark.parametrize("which", few(["image", "weights", "labels", "index"], quick=2))
def test_what_is_trained_on_is_held_while_it_is_read(
    which: str, run: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unchanged, "EVERY", 0.0)
    chips, weights = tmp_path / "chips", tmp_path / "weights.safetensors"
    shutil.copytree(dataset, chips)
    shutil.copy(run / "best.safetensors", weights)
    files = {
        "image": open_manifest(chips).split("train")[0].image,
        "labels": open_manifest(chips).split("val")[0].labels,
        "index": chips / "chips.gpkg",
        "weights": weights,
    }
    done: list[int] = []

    class Touching:
        """Writes one of the inputs again after the third iteration."""

        def __call__(self, label: str, *, total: int, unit: str) -> Touching:
            del label, total, unit
            return self

        def __enter__(self) -> Touching:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def update(self, n: int = 1) -> None:
            done.append(n)
            if len(done) == 3:
                files[which].write_bytes(files[which].read_bytes())

    text = RECIPE.replace("[model]", f'[model]\nweights = "{weights}"')
    with pytest.raises(ChangedError, match=rf"{files[which].name} changed while it was read"):
        train(
            chips,
            parse_recipe(text, "test"),
            tmp_path / "run",
            TrainSettings(device="cpu"),
            Touching(),
        )
    # At the first validation after it, of iteration 6: not after the last one.
    assert len(done) == 6
    made = {path.name for path in (tmp_path / "run").iterdir()}
    assert made - {*DRAWN} == {"log.csv", "run.json"}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_scores(dataset: Path, tmp_path: Path) -> None:
    short = {"iterations": "3", "validate_every": "3", "calibrate": "false"}
    first = train(dataset, recipe(**short), tmp_path / "a", TrainSettings(device="cpu"))
    again = train(dataset, recipe(**short), tmp_path / "b", TrainSettings(device="cpu"))
    assert (tmp_path / "a/log.csv").read_text() == (tmp_path / "b/log.csv").read_text()
    weights = [load_model(report.model).network.state_dict() for report in (first, again)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    report = evaluate_model_on_chips(first.model, dataset, split="val", device="cpu")
    assert report.scores.miou == pytest.approx(load_model(first.model).card.validation_miou)


def test_what_cannot_work_is_told_before_training(dataset: Path, tmp_path: Path) -> None:
    for changes, message in (({"crop": "70"}, "try 64 or 80"), ({"tile_size": "100"}, "try 96 or 112")):
        with pytest.raises(AerialSegError, match=message):
            train(dataset, recipe(**changes), tmp_path / "run")
    with pytest.raises(AerialSegError, match=r"no chip dataset|not a chip dataset"):
        train(tmp_path, recipe(), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_explodes_stops_the_run_and_leaves_its_log(dataset: Path, tmp_path: Path) -> None:
    wild = recipe(optimizer='"sgd"', learning_rate="1000.0", validate_every="12")
    with pytest.raises(
        AerialSegError, match=r"(the loss became|weights are no finite) .* lower training.learning_rate"
    ):
        train(dataset, wild, tmp_path / "run")
    made = {path.name for path in (tmp_path / "run").iterdir()}
    assert made - {*DRAWN} == {"log.csv", "run.json"}
    assert all(np.isfinite(float(row["loss"])) for row in csv.DictReader((tmp_path / "run/log.csv").open()))


# On a benchmark

VOC_RECIPE = """
[data]
benchmark = "voc"
[model]
architecture = "fcn"
output_stride = 8
head_channels = 32
auxiliary = false
[training]
iterations = 40
batch_size = 4
crop = 32
optimizer = "adamw"
learning_rate = 5e-3
validate_every = 20
ema_decay = 0.8
[augmentation]
flips = "horizontal"
rot90 = false
scale = [0.8, 1.25]
brightness = 0.0
contrast = 0.0
[prediction]
tile_size = 64
"""
GREY, RED, BLUE = (120, 120, 120), (200, 60, 50), (40, 70, 190)


def write_voc_image(folder: Path, name: str, seed: int) -> None:
    """A noisy grey photograph with a red aeroplane (1) and a blue bicycle (2), each in a rim of void (255)."""
    random = np.random.default_rng(seed)
    labels = np.zeros((54, 70), np.uint8)
    colours = np.full((54, 70, 3), GREY, float)
    for value, colour, left in ((1, RED, 0), (2, BLUE, 35)):
        top, left = random.integers(1, 26), left + random.integers(1, 11)
        outer = np.s_[top : top + 26, left : left + 22]
        inner = np.s_[top + 1 : top + 25, left + 1 : left + 21]
        labels[outer], labels[inner], colours[inner] = 255, value, colour
    image = np.clip(colours + random.normal(0, 12, colours.shape), 0, 255).astype(np.uint8)
    Image.fromarray(image).save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
    mask = Image.fromarray(labels)
    mask.putpalette([128, 64, 32] * 256)  # one colour for all: only the indices tell the classes
    mask.save(folder / "SegmentationClass" / f"{name}.png")


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC2012 as its archive unpacks: 10 training images, 5 validation images, one test image without a label."""
    root = tmp_path_factory.mktemp("voc")
    folder = root / "VOCdevkit" / "VOC2012"
    lists = folder / "ImageSets" / "Segmentation"
    for inner in (folder / "JPEGImages", folder / "SegmentationClass", lists):
        inner.mkdir(parents=True)
    splits = {"train": range(10), "val": range(10, 15), "trainval": range(15), "test": range(15, 16)}
    for split, numbers in splits.items():
        (lists / f"{split}.txt").write_text("".join(f"2007_{n:06d}\n" for n in numbers), encoding="utf-8")
    for number in range(16):
        write_voc_image(folder, f"2007_{number:06d}", number)
    (folder / "SegmentationClass" / "2007_000015.png").unlink()
    return root


def constant_guess(root: Path) -> float:
    """The best validation mIoU that one class everywhere reaches, from the label files themselves."""
    folder = root / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    labels = [np.asarray(Image.open(folder / f"2007_{n:06d}.png")).ravel() for n in range(10, 15)]
    counts = np.bincount(np.concatenate(labels), minlength=256)[:21]
    return float((counts / counts.sum()).max() / np.count_nonzero(counts))


@pytest.mark.slow
def test_a_recipe_with_a_benchmark_learns_it_from_its_own_folders(voc: Path, tmp_path: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in voc.rglob("*")}
    made = parse_recipe(VOC_RECIPE, "test")
    report = train(voc, made, tmp_path / "run", TrainSettings(device="cpu"))
    losses = [float(row["loss"]) for row in csv.DictReader((tmp_path / "run" / "log.csv").open())]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    assert report.scores is not None
    assert report.scores.miou > 2 * constant_guess(voc)
    card = load_model(report.model).card
    assert card.recipe == made
    assert len(card.legend) == len(card.class_bias) == 21
    assert [band.name for band in card.bands] == ["red", "green", "blue"]
    assert card.gsd is None
    assert (
        json.loads((tmp_path / "run" / "run.json").read_text())["data_fingerprint"] == card.data_fingerprint
    )
    assert {path: path.stat().st_mtime_ns for path in voc.rglob("*")} == files


@pytest.mark.slow
def test_workers_change_nothing_on_a_benchmark(voc: Path, tmp_path: Path) -> None:
    text = VOC_RECIPE.replace("iterations = 40", "iterations = 2")
    for workers in (0, 1):
        changed = text.replace("[training]", f"[training]\nworkers = {workers}")
        train(voc, parse_recipe(changed, "test"), tmp_path / str(workers), TrainSettings(device="cpu"))
    assert (tmp_path / "0/log.csv").read_text() == (tmp_path / "1/log.csv").read_text()


@pytest.mark.parametrize("workers", few([1, 0], quick=1))
def test_a_damaged_label_is_told_in_one_line_by_workers_too(voc: Path, tmp_path: Path, workers: int) -> None:
    shutil.copytree(voc, tmp_path / "voc")
    (label,) = (tmp_path / "voc").rglob("SegmentationClass/2007_000003.png")
    Image.fromarray(np.full((54, 70), 77, np.uint8)).save(label)
    asked = parse_recipe(VOC_RECIPE.replace("[training]", f"[training]\nworkers = {workers}"), "test")
    with pytest.raises(InputError, match=r"^[^\n]*2007_000003\.png[^\n]*77[^\n]*$"):
        train(tmp_path / "voc", asked, tmp_path / "run", TrainSettings(device="cpu"))
    # No checkpoint was made: the log tells how far it came.
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"log.csv", "run.json", "tensorboard"}


def test_data_of_the_other_kind_is_told_with_the_remedy(dataset: Path, voc: Path, tmp_path: Path) -> None:
    on_voc = parse_recipe(VOC_RECIPE, "test")
    cases = (
        (dataset, on_voc, r"is a chip dataset, but .* voc; .* such as deeplabv3, or name the folder"),
        (voc, recipe(), r"VOC.*, but the recipe is for chips .* such as voc/deeplabv3"),
        (tmp_path, recipe(), "is not a chip dataset"),
    )
    for root, asked, message in cases:
        with pytest.raises(InputError, match=message) as told:
            train(root, asked, tmp_path / "run")
        assert "\n" not in str(told.value)
    with pytest.raises(InputError):
        train(tmp_path, on_voc, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_cannot_be_had_is_told_before_anything_is_written(voc: Path, tmp_path: Path) -> None:
    hard = VOC_RECIPE.replace("[training]", '[training]\nloss = "ohem"\nohem_min_kept = 50')
    with pytest.raises(
        SettingsError, match=r"needs the whole batch at once, got one in 2 parts; leave `accumulate=2`"
    ):
        train(voc, parse_recipe(hard, "test"), tmp_path / "run", TrainSettings(device="cpu", accumulate=2))
    at_logits = VOC_RECIPE.replace("[training]", '[training]\nloss_at = "logits"').replace('"fcn"', '"Unet"')
    at_logits = at_logits.replace("output_stride = 8\nhead_channels = 32\nauxiliary = false\n", "")
    with pytest.raises(SettingsError, match=r"the network's logits have the labels' size"):
        train(voc, parse_recipe(at_logits, "test"), tmp_path / "run", TrainSettings(device="cpu"))
    assert list(tmp_path.iterdir()) == []


def test_splits_that_the_data_do_not_have_are_told(dataset: Path, voc: Path, tmp_path: Path) -> None:
    chips = recipe().model_copy(update={"data": DataSettings(val="vall")})
    with pytest.raises(SettingsError, match=r"data\.val is 'vall'.*did you mean 'val'\?.*train, val, test"):
        train(dataset, chips, tmp_path / "run")
    for splits, message in (({"train": "trian"}, "trian"), ({"val": "test"}, "1 of 1 images .* no label")):
        asked = recipe().model_copy(update={"data": DataSettings(benchmark="voc", **splits)})
        with pytest.raises(SettingsError, match=message):
            train(voc, asked, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_models_from_before_there_were_benchmarks_still_load(run: Path, tmp_path: Path) -> None:
    with safe_open(run / "best.safetensors", framework="pt") as file:
        document = json.loads(file.metadata()["aerial_seg"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del document["recipe"]["data"]
    save_file(weights, tmp_path / "old.safetensors", metadata={"aerial_seg": json.dumps(document)})
    old = load_model(tmp_path / "old.safetensors")
    assert old.card == load_model(run / "best.safetensors").card
    assert old.card.recipe.data.benchmark is None
