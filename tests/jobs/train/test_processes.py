"""One run in several processes, in parts, and over a changed number of processes: the same batches, the same way."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aerial_seg.errors import Interrupted, SettingsError
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.recipe import Recipe, change_recipe
from aerial_seg.training.callbacks import Callback, Step


class Seen(Callback):
    """The steps that this process was told of; it asks the run to end after one of them."""

    def __init__(self, end_after: int | None = None) -> None:
        self.steps: list[Step] = []
        self._end_after = end_after

    def on_step(self, step: Step) -> None:
        """One more."""
        self.steps.append(step)
        if step.iteration == self._end_after:
            raise KeyboardInterrupt


def losses(run: Path) -> torch.Tensor:
    with (run / "log.csv").open() as file:
        return torch.tensor([float(row["loss"]) for row in csv.DictReader(file)])


def check_alike(got: torch.Tensor, wanted: torch.Tensor) -> None:
    """Another batch would have another loss at once; rounding in float32 grows from update to update."""
    assert len(got) == len(wanted) == 7
    torch.testing.assert_close(got[:2], wanted[:2], rtol=1e-4, atol=0)
    torch.testing.assert_close(got, wanted, rtol=1e-2, atol=0)


@pytest.fixture(scope="module")
def calm(small: Callable[..., Recipe]) -> Recipe:
    """Without dropout, of which each process draws its own; calm: norms over many pixels, small steps."""
    return small(
        dropout="0.0",
        batch_size=4,
        encoder='"resnet18"',
        output_stride=8,
        optimizer='"sgd"',
        learning_rate="1e-3",
    )


def settings(**changes: object) -> TrainSettings:
    return TrainSettings(device="cpu", precision="fp32", **changes)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_run_in_two_processes_is_that_of_one(chips: Path, calm: Recipe, tmp_path: Path) -> None:
    """The callbacks of this process see it all; one process writes, and a run may go on with another number of them."""
    seen = Seen()
    alone = train(chips, calm, tmp_path / "alone", settings())
    two = train(chips, calm, tmp_path / "two", settings(processes=2), callbacks=[seen])
    assert [step.iteration for step in seen.steps] == list(range(1, 8))
    assert {step.images for step in seen.steps} == {4}
    check_alike(losses(two.run), losses(alone.run))
    assert json.loads((two.run / "run.json").read_text())["processes"] == 2
    assert load_file(two.model).keys() == load_file(alone.model).keys()
    assert {path.name for path in two.run.iterdir()} == {path.name for path in alone.run.iterdir()}

    other = tmp_path / "changing"
    for processes, stop in ((2, 4), (1, None)):
        if stop is None:
            train(chips, calm, other, settings(processes=processes))
        else:
            with pytest.raises((Interrupted, KeyboardInterrupt)):
                train(chips, calm, other, settings(processes=processes), callbacks=[Seen(stop)])
    check_alike(losses(other), losses(alone.run))


@pytest.mark.slow
def test_two_processes_with_dropout_end_the_same_again(
    chips: Path, small: Callable[..., Recipe], sums: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    """To the byte, also where the run was stopped and gone on with: what each draws depends on the update's number."""
    recipe = small(batch_size=4)
    whole = train(chips, recipe, tmp_path / "whole", settings(processes=2)).run
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        train(chips, recipe, tmp_path / "torn", settings(processes=2), callbacks=[Seen(3)])
    torn = train(chips, recipe, tmp_path / "torn", settings(processes=2)).run
    assert sums(torn) == sums(whole)


def torchrun(folder: Path, chips: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`train` of mine.toml into run, in two processes that torchrun starts."""
    (folder / "mine.toml").write_text(
        '[model]\noutput_stride = 32\nhead_channels = 8\ndropout = 0.0\n[training]\niterations = 2\nbatch_size = 4\n'
        "crop = 32\nvalidate_every = 2\n[prediction]\ntile_size = 64\n",
        encoding="utf-8",
    )  # fmt: skip
    program = str(Path(sys.executable).with_name("aerial-seg"))
    command = [
        program,
        "train",
        str(chips),
        "--recipe",
        "mine.toml",
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    starter = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]
    return subprocess.run(
        [*starter, "--standalone", *command, "--json", "-o", "run", *more],
        cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
def test_torchrun_starts_the_processes_as_well(chips: Path, tmp_path: Path) -> None:
    """One of them speaks; the losses are those of processes that train started itself, also of a run made longer."""
    for more, iterations in (((), 2), (("--extend", "2"), 4)):
        done = torchrun(tmp_path, chips, *more)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["best_iteration"] in range(2, iterations + 1)
    report = train(chips, tmp_path / "mine.toml", tmp_path / "ours", settings(processes=2))
    report = train(chips, tmp_path / "mine.toml", tmp_path / "ours", settings(processes=2, extend=2))
    assert len(losses(report.run)) == 4
    torch.testing.assert_close(losses(tmp_path / "run"), losses(report.run), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_dry_run_is_one_processs_also_where_torchrun_starts_several(chips: Path, tmp_path: Path) -> None:
    done = torchrun(tmp_path, chips, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["iterations"] == 2
    assert not (tmp_path / "run").exists()


def test_a_batch_in_parts_makes_the_update_of_the_whole(
    chips: Path, calm: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for batch norms, which see their own part: where these stay as they are, nothing else differs."""
    monkeypatch.setattr(
        torch.nn.BatchNorm2d, "train", lambda norm, mode=True: torch.nn.Module.train(norm, False)
    )
    recipe = change_recipe(calm, {"training.iterations": 3, "training.gradient_clip": 0.5})
    seen = []
    for parts in (1, 4):
        watch = Seen()
        train(chips, recipe, tmp_path / str(parts), settings(accumulate=parts), callbacks=[watch])
        seen.append(watch.steps)
    assert [step.images for steps in seen for step in steps] == [4] * 6
    for whole, cut in zip(*seen, strict=True):
        assert cut.loss == pytest.approx(whole.loss, rel=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"processes": 3}, r"batch_size is 4, which 3 processes cannot share equally; use .* = 3 or 6"),
        ({"accumulate": 8}, r"which 1 process cannot share equally in 8 parts each; use .* = 8"),
        ({"precision": "fp16"}, r"precision fp16 needs a CUDA device; use `precision=\"bf16\"`"),
    ],
)
def test_what_cannot_be_is_told_before_anything_begins(
    given: dict[str, object], message: str, chips: Path, calm: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        train(chips, calm, tmp_path / "run", TrainSettings(device="cpu", **given))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
