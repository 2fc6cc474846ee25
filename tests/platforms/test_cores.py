"""How many cores the process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aerial_seg.files import operating_system
from aerial_seg.files.operating_system import available_memory, usable_cores


def test_no_more_cores_are_used_than_the_process_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable_cores() == 7


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        # docker run --cpus 1.5: the container sees its own group as the root
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {}, 16),
        # a service with CPUQuota=300% below a slice with 500 %
        (
            "0::/batch.slice/job",
            {"batch.slice/cpu.max": "500000 100000", "batch.slice/job/cpu.max": "300000 100000"},
            3,
        ),
        (
            "0::/batch.slice/job",
            {"batch.slice/cpu.max": "200000 100000", "batch.slice/job/cpu.max": "max 100000"},
            2,
        ),
        # the first version of control groups
        (
            "4:cpu,cpuacct:/job\n0::/\n",
            {"cpu/job/cpu.cfs_quota_us": "400000", "cpu/job/cpu.cfs_period_us": "100000"},
            4,
        ),
        (
            "4:cpu,cpuacct:/job\n",
            {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"},
            16,
        ),
        ("9:memory:/job\n", {"memory/job/cpu.max": "100000 100000"}, 16),
        ("nonsense\n", {"cpu.max": "rubbish"}, 16),
    ],
)
def test_time_that_linux_allows_counts_as_cores(
    own: str, files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, files | {"self": own})
    monkeypatch.setattr(operating_system, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(operating_system, "CONTROL_GROUP_OF_SELF", tmp_path / "self")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert usable_cores() == cores


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/\n", {"memory.max": "1000000\n"}, 1_000_000),
        ("0::/a/b\n", {"a/memory.max": "2000000", "a/b/memory.max": "max"}, 2_000_000),
        ("5:memory:/job\n", {"memory/job/memory.limit_in_bytes": "3000000"}, 3_000_000),
        ("0::/\n", {"memory.max": "max"}, None),
    ],
)
def test_no_more_memory_is_available_than_a_container_allows(
    own: str, files: dict[str, str], limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, files | {"self": own})
    monkeypatch.setattr(operating_system, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(operating_system, "CONTROL_GROUP_OF_SELF", tmp_path / "self")
    assert available_memory() == limit if limit else available_memory() > 10**7
