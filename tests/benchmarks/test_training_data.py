from __future__ import annotations

import math
import os
import pickle
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from aerial_seg.benchmarks.catalogue import BENCHMARKS, open_benchmark
from aerial_seg.benchmarks.dataset import Benchmark, CheckReport, Example
from aerial_seg.benchmarks.training_data import BANDS, class_counts, fingerprint, image_scenes, open_split
from aerial_seg.benchmarks.voc import Voc
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.segmenter import Segmenter
from aerial_seg.inference.settings import SegmentSettings
from aerial_seg.jobs.train.data import open_dataset, with_class_weights
from aerial_seg.legend import make_legend
from aerial_seg.metrics import ConfusionMatrix
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.recipe.document import PredictionSettings, Recipe
from aerial_seg.recipe.loading import change_recipe, load_recipe, recipe_names
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.training.batches import training_crops
from aerial_seg.training.crops import ChipStore, CropDataset
from aerial_seg.training.samples.repeats import repeat_factors
from aerial_seg.training.validation.scenes import validate_scenes

IMAGENET = ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))
"""Mean and standard deviation of red, green and blue on the scale 0-1, as torchvision states them."""


class Folders(Benchmark):
    """ROOT/SPLIT/NAME.png with its label beside it as NAME.label, listed by name backwards."""

    name = "folders"
    title = "Folders"
    splits = ("train", "val", "test")
    legend = make_legend({0: "background", 1: "thing"})

    def examples(self, split: str) -> tuple[Example, ...]:
        images = sorted((self.root / split).glob("*.png"), reverse=True)
        return tuple(
            Example(image.stem, image, label if (label := image.with_suffix(".label")).exists() else None)
            for image in images
        )

    def read_labels(self, example: Example) -> NDArray[np.uint8]:
        assert example.label is not None
        with Image.open(example.label) as file:
            return np.array(file)

    def submission_values(self) -> NDArray[np.uint8]:
        raise AssertionError("training submits nothing")

    def check(self, *_: object) -> CheckReport:
        raise AssertionError("training checks nothing beforehand")


def write_labels(path: Path, labels: NDArray[np.uint8]) -> None:
    Image.fromarray(labels).save(path, format="PNG")


def write(root: Path, split: str, name: str, *, height: int = 20, width: int = 30) -> NDArray[np.uint8]:
    """Noise whose label is 1 where it is reddish and 255 in the first row; returns the image (H,W,3)."""
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(len(name) + height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(image).save(folder / f"{name}.png")
    labels = (image[..., 0] > 127).astype(np.uint8)
    labels[0] = 255
    write_labels(folder / f"{name}.label", labels)
    return image


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    for k in range(3):
        write(tmp_path / "set", "train", "abc"[k] * (k + 1), height=20 + k)
    write(tmp_path / "set", "val", "d")
    return Folders(tmp_path / "set")


def test_a_sample_is_rgb_in_imagenets_units_with_the_labels_as_read(folders: Folders) -> None:
    image = write(folders.root, "val", "e", height=33, width=21)
    reader = open_split(folders, "val")
    assert [example.name for example in reader.examples] == ["e", "d"]
    got, labels = reader[0]
    assert (got.dtype, labels.dtype) == (torch.float32, torch.uint8)
    for band, (mean, std) in enumerate(IMAGENET):
        expected = (image[..., band] / 255 - mean) / std
        np.testing.assert_allclose(got[band].numpy(), expected, atol=1e-5)
    np.testing.assert_array_equal(labels.numpy(), folders.read_labels(reader.examples[0]))
    assert [band.name for band in BANDS] == ["red", "green", "blue"]


def test_a_window_of_an_example_is_that_part_of_the_whole(folders: Folders) -> None:
    reader = open_split(folders, "train")
    for index, example in enumerate(reader.examples):
        assert reader.name(index) == example.name
        shape = reader.shape(index)
        whole = reader.read(index)
        assert whole.labels.shape == whole.image.shape[1:] == shape
        window = slice(2, shape[0] - 1), slice(4, 9)
        part = reader.read(index, lambda height, width, window=window: window)
        np.testing.assert_array_equal(part.image, whole.image[(slice(None), *window)])
        np.testing.assert_array_equal(part.labels, whole.labels[window])


def test_an_image_and_a_label_of_different_sizes_are_told(folders: Folders) -> None:
    write(folders.root, "val", "d", height=20, width=31)
    write_labels(folders.root / "val" / "d.label", np.zeros((20, 30), np.uint8))
    with pytest.raises(InputError, match=r"d\.png is 31 × 20 px .*d\.label is 30 × 20 px"):
        open_split(folders, "val")[0]


def test_splits_that_cannot_teach_are_told(folders: Folders) -> None:
    with pytest.raises(InputError, match=r"'test' of Folders .* no image"):
        open_split(folders, "test")
    write(folders.root, "test", "f")
    write(folders.root, "test", "g")
    (folders.root / "test" / "g.label").unlink()
    with pytest.raises(SettingsError, match=r"1 of 2 images in split 'test'.*train, val"):
        open_split(folders, "test")


def test_the_fingerprint_follows_names_sizes_and_splits_and_not_the_place(
    folders: Folders, tmp_path: Path
) -> None:
    def of(benchmark: Benchmark, *splits: str) -> str:
        return fingerprint(benchmark, [open_split(benchmark, split) for split in splits])

    shutil.copytree(folders.root, tmp_path / "elsewhere")
    copy = Folders(tmp_path / "elsewhere")
    seen = [of(folders, "train", "val")]
    assert of(copy, "train", "val") == seen[0]
    seen.append(of(copy, "val", "train"))
    write(copy.root, "val", "d", height=25)
    seen.append(of(copy, "train", "val"))
    write(copy.root, "val", "new")
    seen.append(of(copy, "train", "val"))
    write_labels(copy.root / "val" / "new.label", np.zeros((1, 1), np.uint8))
    seen.append(of(copy, "train", "val"))
    (copy.root / "val" / "new.png").rename(copy.root / "val" / "newer.png")
    (copy.root / "val" / "new.label").rename(copy.root / "val" / "newer.label")
    seen.append(of(copy, "train", "val"))
    assert len(set(seen)) == len(seen)


def test_workers_of_a_data_loader_draw_the_same_crops(folders: Folders) -> None:
    def crops(workers: int) -> list[torch.Tensor]:
        store = ChipStore(open_split(folders, "train"))
        dataset = CropDataset(store, length=9, crop=16, augmentation=AugmentationSettings(), seed=0)
        return [image for image, _ in DataLoader(dataset, batch_size=3, num_workers=workers)]

    assert all(torch.equal(a, b) for a, b in zip(crops(0), crops(1), strict=True))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_benchmarks_themselves_can_be_pickled_and_read(name: str, request: pytest.FixtureRequest) -> None:
    """Where workers are spawned, not forked, the store goes to them as a pickle."""
    store = ChipStore(open_split(open_benchmark(name, request.getfixturevalue(f"{name}_root")), "val"))
    sent = pickle.loads(pickle.dumps(store))
    for index in range(len(store)):
        (image, labels), (image_there, labels_there) = store[index], sent[index]
        assert image.shape[1:] == labels.shape
        assert torch.equal(image, image_there)
        assert torch.equal(labels, labels_there)


def test_images_of_hard_classes_are_repeated_as_the_recipe_says(voc_root: Path) -> None:
    """DeepLabv3's bootstrapping on VOC: the labels are counted, both of VOC's own form and of SBD's."""
    benchmark = open_benchmark("voc", voc_root)
    reader = open_split(benchmark, "trainaug")
    labels = [benchmark.read_labels(example) for example in reader.examples]
    counted = class_counts(reader)
    assert counted.tolist() == [[int((own == k).sum()) for k in range(21)] for own in labels]
    held = (counted > 0).sum(axis=0)
    number = int(np.flatnonzero((held > 0) & (held < len(labels)))[0])
    name = benchmark.legend.names[number]
    changes = {"training.iterations": 5, "training.batch_size": 2, f"sampling.repeat_classes.{name}": 2}
    recipe = load_recipe("voc/deeplabv3", changes)
    opened = open_dataset(voc_root, recipe)
    turn = len(labels) + int(held[number])
    assert opened.notes == (
        f"training images that hold {name} ({held[number]}) 2 times as often as others, by sampling.repeat_classes: "
        f"{held[number]} of {len(labels)} images make {turn} samples a turn, and the recipe's 10 crops are "
        f"{10 / turn:.3g} turns",
    )
    crops = training_crops(opened.data, load_recipe("voc/deeplabv3", changes | {"training.iterations": turn}))
    seen = Counter(crops.chip_of(k) for k in range(turn))
    for example, own in zip(reader.examples, counted, strict=True):
        assert seen[example.name] == (2 if own[number] else 1)
    rare = open_dataset(voc_root, load_recipe("voc/deeplabv3", {"sampling.repeat_threshold": 0.9}))
    assert rare.data.repeats is not None
    assert rare.data.repeats.turn == math.ceil(repeat_factors(counted, 0.9).sum())


def test_crops_balanced_by_rarity_follow_the_pixels_of_all_training_labels(voc_root: Path) -> None:
    plain = load_recipe("voc/fcn", {"data.train": "train", "sampling.balanced_crops": 0.5})
    assert open_dataset(voc_root, plain).data.rarity is None
    recipe = change_recipe(plain, {"sampling.balanced_by": "rarity"})
    opened = open_dataset(voc_root, recipe)
    voc = open_benchmark("voc", voc_root)
    labels = np.concatenate([voc.read_labels(one).ravel() for one in voc.examples("train")])
    counts = [int((labels == k).sum()) for k in range(21)]
    weights = [1 / (count / sum(counts)) if count else 0.0 for count in counts]
    assert opened.data.rarity == pytest.approx(weights)
    rarest = int(np.argmax(weights))
    told = f"{voc.legend.names[rarest]} {100 * weights[rarest] / sum(weights):.3g} %"
    assert any("50 % of the crops hold a pixel" in note and told in note for note in opened.notes)
    crops = training_crops(opened.data, recipe)
    without = training_crops(replace(opened.data, rarity=None), plain)
    assert any(not torch.equal(crops[k][1], without[k][1]) for k in range(20))


def test_labels_are_counted_once_as_long_as_nobody_writes_them(
    voc_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeats, rarity and class weights, and every stage, ask for the same counts."""
    read: Counter[str] = Counter()
    reading = Voc.read_labels

    def noting(self: Voc, example: Example) -> NDArray[np.uint8]:
        read[example.name] += 1
        return reading(self, example)

    monkeypatch.setattr(Voc, "read_labels", noting)
    asked = {
        "data.train": "train", "training.class_weights": "median", "sampling.repeat_threshold": 0.5,
        "sampling.balanced_crops": 0.5, "sampling.balanced_by": "rarity",
    }  # fmt: skip
    recipe = load_recipe("voc/fcn", asked)
    weighed = [with_class_weights(recipe, open_dataset(voc_root, recipe)) for _ in range(2)]
    assert weighed[0] == weighed[1]
    names = [example.name for example in open_benchmark("voc", voc_root).examples("train")]
    assert read == Counter(names)
    label = voc_root / "SegmentationClass" / f"{names[0]}.png"
    os.utime(label, ns=(1, 1))
    open_dataset(voc_root, recipe)
    assert read == Counter(2 * names)


def test_an_unknown_hard_class_is_told_before_labels_are_read(
    voc_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aerial_seg.jobs.train.data.class_counts", lambda reader: pytest.fail("was read"))
    with pytest.raises(
        SettingsError, match=r"repeat_classes names 'bycicle'.* did you mean 'bicycle'\?; known: back"
    ):
        open_dataset(voc_root, load_recipe("voc/deeplabv3", {"sampling.repeat_classes.bycicle": 2}))
    assert open_dataset(voc_root, load_recipe("voc/deeplabv3")).notes == ()


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.split("/")[0] in BENCHMARKS])
def test_shipped_recipes_name_splits_that_exist_and_never_turn_photographs(
    name: str, request: pytest.FixtureRequest
) -> None:
    recipe = load_recipe(name)
    assert recipe.by_stage()[-1].data.benchmark == name.split("/")[0]
    for stage in recipe.by_stage():
        of = stage.data.benchmark
        assert of is not None
        benchmark = open_benchmark(of, request.getfixturevalue(f"{of}_root"))
        for split in (stage.data.train, stage.data.val):
            assert len(open_split(benchmark, split)) > 0
        assert stage.augmentation.flips == "horizontal"
        assert not stage.augmentation.rot90


def test_an_image_is_a_scene_that_is_scored_as_predict_maps_it(tmp_path: Path) -> None:
    """Tile by tile, mirrored at its rim; the oracle is the Segmenter, on the image as it is stored."""
    for name, size in (("a", (90, 70)), ("b", (20, 30))):
        write(tmp_path, "val", name, height=size[0], width=size[1])
    reader = open_split(Folders(tmp_path), "val")
    torch.manual_seed(1)
    settings = ModelSettings(architecture="fcn", encoder="resnet18", output_stride=16, head_channels=8)
    network = build_network(settings, bands=3, classes=2)
    card = ModelCard(
        tool_version="test",
        recipe=Recipe(model=settings, prediction=PredictionSettings(tile_size=64, batch_size=2)),
        legend=Folders.legend,
        bands=BANDS,
        gsd=None,
        class_bias=(0.0, 0.0),
        iteration=1,
        validation_miou=None,
        data_fingerprint="none",
    )
    tallies = validate_scenes(network, image_scenes(reader), card, device=torch.device("cpu"))
    engine = EngineSettings("eager", "auto", "cpu")
    one = Segmenter(Ensemble((TrainedModel(network, card, "0"),)), SegmentSettings(), engine, batch_size=2)
    for example, score in zip(reader.examples, tallies.scored(), strict=True):
        with Image.open(example.image) as file:
            said = one(np.array(file), channels_last=True).classes
        wanted = ConfusionMatrix(2)
        wanted.add(reader.benchmark.read_labels(example), said)
        assert score.name == example.name
        np.testing.assert_array_equal(score.confusion, wanted.counts)


@pytest.mark.parametrize("word", ["median", "auto"])
def test_median_weights_of_a_benchmark_are_counted_from_its_own_labels(voc_root: Path, word: str) -> None:
    """Eigen and Fergus: pixels of a class over labelled pixels of the images that hold it; the median over that."""
    changes = {"data.benchmark": "voc", "training.class_weights": word}
    recipe = change_recipe(load_recipe("fcn"), changes)
    opened = open_dataset(voc_root, recipe)
    got = with_class_weights(recipe, opened).training.class_weights
    files = [
        voc_root / "SegmentationClass" / f"{name}.png"
        for name in ("2007_000032", "2007_000039", "2007_000063")
    ]
    labels = [np.asarray(Image.open(file)) for file in files]
    frequency = {}
    for k, name in enumerate(opened.legend.names):
        holders = [one for one in labels if (one == k).any()]
        if holders:
            frequency[name] = sum((one == k).sum() for one in holders) / sum(
                (one != 255).sum() for one in holders
            )
    median = np.median(list(frequency.values()))
    assert got == {name: pytest.approx(median / one, rel=1e-3) for name, one in frequency.items()}
    # A run that is gone on with has them, and nothing is counted again.
    before = {
        "data_fingerprint": opened.fingerprint,
        "recipe": {"training": {"class_weights": {"cow": 2.0}}},
        "counted_class_weights": True,
    }
    unread = replace(opened, count_classes=None)
    assert with_class_weights(recipe, unread, before).training.class_weights == {"cow": 2.0}
    with pytest.raises(
        SettingsError, match=rf"training.class_weights is '{word}', but the dataset tells no freq"
    ):
        with_class_weights(recipe, unread, {**before, "data_fingerprint": "other"})
    # Numbers that somebody wrote are none that were counted.
    told = {**before, "counted_class_weights": False}
    assert with_class_weights(recipe, opened, told).training.class_weights == got


@pytest.mark.parametrize(
    ("train", "shared"),
    [("train", 0), ("trainval", 4), ("coarse", 4), ("train_coarse", 0), ("trainval_coarse", 4)],
)
def test_validation_images_that_are_trained_on_are_told(coarse_root: Path, train: str, shared: int) -> None:
    changes = {"data.benchmark": "cityscapes", "data.train": train}
    notes = open_dataset(coarse_root, change_recipe(load_recipe("fcn"), changes)).notes
    told = f"{shared} of the 4 validation images are training images too"
    assert [note.split(":")[0] for note in notes] == ([told] if shared else [])
