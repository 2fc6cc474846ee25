"""Windows, as far as it can be played on Linux: its rules for open files, folders, links and locks hold in a block."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from aerial_seg.files import operating_system

_IN_USE = "The process cannot access the file because it is being used by another process"


def open_paths() -> set[str]:
    """What this process holds open or mapped, by its real path."""
    found = set()
    for link in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{link}"))  # noqa: PTH115
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
    found |= {words[5] for line in maps.splitlines() if len(words := line.split(maxsplit=5)) == 6}
    return found


class Windows:
    """refused: each replacing, renaming or deletion of what was open, with the place in our code that asked for it."""

    def __init__(self) -> None:
        self.refused = list[str]()

    def require_closed(self, path: Any, what: str) -> None:
        real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))  # noqa: PTH118, PTH119, PTH120
        if not any(name == real or name.startswith(real + "/") for name in open_paths()):
            return
        frames = traceback.extract_stack()
        if any(frame.name == "TemporaryFile" and "tempfile" in frame.filename for frame in frames):
            return  # Windows itself deletes those when they are closed
        ours = [
            f"{Path(frame.filename).name}:{frame.lineno}"
            for frame in frames
            if "aerial_seg" in frame.filename
        ]
        # That a lock cannot be deleted while it is held is known, and its end takes it away.
        if not (os.path.basename(real) == "lock" and real.endswith(".work/lock")):  # noqa: PTH119
            self.refused.append(f"{what} {real} ({' > '.join(ours)})")
        raise PermissionError(errno.EACCES, _IN_USE, os.fspath(path))


def _fake_msvcrt() -> types.ModuleType:
    import fcntl

    module: Any = types.ModuleType("msvcrt")
    module.LK_NBLCK, module.LK_UNLCK = 2, 0

    def locking(descriptor: int, mode: int, count: int) -> None:
        assert count == 1
        try:
            fcntl.flock(descriptor, fcntl.LOCK_UN if mode == 0 else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error

    module.locking = locking
    return module


def _play(rules: Windows, patch: pytest.MonkeyPatch) -> None:
    import fcntl

    honest: dict[str, Callable[..., Any]] = {
        name: getattr(os, name)
        for name in ("replace", "rename", "unlink", "remove", "rmdir", "open", "fsync", "link")
    }

    def over(name: str) -> Callable[..., None]:
        def move(source: Any, target: Any) -> None:
            rules.require_closed(source, name)
            rules.require_closed(target, f"{name} over")
            if os.path.isdir(target):  # noqa: PTH112
                raise PermissionError(errno.EACCES, "Access is denied", os.fspath(target))
            if name == "rename" and os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists")
            honest[name](source, target)

        return move

    def gone(name: str) -> Callable[..., None]:
        def delete(path: Any, *, dir_fd: int | None = None) -> None:
            if dir_fd is None and os.path.lexists(path):
                rules.require_closed(path, name)
            honest[name](path, dir_fd=dir_fd)

        return delete

    def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if dir_fd is None and os.path.isdir(path):  # noqa: PTH112
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return int(honest["open"](path, flags, mode, dir_fd=dir_fd))

    def synced(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        honest["fsync"](descriptor)

    def linked(source: Any, target: Any, *, follow_symlinks: bool = True) -> None:
        if not follow_symlinks:
            raise NotImplementedError("link: follow_symlinks unavailable on this platform")
        honest["link"](source, target)

    def unprivileged(*_: object, **__: object) -> None:
        raise OSError(errno.EINVAL, "A required privilege is not held by the client")

    for name in ("replace", "rename"):
        patch.setattr(os, name, over(name))
    for name in ("unlink", "remove", "rmdir"):
        patch.setattr(os, name, gone(name))
    patch.setattr(os, "open", opened)
    patch.setattr(os, "fsync", synced)
    patch.setattr(os, "link", linked)
    patch.setattr(os, "symlink", unprivileged)
    patch.delattr(os, "pathconf")
    patch.setattr(shutil, "_use_fd_functions", False)
    patch.setitem(sys.modules, "msvcrt", _fake_msvcrt())
    patch.setattr(operating_system, "WINDOWS", True)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[Windows]:
    """Windows' rules hold for the test; what its rules refused stands in `refused`."""
    if not sys.platform.startswith("linux"):
        pytest.skip("NOT PROVED: open files are looked up in Linux's /proc")
    rules = Windows()
    with monkeypatch.context() as patch:
        _play(rules, patch)
        yield rules
