"""Opened rasters that wait for the next window: opening one takes as long as reading several windows of it."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from aerial_seg.geo.raster.raster import Raster

MOST = 64
"""Rasters that a process keeps open; GDAL's block cache holds what was decoded of them as long as they are."""


class Openable(Protocol):
    """What says how a raster is opened; equal ones open the same."""

    def __hash__(self) -> int: ...

    @property
    def version(self) -> str: ...

    def open(self) -> Raster: ...


class _Waiting:
    """Opened rasters that nobody reads now, those last that were read last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rasters: OrderedDict[Openable, Raster] = OrderedDict()

    def take(self, source: Openable) -> Raster | None:
        with self.lock:
            return self.rasters.pop(source, None)

    def put(self, source: Openable, raster: Raster) -> None:
        """One of each is enough: of two that threads have read at once the other is closed."""
        with self.lock:
            closing = [self.rasters[source]] if source in self.rasters else []
            self.rasters[source] = raster
            self.rasters.move_to_end(source)
            while len(self.rasters) > MOST:
                closing.append(self.rasters.popitem(last=False)[1])
        for one in closing:
            one.__exit__(None, None, None)


_waiting = _Waiting()
_of_the_parent: list[_Waiting] = []
"""Kept, and never read or closed: a forked process shares its parent's place in each file, and GDAL's locks."""


def _begin_anew() -> None:
    global _waiting
    _of_the_parent.append(_waiting)
    _waiting = _Waiting()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_begin_anew)


@contextmanager
def lent(source: Openable) -> Iterator[Raster]:
    """The opened raster, which nobody else reads while inside: GDAL's handles are for one thread at a time."""
    raster = _waiting.take(source)
    if raster is None:
        # GDAL opens files within VRTs once for all that name them: those of before would show through.
        close_all(but=source.version)
        raster = source.open()
    try:
        yield raster
    except BaseException:
        raster.__exit__(None, None, None)  # what it remembers may be what was wrong
        raise
    _waiting.put(source, raster)


def close_all(*, but: str | None = None) -> None:
    """No raster of this process waits open any more, save those of version `but`."""
    with _waiting.lock:
        closing = [source for source in _waiting.rasters if source.version != but]
        rasters = [_waiting.rasters.pop(source) for source in closing]
    for one in rasters:
        one.__exit__(None, None, None)
