"""One run for one output: a lock that ends with its process, however that ends, and leaves no file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aerial_seg.errors import OutputError
from aerial_seg.files import operating_system
from aerial_seg.files.operating_system import NoLocksError, is_locked, try_lock, unlock

_TRIES = 100
_PAUSE = 0.01


@contextmanager
def held(path: Path, final: Path) -> Iterator[None]:
    """Hold the lock file `path` for this process; whoever made it may delete it before the end.

    Its folder is made where it is missing. Raises OutputError when another run holds it for `final`, or where the
    file system knows no locks; OSError where the file cannot be made.
    """
    descriptor = _take(path, final)
    try:
        yield
    finally:
        unlock(descriptor)
        os.close(descriptor)
        if operating_system.WINDOWS:
            _leave_none(path)


def is_held(path: Path) -> bool | None:
    """Tell whether a process holds the lock file `path` at this moment; None where that cannot be found out.

    Nothing is made or changed, and who comes for the lock meanwhile gets it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR if operating_system.WINDOWS else os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        return is_locked(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _take(path: Path, final: Path) -> int:
    # A lock's promise ends where its file is deleted: another run may hold the deleted one, and a third the new one.
    for left in reversed(range(_TRIES)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # its holder has just ended and taken the folder away
        except PermissionError:
            if not (operating_system.WINDOWS and left):
                raise
            time.sleep(_PAUSE)  # how Windows says that the file is going away at this moment
            continue
        try:
            if not _try_twice(descriptor):
                os.close(descriptor)
                raise _busy(final)
        except NoLocksError as error:
            os.close(descriptor)
            with suppress(OSError):
                path.unlink()
                path.parent.rmdir()
            raise OutputError(
                f"the file system of {path.parent.parent} knows no locks ({error.strerror}), so two runs could write "
                f"{final.name} at once; choose an output on another disk"
            ) from error
        except OSError:
            os.close(descriptor)
            raise
        if _is_there(descriptor, path):
            return descriptor
        os.close(descriptor)
    raise _busy(final)


def _try_twice(descriptor: int) -> bool:
    """Whether the file is locked now. A second time after a pause: somebody may only have looked, see `is_held`."""
    if try_lock(descriptor):
        return True
    time.sleep(_PAUSE)
    return try_lock(descriptor)


def _is_there(descriptor: int, path: Path) -> bool:
    """Whether the locked file is still the one of that name; Windows deletes none that is open."""
    if operating_system.WINDOWS:
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _leave_none(path: Path) -> None:
    """The lock file and its folder are gone if nothing else lies there: on Windows nobody deletes it while it is held.

    Nor while another run has it open, which is then the one that does this.
    """
    with suppress(OSError):
        if [entry.name for entry in path.parent.iterdir()] == [path.name]:
            path.unlink()
            path.parent.rmdir()


def _busy(final: Path) -> OutputError:
    return OutputError(f"{final} is being written by another run; wait for it, or choose another output")
