"""A line now and then while a server says nothing, so that nobody takes a wait for a program that hangs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event, Lock, Thread

from aerial_seg.progress import announce

QUIET = 15.0
"""Seconds that a read may take before a word is said."""
AGAIN = 30.0
"""Seconds between two words about one server, however many reads wait for it."""

_INSIDE: ContextVar[bool] = ContextVar("inside", default=False)
_told: dict[str, float] = {}
_lock = Lock()


@contextmanager
def telling_waits(whom: str) -> Iterator[None]:
    """While inside, it is announced after QUIET seconds, and every AGAIN seconds after, that `whom` is waited for.

    A read by GDAL is seen from outside: until it ends nothing of it has come, as far as one can know. The outermost of
    blocks inside each other speaks for all.
    """
    if _INSIDE.get():
        yield
        return
    ended, token = Event(), _INSIDE.set(True)
    Thread(target=_watch, args=(whom, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        _INSIDE.reset(token)


def _watch(whom: str, ended: Event) -> None:
    begun, pause = time.monotonic(), QUIET
    while not ended.wait(pause):
        now = time.monotonic()
        with _lock:
            left = _told.get(whom, -AGAIN) + AGAIN - now
            if left <= 0:
                _told[whom] = now
        if left <= 0:
            announce(f"waiting for {whom}: no answer for {now - begun:.0f} s")
        pause = left if left > 0 else AGAIN
