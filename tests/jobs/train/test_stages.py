"""A run of several stages: each is what a run of its own would be, whatever ends it and whenever; one call for all."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from ended_early import CPU, Asking, Killed, Stop, contents, fails, stopped
from safetensors.torch import load_file

from aerial_seg.errors import Incomplete, InputError, Interrupted, OutputError, SettingsError
from aerial_seg.jobs.info.job import info
from aerial_seg.jobs.train import time_limit
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.run_folder import read_run
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.models.file import load_model
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import change_recipe
from aerial_seg.training.callbacks import Callback

MakeRecipe = Callable[..., Recipe]
FINE = {
    "name": "fine",
    "training": {"iterations": 5, "learning_rate": 1e-3, "validate_every": 2, "seed": 3},
    "data": {"train": "val"},
}
MODELS = ("best.safetensors", "last.safetensors")


def staged(recipe: Recipe, *stages: dict[str, object]) -> Recipe:
    """The recipe with further stages."""
    return Recipe.model_validate({**recipe.model_dump(), "stage": stages or (FINE,)})


def sums(run: Path) -> dict[str, str]:
    """All that must be equal to the byte, of all stages."""
    names = [f"{folder}{name}" for folder in ("", "stage-1/") for name in (*MODELS, "log.csv")]
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names}


def equal_weights(one: Path, other: Path) -> bool:
    ours, theirs = load_file(one), load_file(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def recipe(small: MakeRecipe) -> Recipe:
    return staged(small())


@pytest.fixture(scope="module")
def whole(chips: Path, recipe: Recipe) -> Path:
    """A finished run of both stages; tests look at it, or copy it."""
    return train(chips, recipe, chips.parent / "both", CPU).run


class Heard(Callback):
    """What a callback is told of stages, and where each begins and ends."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def on_stage(self, number: int, of: int, name: str) -> None:
        self.told.append((number, of, name))

    def on_start(self, iteration: int, iterations: int) -> None:
        self.told.append((iteration, iterations))

    def on_end(self, iteration: int) -> None:
        self.told.append(iteration)


@pytest.mark.parametrize("start", ["last", pytest.param("best", marks=pytest.mark.slow)])
def test_two_stages_are_two_runs_of_which_the_second_begins_with_the_firsts_model(
    start: str, chips: Path, small: MakeRecipe, tmp_path: Path
) -> None:
    heard = Heard()
    recipe = staged(small(), FINE | {"start": start})
    report = train(chips, recipe, tmp_path / "both", CPU, callbacks=[heard])
    first = train(chips, small(), tmp_path / "first", CPU)
    alone = change_recipe(
        recipe.by_stage()[1], {"model.weights": str(tmp_path / "first" / f"{start}.safetensors")}
    )
    second = train(chips, alone, tmp_path / "second", CPU)
    for ours, theirs in ((tmp_path / "both" / "stage-1", first.run), (tmp_path / "both", second.run)):
        assert (ours / "log.csv").read_bytes() == (theirs / "log.csv").read_bytes()
        for name in MODELS:
            assert equal_weights(ours / name, theirs / name)
    # What is returned is of the last stage, with what the first came to.
    assert report.scores is not None
    assert second.scores is not None
    assert (report.model, report.iterations) == (tmp_path / "both" / MODELS[0], 5)
    assert report.scores.confusion == second.scores.confusion
    assert (str(report.stage), report.best_iteration) == ("stage 2 of 2 (fine)", second.best_iteration)
    (earlier,) = report.earlier
    assert first.scores is not None
    assert (earlier.number, earlier.iterations, earlier.best_iteration) == (1, 7, first.best_iteration)
    assert earlier.miou == first.scores.miou
    assert equal_weights(earlier.model, first.model)
    (note,) = [note for note in report.notes if "begins with" in note]
    wanted = {
        "last": "the last weights of stage 1, of its iteration 7",
        "best": "the best weights of stage 1",
    }
    assert f"stage 2 of 2 (fine) begins with stage-1/{start}.safetensors: {wanted[start]}" in note
    assert "(their moving average)" in note
    assert heard.told == [(1, 2, ""), (0, 7), 7, (2, 2, "fine"), (0, 5), 5]


def test_models_tell_their_stage_and_who_looks_in_between_finds_a_best_one(
    chips: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    class Looking(Callback):
        """What lies there after the first update of each stage, and in stage 1 after a validation."""

        seen: list[tuple[object, ...]] = []  # noqa: RUF012 - of one test

        def on_stage(self, number: int, of: int, name: str) -> None:
            model = load_model(run / MODELS[0]) if (run / MODELS[0]).exists() else None
            card = info(run)
            told = None if model is None else model.notes
            self.seen.append((told, card["state"], card["stage"], [one["number"] for one in card["earlier"]]))

    train(chips, recipe, run, CPU, callbacks=[Looking()])
    best = read_run(run / "stage-1").document["best_iteration"]
    unfinished = f"best.safetensors is of an unfinished run: of iteration {best} of 7 of stage 1 of 2"
    assert Looking.seen == [
        (None, "running", {"number": 1, "of": 2, "name": ""}, []),
        ((unfinished,), "running", {"number": 2, "of": 2, "name": "fine"}, [1]),
    ]
    first, last = (load_model(folder / MODELS[0]) for folder in (run / "stage-1", run))
    assert first.notes == ("best.safetensors is of stage 1 of 2, after which its run goes on",)
    assert last.notes == ()
    assert (str(first.card.stage), str(last.card.stage)) == ("stage 1 of 2", "stage 2 of 2 (fine)")
    assert last.card.recipe.model_dump() == recipe.by_stage()[1].model_dump()
    assert info(run / "stage-1")["state"] == info(run)["state"] == "finished"


# Renames of a run of both: 15 says that stage 1 is ended, 16 to 18 are its files in a folder that is not yet called
# stage-1, which is 19; 20 to 24 begin stage 2, 25 is its first checkpoint, 26 and 27 are its models.
DEFAULT = {("kill", 2, False), ("rename", 19, False), ("rename", 26, False)}
STOPS = [
    pytest.param(stop, marks=() if (stop.how, stop.at, stop.before) in DEFAULT else pytest.mark.slow)
    for stop in (
        Stop("kill", 2), Stop("SIGTERM", 4), *(Stop("rename", at) for at in (14, 15, 17, 19, 20, 21, 22, 25, 26, 34)),
        Stop("rename", 19, before=True), Stop("rename", 25, before=True), Stop("rename", 37, before=True),
    )
]  # fmt: skip


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: f"{stop.how}-{'before-' * stop.before}{stop.at}")
def test_a_run_that_is_stopped_in_or_between_stages_ends_as_one_that_never_was(
    stop: Stop, chips: Path, recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with stopped(stop) as callback, suppress(Killed, Interrupted, KeyboardInterrupt):
        train(chips, recipe, run, CPU, callbacks=[callback])
    assert read_run(run).state == "stopped"
    asking = Asking()
    train(chips, recipe, run, CPU, callbacks=[asking])
    assert sums(run) == sums(whole)
    assert {file.name for file in run.iterdir()} == {file.name for file in whole.iterdir()}
    assert {file.name for file in (run / "stage-1").iterdir()} == {
        file.name for file in (whole / "stage-1").iterdir()
    }


class InStage(Callback):
    """Ends, kills or fails a run after an update of its stage 2, or before its first one."""

    def __init__(self, how: str, at: int) -> None:
        self._how, self._at, self._stage = how, at, 0

    def on_stage(self, number: int, of: int, name: str) -> None:
        self._stage = number
        self._end_if(0)

    def on_step(self, step: object) -> None:
        self._end_if(step.iteration)  # type: ignore[attr-defined]

    def _end_if(self, iteration: int) -> None:
        if (self._stage, self._at) == (2, iteration):
            raise {"asked": KeyboardInterrupt, "killed": Killed}.get(self._how, InputError("the disk is odd"))


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(("how", "kind"), [("asked", Interrupted), ("failed", Incomplete)])
def test_what_ends_a_stage_before_its_first_checkpoint_leaves_the_one_before(
    how: str, kind: type[Exception], at: int, chips: Path, recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(
        kind, match=r"stage 1 of 2 is kept in .*run|stage 1 of 2 is kept in .*; make the same call again"
    ):
        train(chips, recipe, run, CPU, callbacks=[InStage(how, at)])
    card = info(run)
    assert (card["state"], card["iteration"], card["iterations"]) == ("stopped", 7, 7)
    assert "stage 1 of 2 is finished; make the same call again to go on with stage 2" in card["reason"]
    for name in MODELS:
        assert "of an unfinished run" in load_model(run / name).notes[0]
    heard = Heard()
    train(chips, recipe, run, CPU, callbacks=[heard])
    assert heard.told == [(2, 2, "fine"), (0, 5), 5]
    assert sums(run) == sums(whole)


@pytest.fixture(scope="module")
def stopped_in_two(chips: Path, recipe: Recipe) -> Path:
    run = chips.parent / "in two"
    with stopped(Stop("kill", 3)), pytest.raises(Interrupted):
        train(chips, recipe, run, CPU, callbacks=[InStage("asked", 3)])
    assert read_run(run).reached == "iteration 2 of 5 of stage 2 of 2 (fine)"
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stage.0.training.learning_rate": 2e-3},
            r"recipe\.stage\.0\.training\.learning_rate was 0\.001, is 0\.002\)",
        ),
        ({"training.learning_rate": 1e-3}, r"recipe\.training\.learning_rate was 0\.002, is 0\.001\)"),
        ({"stage.0.start": "best"}, r"recipe\.stage\.0\.start was last, is best\)"),
    ],
)
@pytest.mark.parametrize("place", ["between", "in two"])
def test_another_recipe_is_refused_in_any_stage_saying_what_changed(
    place: str, changes: dict[str, object], message: str, chips: Path, recipe: Recipe, stopped_in_two: Path,
    between: Path, tmp_path: Path,
) -> None:  # fmt: skip
    run = Path(shutil.copytree(between if place == "between" else stopped_in_two, tmp_path / "run"))
    before = contents(run)
    with pytest.raises(OutputError, match=rf"unfinished run of another job \({message}"):
        train(chips, change_recipe(recipe, changes), run, CPU)
    for other, said in (
        (recipe.by_stage()[0], "stages were 2, are 1"),
        (staged(recipe, FINE, FINE | {"name": "more"}), "stages were 2, are 3"),
    ):
        with pytest.raises(OutputError, match=rf"another job \(the recipe's {said}\)"):
            train(chips, other, run, CPU)
    assert contents(run) == before


@pytest.fixture(scope="module")
def between(chips: Path, recipe: Recipe) -> Path:
    run = chips.parent / "between"
    with pytest.raises(Incomplete):
        train(chips, recipe, run, CPU, callbacks=[InStage("failed", 0)])
    return run


def test_a_run_of_one_stage_is_not_gone_on_with_as_one_of_two(
    chips: Path, recipe: Recipe, unfinished: Path
) -> None:
    with pytest.raises(OutputError, match=r"another job \(the recipe's stages were 1, are 2\)"):
        train(chips, recipe, unfinished, CPU)


def test_what_a_later_stage_lacks_is_told_before_the_first_begins(
    chips: Path, chips_without_val: Path, small: MakeRecipe, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for stage, data, message in (
        ({"data": {"train": "trainval"}}, chips, r"stage 2 of 2 \(fine\): data\.train is 'trainval', which is no"),
        ({"data": {"train": "val"}}, chips_without_val, r"stage 2 of 2 \(fine\): .* holds no training chip"),
        ({"training": {"crop": 40}}, chips, r"stage 2 of 2 \(fine\): training\.crop 40 is not of the form 32"),
        ({"training": {"class_weights": {"tree": 2}}}, chips, r"\(fine\): training\.class_weights names 'tree'"),
        ({"training": {"monitor": "iou_tree"}}, chips, r"\(fine\): .*iou_tree"),
        ({"model": {"output_stride": 16}}, chips, r"\(fine\): output stride 16 is asked for"),
    ):  # fmt: skip
        with pytest.raises((SettingsError, InputError), match=message):
            train(data, staged(small(), {"name": "fine", **stage}), run, CPU)
        assert not run.exists()
    asked = TrainSettings(device="cpu", processes=2)
    with pytest.raises(SettingsError, match="which 2 processes cannot share equally"):
        train(chips, staged(small(), {"name": "fine", "training": {"batch_size": 3}}), run, asked)
    assert not run.exists()


@pytest.mark.slow
def test_a_finished_run_is_extended_in_its_last_stage_and_replaced_whole(
    chips: Path, recipe: Recipe, small: MakeRecipe, whole: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    first, heard = contents(run / "stage-1"), Heard()
    with pytest.raises(OutputError, match=r"is a finished run of 5 iterations; pass `extend=\.\.\.`"):
        train(chips, recipe, run, CPU)
    with pytest.raises(OutputError, match=r"stage-1 is stage 1 of the run .*run; name that run"):
        train(chips, recipe, run / "stage-1", TrainSettings(device="cpu", overwrite=True))
    report = train(chips, recipe, run, TrainSettings(device="cpu", extend=2), callbacks=[heard])
    assert heard.told == [(2, 2, "fine"), (5, 7), 7]
    assert (report.iterations, len(report.earlier)) == (7, 1)
    assert contents(run / "stage-1") == first
    # Until the new run has a checkpoint all of the old one is there; afterwards nothing of it is.
    again = TrainSettings(device="cpu", overwrite=True)
    before = contents(run)
    fails("failed", 2, chips, small(), run, again)
    assert contents(run) == before
    train(chips, small(), run, again)
    assert not (run / "stage-1").exists()
    assert not {name for name in contents(run) if name.startswith("stage")}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["between", "in two"])
def test_a_restart_begins_with_the_first_stage_again(
    place: str, chips: Path, recipe: Recipe, whole: Path, between: Path, stopped_in_two: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(between if place == "between" else stopped_in_two, tmp_path / "run"))
    before = contents(run)
    again = TrainSettings(device="cpu", restart=True)
    fails("failed", 2, chips, recipe, run, again)
    if place == "between":
        assert contents(run) == before
    heard = Heard()
    train(chips, recipe, run, again, callbacks=[heard])
    assert heard.told[:2] == [(1, 2, ""), (0, 7)]
    assert sums(run) == sums(whole)


@pytest.mark.slow
def test_a_folder_of_somebody_else_is_left_alone_and_a_time_is_shared_out(
    chips: Path, recipe: Recipe, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(time_limit, "_seconds_per_step", lambda *given: 1000.0)
    # 7 of 12 parts, and 5: with the 95 % of each 7.1 and 5.1 updates of 1000 s.
    limit = TrainSettings(device="cpu", time_limit="12800s")
    long = change_recipe(recipe, {"training.iterations": 700, "stage.fine.training.iterations": 500})

    class Making(Callback):
        def on_end(self, iteration: int) -> None:
            (run / "stage-1").mkdir(exist_ok=True)
            (run / "stage-1" / "mine.txt").write_text("mine")

    with pytest.raises(
        Incomplete, match=r"stage-1 is there, but not of this run; move it away, and .*stage 1 of 2 is kept"
    ):
        train(chips, long, run, limit, callbacks=[Making()])
    (run / "stage-1").rename(tmp_path / "mine")
    train(chips, long, run, CPU)
    for name in ("log.csv", "stage-1/log.csv"):
        assert len((run / name).read_text().splitlines()) == len((whole / name).read_text().splitlines())
    assert (read_run(run).iterations, read_run(run / "stage-1").iterations) == (5, 7)
    assert (tmp_path / "mine" / "mine.txt").exists()


@pytest.mark.slow
def test_weights_of_the_stage_before_that_are_gone_are_asked_for(
    chips: Path, recipe: Recipe, whole: Path, between: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(between, tmp_path / "run"))
    with stopped(Stop("kill", 1)), pytest.raises(Killed):
        train(chips, recipe, run, CPU, callbacks=[InStage("killed", 1)])
    kept = (run / "stage-1" / "last.safetensors").rename(tmp_path / "kept")
    with pytest.raises(
        InputError, match=r"stage-1/last\.safetensors is gone, with which stage 2 of 2 \(fine\) begins"
    ):
        train(chips, recipe, run, CPU)
    shutil.copy(run / "stage-1" / "best.safetensors", run / "stage-1" / "last.safetensors")
    with pytest.raises(OutputError, match=r"began from another stage-1/last\.safetensors"):
        train(chips, recipe, run, CPU)
    kept.rename(run / "stage-1" / "last.safetensors")
    train(chips, recipe, run, CPU)
    assert sums(run) == sums(whole)


@pytest.mark.slow
def test_a_network_of_ones_own_goes_through_all_stages(
    chips: Path, recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    from aerial_seg.models.build import build_network

    torch.manual_seed(recipe.training.seed)
    own = build_network(recipe.model, bands=3, classes=2)
    run = train(chips, recipe, tmp_path / "run", CPU, network=own).run
    wanted = load_file(run / "stage-1" / "last.safetensors")
    assert load_model(run / "last.safetensors", own).card.own_network == own.name
    assert wanted.keys() == own.state_dict().keys()
    fresh = build_network(recipe.model, bands=3, classes=2)
    alone = change_recipe(recipe.by_stage()[1], {"model.weights": "none"})
    fresh.load_state_dict(wanted)
    again = train(chips, alone, tmp_path / "again", CPU, network=fresh).run
    assert equal_weights(again / "last.safetensors", run / "last.safetensors")
