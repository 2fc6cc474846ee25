"""Batches on their way through a network: what is done with their logits is said now, and happens when they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
"""(N, h, w, K): of N images, per cell and class."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A batch on its way. `wait` returns its logits as soon as the device has computed them."""

    wait: Callable[[], Logits]

    @classmethod
    def arrived(cls, logits: Logits) -> Pending:
        """Wrap logits (N, h, w, K) that are there already."""
        return cls(lambda: logits)

    @classmethod
    def joined(cls, parts: Sequence[Pending], join: Callable[[list[Logits]], Logits]) -> Pending:
        """Make one batch of several: `join` takes the logits of all parts, in their order, once all have come."""
        parts = tuple(parts)
        return cls(lambda: join([part.logits() for part in parts]))

    def map(self, change: Callable[[Logits], Logits]) -> Pending:
        """Return this batch with its logits changed when they come; nothing is waited for now."""
        return Pending(lambda: change(self.logits()))

    def logits(self) -> Logits:
        """Wait until the batch is through, and return its logits (N, h, w, K) float32."""
        return self.wait()
