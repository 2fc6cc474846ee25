"""What one operating system has and another has not is called in few places, each with its counterpart."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "aerial_seg").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])

MODULES = {
    "fcntl",
    "grp",
    "msvcrt",
    "nt",
    "posix",
    "pty",
    "pwd",
    "resource",
    "syslog",
    "termios",
    "tty",
    "winreg",
    "_winapi",
}
"""That not every system has."""
OF_OS = {
    "chown", "chroot", "fchmod", "fchown", "fdatasync", "fork", "forkpty", "fsync", "geteuid", "getgid", "getloadavg",
    "getpgid", "getpriority", "getuid", "kill", "killpg", "lchown", "link", "lockf", "mkfifo", "mknod", "nice", "open",
    "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "openpty", "pathconf", "pipe2", "posix_fadvise",
    "posix_fallocate", "posix_spawn", "pread", "pwrite", "readlink", "rename", "replace", "sched_getaffinity",
    "sched_setaffinity", "sendfile", "setgid", "setpgid", "setpriority", "setsid", "setuid", "startfile", "statvfs",
    "symlink", "sync", "sysconf", "umask", "uname", "wait", "wait3", "wait4", "waitpid",
}  # fmt: skip
"""Missing somewhere, or meaning another thing: `kill` ends a process on Windows, `open` opens no folder there."""
SIGNALS = {
    "SIGINT",
    "SIGTERM",
    "SIG_DFL",
    "SIG_IGN",
    "signal",
    "getsignal",
    "raise_signal",
    "Signals",
    "Handlers",
}
"""That every system has; `kill -TERM` never arrives on Windows."""
OF_PATHS = {"symlink_to", "hardlink_to", "readlink", "lchmod", "owner", "rename"}
FOLDERS = ("/proc/", "/dev/", "/sys/", "/tmp/", "/etc/", "/var/", "/usr/")
TELLING = {("os", "name"), ("sys", "platform"), ("platform", "system"), ("sys", "getwindowsversion")}

PLACES = {
    "aerial_seg/files/operating_system.py": MODULES
    | {"os.open", "os.fsync", "Path.replace", "sys.platform", "/proc/", "/sys/"}
    | {"signal.pthread_sigmask", "signal.SIG_BLOCK", "signal.SIG_UNBLOCK", "signal.SIG_SETMASK"},
    "aerial_seg/files/disk.py": {
        "os.open",
        "os.fsync",
    },  # the umask's probe, and whether the disk takes bytes
    "aerial_seg/files/lock.py": {"os.open"},
    "aerial_seg/files/names.py": {"Path.symlink_to"},  # not on Windows, where pyogrio needs none
    "aerial_seg/files/work.py": {"os.link"},  # else a copy
    "cli/net.py": {"os.open", "os.kill", "signal.SIGBREAK"},  # os.devnull
    "aerial_seg/models/importing/records.py": {"_winapi"},  # a name that no pickle may ask for
    # Of rasters, no text.
    "aerial_seg/geo/windows/handles.py": {"open without encoding"},
    "aerial_seg/labels/from_raster.py": {"open without encoding"},
    # os.kill in a forked process only; signals that a system has not are left out.
    "aerial_seg/training/stopping.py": {"os.kill", "signal.SIGBREAK", "signal.SIGUSR1"},
}
"""What each of these files may call, and answers for."""


def findings(source: str) -> Iterator[tuple[int, str]]:
    """The lines that call what differs, and what it is."""
    tree = ast.parse(source)
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            yield from _imported_from(node)
        elif isinstance(node, ast.Attribute):
            yield from _attribute(node)
        elif isinstance(node, ast.Call):
            yield from _call(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield from _text(node.lineno, node.value)


def _imported_from(node: ast.ImportFrom) -> Iterator[tuple[int, str]]:
    if node.module in MODULES:
        yield node.lineno, str(node.module)
    for alias in node.names:
        if node.module == "os" and alias.name in OF_OS:
            yield node.lineno, f"os.{alias.name}"
        if node.module == "signal" and alias.name not in SIGNALS:
            yield node.lineno, f"signal.{alias.name}"
        if (node.module, alias.name) in TELLING:
            yield node.lineno, f"{node.module}.{alias.name}"


def _attribute(node: ast.Attribute) -> Iterator[tuple[int, str]]:
    owner = node.value.id if isinstance(node.value, ast.Name) else ""
    if owner == "os" and node.attr in OF_OS:
        yield node.lineno, f"os.{node.attr}"
    elif owner == "signal" and node.attr.startswith(
        ("SIG", "alarm", "setitimer", "pause", "pthread", "set_wakeup")
    ):
        if node.attr not in SIGNALS:
            yield node.lineno, f"signal.{node.attr}"
    elif (owner, node.attr) in TELLING:
        yield node.lineno, f"{owner}.{node.attr}"
    elif node.attr in OF_PATHS and owner not in ("os", "match"):
        yield node.lineno, f"Path.{node.attr}"


def _call(node: ast.Call) -> Iterator[tuple[int, str]]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    is_method, keywords = isinstance(node.func, ast.Attribute), {k.arg for k in node.keywords}
    if name == "replace" and is_method and len(node.args) == 1 and not keywords:
        yield node.lineno, "Path.replace"  # a text's takes two
    if name in ("get_context", "set_start_method") and any(_says(arg, "fork") for arg in node.args):
        yield node.lineno, "fork"
    if name in ("read_text", "write_text") and is_method and "encoding" not in keywords:
        takes_path = name == "read_text" and bool(node.args)  # documents.read_text and the like
        if not takes_path:
            yield node.lineno, f"{name} without encoding"
    if name == "write_text" and is_method and "newline" not in keywords:
        yield node.lineno, "write_text without newline"
    modes = _modes(node, is_method) if name == "open" and not keywords & {"encoding", "fileobj"} else None
    if modes is not None and "b" not in modes and (not is_method or set(modes) <= set("rwax+t")):
        yield node.lineno, "open without encoding"


def _modes(node: ast.Call, is_method: bool) -> str | None:
    """The mode of a call that opens a file of Python's; None for other calls of that name, rasterio's, say."""
    given = [*node.args[0 if is_method else 1 :], *(k.value for k in node.keywords if k.arg == "mode")]
    texts = [arg.value for arg in given[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    if texts:
        return texts[0]
    return "r" if not is_method or not (node.args or node.keywords) else None


def _says(node: ast.expr, word: str) -> bool:
    return isinstance(node, ast.Constant) and node.value == word


def _text(line: int, text: str) -> Iterator[tuple[int, str]]:
    if text in MODULES - {"resource", "nt", "posix", "tty", "pty"}:
        yield line, text  # by import_module
    for folder in FOLDERS:
        if text.startswith(folder):
            yield line, folder
    if text.startswith("SIG") and text.isupper() and text not in SIGNALS:
        yield line, f"signal.{text}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_called_that_another_system_has_not(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    allowed = PLACES.get(name, set())
    found = [
        f"line {line}: {what}" for line, what in findings(path.read_text("utf-8")) if what not in allowed
    ]
    assert found == [], f"{name} has no counterpart for it; aerial_seg/files/operating_system.py is the place"


@pytest.mark.parametrize("name", PLACES)
def test_each_place_still_needs_what_it_may_call(name: str) -> None:
    found = {what for _, what in findings((ROOT / name).read_text("utf-8"))}
    assert found
    assert PLACES[name] - MODULES <= found


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import fcntl", "fcntl"),
        ("from resource import getrusage", "resource"),
        ("import_module('msvcrt')", "msvcrt"),
        ("import os\nif os.fork() == 0: pass", "os.fork"),
        ("from os import getuid", "os.getuid"),
        ("cores = len(os.sched_getaffinity(0))", "os.sched_getaffinity"),
        ("os.kill(pid, 0)", "os.kill"),
        ("os.fsync(os.open(folder, flags))", "os.fsync"),
        ("os.open(folder, os.O_RDONLY)", "os.open"),
        ("os.statvfs(folder)", "os.statvfs"),
        ("old = os.umask(0)", "os.umask"),
        ("os.replace(a, b)", "os.replace"),
        ("partial.replace(final)", "Path.replace"),
        ("a.rename(b)", "Path.rename"),
        ("link.symlink_to(whole)", "Path.symlink_to"),
        ("b.hardlink_to(a)", "Path.hardlink_to"),
        ("signal.signal(signal.SIGHUP, end)", "signal.SIGHUP"),
        ("from signal import SIGKILL", "signal.SIGKILL"),
        ("signal.alarm(3)", "signal.alarm"),
        ("getattr(signal, 'SIGUSR1')", "signal.SIGUSR1"),
        ("Path('/proc/self/status')", "/proc/"),
        ("open('/dev/null', 'wb')", "/dev/"),
        ("if os.name == 'nt': pass", "os.name"),
        ("if sys.platform == 'win32': pass", "sys.platform"),
        ("from sys import platform", "sys.platform"),
        ("multiprocessing.get_context('fork')", "fork"),
        ("set_start_method('fork')", "fork"),
        ("path.read_text()", "read_text without encoding"),
        ("path.write_text(text)", "write_text without encoding"),
        ("path.write_text(text, encoding='utf-8')", "write_text without newline"),
        ("open(path)", "open without encoding"),
        ("path.open()", "open without encoding"),
        ("path.open('w', newline='')", "open without encoding"),
    ],
)
def test_the_scanner_finds_each_kind(source: str, what: str) -> None:
    assert what in {found for _, found in findings(source)}


@pytest.mark.parametrize(
    "source",
    [
        "import os, signal, sys",
        "text.replace('a', 'b')",
        "moment.replace(tzinfo=UTC)",
        "signal.signal(signal.SIGTERM, end)",
        "'''Linux tells it in /proc/self/status.'''",
        "rasterio.open(exact(path))",
        "Image.open(path)",
        "tarfile.open(fileobj=packed, mode='w')",
        "path.open('rb')",
        "open(path, encoding='utf-8')",
        "path.write_text(text, encoding='utf-8', newline='\\n')",
        "text = read_text(path)",
        "os.path.realpath(path)",
        "name = '/vsizip/a.zip'",
        "multiprocessing.get_context('spawn')",
    ],
)
def test_the_scanner_leaves_the_rest_alone(source: str) -> None:
    assert list(findings(source)) == []
