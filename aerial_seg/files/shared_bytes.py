"""Memory that a process shares with those that it starts, whichever way they begin."""

from __future__ import annotations

import mmap
import os
from multiprocessing import context
from secrets import token_hex
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.files.operating_system import inherited_descriptor, memory_file, named_memory


class SharedBytes:
    """So many bytes, zero at first and taking room only where they were written.

    A forked process has them from its birth, a spawned one where they are among the arguments that it is started with.
    Pickled at any other time they become zeros of their own. Nothing is left of them when the last process has ended,
    also by `kill -9`: they have a name on Windows alone, which deletes it then.
    """

    def __init__(self, size: int) -> None:
        """Raises OSError where the system does not give so many."""
        self._size = size
        self._file = memory_file(max(1, size))
        self._name = f"aerial-seg-{os.getpid()}-{token_hex(8)}"
        self._open()

    def _open(self) -> None:
        size = max(1, self._size)
        self._map = (
            named_memory(size, self._name) if self._file is None else mmap.mmap(self._file.fileno(), size)
        )
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8, count=self._size)

    def __len__(self) -> int:
        return self._size

    def __getstate__(self) -> tuple[int, Any]:
        if context.get_spawning_popen() is None:
            return self._size, None
        return self._size, self._name if self._file is None else inherited_descriptor(self._file.fileno())

    def __setstate__(self, state: tuple[int, Any]) -> None:
        size, sent = state
        if sent is None:
            self.__init__(size)  # type: ignore[misc]
            return
        self._size, self._file, self._name = size, None, ""
        if isinstance(sent, str):
            self._name = sent
        else:
            self._file = os.fdopen(sent.detach(), "r+b")
        self._open()
