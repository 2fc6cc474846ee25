"""What Linux, macOS and Windows do differently, each difference in one place.

Windows keeps whoever has a file open safe from others: it is neither replaced nor deleted then, not even by a program
that has it open itself. Folders cannot be synced there, names have fewer letters, and nobody forks.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO, cast

WINDOWS = sys.platform == "win32"
CPU_INFO = Path("/proc/cpuinfo")
CONTROL_GROUPS, CONTROL_GROUP_OF_SELF = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
_PATIENCE = 2.0
"""Seconds: virus scanners and indexers of Windows look into a new file for a moment."""
_PAUSE = 0.05

_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f]')
_DEVICES = re.compile(
    r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.IGNORECASE | re.DOTALL
)
_LONGEST_PATH = 259
"""UTF-16 units of a path that every program of Windows opens."""


class NoLocksError(OSError):
    """The file system has no locks."""


def sync(path: Path) -> None:
    """The file's content, or the folder's list of names, is on the disk; Windows has no way to ask for the latter."""
    if WINDOWS and path.is_dir():
        return
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def forget_pages(content: mmap.mmap) -> None:
    """Pages of a mapped file that were looked at are this process's memory no more; Windows decides that itself."""
    if sys.platform != "win32":
        content.madvise(mmap.MADV_DONTNEED)


def replace(source: Path, target: Path) -> None:
    """What lies at `source` lies at `target`, in one step; a file that was there is gone.

    On Windows it is tried again for a while: others may look into either file just now.
    """
    until = time.monotonic() + (_PATIENCE if WINDOWS else 0.0)
    while True:
        try:
            source.replace(target)
        except PermissionError:
            if time.monotonic() >= until:
                raise
            time.sleep(_PAUSE)
        else:
            return


def try_lock(descriptor: int) -> bool:
    """Whether the open file is this process's alone now, until `unlock` or the process's end, however that comes.

    Raises NoLocksError where the file system knows none.
    """
    try:
        if WINDOWS:
            windows = _system_module("msvcrt")
            windows.locking(descriptor, windows.LK_NBLCK, 1)
        else:
            posix = _system_module("fcntl")
            posix.flock(descriptor, posix.LOCK_EX | posix.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if WINDOWS and isinstance(error, PermissionError):
            return False
        if error.errno in _NO_LOCKS:
            raise NoLocksError(error.errno, error.strerror) from error
        raise
    return True


def unlock(descriptor: int) -> None:
    """Others may lock the file. Not by closing alone: a process that was forked meanwhile shares the lock."""
    if WINDOWS:
        windows = _system_module("msvcrt")
        windows.locking(descriptor, windows.LK_UNLCK, 1)
    else:
        posix = _system_module("fcntl")
        posix.flock(descriptor, posix.LOCK_UN)


def is_locked(descriptor: int) -> bool:
    """Whether another process, or another open file of this one, has locked the file now; it is not kept from doing so.

    Raises NoLocksError where the file system knows none.
    """
    if WINDOWS:
        free = try_lock(descriptor)
    else:
        posix = _system_module("fcntl")
        try:
            # Shared: many may look at once, and a file that may only be read can be looked at.
            posix.flock(descriptor, posix.LOCK_SH | posix.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise NoLocksError(error.errno, error.strerror) from error
            raise
    if free:
        unlock(descriptor)
    return not free


def _system_module(name: str) -> Any:
    # By name: a type checker knows the one or the other only for its own system.
    return import_module(name)


def name_problem(path: str) -> str | None:
    """What keeps Windows from making a file of this path under just that name; None elsewhere, and where nothing does.

    It drops dots and blanks at the end of a name, writes `a:b` invisibly into `a`, and NUL nowhere, without a word.
    """
    if not WINDOWS:
        return None
    whole = PureWindowsPath(path)
    for name in whole.parts[1 if whole.anchor else 0 :]:
        found = _FORBIDDEN.search(name)
        if found is not None:
            letter = found[0] if found[0].isprintable() else f"U+{ord(found[0]):04X}"
            return f"'{name}' holds {letter}, which no name has on Windows"
        if _DEVICES.fullmatch(name):
            return f"'{name}' is the name of a device on Windows"
        if name not in (".", "..") and name[-1] in ". ":
            return f"'{name}' ends in a {'dot' if name[-1] == '.' else 'blank'}, which Windows drops"
    return None


def longest_path() -> int | None:
    """UTF-16 units that a path may have on Windows; None where there is no such limit."""
    return _LONGEST_PATH if WINDOWS and not _takes_long_paths() else None


def _takes_long_paths() -> bool:
    try:
        registry = _system_module("winreg")
        with registry.OpenKey(
            registry.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem"
        ) as key:
            return bool(registry.QueryValueEx(key, "LongPathsEnabled")[0])
    except (ImportError, OSError):
        return False


def longest_name(folder: str, usual: int) -> int:
    """Bytes that a name in this folder may have; `usual` where the system does not say."""
    ask = getattr(os, "pathconf", None)
    if ask is None:
        return usual
    try:
        return int(ask(folder, "PC_NAME_MAX"))
    except (OSError, ValueError):
        return usual


def ignores_case(folder: Path) -> bool:
    """Whether `A` and `a` are one name in this folder, which exists: mostly so on Windows and macOS."""
    for place in (folder.absolute(), *folder.absolute().parents):
        other = place.with_name(place.name.swapcase()) if place.name else place
        if other.name != place.name:
            with suppress(OSError):
                return place.samefile(other)
            return False
    return WINDOWS


def shell_line(words: Sequence[str]) -> str:
    """The words as a line that this system's shell takes apart into them again."""
    if not WINDOWS:
        return shlex.join(words)
    from subprocess import list2cmdline

    return list2cmdline(words)


def peak_while(work: Callable[[], object]) -> int:
    """The most bytes that the process held during this call; since it began where the system tells no better."""
    import psutil

    status, forget = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if os.access(forget, os.W_OK):
        forget.write_bytes(b"5")
        work()
        held = next(
            line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
        )
        return int(held.split()[1]) * 1024
    work()
    info = psutil.Process().memory_info()
    if sys.platform == "darwin":
        resource = _system_module("resource")
        return max(int(info.rss), int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
    return int(getattr(info, "peak_wset", info.rss))


def most_held() -> int | None:
    """The most bytes that the process held since it began, in no time; None where the system does not say."""
    if WINDOWS:
        return None
    resource = _system_module("resource")
    most = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return most if sys.platform == "darwin" else most * 1024


def usable_cores() -> int:
    """How many cores the process may run on: a container or a scheduler may allow it fewer than the machine has.

    Linux takes them away in two ways: by their numbers, and by time (`docker run --cpus 2`), which counts as so many
    cores, rounded up.
    """
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed is not None else os.cpu_count() or 1
    shares = [share for folder in _control_groups("cpu") if (share := _cpu_share(folder)) is not None]
    return max(1, min([cores, *map(math.ceil, shares)]))


def available_memory() -> int:
    """Bytes that programs may take before the machine swaps; no more than a container or scheduler allows at all."""
    import psutil

    limits = [int(psutil.virtual_memory().available)]
    for folder in _control_groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # "max"
                limits.append(int((folder / name).read_text(encoding="utf-8")))
    return min(limits)


def _control_groups(controller: str) -> Iterator[Path]:
    """The folders that say what Linux allows this process and all that it lies within; none elsewhere."""
    try:
        lines = CONTROL_GROUP_OF_SELF.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, inner = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        root = CONTROL_GROUPS / controller if controllers else CONTROL_GROUPS
        group = root / inner.lstrip("/")
        yield from (one for one in (group, *group.parents) if one.is_relative_to(root))


def _cpu_share(folder: Path) -> float | None:
    """Cores' worth of time that a control group may use; None where it is not held to any. Both of Linux's versions."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip()
                for name in ("quota", "period")
            )
        share = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max", and what other systems say
        return None
    return share if share > 0 else None


def memory_file(size: int) -> BinaryIO | None:
    """A nameless file of zeros that lies in memory as far as it was written; None where the system has none.

    It ends with the last process that has it open, however that ends. Where Linux's is missing it is a deleted file
    of the temporary folder. Unlike `/dev/shm`, which containers often hold to 64 MiB, it is limited by memory alone.
    """
    if not hasattr(mmap, "MAP_SHARED"):  # Windows, whose files no two programs hold by one number
        return None
    make = getattr(os, "memfd_create", None)
    file = tempfile.TemporaryFile() if make is None else os.fdopen(make("aerial-seg"), "r+b")  # noqa: SIM115
    file.truncate(size)
    return cast(BinaryIO, file)


def named_memory(size: int, name: str) -> mmap.mmap:
    """Memory that the processes of Windows share by this name; it ends with the last of them that has it open."""
    options: dict[str, Any] = {"tagname": name}
    return mmap.mmap(-1, size, **options)


def cpu_facts() -> Mapping[str, str]:
    """What Linux says of its first processor; empty elsewhere."""
    return _facts_in(CPU_INFO)


@cache
def _facts_in(file: Path) -> Mapping[str, str]:
    # Asked for each of thousands of scenes; a machine does not change its processor.
    if not file.is_file():
        return {}
    first = file.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


@contextmanager
def blocked_signals(numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Inside, these signals wait, also for a process that begins inside; Windows knows no such thing."""
    if sys.platform == "win32":
        yield
    else:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock_signals(numbers: Iterable[signal.Signals]) -> None:
    """Let these signals in again, for a process that began with them blocked."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def inherited_descriptor(descriptor: int) -> Any:
    """What a process that is being spawned gets an open file by; its `detach()` gives the descriptor there."""
    if sys.platform != "win32":
        from multiprocessing.reduction import DupFd

        return DupFd(descriptor)
    raise OSError("Windows spawns processes without open files")
