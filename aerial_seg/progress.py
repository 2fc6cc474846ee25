"""How a job tells how far it is, without knowing whether anyone is watching."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol


class ProgressBar(Protocol):
    """One long step: `update(n)` after n more units; use as a context manager."""

    def update(self, n: int = 1) -> object: ...

    def __enter__(self) -> ProgressBar: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Progress(Protocol):
    """Starts a bar: `with progress("predict", total=60, unit="tile") as bar`."""

    def __call__(self, label: str, *, total: int, unit: str) -> ProgressBar: ...


class _SilentBar:
    def update(self, n: int = 1) -> None:
        del n

    def __enter__(self) -> _SilentBar:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def silent(label: str, *, total: int, unit: str) -> ProgressBar:
    """The default of every job: no output at all."""
    del label, total, unit
    return _SilentBar()


_LISTENERS: list[Callable[[str], None]] = []


@contextmanager
def listening(tell: Callable[[str], None]) -> Iterator[None]:
    """While inside, `tell` is given every line that is announced, in any thread of the process."""
    _LISTENERS.append(tell)
    try:
        yield
    finally:
        _LISTENERS.remove(tell)


def announce(line: str) -> None:
    """Give a line, while the work goes on, to whoever listens; nobody does unless asked to."""
    for tell in tuple(_LISTENERS):
        tell(line)
