"""What to say of a run that goes on: the loss without its noise, and the images per second of its updates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from aerial_seg.training.callbacks import Step

_MEMORY = 50
"""Updates over which the loss is averaged, about."""
_SECONDS = 20.0
"""Over which the images per second are averaged, about."""


class Pace:
    """Running means of a run's updates; recent ones count more. What lies between updates, as validation, is no pace.

    loss: NaN before the first update. images_per_second: NaN before the second.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._loss = self._weight = 0.0
        self._images = self._seconds = 0.0
        self._since: float | None = None

    def add(self, step: Step) -> None:
        """Take in an update that has just ended."""
        keep = 1 - 1 / _MEMORY
        self._loss = keep * self._loss + step.loss
        self._weight = keep * self._weight + 1
        now = self._clock()
        if self._since is not None:
            spent = now - self._since
            keep = math.exp(-spent / _SECONDS)
            self._images = keep * self._images + step.images
            self._seconds = keep * self._seconds + spent
        self._since = now

    def pause(self) -> None:
        """What comes until the next update is something else: that update is not timed."""
        self._since = None

    @property
    def loss(self) -> float:
        """The running mean of the loss."""
        return self._loss / self._weight if self._weight else math.nan

    @property
    def images_per_second(self) -> float:
        """The running mean of the updates' speed."""
        return self._images / self._seconds if self._seconds > 0 else math.nan
