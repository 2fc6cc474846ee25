"""What a run was computed with: equal environments give equal bytes on a CPU."""

from __future__ import annotations

import platform
from typing import Any

import numpy
import torch

from aerial_seg.models.device import hardware_name
from aerial_seg.version import __version__


def environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Return versions, system, device, precision and threads, as run.json tells them."""
    return {
        "aerial_seg": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "system": platform.platform(),
        "device": device.type,
        "hardware": hardware_name(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
    }
