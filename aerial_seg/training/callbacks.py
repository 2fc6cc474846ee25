"""What watches a run: a callback is told of its start, of every update, of every validation and of its end."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aerial_seg.metrics import Scores


@dataclass(frozen=True, slots=True)
class Step:
    """Tell of one update. loss: before it. learning_rate: that it was made with. images: crops of its batch."""

    iteration: int
    loss: float
    learning_rate: float
    images: int


@dataclass(frozen=True, slots=True, eq=False)
class ChipScore:
    """Tell what a network made of one validation chip. confusion: (K,K) pixels, rows = truth, columns = prediction."""

    name: str
    confusion: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Hold the weights after `iteration` updates, with their scores on the validation chips (None without any).

    state: on the CPU; the averaged weights where the recipe asks for them. is_best: of all so far.
    chips: the validation chips, in their order.
    """

    iteration: int
    state: dict[str, Tensor]
    scores: Scores | None
    threshold: tuple[float, float] | None = None
    is_best: bool = False
    chips: tuple[ChipScore, ...] = ()

    @property
    def score(self) -> float | None:
        """What decides which checkpoint is the best: validation mIoU; None where none is defined."""
        return None if self.scores is None or math.isnan(self.scores.miou) else self.scores.miou


class Callback:
    """Watch a run: override what is of interest. Nothing here changes the run, and what it raises ends it."""

    def on_start(self, iteration: int, iterations: int) -> None:
        """Take note that the run begins or goes on: `iteration` of `iterations` updates are done already."""

    def on_step(self, step: Step) -> None:
        """Take note of one update."""

    def on_validation(self, checkpoint: Checkpoint) -> None:
        """Take note of a validation, after the step it follows; without validation chips, of the last weights."""

    def on_end(self, iteration: int) -> None:
        """Take note that the last update is made, and all is on the disk."""
