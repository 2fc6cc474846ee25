"""Work done in several processes at once, as torchrun would start them: each knows its place from the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun tells each process on one machine."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip


def in_processes(work: Callable[..., Any], count: int, folder: Path, *given: Any) -> list[Any]:
    """What `work(*given)` returns in each of `count` new processes. It is a function of a module on the tests' path."""
    meeting = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    multiprocessing.spawn(_begin, (count, meeting.port, str(folder), work, given), nprocs=count)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _begin(
    rank: int, count: int, port: int, folder: str, work: Callable[..., Any], given: tuple[Any, ...]
) -> None:
    told: Mapping[str, str] = environment(rank, count, port)
    os.environ.update(told)
    torch.set_num_threads(1)
    result = work(*given)
    torch.save(result, Path(folder) / f"{rank}.pt")
    if distributed.is_initialized():
        distributed.destroy_process_group()
