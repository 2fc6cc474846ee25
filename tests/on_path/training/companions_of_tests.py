"""What the other processes of a test do."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from aerial_seg.errors import InputError
from aerial_seg.training import processes
from aerial_seg.training.fabric import open_fabric


def meet(folder: Path) -> float:
    """Everybody's rank, added up; each writes that it was here."""
    open_fabric(torch.device("cpu"))
    (folder / str(processes.rank())).write_text(str(torch.get_num_threads()))
    return float(processes.sum_over_processes(torch.tensor(float(processes.rank()))))


def fail(folder: Path, how: str) -> None:
    """All meet; then number 1 ends in this way while the others want to meet again."""
    (folder / f"pid{os.environ['RANK']}").write_text(str(os.getpid()))
    meet(folder)
    if processes.rank() == 1:
        if how == "ours":
            raise InputError("chip 7 is damaged; copy it again")
        if how == "theirs":
            raise RuntimeError("CUDA error: something\nwith more lines")
        if how == "unreadable":
            raise FileNotFoundError(2, "No such file or directory", "chip 7")
        if how == "full":
            raise MemoryError
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    if how == "here":
        raise InputError("this one is at fault")
    if how == "interrupted":
        raise KeyboardInterrupt
    processes.sum_over_processes(torch.zeros(1))
