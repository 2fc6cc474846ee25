"""Where the seconds of a long run go, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageSeconds:
    """Add up wall-clock seconds by stage, of one thread: stages are not nested, so they add up to what it spent."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """The block's seconds count as this stage's, whatever ends it."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage: time.perf_counter() - start})

    def add(self, seconds: dict[str, float]) -> None:
        """Seconds by stage that were counted elsewhere count here too."""
        for stage, more in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + more
