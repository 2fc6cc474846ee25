"""Being asked to end is being interrupted: what is finished is kept, what is half-made goes, exit code 130."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDINGS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGBREAK") if hasattr(signal, name))
"""What asks a program to end, beside Ctrl-C. SIGBREAK is Windows' own."""


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """While inside, SIGTERM does what Ctrl-C does; `kill`, batch systems and containers send it.

    On Windows, which has no such signal, Ctrl-Break does it, which is what a console's windows and services can send.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return
    owner = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() == owner:
            raise KeyboardInterrupt
        # A forked worker: its parent ends it so.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = {number: signal.signal(number, interrupt) for number in _ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
