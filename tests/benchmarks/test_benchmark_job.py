"""The whole of `benchmark`: what it writes, what it counts, what a crash costs, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from benchmark_runs import counted_again, interrupted_after
from PIL import Image

from aerial_seg.benchmarks.catalogue import open_benchmark
from aerial_seg.benchmarks.submission_check import validate_submission
from aerial_seg.errors import InputError, OutputError, SettingsError
from aerial_seg.jobs.benchmark import images as benchmark_images
from aerial_seg.jobs.benchmark.job import benchmark
from aerial_seg.jobs.benchmark.settings import BenchmarkReport, BenchmarkSettings
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.legend import make_legend
from aerial_seg.recipe.loading import parse_recipe
from aerial_seg.report.benchmark_page import overlay_panels

ModelFile = Callable[..., Path]

TINY = """
[data]
benchmark = "voc"
[model]
architecture = "deeplabv3"
encoder = "resnet18"
output_stride = 16
head_channels = 32
auxiliary = false
[training]
iterations = 80
batch_size = 4
crop = 96
optimizer = "adamw"
learning_rate = 2e-3
ema_decay = 0.9
validate_every = 80
[augmentation]
rot90 = false
flips = "horizontal"
scale = [0.75, 1.33]
brightness = 0.0
contrast = 0.0
"""


@pytest.fixture
def learnable_voc(tmp_path: Path, palette_png: Callable[..., None]) -> Path:
    """VOC's layout with 12 train and 4 val images of bright blobs: aeroplane, dog and person on background."""
    root, random = tmp_path / "VOC2012", np.random.default_rng(5)
    names = [f"2009_{number:06}" for number in range(16)]
    colours = np.full((256, 3), 90)
    colours[[1, 12, 15]] = (200, 60, 40), (50, 180, 70), (60, 70, 210)
    rows, columns = np.mgrid[:120, :152]
    for name in names:
        labels = np.zeros((120, 152), np.uint8)
        for value in (1, 12, 15, 1, 12, 15):
            top, left, radius = random.integers(10, 110), random.integers(10, 140), random.integers(14, 26)
            labels[(rows - top) ** 2 + (columns - left) ** 2 < radius**2] = value
        pixels = colours[labels] + random.normal(0, 25, (120, 152, 3))
        labels[random.random(labels.shape) < 0.01] = 255
        palette_png(root / "SegmentationClass" / f"{name}.png", labels)
        (root / "JPEGImages").mkdir(exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, part in {"train": names[:12], "val": names[12:]}.items():
        (lists / f"{split}.txt").write_text("\n".join(part) + "\n")
    return root


@pytest.mark.slow
def test_a_model_trained_on_voc_is_scored_by_three_protocols_and_its_submission_is_valid(
    learnable_voc: Path, tmp_path: Path
) -> None:
    model = train(
        learnable_voc, parse_recipe(TINY, "tiny"), tmp_path / "run", TrainSettings(device="cpu")
    ).model
    measured = {}
    for protocol in ("deeplabv3-os16", "deeplabv3-os8-ms-flip", "psp-ss"):
        out, archive = tmp_path / protocol, tmp_path / f"{protocol}.tar.gz"
        settings = BenchmarkSettings(protocol=protocol, device="cpu", submission=archive, worst=2)
        report = benchmark("voc", learnable_voc, model, out, settings)
        assert report.scores is not None
        again = counted_again("voc", learnable_voc, out)
        assert [list(row) for row in report.scores.scores.confusion] == again.tolist()
        measured[protocol] = report.scores.scores.miou
        assert report.scores.scores.pixel_accuracy == pytest.approx(np.trace(again) / again.sum())
        checked = validate_submission(archive, benchmark=open_benchmark("voc", learnable_voc), split="val")
        assert (checked.kind, checked.images, checked.problems) == ("voc", 4, ())
        assert len(list((out / "worst").iterdir())) == 2
        page = (out / "benchmark.md").read_text(encoding="utf-8")
        assert f"{100 * report.scores.scores.miou:.2f}" in page
        assert json.loads((out / "benchmark.json").read_text())["scores"]["confusion"] == again.tolist()
    assert measured["deeplabv3-os16"] > 0.6, "background everywhere would give about 0.15"
    assert len(set(measured.values())) == 3, "three protocols that agree to the last digit are one protocol"


def test_the_scores_are_those_of_one_matrix_over_all_images(voc_root: Path, voc_model: Path) -> None:
    """Silent errors 1 and 2: no mean of images' means, absent classes not counted as 0."""
    out = voc_root.parent / "out"
    report = benchmark("voc", str(voc_root), str(voc_model), str(out), device="cpu")
    assert report.scores is not None
    counts = counted_again("voc", voc_root, out)
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    ious = np.diag(counts)[union > 0] / union[union > 0]
    assert report.scores.scores.miou == pytest.approx(ious.mean())
    assert report.scores.scores.counted == (union > 0).sum()
    mean_of_images = np.mean([image.miou for image in report.worst])
    assert mean_of_images != pytest.approx(ious.mean(), abs=1e-6)


def test_cityscapes_is_scored_on_train_ids_and_submitted_as_label_ids(
    cityscapes_root: Path, model_file: ModelFile, tmp_path: Path
) -> None:
    data = open_benchmark("cityscapes", cityscapes_root)
    archive = tmp_path / "val.zip"
    settings = BenchmarkSettings(device="cpu", submission=archive, protocol="fcn")
    report = benchmark("cityscapes", cityscapes_root, model_file(data.legend), tmp_path / "out", settings)
    assert report.scores is not None
    assert len(report.scores.categories) == 7
    assert report.scores.category_miou != report.scores.scores.miou
    assert validate_submission(archive, benchmark=data, split="val").problems == ()


def test_ade20k_has_its_challenge_score(ade20k_root: Path, model_file: ModelFile, tmp_path: Path) -> None:
    model = model_file(open_benchmark("ade20k", ade20k_root).legend)
    report = benchmark("ade20k", ade20k_root, model, tmp_path / "out", BenchmarkSettings(device="cpu"))
    assert report.scores is not None
    scores = report.scores.scores
    assert report.scores.challenge_score == pytest.approx((scores.miou + scores.pixel_accuracy) / 2)


def test_a_split_without_labels_is_predicted_and_not_scored(voc_root: Path, voc_model: Path) -> None:
    archive = voc_root.parent / "test.tar.gz"
    settings = BenchmarkSettings(split="test", device="cpu", submission=archive)
    report = benchmark("voc", voc_root, voc_model, None, settings)
    assert (report.scores, report.worst, report.folder, report.images) == (None, (), None, 2)
    assert validate_submission(archive, benchmark=open_benchmark("voc", voc_root)).problems == ()
    assert not list(voc_root.parent.glob("*.work"))


def test_an_existing_output_is_replaced_only_when_asked(voc_root: Path, voc_model: Path) -> None:
    out = voc_root.parent / "out"
    benchmark("voc", voc_root, voc_model, out, BenchmarkSettings(device="cpu"))
    with pytest.raises(OutputError, match="exists already; pass `overwrite=True`"):
        benchmark("voc", voc_root, voc_model, out, BenchmarkSettings(device="cpu"))
    report = benchmark("voc", voc_root, voc_model, out, BenchmarkSettings(device="cpu", overwrite=True))
    assert isinstance(report, BenchmarkReport)


def test_a_model_of_other_classes_is_refused_with_both_tables(voc_root: Path, model_file: ModelFile) -> None:
    model = model_file(make_legend({0: "background", 1: "building", 2: "road"}))
    with pytest.raises(
        InputError, match=r"knows 3 classes, but PASCAL VOC 2012 has 21 .*1: building \| aeroplane"
    ):
        benchmark("voc", voc_root, model, None, BenchmarkSettings(device="cpu"))


def test_the_right_classes_in_another_order_are_refused(voc_root: Path, model_file: ModelFile) -> None:
    names = dict(enumerate(reversed(open_benchmark("voc", voc_root).legend.names)))
    with pytest.raises(InputError, match="in another order"):
        benchmark("voc", voc_root, model_file(make_legend(names)), None, BenchmarkSettings(device="cpu"))


def test_what_does_not_fit_into_memory_is_one_line_with_a_remedy(
    voc_root: Path, voc_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starve(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(benchmark_images, "predict_classes", starve)
    with pytest.raises(SettingsError, match=r"57 × 41 px does not fit into memory; take a protocol"):
        benchmark("voc", voc_root, voc_model, None, BenchmarkSettings(device="cpu"))


@pytest.mark.parametrize(
    ("split", "name", "said"),
    [
        ("train", "train.tar.gz", "split train was asked for, wanted test"),
        ("test", "test.zip", r"does not end in \.tar\.gz"),
        ("test", "out/test.tar.gz", "lies in the folder of the results"),
    ],
)
def test_a_submission_that_cannot_be_is_refused_before_any_image_runs(
    voc_root: Path, voc_model: Path, monkeypatch: pytest.MonkeyPatch, split: str, name: str, said: str
) -> None:
    seen = interrupted_after(9, monkeypatch)
    settings = BenchmarkSettings(device="cpu", split=split, submission=voc_root.parent / name)
    with pytest.raises(SettingsError, match=said):
        benchmark("voc", voc_root, voc_model, voc_root.parent / "out", settings)
    assert seen == []


def test_a_submission_of_val_by_default_is_noted(voc_root: Path, voc_model: Path) -> None:
    settings = BenchmarkSettings(device="cpu", submission=voc_root.parent / "val.tar.gz")
    report = benchmark("voc", voc_root, voc_model, None, settings)
    assert any("no server takes" in note for note in report.notes)


def test_overlays_show_truth_prediction_and_errors_each_in_its_panel() -> None:
    image = np.full((2, 3, 3), 100, np.uint8)
    truth = np.array([[1, 1, 255], [0, 0, 0]], np.uint8)
    predicted = np.array([[1, 0, 0], [0, 0, 1]], np.uint8)
    colours = np.zeros((256, 3), np.uint8)
    colours[1] = (200, 0, 0)
    panels = overlay_panels(image, truth, predicted, colours)
    assert list(panels) == ["image", "truth", "prediction", "wrong: 40.0% of labelled"]
    red, grey, white = [155, 45, 45], [45, 45, 45], [255, 255, 255]
    assert panels["truth"].tolist() == [[red, red, white], [grey, grey, grey]]
    assert panels["prediction"].tolist() == [[red, grey, grey], [grey, grey, red]]
    error = [255, 40, 40]
    assert list(panels.values())[3].tolist() == [[grey, error, grey], [grey, grey, error]]


def test_other_names_for_as_many_classes_are_noted(voc_root: Path, model_file: ModelFile) -> None:
    names = dict(enumerate(open_benchmark("voc", voc_root).legend.names)) | {1: "airplane"}
    report = benchmark("voc", voc_root, model_file(make_legend(names)), None, BenchmarkSettings(device="cpu"))
    assert any("1: airplane | aeroplane" in note for note in report.notes)


def test_a_label_out_of_range_is_named_with_its_file(
    voc_root: Path, voc_model: Path, palette_png: Callable[..., None]
) -> None:
    label = voc_root / "SegmentationClass" / "2007_000033.png"
    values = np.array(Image.open(label))
    values[3, 4] = 77
    palette_png(label, values)
    with pytest.raises(InputError, match=r"2007_000033\.png holds the value 77 \(1 px\)"):
        benchmark("voc", voc_root, voc_model, None, BenchmarkSettings(device="cpu"))


def test_a_label_of_another_size_is_refused(
    voc_root: Path, voc_model: Path, palette_png: Callable[..., None]
) -> None:
    palette_png(voc_root / "SegmentationClass" / "2007_000033.png", np.zeros((9, 8), np.uint8))
    with pytest.raises(InputError, match="8 × 9 px"):
        benchmark("voc", voc_root, voc_model, None, BenchmarkSettings(device="cpu"))


def test_a_protocol_of_another_dataset_is_refused(voc_root: Path, voc_model: Path) -> None:
    with pytest.raises(SettingsError, match="defined for cityscapes, not for voc"):
        benchmark("voc", voc_root, voc_model, None, BenchmarkSettings(protocol="deeplabv3-cityscapes-test"))
