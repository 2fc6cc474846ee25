"""Runs that end before their time: asked to, failing, or killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from aerial_seg.files import durable
from aerial_seg.jobs.train import stages
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.keeper import RunKeeper
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.models.device import OutOfMemory
from aerial_seg.recipe.document import Recipe
from aerial_seg.training.callbacks import Callback, Step
from aerial_seg.training.validation import validator

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


class Killed(BaseException):
    """What no code expects, as a kill."""


@dataclass(frozen=True)
class Stop:
    """Where a run is stopped. at: the update, or the rename, that it comes after (`before`: just before)."""

    how: str
    at: int
    before: bool = False


class Stopping(Callback):
    """Stops after an update, by a kill or by asking."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self.first = -1

    def on_start(self, iteration: int, iterations: int) -> None:
        self.first = iteration

    def on_step(self, step: Step) -> None:
        if step.iteration == self.stop.at and self.stop.how in ("kill", "SIGTERM", "SIGUSR1"):
            if self.stop.how == "kill":
                raise Killed
            os.kill(os.getpid(), getattr(signal, self.stop.how))


@contextmanager
def stopped(stop: Stop) -> Iterator[Stopping]:
    """Inside, files are renamed up to the stop's, validations take place up to it, and a kill leaves no last word."""
    renames, validations = 0, 0
    replace, validate = durable.replace, validator.validate

    def counted_replace(source: Path, target: Path) -> None:
        nonlocal renames
        renames += 1
        is_now = stop.how == "rename" and renames == stop.at
        if is_now and stop.before:
            raise Killed
        replace(source, target)
        if is_now:
            raise Killed

    def counted_validate(*given: object, **named: object) -> object:
        nonlocal validations
        validations += 1
        if stop.how == "validation" and validations == stop.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return validate(*given, **named)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "replace", counted_replace)
        patch.setattr(stages, "replace", counted_replace)
        patch.setattr(validator, "validate", counted_validate)
        if stop.how in ("kill", "rename"):
            patch.setattr(RunKeeper, "stop", lambda self: None)
        yield Stopping(stop)
