"""Several processes begin together and end together, whatever ends one of them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import companions_of_tests
import psutil
import pytest
import torch

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.training.companions import CompanionError, companions


def gone(folder: Path) -> bool:
    """Whether the other process is no more."""
    number = int((folder / "pid1").read_text())
    return not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_processes_meet_and_leave_everything_as_it_was(tmp_path: Path) -> None:
    before, threads = dict(os.environ), torch.get_num_threads()
    for count in (3, 2):  # twice in one process
        with companions(count, companions_of_tests.meet, tmp_path):
            # Whoever asked for a free port and let it go would lose it to another program now and then.
            place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
            socket.create_connection(place, timeout=60).close()
            assert companions_of_tests.meet(tmp_path) == sum(range(count))
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "2"}
    assert all(int(path.read_text()) == max(1, threads // 2) for path in (tmp_path / "0", tmp_path / "1"))
    assert dict(os.environ) == before
    assert torch.get_num_threads() == threads
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("ours", InputError, "^chip 7 is damaged; copy it again$"),
        ("theirs", CompanionError, "process 1 of the training ended: RuntimeError: CUDA error: something; "),
        (
            "unreadable",
            CompanionError,
            r"process 1 .* ended: FileNotFoundError: .*No such file or directory: 'chip 7'",
        ),
        ("full", CompanionError, "process 1 of the training ended: MemoryError; .* use fewer processes"),
        ("killed", CompanionError, "process 1 of the training ended with exit code -9; .* fewer processes"),
        ("here", InputError, "^this one is at fault$"),
        ("interrupted", KeyboardInterrupt, "^$"),
    ],
)
def test_what_ends_one_process_ends_all_with_one_line(
    how: str, kind: type[BaseException], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message), companions(2, companions_of_tests.fail, tmp_path, how):
        companions_of_tests.fail(tmp_path, how)
    assert gone(tmp_path)
    assert not torch.distributed.is_initialized()


def test_what_cannot_be_sent_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(SettingsError, match=r"cannot be sent .* train in one process"),
        companions(2, companions_of_tests.meet, lambda: tmp_path),
    ):
        pass
    assert "WORLD_SIZE" not in os.environ


def test_one_process_has_no_companions() -> None:
    with companions(1, companions_of_tests.fail):
        assert "WORLD_SIZE" not in os.environ
