"""Pictures of a run are renewed as often as its length allows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

SHARE = 20
"""Drawing may take one part in so many of the run's time."""


class Sparing:
    """Tells whether a picture is due: the first time, and then once the last drawing is a small part of the time since.

    So whoever looks finds a picture from the first validation on, and a run of quick validations is not held up.
    """

    def __init__(self) -> None:
        self._ended: float | None = None
        self._cost = 0.0

    @property
    def is_due(self) -> bool:
        """Whether to draw now."""
        return self._ended is None or time.monotonic() - self._ended >= (SHARE - 1) * self._cost

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Draw inside; it is timed."""
        begun = time.monotonic()
        yield
        self._ended = time.monotonic()
        self._cost = self._ended - begun
