"""A killed worker and a killed driver, through the same code as the campaign that is run by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed")


@pytest.mark.slow
def test_kills_of_workers_and_drivers_change_no_byte() -> None:
    script = Path(__file__).with_name("workers.py")
    words = ["--workers-killed", "2", "--drivers-killed", "1", "--height", "2000"]
    ended = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "bytes equal" in ended.stdout
