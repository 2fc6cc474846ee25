"""One run in several processes, in parts, and over a changed number of processes: the same batches, the same way."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aerial_seg.errors import Interrupted, SettingsError
from aerial_seg.jobs.train import job
from aerial_seg.jobs.train.company import Plan
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import change_recipe
from aerial_seg.training.callbacks import Callback, Step

LONG = 600.0
"""Seconds that no program here needs on the busiest machine: one that hangs is a failure, not a wait."""


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
    torch.testing.assert_close(got[0], wanted[0], rtol=1e-6, atol=0)
    # On these chips rounding is amplified: shaking all weights by 1e-7 changes the first gradient by up to 1.4 %, as
    # two processes do. That gradients are the same to 1e-9 is proved in float64 (test_several_processes).
    torch.testing.assert_close(got[1], wanted[1], rtol=1e-3, atol=0)
    torch.testing.assert_close(got, wanted, rtol=3e-2, atol=0)


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
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_norm.synchronised": False},
        {"batch_norm.statistics": "averaged", "batch_norm.affine": "frozen", "training.head_rate_factor": 10},
    ],
)
def test_two_processes_with_dropout_end_the_same_again(
    changes: dict[str, Any],
    chips: Path,
    small: Callable[..., Recipe],
    sums: Callable[[Path], dict[str, str]],
    tmp_path: Path,
) -> None:
    """To the byte, also where the run was stopped and gone on with: what each draws depends on the update's number."""
    recipe = change_recipe(small(batch_size=4), changes)
    whole = train(chips, recipe, tmp_path / "whole", settings(processes=2)).run
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        train(chips, recipe, tmp_path / "torn", settings(processes=2), callbacks=[Seen(3)])
    torn = train(chips, recipe, tmp_path / "torn", settings(processes=2)).run
    assert sums(torn) == sums(whole)


STARTER = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    "--no-python",
    "--standalone",
]


def command(folder: Path, chips: Path, run: str, *, iterations: int = 2) -> list[str]:
    """`train` of mine.toml."""
    (folder / "mine.toml").write_text(
        f'[model]\noutput_stride = 32\nhead_channels = 8\ndropout = 0.0\n[training]\niterations = {iterations}\n'
        "batch_size = 4\ncrop = 32\nvalidate_every = 20\nworkers = 0\n[prediction]\ntile_size = 64\n",
        encoding="utf-8",
    )  # fmt: skip
    program = str(Path(sys.executable).with_name("aerial-seg"))
    words = [program, "train", str(chips), "--recipe", "mine.toml", "--device", "cpu", "--precision", "fp32"]
    return [*words, "--json", "-o", run]


def torchrun(folder: Path, chips: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`train` of mine.toml into run, in two processes that torchrun starts."""
    words = [*STARTER, *command(folder, chips, "run"), *more]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=LONG)


def asked_to_end(
    words: list[str], folder: Path, after: int, ask: Callable[[subprocess.Popen[str]], None]
) -> tuple[int, str]:
    """Exit code and what was said, of a command that is asked to end as soon as its log tells of some updates."""
    log = folder / "run" / "log.csv"
    with (folder / "said.txt").open("w+") as said:
        process = subprocess.Popen(
            words, cwd=folder, stdout=said, stderr=said, text=True, start_new_session=True
        )
        try:
            until = time.monotonic() + LONG
            while not log.exists() or len(log.read_text().splitlines()) < 1 + after:
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.02)
            ask(process)
            code = process.wait(timeout=LONG)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        said.seek(0)
        return code, said.read()


@pytest.mark.slow
def test_a_whole_job_that_is_asked_to_end_keeps_its_checkpoint(
    chips: Path, sums: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    """As batch systems ask: all processes at once. The same command goes on, to the same bytes."""
    words = [*command(tmp_path, chips, "run", iterations=200), "--processes", "2"]
    kept = 0
    for name in ("SIGTERM", "SIGUSR1"):
        number = getattr(signal, name)
        code, said = asked_to_end(words, tmp_path, kept + 5, lambda it: os.killpg(it.pid, number))  # noqa: B023
        assert code == 130, said
        assert "Traceback" not in said
        standing = json.loads((tmp_path / "run" / "run.json").read_text())
        assert standing["state"] == "stopped"
        assert kept + 5 <= standing["iteration"] < 200
        kept = standing["iteration"]
        assert f"the first {kept} iterations are kept in run" in said
    assert subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=LONG).returncode == 0
    words[words.index("-o") + 1] = "whole"
    assert subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=LONG).returncode == 0
    assert sums(tmp_path / "run") == sums(tmp_path / "whole")


@pytest.mark.slow
def test_torchruns_processes_end_together_when_they_are_asked_to(chips: Path, tmp_path: Path) -> None:
    """torchrun passes SIGTERM on to each; the further ones hear of the end from the first."""
    words = [*STARTER, *command(tmp_path, chips, "run", iterations=200)]
    code, said = asked_to_end(words, tmp_path, 5, subprocess.Popen.terminate)
    standing = json.loads((tmp_path / "run" / "run.json").read_text())
    assert code != 0
    assert standing["state"] == "stopped", said
    assert 5 <= standing["iteration"] < 200
    assert f"the first {standing['iteration']} iterations are kept in run" in said
    assert "Interrupted." in said  # the other one
    assert "RuntimeError" not in said
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stderr
    assert len(losses(tmp_path / "run")) == 200


def test_a_further_process_ends_when_asked_until_it_has_met_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first may refuse the run before they meet: torchrun would wait 30 s for one that heeds nothing."""
    seen = []

    def computing(plan: Plan) -> None:
        seen.append(signal.getsignal(signal.SIGTERM))

    def along(*given: object) -> None:
        seen.append(signal.getsignal(signal.SIGTERM))
        raise EOFError

    monkeypatch.setattr(Plan, "computing", computing)
    monkeypatch.setattr(job, "train_along", along)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(EOFError):
        train(tmp_path, Recipe(), tmp_path / "run", settings())
    assert seen == [signal.SIG_DFL, signal.SIG_IGN]
    assert signal.getsignal(signal.SIGTERM) == before


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
def test_processes_that_torchrun_started_part_before_they_end(tmp_path: Path) -> None:
    """Threads that still served the others as Python ended have aborted a run that was whole."""
    program = (
        "import atexit, os, torch\n"
        "from torch import distributed\n"
        # One call of the system a line: both write into one pipe, where the words of two prints can mix.
        "def say(words): os.write(1, f'{words}: {distributed.is_initialized()}\\n'.encode())\n"
        "atexit.register(say, 'met at the end')\n"
        "from aerial_seg.training.fabric import open_fabric\n"
        "for _ in range(2):\n"
        "    open_fabric(torch.device('cpu'))\n"
        "say('met')\n"
    )
    words = [*STARTER, sys.executable, "-P", "-c", program]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=LONG)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["met at the end: False"] * 2 + ["met: True"] * 2


@pytest.mark.slow
def test_several_processes_go_through_all_stages_whoever_started_them(chips: Path, tmp_path: Path) -> None:
    words = command(tmp_path, chips, "run")
    with (tmp_path / "mine.toml").open("a", encoding="utf-8") as file:
        file.write('[[stage]]\nname = "fine"\ndata.train = "val"\ntraining.iterations = 3\n')
    done = subprocess.run([*STARTER, *words], cwd=tmp_path, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stage"] == {"number": 2, "of": 2, "name": "fine"}
    ours = train(chips, tmp_path / "mine.toml", tmp_path / "ours", settings(processes=2)).run
    for folder, count in (("stage-1", 2), ("", 3)):
        assert len(losses(ours / folder)) == count
        torch.testing.assert_close(
            losses(tmp_path / "run" / folder), losses(ours / folder), rtol=1e-5, atol=1e-6
        )


@pytest.mark.slow
def test_a_later_stage_is_timed_by_the_first_of_torchruns_processes_alone(
    chips: Path, tmp_path: Path
) -> None:
    """They have met in the stage before, and the others wait to hear how many iterations there are to be."""
    command(tmp_path, chips, "run")
    with (tmp_path / "mine.toml").open("a", encoding="utf-8") as file:
        file.write('[[stage]]\nname = "fine"\n')
    program = (
        "import sys\n"
        "from aerial_seg.jobs.train import time_limit\n"
        "from aerial_seg.jobs.train.job import train\n"
        "from aerial_seg.jobs.train.settings import TrainSettings\n"
        "time_limit.fitting = lambda *timed: 3\n"  # however fast this machine is
        "settings = TrainSettings(device='cpu', precision='fp32', time_limit='1s')\n"
        "train(sys.argv[1], 'mine.toml', 'run', settings)\n"
    )
    words = [*STARTER, sys.executable, "-P", "-c", program, str(chips)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stderr
    assert [len(losses(tmp_path / "run" / folder)) for folder in ("stage-1", "")] == [3, 3]


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
