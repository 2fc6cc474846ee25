"""How many iterations fit into a time: some steps and a validation are timed, and forgotten again."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from aerial_seg.errors import SettingsError
from aerial_seg.mentions import setting
from aerial_seg.models.device import random_states, set_random_states, wait_for
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import Recipe
from aerial_seg.training.batches import TrainingData
from aerial_seg.training.callbacks import Callback, Step
from aerial_seg.training.fabric import Computing
from aerial_seg.training.loop import run_training
from aerial_seg.training.processes import alone
from aerial_seg.training.state import NothingKept, TrainingState
from aerial_seg.training.validation.chips import validate

SHARE = 0.95
"""Of the time: the rest is for checkpoints, curves, and a machine that is not always as fast."""
_WARMING, _STEPS = 3, 8
_TIMED = 0.05
"""Share of the time that the timed steps may take beyond the least number of them."""
_LONGEST = 60.0


class _Enough(Exception):
    """As many steps as are needed were timed."""


@dataclass(slots=True)
class _Watch(Callback):
    """Note when each step ended, and end the run that is timed."""

    device: torch.device
    most: float
    ends: list[float] = field(default_factory=list)

    def on_step(self, step: Step) -> None:
        """One more."""
        del step
        wait_for(self.device)
        self.ends.append(time.monotonic())
        timed = self.ends[-1] - self.ends[0]
        if (len(self.ends) >= _WARMING + _STEPS and timed >= self.most) or (
            timed > _LONGEST and len(self.ends) > 2
        ):
            raise _Enough

    @property
    def seconds(self) -> float:
        """Of one step, without those that warm up."""
        ends = self.ends[_WARMING - 1 :] if len(self.ends) > _WARMING else self.ends
        return (ends[-1] - ends[0]) / (len(ends) - 1)


@dataclass(frozen=True, slots=True)
class Timing:
    """Tell what a run takes: seconds of one update, after those that warm up, and of one validation.

    frozen: seconds of an update while a part of the network is frozen for a while, which is the first `held` updates.
    """

    step: float
    validation: float
    frozen: float = 0.0
    held: int = 0

    @property
    def first(self) -> float:
        """Seconds of a run's first update."""
        return self.frozen if self.held else self.step

    def updates(self, done: int, iterations: int) -> float:
        """Seconds of the updates that are left, without validations."""
        held = max(0, min(self.held, iterations) - done)
        return held * self.frozen + (iterations - done - held) * self.step


@alone()
def time_run(
    network: Network, data: TrainingData, recipe: Recipe, computing: Computing, *, most: float
) -> Timing:
    """Time some updates, for `most` seconds or a few of them, and a validation; nothing is left of them.

    Where a part is frozen for a while, updates with it and without it are timed, each for half of the seconds.

    The network and the random numbers are afterwards what they were. Processes that have met for a stage before have
    no part in it: they wait to hear what came of it.
    """
    randoms = random_states()
    held = recipe.training.freeze_iterations
    if held:
        # No end is "to the end"; and the first update, which is never timed, may be the only frozen one.
        most /= 2
        always, once = (_frozen_for(recipe, count) for count in (0, 1))
        frozen = _seconds_per_step(most, copy.deepcopy(network), data, always, computing)
        step = _seconds_per_step(most, copy.deepcopy(network), data, once, computing)
    else:
        frozen, step = 0.0, _seconds_per_step(most, copy.deepcopy(network), data, recipe, computing)
    validation = (
        _seconds(lambda: _validate_once(network, data, computing.device)) if data.val is not None else 0.0
    )
    set_random_states(randoms)
    return Timing(step, validation, frozen, held)


def _frozen_for(recipe: Recipe, updates: int) -> Recipe:
    training = recipe.training.model_copy(update={"freeze_iterations": updates})
    return recipe.model_copy(update={"training": training})


def fitting(seconds: float, timing: Timing, validate_every: int) -> int:
    """Return how many iterations fit into the seconds; the last one is validated, whatever its number."""
    validating = timing.validation / validate_every
    left = seconds - timing.validation
    if timing.held:
        begun = left / (timing.frozen + validating)
        if begun <= timing.held:
            return math.floor(begun)
        left -= timing.held * (timing.frozen + validating)
    return timing.held + math.floor(left / (timing.step + validating))


def iterations_within(
    limit: float, begun: float, network: Network, data: TrainingData, recipe: Recipe, computing: Computing
) -> int:
    """Return how many iterations, with their validations, end within `limit` seconds after `begun`.

    begun: by time.monotonic. The network and the random numbers are afterwards what they were. Raises SettingsError
    where not one iteration fits.
    """
    timing = time_run(network, data, recipe, computing, most=min(_TIMED * limit, _LONGEST))
    step, validation = timing.first, timing.validation
    left = SHARE * limit - (time.monotonic() - begun)
    count = fitting(left, timing, recipe.training.validate_every)
    if count < 1:
        raise SettingsError(
            f"{setting('time_limit')} is {limit:g} s, of which {left:.0f} s are left, but one iteration takes "
            f"{step:.2g} s and a validation {validation:.2g} s; allow more time, or take a smaller crop or batch"
        )
    return count


def _seconds_per_step(
    most: float, network: Network, data: TrainingData, recipe: Recipe, computing: Computing
) -> float:
    unending = {"iterations": 1_000_000, "validate_every": 1_000_000}
    asked = recipe.model_copy(update={"training": recipe.training.model_copy(update=unending)})
    watch = _Watch(computing.device, most)
    try:
        state = TrainingState.begin(network, asked)
        run_training(state, data, asked, computing=computing, keeper=NothingKept(), callbacks=[watch])
    except _Enough:
        pass
    return watch.seconds


def _validate_once(network: Network, data: TrainingData, device: torch.device) -> None:
    if data.validator is not None:
        data.validator(network, device)
        return
    assert data.val is not None
    validate(network, data.val, classes=len(data.names), device=device)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun
