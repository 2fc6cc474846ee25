"""How a job tells how far it is, without knowing whether anyone is watching."""

from __future__ import annotations

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
