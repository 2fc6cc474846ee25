"""What watches a run: a callback is told of its start, of every update, of every validation and of its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aerial_seg.intervals import ChipScore
from aerial_seg.metrics import Scores

# Who only reads what a run has written needs no torch, which takes seconds to import.
if TYPE_CHECKING:
    from torch import Tensor

    from aerial_seg.training.validation.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Step:
    """Tell of one update. loss: before it. images: crops of its batch.

    learning_rate: that it was made with, of parameters without a factor (see training.head_rate_factor).
    """

    iteration: int
    loss: float
    learning_rate: float
    images: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Hold the weights after `iteration` updates, and what validation says of them (None without validation chips).

    state: on the CPU; the averaged weights where the recipe asks for them. scores: at the threshold that ships.
    is_best: of all so far. chips: the validation chips, in their order. outcome: all that validation found.
    """

    iteration: int
    state: dict[str, Tensor]
    scores: Scores | None
    is_best: bool = False
    chips: tuple[ChipScore, ...] = ()
    outcome: Outcome | None = None


class Callback:
    """Watch a run: override what is of interest. Nothing here changes the run, and what it raises ends it.

    A validated checkpoint is on the disk before it is told of; a run that goes on does not tell it again.
    """

    def on_stage(self, number: int, of: int, name: str) -> None:
        """Take note that a stage of a run of several begins or goes on; its iterations are counted from 1."""

    def on_start(self, iteration: int, iterations: int) -> None:
        """Take note that the run begins or goes on: `iteration` of `iterations` updates are done already."""

    def on_step(self, step: Step) -> None:
        """Take note of one update."""

    def on_validating(self, done: int, total: int, unit: str) -> None:
        """Take note that a validation goes on: so many chips or images of all are scored. It comes often."""

    def on_validation(self, checkpoint: Checkpoint) -> None:
        """Take note of a validation, after the step it follows; without validation chips, of the last weights."""

    def on_end(self, iteration: int) -> None:
        """Take note that the last update is made, and all is on the disk."""
