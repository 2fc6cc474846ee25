"""`benchmark` as typed: tables, checks, submissions, and one line for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aerial_seg.benchmarks.catalogue import BENCHMARKS, open_benchmark
from aerial_seg.benchmarks.protocol import protocol_names
from aerial_seg.cli.main import main
from aerial_seg.errors import SettingsError
from aerial_seg.jobs.benchmark.job import benchmark
from aerial_seg.jobs.benchmark.settings import BenchmarkSettings
from aerial_seg.metrics import ConfusionMatrix, class_ious

ModelFile = Callable[..., Path]


def command(*arguments: object) -> int:
    try:
        main(["benchmark", *map(str, arguments)])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_the_command_prints_measured_beside_published(
    voc_root: Path, model_file: ModelFile, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_file(open_benchmark("voc", voc_root).legend)
    out = voc_root.parent / "out"
    assert command("voc", voc_root, "--model", model, "-o", out, "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert "measured" in said
    assert "published" in said
    assert f"results {out}" in said
    main(["benchmark", "voc", "--help"])
    help_text = "".join(capsys.readouterr().out.split())  # names break at hyphens
    assert all(name in help_text for name in protocol_names())
    assert command("voc", voc_root, "--model", model, "--device", "cpu", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["images"], document["folder"]) == (4, None)


def test_a_network_for_voc_is_scored_on_coco_by_vocs_protocols(
    coco_root: Path, voc_root: Path, model_file: ModelFile, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_file(open_benchmark("voc", voc_root).legend)
    out = coco_root.parent / "out"
    assert command("coco", coco_root, "--model", model, "-o", out, "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert "COCO with the classes of PASCAL VOC val: 4 images" in said
    assert "nothing published" in said
    coco, matrix = open_benchmark("coco", coco_root), ConfusionMatrix(21)
    for example in coco.examples("val"):
        with Image.open(out / "predictions" / f"{example.name}.png") as file:
            matrix.add(coco.read_labels(example), np.array(file))
    scores = json.loads((out / "benchmark.json").read_text())["scores"]
    assert scores["miou"] == pytest.approx(np.nanmean(class_ious(matrix.counts)))
    assert command("check", "coco", coco_root) == 1
    assert "split train of COCO has 3 of 6 images" in capsys.readouterr().err


def test_coco_has_no_server(coco_root: Path, voc_root: Path, model_file: ModelFile) -> None:
    model = model_file(open_benchmark("voc", voc_root).legend)
    with pytest.raises(
        SettingsError, match=r"'coco' has no known form of submission; known: voc, cityscapes, ade"
    ):
        benchmark("coco", coco_root, model, None, BenchmarkSettings(submission=coco_root / "a.zip"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_help_names_every_split(
    name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = open_benchmark(name, request.getfixturevalue(f"{name}_root")).splits
    main(["benchmark", name, "--help"])
    assert f"One of {', '.join(splits)}; default: val." in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda root: None, ""),
        (lambda root: (root / "ImageSets/Segmentation/val.txt").unlink(), "val.txt"),
        (lambda root: (root / "SegmentationClass/2007_000042.png").unlink(), "2007_000042.png"),
        (lambda root: (root / "JPEGImages/2007_000042.jpg").unlink(), "2007_000042.jpg"),
    ],
    ids=["whole", "list", "label", "image"],
)
def test_what_is_missing_is_one_line_with_its_path(
    voc_root: Path,
    voc_model: Path,
    capsys: pytest.CaptureFixture[str],
    break_it: Callable[[Path], None],
    said: str,
) -> None:
    break_it(voc_root)
    code = command("voc", voc_root, "--model", voc_model, "--device", "cpu")
    error = capsys.readouterr().err
    assert code == (1 if said else 0)
    assert said in error
    assert error.count("Error: ") == (1 if said else 0)
    assert "Traceback" not in error


def test_a_wrong_root_is_one_line(
    tmp_path: Path, voc_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("voc", tmp_path / "nowhere", "--model", voc_model) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert len(error.splitlines()) == 1


def test_check_lists_every_problem_and_ends_with_1(
    voc_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (voc_root / "SegmentationClass/2007_000042.png").unlink()
    assert command("check", "voc", voc_root) == 1
    said = capsys.readouterr()
    assert "2007_000042.png" in said.out
    assert "1,449" in said.out, "a tiny set is not the published one"
    assert said.err.count("\n") == 1


def test_validate_submission_tells_a_good_archive_from_a_bad_one(
    voc_root: Path, voc_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = voc_root.parent / "val.tar.gz"
    arguments = ("--model", voc_model, "--device", "cpu", "--submission", archive)
    assert command("voc", voc_root, *arguments) == 0
    assert command("validate-submission", archive, "--root", voc_root, "--split", "val") == 0
    assert command("validate-submission", archive) == 0
    capsys.readouterr()
    assert command("validate-submission", archive, "--root", voc_root) == 1
    assert "test" in capsys.readouterr().out
    cut = voc_root.parent / "cut.tar.gz"
    cut.write_bytes(archive.read_bytes()[:300])
    assert command("validate-submission", cut) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
