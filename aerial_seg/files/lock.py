"""One run for one output: a lock that ends with its process, however that ends, and leaves no file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aerial_seg.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
_TRIES = 100


@contextmanager
def held(path: Path, final: Path) -> Iterator[None]:
    """Hold the lock file `path` for this process; whoever made it may delete it before the end.

    Its folder is made where it is missing. Raises OutputError when another run holds it for `final`, or where the
    file system knows no locks; OSError where the file cannot be made.
    """
    release = _take_flock(path, final) if fcntl is not None else _take_filelock(path, final)
    try:
        yield
    finally:
        release()


def _take_flock(path: Path, final: Path) -> Callable[[], None]:
    # filelock's promise ends where the file is deleted: another run may hold the deleted one, and a third the new one.
    for _ in range(_TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # its holder has just ended and taken the folder away
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise _busy(final) from error
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise
            with suppress(OSError):
                path.unlink()
                path.parent.rmdir()
            raise OutputError(
                f"the file system of {path.parent.parent} knows no locks ({error.strerror}), so two runs could write "
                f"{final.name} at once; choose an output on another disk"
            ) from error
        if _is_there(descriptor, path):
            return lambda: _release(descriptor)
        os.close(descriptor)
    raise _busy(final)


def _release(descriptor: int) -> None:
    # Not by closing alone: a process that was forked meanwhile shares the lock.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _is_there(descriptor: int, path: Path) -> bool:
    """Whether the locked file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _take_filelock(path: Path, final: Path) -> Callable[[], None]:
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)  # nobody can delete it there while it is open
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise _busy(final) from error
    return lambda: lock.release()


def _busy(final: Path) -> OutputError:
    return OutputError(f"{final} is being written by another run; wait for it, or choose another output")
