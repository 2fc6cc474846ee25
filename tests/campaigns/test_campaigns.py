"""Three kills of every long command, through the same code as the campaigns that are run by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ("predict-vectors", "vectorize", "tile", "export", "import-weights", "benchmark", "train", "demo")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are played in forked processes")
@pytest.mark.parametrize("command", COMMANDS)
def test_kills_change_no_byte(command: str) -> None:
    script = Path(__file__).with_name("kills.py")
    ended = subprocess.run(
        [sys.executable, str(script), "--command", command, "--kills", "3"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert command in ended.stdout
