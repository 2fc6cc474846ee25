"""Protocols with a CRF: what goes into it, and that the whole command carries it out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from aerial_seg.benchmarks.catalogue import open_benchmark
from aerial_seg.benchmarks.inference import class_scores, predict_classes
from aerial_seg.benchmarks.protocol import Protocol, ResolvedProtocol, default_protocol, load_protocol
from aerial_seg.benchmarks.resize import ResizeRule
from aerial_seg.crf import dense
from aerial_seg.crf.dense import refine
from aerial_seg.crf.settings import DenseCrf
from aerial_seg.errors import SettingsError
from aerial_seg.inference.padded_forward import PaddedForward
from aerial_seg.jobs.benchmark import images as benchmark_images
from aerial_seg.jobs.benchmark.job import benchmark
from aerial_seg.jobs.benchmark.settings import BenchmarkSettings
from aerial_seg.recipe.loading import parse_document
from aerial_seg.tiling.geometry import ModelGeometry

pytest.importorskip("pydensecrf", reason="pip install aerial-seg[crf]")

FIELD = DenseCrf(iterations=3, bi_xy_std=6, bi_rgb_std=12)
WHOLE = ResolvedProtocol(None, ResizeRule("none"), (1.0,), None, "none", "logits", crf=FIELD)
HEAD = 'title = "mine"\nsource = "mine"\n'


def parsed(text: str) -> Protocol:
    return parse_document(HEAD + text, Protocol, "mine", what="protocol")


# The table.


def test_without_a_table_there_is_no_field_and_an_empty_one_is_deeplabs() -> None:
    assert parsed("").for_dataset("voc").crf is None
    assert parsed("[crf]").for_dataset("voc").crf == DenseCrf()
    changed = parsed("[crf]\niterations = 5\nbi_xy_std = 50").for_dataset("ade20k").crf
    assert changed == DenseCrf(iterations=5, bi_xy_std=50)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("bi_xystd = 3", r"unknown key 'crf.bi_xystd'; did you mean 'bi_xy_std'\?"),
        ("iterations = 0", "iterations is 0, wanted a whole number from 1 on"),
        ("bi_rgb_std = 0.0", "bi_rgb_std is 0.0"),
        ('pos_w = "x"', "crf.pos_w"),
        ("pos_w = nan", "'crf.pos_w' is nan"),
    ],
)
def test_tables_that_cannot_work_are_told(table: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parsed(f"[crf]\n{table}")


def test_deeplabv2s_two_protocols_differ_by_the_field() -> None:
    plain, crf = (load_protocol(name) for name in ("deeplabv2", "deeplabv2-crf"))
    for dataset in crf.datasets:
        one, other = plain.for_dataset(dataset), crf.for_dataset(dataset)
        assert (one.crf, other.crf) == (None, DenseCrf())
        assert one.output_stride == other.output_stride == 8
        assert replace(other, crf=None, average="logits") == one
    assert default_protocol("deeplabv2", output_stride=8) == "deeplabv2"


# What the field is given.


def reds(images: Tensor) -> Tensor:
    """Two classes by the first band alone."""
    return torch.stack([-images[:, 0], images[:, 0]], dim=1)


def sampled(stride: int) -> PaddedForward:
    """Looks at the first pixel of each cell."""
    geometry = ModelGeometry(stride, stride, stride)
    return PaddedForward(lambda images: reds(images[:, :, ::stride, ::stride]), geometry, any_side=True)


def picture(seed: int = 0, height: int = 33, width: int = 42) -> tuple[Tensor, np.ndarray]:
    """A photograph (3,H,W) of two regions and noise, and the network's input."""
    random = np.random.default_rng(seed)
    region = np.add.outer(np.arange(height), np.arange(width)) > 36
    photograph = np.clip(np.where(region, 150, 110) + random.normal(0, 14, (3, height, width)), 0, 255)
    photograph = photograph.astype(np.uint8)
    return torch.from_numpy((photograph.astype(np.float32) - 130) / 20), photograph


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize(("scales", "flip"), [((1.0,), "none"), ((0.5, 1.0), "image")])
def test_the_field_gets_averaged_probabilities_at_full_size_and_the_photograph(
    average: str, scales: tuple[float, ...], flip: str
) -> None:
    image, photograph = picture()
    protocol = replace(WHOLE, average=average, scales=scales, flip=flip)
    scores = class_scores(image, sampled(4), protocol)
    probabilities = scores.softmax(0) if average == "logits" else scores
    np.testing.assert_allclose(probabilities.sum(0).numpy(), 1, atol=1e-5)
    measured = np.ones(photograph.shape[1:], np.bool_)
    expected = refine(probabilities.numpy(), photograph, measured, FIELD).argmax(axis=0)
    got = predict_classes(image, sampled(4), protocol, photograph)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)
    assert (got != predict_classes(image, sampled(4), replace(protocol, crf=None))).any()


def test_without_the_photograph_a_field_is_our_own_bug() -> None:
    with pytest.raises(ValueError, match="photograph"):
        predict_classes(picture()[0], sampled(1), WHOLE)


def test_the_field_brings_a_network_at_stride_8_nearer_to_the_truth() -> None:
    wrong = {"plain": 0.0, "crf": 0.0}
    for seed in range(3):
        image, photograph = picture(seed, 60, 70)
        truth = np.add.outer(np.arange(60), np.arange(70)) > 36
        field = DenseCrf(bi_xy_std=20, bi_rgb_std=12)
        for name, crf in (("plain", None), ("crf", field)):
            classes = predict_classes(image, sampled(8), replace(WHOLE, crf=crf), photograph)
            wrong[name] += (classes.astype(bool) != truth).mean()
    assert wrong["crf"] < wrong["plain"] / 2, wrong


# The command.


def test_the_command_shows_the_field_the_published_pixels(
    voc_root: Path, model_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = open_benchmark("voc", voc_root)
    protocol = tmp_path / "mine.toml"
    protocol.write_text(f"{HEAD}[crf]\niterations = 2\n", encoding="utf-8")
    shown: list[np.ndarray] = []

    def watched(
        image: Tensor, net: PaddedForward, rules: ResolvedProtocol, photograph: np.ndarray
    ) -> np.ndarray:
        shown.append(photograph)
        return predict_classes(image, net, rules, photograph)

    monkeypatch.setattr(benchmark_images, "predict_classes", watched)
    out = tmp_path / "out"
    settings = BenchmarkSettings(protocol=str(protocol), device="cpu", worst=0)
    report = benchmark("voc", voc_root, model_file(data.legend), out, settings)
    assert report.images == len(shown) > 0
    for example, photograph in zip(data.examples(data.splits[0]), shown, strict=True):
        np.testing.assert_array_equal(
            np.moveaxis(photograph, 0, 2), benchmark_images.read_image(example.image)
        )
    told = json.loads((out / "benchmark.json").read_text())["job"]["protocol"]["crf"]
    assert (told["iterations"], told["bi_xy_std"]) == (2, 67)


def test_a_missing_package_is_told_before_any_image(
    voc_root: Path, model_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dense, "find_spec", lambda name: None)
    model = model_file(open_benchmark("voc", voc_root).legend)
    with pytest.raises(SettingsError, match=r"pip install 'aerial-seg\[crf\]'"):
        benchmark("voc", voc_root, model, tmp_path / "out", BenchmarkSettings(protocol="deeplabv2-crf"))
    assert not (tmp_path / "out").exists()
