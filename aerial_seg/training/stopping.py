"""A run that is asked to end does so between two steps: an interruption tears neither an update nor a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from aerial_seg.files.operating_system import blocked_signals, unblock_signals

_ASKING = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGBREAK")
"""Ctrl-C; `kill`, batch systems and containers; what schedulers send before the end of a job; Windows' Ctrl-Break."""


class Stopping:
    """Hold back what asks a run to end while a step or a checkpoint is made; asked twice, it ends at once.

    While inside `listening`, being asked raises KeyboardInterrupt: at once outside `held`, else at the end of that.
    """

    def __init__(self) -> None:
        self._asked = self._at_once = False
        self._holding = 0
        self._owner = os.getpid()

    @property
    def is_orderly(self) -> bool:
        """Whether the run was asked to end once, so that all that was held is whole."""
        return self._asked and not self._at_once

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are heard inside; only the main thread may say what they do. Who ignores one goes on ignoring it."""
        with _handlers_put_back() as may_say:
            for number in _numbers() if may_say else ():
                if signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, self._ask)
            yield

    @contextmanager
    def held(self) -> Iterator[None]:
        """Being asked to end waits for the end of the block."""
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1
        if self._asked and not self._holding:
            raise KeyboardInterrupt

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != self._owner:
            # A forked worker: its parent ends it so.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._at_once = self._asked
        self._asked = True
        if self._at_once or not self._holding:
            raise KeyboardInterrupt


def _numbers() -> list[signal.Signals]:
    return [getattr(signal, name) for name in _ASKING if hasattr(signal, name)]


@contextmanager
def _handlers_put_back() -> Iterator[bool]:
    """Signals do after the block what they did before it. Tells whether this thread may say what they do."""
    if threading.current_thread() is not threading.main_thread():
        yield False
        return
    before = {number: signal.getsignal(number) for number in _numbers()}
    try:
        yield True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_the_first() -> None:
    """In a process that trains along, for all its life: the first process, which writes, decides when the run ends.

    Batch systems and containers ask all processes of a job at once.
    """
    for number in _numbers():
        signal.signal(number, signal.SIG_IGN)
    unblock_signals(_numbers())


@contextmanager
def left_to_the_first() -> Iterator[None]:
    """Inside, this process does not heed being asked to end: the first one tells it."""
    with _handlers_put_back() as may_say:
        if may_say:
            leave_signals_to_the_first()
        yield


@contextmanager
def ended_when_asked() -> Iterator[None]:
    """Inside, this process ends as soon as it is asked to, also where it waits in a library that heeds nothing."""
    with _handlers_put_back() as may_say:
        for number in _numbers() if may_say else ():
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        yield


@contextmanager
def deaf_from_birth() -> Iterator[None]:
    """A process that begins inside is not asked to end before it can say that it does not heed that."""
    with blocked_signals(_numbers()):
        yield


def leave_signals_to_the_parent(worker: int) -> None:
    """In a loader's worker: Ctrl-C and a scheduler's signals, which reach all processes of a job, are the parent's.

    It still needs the worker's batch to end between two steps. A second SIGTERM ends the worker: the parent's own
    clearing away sends one, too.
    """
    del worker

    def once(number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, signal.SIG_DFL)

    for name in _ASKING:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), once if name == "SIGTERM" else signal.SIG_IGN)
