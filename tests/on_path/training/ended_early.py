"""Runs that end before their time: asked to, failing, or killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.keeper import RunKeeper
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.models.device import OutOfMemory
from aerial_seg.recipe.document import Recipe
from aerial_seg.training.callbacks import Callback, Step

CPU = TrainSettings(device="cpu")


class Asking(Callback):
    """Notes where a run begins, and asks it to end after an update."""

    def __init__(self, iteration: int = 0) -> None:
        self._iteration = iteration
        self.begun: list[tuple[int, int]] = []

    def on_start(self, iteration: int, iterations: int) -> None:
        self.begun.append((iteration, iterations))

    def on_step(self, step: Step) -> None:
        if step.iteration == self._iteration:
            os.kill(os.getpid(), signal.SIGTERM)


class Failing(Callback):
    """Raises after an update, or before the first one; the memory is blamed, as no defect is looked for then."""

    def __init__(self, iteration: int) -> None:
        self._iteration = iteration

    def on_start(self, iteration: int, iterations: int) -> None:
        if self._iteration == 0:
            raise OutOfMemory("CUDA out of memory")

    def on_step(self, step: Step) -> None:
        if step.iteration == self._iteration:
            raise OutOfMemory("CUDA out of memory")


def fails(how: str, iteration: int, chips: Path, recipe: Recipe, run: Path, asked: TrainSettings) -> None:
    """Train until it fails after this update, or is killed there, which leaves no last word."""
    with pytest.MonkeyPatch.context() as patch:
        if how == "killed":
            patch.setattr(RunKeeper, "stop", lambda self: None)
        with pytest.raises(OutOfMemory):
            train(chips, recipe, run, asked, callbacks=[Failing(iteration)])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
