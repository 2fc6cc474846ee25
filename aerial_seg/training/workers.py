"""How many processes cut crops beside the network, where nobody says."""

from __future__ import annotations

import math
import multiprocessing
import sys
import time
from pathlib import Path

import torch

from aerial_seg.files.operating_system import usable_cores
from aerial_seg.models.device import has_own_memory
from aerial_seg.training.crops import CropDataset
from aerial_seg.training.processes import told_count_here

_PIXELS_PER_SECOND = 200e6
"""What a GPU may ask for: twice what the fastest network was seen to train on (U-Net R18, 1,220 images of 256 px/s)."""
_TRIED = 4
"""Samples that tell what one costs."""
_CORES_OF_A_NETWORK = 16
"""A network on the CPU keeps so many cores busy for as long as one of them takes to cut its crops, or longer."""


def workers_at_hand(crops: CropDataset, device: torch.device, *, processes: int) -> int:
    """Return how many workers feed `device`; processes: of this run, which share the machine's cores.

    On a GPU as many as the fastest network asks for at what these crops cost here, but two cores are left to the loop
    and the driver. On a CPU the network has the cores itself: a worker takes from it what it gives, so there are none
    below 16 cores.
    """
    cores = usable_cores() // told_count_here(processes)
    if not _can_begin():
        return 0
    if not has_own_memory(device):
        return cores // _CORES_OF_A_NETWORK
    if cores < 2:
        return 0
    wanted = math.ceil(_PIXELS_PER_SECOND * _seconds_per_pixel(crops))
    return max(1, min(wanted, cores - 2))


def _seconds_per_pixel(crops: CropDataset) -> float:
    """Of these crops as one process makes them, first reading included."""
    count = min(_TRIED, len(crops))
    layout = crops.layout(count)
    batch = layout.split(torch.empty(layout.size, dtype=torch.uint8))
    begun = time.perf_counter()
    crops.fill(batch, range(count))
    return (time.perf_counter() - begun) / layout.pixels


def _can_begin() -> bool:
    """Whether a worker may begin; one that is not forked runs the main script again, which may not be made for it.

    A script is made for it if it asks for its `__name__`; the command line, notebooks and consoles are.
    """
    if multiprocessing.get_start_method() == "fork":
        return True
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is None or not Path(script).is_file():
        return True
    return "__name__" in Path(script).read_text(encoding="utf-8", errors="replace")
