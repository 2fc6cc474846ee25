"""What the state of a training run tells in its header, read without the library that its tensors are for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

HEADER_KEY = "aerial_seg_training"


def read_state(path: Path) -> dict[str, Any] | None:
    """Return what the header of a state's file tells, as iteration, best and run; None where there is no such file."""
    try:
        with safe_open(path, framework="np") as file:
            document = json.loads(file.metadata()[HEADER_KEY])
    except (SafetensorError, OSError, LookupError, TypeError, ValueError):
        return None
    return document if isinstance(document, dict) else None
