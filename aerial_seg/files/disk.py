"""What a disk does not take, said as what it is: a full one is called full, whatever a library made of it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from aerial_seg.errors import OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_VAGUE = (None, errno.EIO)
"""GDAL's OSErrors have no number, and servers of files answer with an I/O error for a full disk."""
_SAYS_FULL = re.compile(r"no space left|disk (is )?full|disk quota|not enough space|os error 28\b", re.I)
_PROBE_BYTES = 256 * 1024
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


class DiskFullError(OutputError):
    """Tell that there is no room for what was to be written."""


def write_failure(error: BaseException, final: Path, remedy: str) -> OutputError:
    """Make the one line for an error that kept `final` from being written: DiskFullError where the disk is full.

    Call it before anything is cleared away. remedy: for all other errors.
    """
    folder = nearest_folder(final)
    if is_full(error, folder):
        free = shutil.disk_usage(folder).free
        # A work folder goes when the run ends; the disk is that of the folder around it.
        folder = next(
            (outer.parent for outer in (folder, *folder.parents) if outer.suffix == ".work"), folder
        )
        return DiskFullError(
            f"{final} could not be written (no space left on the disk of {folder}, {human_bytes(free)} free); "
            "free disk space there, or choose an output on another disk, and run again"
        )
    # GDAL's write errors are OSErrors without a number.
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    return OutputError(f"{final} could not be written ({reason}); {remedy}")


def is_full(error: BaseException, folder: Path) -> bool:
    """Tell whether this error of something written to `folder` comes of a full disk.

    By number, by SQLite's code or by its words; for an error that tells nothing, a few blocks are written to see.
    """
    causes = list(_causes(error))
    if any(_tells_of_full(cause) for cause in causes):
        return True
    if any(isinstance(cause, OSError) and cause.errno not in _VAGUE for cause in causes):
        return False
    return not takes(folder, _PROBE_BYTES)


def takes(folder: Path, size: int) -> bool:
    """Tell whether the disk of `folder` takes that many bytes now. True where something else is in the way."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(size))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno not in _FULL
    return True


def human_bytes(count: float) -> str:
    """Write the number with three digits that say something: 734 bytes, 12.3 kB, 1.45 GB."""
    for unit in _UNITS:
        if count < 999.5 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == _UNITS[0] else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError(count)


def nearest_folder(path: Path) -> Path:
    """Return the folder that `path` lies or would lie in, or the nearest one above it that is there."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())


def usual_mode(folder: Path) -> int:
    """Return the permissions that the umask (or the folder's own rules) gives to a new file in `folder`."""
    # The umask can only be asked for by changing it, which other threads would notice: a new file tells it. On Linux
    # one without a name, of which a kill leaves nothing; file systems that make none, and other systems, name it.
    nameless = getattr(os, "O_TMPFILE", None)
    if nameless is not None:
        with suppress(OSError):
            return _closed_mode(os.open(folder, nameless | os.O_WRONLY, 0o666))
    probe = folder / f".mode-{os.getpid()}"
    probe.unlink(missing_ok=True)
    try:
        return _closed_mode(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    finally:
        probe.unlink(missing_ok=True)


def _closed_mode(descriptor: int) -> int:
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _tells_of_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF == sqlite3.SQLITE_FULL:
            return True
    return bool(_SAYS_FULL.search(str(error)))
