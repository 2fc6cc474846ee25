"""Memory that processes share, and that none of them leaves behind."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_chips import add_one

from aerial_seg.files.shared_bytes import SharedBytes

METHODS = [
    pytest.param(name, marks=() if name == "fork" else pytest.mark.slow)
    for name in multiprocessing.get_all_start_methods()
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("by_file", [False, True])
def test_what_another_process_writes_is_seen_here(
    method: str, by_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_file:  # as on macOS
        monkeypatch.delattr(os, "memfd_create", raising=False)
    shared = SharedBytes(10_000)
    assert not shared.bytes.any()
    shared.bytes[:] = 7
    process: Any = multiprocessing.get_context(method).Process(target=add_one, args=(shared,))  # type: ignore[attr-defined]
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert (shared.bytes == 8).all()


def test_a_copy_for_nobody_begins_with_zeros() -> None:
    shared = SharedBytes(100)
    shared.bytes[:] = 7
    copy = pickle.loads(pickle.dumps(shared))
    assert len(copy) == 100
    assert not copy.bytes.any()
    copy.bytes[:] = 1
    assert (shared.bytes == 7).all()


def test_none_is_none() -> None:
    assert SharedBytes(0).bytes.shape == (0,)


def test_only_what_was_written_takes_room() -> None:
    """A store asks for its whole budget at once."""
    shared = SharedBytes(1 << 34)
    shared.bytes[1 << 33] = 1
    assert shared.bytes[1 << 33] == 1
    assert shared.bytes[-1] == 0


LEFT = """
import time
from aerial_seg.files.shared_bytes import SharedBytes
shared = SharedBytes(1 << 22)
shared.bytes[:] = 1
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is Linux's")
def test_nothing_is_left_of_a_process_that_was_killed(tmp_path: Path) -> None:
    """Its memory has no name from the beginning, so none can stay: other processes' names are not looked at."""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-P", "-c", LEFT], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        held = {str(path.readlink()) for path in Path(f"/proc/{process.pid}/fd").iterdir()}
        process.send_signal(signal.SIGKILL)
        process.wait(600)
    assert list(tmp_path.iterdir()) == []
    assert [name for name in held if name.endswith(" (deleted)")]
    assert not [name for name in held if name.startswith("/dev/shm/") and not name.endswith(" (deleted)")]
