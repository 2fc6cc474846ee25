"""However a run is stopped and how often, the same call goes on, and it ends with the bytes of one that never was."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from ended_early import Killed, Stop, stopped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.cli.info import command as info_command
from aerial_seg.errors import Interrupted
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.run_folder import read_run
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import change_recipe

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "SIGUSR1"), reason="a process cannot be asked so to end here"
)

MakeRecipe = Callable[..., Recipe]
Sums = Callable[[Path], dict[str, str]]
RENAMES = 16
"""Of a run of 7 updates, checkpointed thrice: state, models, run.json, log."""


def stops() -> st.SearchStrategy[Stop]:
    updates, validations = st.integers(1, 7), st.integers(1, 3)
    return st.one_of(
        st.builds(Stop, st.sampled_from(("kill", "SIGTERM", "SIGUSR1")), updates),
        st.builds(Stop, st.just("rename"), st.integers(1, RENAMES), st.booleans()),
        st.builds(Stop, st.just("validation"), validations),
    )


def go_on(chips: Path, recipe: Recipe, run: Path, plan: list[Stop], every: float | None) -> None:
    """The run, stopped at each of these places in turn, then to its end."""
    asked = TrainSettings(device="cpu", checkpoint_every=every)
    for stop in plan:
        if is_finished(run):
            break  # before its stop, or by the very last rename, which the stop came after
        with stopped(stop) as callback, suppress(Killed, Interrupted, KeyboardInterrupt):
            train(chips, recipe, run, asked, callbacks=[callback])
    if not is_finished(run):
        train(chips, recipe, run, asked)


def is_finished(run: Path) -> bool:
    """Whether nothing is left to do."""
    return run.exists() and read_run(run).state == "finished"


WHOLE: dict[str, dict[str, str]] = {}


def law(chips: Path, recipe: Recipe, plan: list[Stop], every: float | None, sums: Sums) -> None:
    """The stopped run ends as the uninterrupted one, which is made once for each recipe."""
    key = repr((chips, recipe))
    if key not in WHOLE:
        train(chips, recipe, chips.parent / "whole", TrainSettings(device="cpu", overwrite=True))
        WHOLE[key] = sums(chips.parent / "whole")
    run = chips.parent / "run"
    shutil.rmtree(run, ignore_errors=True)
    go_on(chips, recipe, run, plan, every)
    assert sums(run) == WHOLE[key]
    assert not list(run.glob(".lock"))


@settings(
    max_examples=examples(12), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(plan=st.lists(stops(), min_size=1, max_size=2), every=st.sampled_from((None, 0.0)))
def test_a_stopped_run_ends_as_one_that_never_was(
    chips: Path, small: MakeRecipe, sums: Sums, plan: list[Stop], every: float | None
) -> None:
    law(chips, small(), plan, every, sums)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("ema", [0.0, 0.5])
@pytest.mark.parametrize("workers", [0, 2])
@settings(
    max_examples=examples(16), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(plan=st.lists(stops(), min_size=1, max_size=3), every=st.sampled_from((None, 0.0)))
def test_so_it_does_with_every_part_of_a_state(
    chips: Path, small: MakeRecipe, sums: Sums, plan: list[Stop], every: float | None,
    optimizer: str, ema: float, workers: int,
) -> None:  # fmt: skip
    recipe = small(optimizer=f'"{optimizer}"', ema_decay=ema, workers=workers)
    law(chips, recipe, plan, every, sums)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_sgd_without_an_average_goes_on_with_or_without_workers(
    chips: Path, small: MakeRecipe, sums: Sums, workers: int
) -> None:
    recipe = small(optimizer='"sgd"', ema_decay=0.0, workers=workers)
    law(chips, recipe, [Stop("SIGTERM", 2), Stop("kill", 5)], None, sums)


def test_crops_that_are_no_squares_go_on_too(chips: Path, small: MakeRecipe, sums: Sums) -> None:
    wide = {"training.crop": [32, 64], "training.workers": 2, "augmentation.rot90": False}
    recipe = change_recipe(small(), wide)
    law(chips, recipe, [Stop("SIGTERM", 4)], None, sums)
    run = chips.parent / "run"
    assert read_run(run).document["recipe"]["training"]["crop"] == [32, 64]
    card = CliRunner().invoke(info_command, [str(run / "best.safetensors")], catch_exceptions=False)
    assert "7 of 2 crops of 32x64 px" in card.output
    # Without workers the same crops are cut; the number of workers lies in the models' recipes.
    alone = change_recipe(recipe, {"training.workers": 0})
    train(chips, alone, chips.parent / "alone", TrainSettings(device="cpu"))
    assert sums(chips.parent / "alone")["log.csv"] == sums(run)["log.csv"]


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_workers(chips: Path, small: MakeRecipe, sums: Sums) -> None:
    law(chips, small(), [], None, sums)
    run = chips.parent / "other"
    with stopped(Stop("SIGTERM", 4)) as callback, pytest.raises(Interrupted):
        train(chips, small(), run, TrainSettings(device="cpu"), callbacks=[callback])
    train(chips, small(workers=1), run, TrainSettings(device="cpu"))
    whole = WHOLE[repr((chips, small()))]
    # The number of workers lies in the models' recipes.
    assert sums(run)["log.csv"] == whole["log.csv"]


def test_without_validation_chips_a_stopped_run_ends_as_any_other_and_its_best_is_its_last(
    chips_without_val: Path, small: MakeRecipe, sums: Sums
) -> None:
    law(chips_without_val, small(), [Stop("kill", 4), Stop("SIGTERM", 5)], 0.0, sums)
    run = chips_without_val.parent / "run"
    assert (run / "best.safetensors").read_bytes() == (run / "last.safetensors").read_bytes()
    assert read_run(run).document["best_iteration"] == 7
