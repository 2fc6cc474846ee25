"""What an interruption of `benchmark` costs: the image at hand, and what changes meanwhile."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmark_runs import counted_again, interrupted_after, predictions_of
from laws import few

from aerial_seg.benchmarks.catalogue import open_benchmark
from aerial_seg.errors import Interrupted, OutputError
from aerial_seg.files import work as work_room
from aerial_seg.files.work import work_folder
from aerial_seg.geo.raster import unchanged
from aerial_seg.geo.raster.unchanged import ChangedError
from aerial_seg.jobs.benchmark import images as benchmark_images
from aerial_seg.jobs.benchmark.job import benchmark
from aerial_seg.jobs.benchmark.settings import BenchmarkSettings


def test_an_interrupted_run_goes_on_and_ends_as_an_uninterrupted_one(
    voc_root: Path, voc_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = voc_root.parent / "whole", voc_root.parent / "out"
    settings = BenchmarkSettings(device="cpu")
    benchmark("voc", voc_root, voc_model, whole, settings)
    with monkeypatch.context() as patch:
        interrupted_after(3, patch)
        with pytest.raises(Interrupted, match="finished images are kept"):
            benchmark("voc", voc_root, voc_model, out, settings)
    assert not out.exists()
    with monkeypatch.context() as patch:
        seen = interrupted_after(9, patch)
        report = benchmark("voc", voc_root, voc_model, out, settings)
    assert report.resumed == 3
    assert len(seen) == 4 - report.resumed
    assert predictions_of(out) == predictions_of(whole)
    assert (out / "benchmark.json").read_bytes() == (whole / "benchmark.json").read_bytes()
    assert not work_folder(out).exists()


@pytest.mark.parametrize("overwrite", few([True, False], quick=1))
def test_a_run_that_was_killed_behind_its_placing_ends_with_the_same_files(
    overwrite: bool, voc_root: Path, voc_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal was still there, but what it told of lay in its place already: its images were missed."""
    whole, out = voc_root.parent / "whole", voc_root.parent / "out"
    settings = BenchmarkSettings(device="cpu")
    benchmark("voc", voc_root, voc_model, whole, settings)
    if overwrite:
        settings = replace(settings, overwrite=True)
        benchmark("voc", voc_root, voc_model, out, settings)
    real = work_room._carry_out

    def killed(*arguments: Any) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(work_room, "_carry_out", killed)
        with pytest.raises(Interrupted):
            benchmark("voc", voc_root, voc_model, out, settings)
    assert out.exists()
    assert not (work_folder(out) / "result").exists()
    seen = interrupted_after(0, monkeypatch)
    report = benchmark("voc", voc_root, voc_model, out, settings)
    assert (report.resumed, seen) == (4, [])
    assert sorted(path.name for path in out.rglob("*")) == sorted(path.name for path in whole.rglob("*"))
    assert predictions_of(out) == predictions_of(whole)
    assert (out / "benchmark.json").read_bytes() == (whole / "benchmark.json").read_bytes()
    assert not work_folder(out).exists()


@pytest.mark.parametrize("which", ["image", "label", "model"])
def test_images_and_model_are_held_while_they_are_read(
    which: str, voc_root: Path, voc_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an image that was changed after its turn, a score would mix two data sets: nothing is kept."""
    monkeypatch.setattr(unchanged, "EVERY", 0.0)
    example = open_benchmark("voc", voc_root).examples("val")[0]
    assert example.label is not None
    file = {"image": example.image, "label": example.label, "model": voc_model}[which]
    seen: list[int] = []
    real = benchmark_images.predict_classes

    def predict(image: Any, *rest: Any) -> Any:
        seen.append(1)
        if len(seen) == 3:
            file.write_bytes(file.read_bytes())
        return real(image, *rest)

    monkeypatch.setattr(benchmark_images, "predict_classes", predict)
    out, archive = voc_root.parent / "out", voc_root.parent / "s.tar.gz"
    settings = BenchmarkSettings(device="cpu", submission=archive)
    with pytest.raises(
        ChangedError, match=rf"{file.name} changed while it was read \(it was written again\)"
    ):
        benchmark("voc", voc_root, voc_model, out, settings)
    assert len(seen) == 3
    assert not out.exists()
    assert not archive.exists()
    assert not work_folder(out).exists()


@pytest.mark.slow
def test_a_killed_run_goes_on(voc_root: Path, voc_model: Path) -> None:
    out = voc_root.parent / "out"
    program = (
        "import os, signal, sys\n"
        "import torch\n"
        "from pathlib import Path\n"
        "from aerial_seg.jobs.benchmark import images as benchmark_images\n"
        "from aerial_seg.jobs.benchmark.job import benchmark\n"
        "from aerial_seg.jobs.benchmark.settings import BenchmarkSettings\n"
        "torch.set_num_threads(1)\n"  # as here: a run is not resumed under another runtime
        "real = benchmark_images.ImageRun._finish\n"
        "seen = []\n"
        "def finish(*arguments):\n"
        "    if len(seen) == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    seen.append(1)\n"
        "    real(*arguments)\n"
        "benchmark_images.ImageRun._finish = finish\n"
        "benchmark('voc', *map(Path, sys.argv[1:]), BenchmarkSettings(device='cpu'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(voc_root), str(voc_model), str(out)],
        capture_output=True,
        check=False,
        cwd=voc_root,
    )
    assert done.returncode == -9, done.stderr
    report = benchmark("voc", voc_root, voc_model, out, BenchmarkSettings(device="cpu"))
    assert report.resumed == 2
    assert report.scores is not None
    assert [list(row) for row in report.scores.scores.confusion] == counted_again(
        "voc", voc_root, out
    ).tolist()


def test_a_changed_protocol_does_not_go_on(
    voc_root: Path, voc_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = voc_root.parent / "out"
    with monkeypatch.context() as patch:
        interrupted_after(3, patch)
        with pytest.raises(Interrupted):
            benchmark("voc", voc_root, voc_model, out, BenchmarkSettings(device="cpu"))
    other = BenchmarkSettings(device="cpu", protocol="mmseg")
    with pytest.raises(OutputError, match=r"protocol\.title was .*, is .*`restart=True`"):
        benchmark("voc", voc_root, voc_model, out, other)
    anew = BenchmarkSettings(device="cpu", protocol="mmseg", restart=True)
    assert benchmark("voc", voc_root, voc_model, out, anew).resumed == 0
