"""The tests' own way to make batch norms do something, for the scripts beside this file, which run without pytest."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "on_path"))

from shaken import shake_norms

__all__ = ["shake_norms"]
