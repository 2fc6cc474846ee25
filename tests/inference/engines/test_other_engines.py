"""The proofs of other_engines.py, in a process of their own: torch, ONNX Runtime and OpenVINO each bring threads along.

Beside everything else that a whole test run has loaded, the three have brought the process down.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROOFS = Path(__file__).with_name("other_engines.py")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["not slow", "slow"])
def test_other_engines_in_a_process_of_their_own(kind: str) -> None:
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-m",
        kind,
        str(PROOFS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROOFS.parents[3])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
