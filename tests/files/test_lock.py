"""Whether a lock is held can be looked at, by many and at any time, without being in anybody's way."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from aerial_seg.errors import OutputError
from aerial_seg.files import lock, operating_system
from aerial_seg.files.lock import held, is_held

fcntl = pytest.importorskip("fcntl", reason="NOT PROVED: the locks of POSIX")

HOLD = """
import sys
from pathlib import Path
from aerial_seg.files.lock import held
with held(Path(sys.argv[1]), Path("run")):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_held_until_its_process_ends_however_that_comes(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert is_held(path) is False
    assert list(tmp_path.iterdir()) == []
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert is_held(path) is True
        with pytest.raises(OutputError, match="another run"), held(path, Path("run")):
            pass
        process.kill()
        process.wait()
        assert is_held(path) is False
        assert path.exists()


def test_who_looks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody looks at the very moment at which the lock is wanted."""
    path = tmp_path / "lock"
    path.touch()
    looking = path.open()
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(lock.time, "sleep", lambda _: looking.close())
    with held(path, Path("run")):
        assert looking.closed
        assert is_held(path)


def test_where_it_cannot_be_found_out_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    path.touch()

    def none(descriptor: int) -> bool:
        raise operating_system.NoLocksError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "is_locked", none)
    assert is_held(path) is None


def test_windows_locks_are_seen_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [False]
    monkeypatch.setattr(operating_system, "WINDOWS", True)
    monkeypatch.setattr(operating_system, "try_lock", lambda descriptor: not taken[0])
    left: list[int] = []
    monkeypatch.setattr(operating_system, "unlock", left.append)
    path = tmp_path / "lock"
    path.touch()
    assert is_held(path) is False
    assert len(left) == 1
    taken[0] = True
    assert is_held(path) is True
    assert len(left) == 1
