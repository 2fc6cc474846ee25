"""A run of which nothing is kept begins again as it began, and takes no other run's place before something is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from ended_early import CPU, Asking, contents, fails
from laws import few
from safetensors.torch import load_file

from aerial_seg.errors import InputError, OutputError, SettingsError
from aerial_seg.jobs.info.job import info
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.keeper import RunKeeper
from aerial_seg.jobs.train.model_files import ModelFiles
from aerial_seg.jobs.train.run_folder import RunFolder, read_run
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.models.device import OutOfMemory
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import change_recipe
from aerial_seg.training.log import read_log

MakeRecipe = Callable[..., Recipe]
Sums = Callable[[Path], dict[str, str]]


@pytest.mark.parametrize("how", ["failed", "killed"])
def test_a_run_without_a_checkpoint_begins_again_from_its_weights(
    how: str, chips: Path, small: MakeRecipe, made: Path, sums: Sums, tmp_path: Path
) -> None:
    weights, run = tmp_path / "given.safetensors", tmp_path / "run"
    shutil.copy(made / "last.safetensors", weights)
    recipe = change_recipe(small(), {"model.weights": str(weights), "training.freeze": "encoder"})
    report = train(chips, recipe, tmp_path / "whole", CPU)
    fails(how, 2, chips, recipe, run, CPU)
    assert not (run / "training.safetensors").exists()
    assert read_run(run).state == "stopped"

    shutil.copy(made / "best.safetensors", weights)
    before = contents(run)
    with pytest.raises(
        OutputError, match=r"no checkpoint and began from another .*given.*; put that file back"
    ):
        train(chips, recipe, run, CPU)
    weights.unlink()
    with pytest.raises(InputError, match=r"the weights .*given\.safetensors do not exist"):
        train(chips, recipe, run, CPU)
    assert contents(run) == before
    shutil.copy(made / "last.safetensors", weights)
    assert train(chips, recipe, run, CPU).notes == report.notes
    assert sums(run) == sums(tmp_path / "whole")


@pytest.mark.parametrize("statistics", few(["frozen", "averaged"], quick=1))
def test_norms_and_groups_of_their_own_go_on_as_if_nothing_had_been(
    statistics: str, chips: Path, small: MakeRecipe, made: Path, sums: Sums, tmp_path: Path
) -> None:
    """With averaged weights and a batch in two parts; the log tells the rate without a factor."""
    changes = {
        "model.weights": str(made / "last.safetensors"),
        "batch_norm.statistics": statistics,
        "batch_norm.decay": 0.8,
        "batch_norm.affine": "frozen" if statistics == "frozen" else "trained",
        "training.head_rate_factor": 10,
        "training.weight_decay_on": "weights",
        "training.end_rate_factor": 0.1,
        "training.warmup": 2,
        "training.poly_from": "warmup",
    }
    recipe, run, whole = change_recipe(small(batch_size=4), changes), tmp_path / "run", tmp_path / "whole"
    asked = TrainSettings(device="cpu", accumulate=2)
    notes = train(chips, recipe, whole, asked).notes
    fails("killed", 5, chips, recipe, run, asked)
    assert read_run(run).iteration == 3
    train(chips, recipe, run, asked)
    assert sums(run) == sums(whole)
    assert any("at 10 times the rate; weight decay is on" in note for note in notes)
    assert any("momentum 0.2 in PyTorch's convention" in note for note in notes)
    rates = [rate for _, _, rate in read_log(run / "log.csv").losses]
    poly = [2e-3 * (0.1 + 0.9 * (1 - i / 5) ** 0.9) for i in range(5)]
    assert rates == pytest.approx([2e-3 / 3, 4e-3 / 3, *poly], rel=1e-5)
    before, after = (load_file(one / "last.safetensors") for one in (made, run))
    stays = {name for name in after if torch.equal(before[name], after[name])}
    running = {name for name in after if "running" in name}
    assert running <= stays if statistics == "frozen" else running.isdisjoint(stays)


def test_a_norm_of_one_value_per_channel_is_told_with_what_helps(
    chips: Path, small: MakeRecipe, made: Path, tmp_path: Path
) -> None:
    """At a crop of 32 pixels and output stride 32 one image is one value."""
    alone, run = small(batch_size=1), tmp_path / "run"
    with pytest.raises(
        SettingsError, match=r"single value per channel.*\[1, \d+, 1, 1\].*larger training\.batch_size"
    ):
        train(chips, alone, run, CPU)
    with pytest.raises(SettingsError, match=r"fewer parts of it \(`accumulate`\).*larger training\.crop"):
        train(chips, small(), run, TrainSettings(device="cpu", accumulate=2))
    remedy = {"batch_norm.statistics": "frozen", "model.weights": str(made / "last.safetensors")}
    assert train(chips, change_recipe(alone, remedy), run, CPU).iterations == 7


def test_a_state_that_was_deleted_is_noted_and_the_run_begins_again(
    chips: Path, small: MakeRecipe, unfinished: Path, made: Path, sums: Sums
) -> None:
    (unfinished / "training.safetensors").unlink()
    (note,) = train(chips, small(), unfinished, CPU).notes
    assert note.endswith(
        "training.safetensors is gone, which held the first 4 iterations; the run begins again at iteration 0"
    )
    assert sums(unfinished) == sums(made)


@pytest.mark.parametrize("at", [0, 2])
def test_what_fails_before_its_first_checkpoint_leaves_the_finished_run_as_it_was(
    at: int, chips: Path, small: MakeRecipe, finished: Path
) -> None:
    before = contents(finished)
    for asked in (
        TrainSettings(device="cpu", overwrite=True),
        TrainSettings(device="cpu", restart=True, overwrite=True),
    ):
        fails("failed", at, chips, small(learning_rate="1e-3"), finished, asked)
        assert contents(finished) == before


@pytest.mark.parametrize("what", ["TrainingState.begin", "RunFolder.extend", "_what_is_other"])
def test_what_fails_between_its_first_word_and_its_first_update_leaves_the_folder_as_it_was(
    what: str, chips: Path, small: MakeRecipe, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """run.json told of a new run until somebody called again."""
    before = contents(finished)
    recipe, run = small(learning_rate="1e-3"), tmp_path / "new"

    def broken(*_: object, **__: object) -> None:
        raise OutOfMemory("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(f"aerial_seg.jobs.train.job.{what}", broken)
        for folder, asked in ((finished, TrainSettings(device="cpu", overwrite=True)), (run, CPU)):
            with pytest.raises(OutOfMemory):
                train(chips, recipe, folder, asked)
    assert contents(finished) == before
    assert read_run(finished).state == "finished"
    assert not run.exists()


@pytest.mark.parametrize("then", ["goes on", "fails", "is another"])
def test_a_kill_before_the_first_checkpoint_leaves_the_models_of_before_and_the_call_goes_on(
    then: str, chips: Path, small: MakeRecipe, finished: Path, made: Path, sums: Sums
) -> None:
    recipe, again = small(learning_rate="1e-3"), TrainSettings(device="cpu", overwrite=True)
    before = contents(finished)
    fails("killed", 2, chips, recipe, finished, again)
    left = contents(finished)
    for name in ("best.safetensors", "last.safetensors"):
        assert left[name] == before[name]
    card = info(finished)
    assert (card["state"], card["iteration"], card["kept_iteration"], card["best"]) == ("stopped", 1, 0, None)
    assert card["files"] == ["log.csv"]
    if then == "fails":
        fails("failed", 0, chips, recipe, finished, again)
        assert contents(finished) == before
        return
    if then == "is another":
        with pytest.raises(OutputError, match="unfinished run of another job"):
            train(chips, small(), finished, again)
        fails("killed", 1, chips, small(), finished, TrainSettings(device="cpu", restart=True))
        recipe = small()
    asking = Asking()
    train(chips, recipe, finished, again, callbacks=[asking])
    assert asking.begun == [(0, 7)]
    train(chips, recipe, finished.parent / "anew", CPU)
    assert sums(finished) == sums(finished.parent / "anew")
    assert {path.name for path in finished.iterdir()} == {path.name for path in made.iterdir()}
    assert "former" not in read_run(finished).document


@pytest.mark.parametrize("step", few(["write", "forget_former", "tell"], quick=1))
def test_a_kill_within_the_first_checkpoint_takes_no_model_of_before_for_its_own(
    step: str, chips: Path, small: MakeRecipe, tmp_path: Path, sums: Sums
) -> None:
    # The former run ends where the new one has its first checkpoint.
    run, again = tmp_path / "run", TrainSettings(device="cpu", overwrite=True)
    train(chips, small(iterations=3, learning_rate="1e-3"), run, CPU)
    owner = {"forget_former": RunFolder, "write": ModelFiles, "tell": RunKeeper}[step]
    with pytest.MonkeyPatch.context() as patch:
        tell = RunKeeper.tell

        def killed(self: object, *given: Any) -> None:
            if step == "tell" and given[1].iteration == 0:
                return tell(cast(RunKeeper, self), *given)
            raise OutOfMemory("CUDA out of memory")

        patch.setattr(RunKeeper, "stop", lambda self: None)
        patch.setattr(owner, step, killed)
        with pytest.raises(OutOfMemory):
            train(chips, small(), run, again)
    asking = Asking()
    train(chips, small(), run, again, callbacks=[asking])
    assert asking.begun == [(3, 7)]
    train(chips, small(), tmp_path / "anew", CPU)
    assert sums(run) == sums(tmp_path / "anew")
    assert {path.name for path in run.iterdir()} == {path.name for path in (tmp_path / "anew").iterdir()}
