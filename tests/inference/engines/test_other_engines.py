"""Proofs of engines in processes of their own: torch, ONNX Runtime and OpenVINO each bring threads along.

Beside everything else that a whole test run has loaded, the three have brought the process down.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROOFS = [Path(__file__).with_name(name) for name in ("other_engines.py", "eight_bit_engine.py")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["not slow", "slow"])
@pytest.mark.parametrize("proofs", PROOFS, ids=lambda path: path.stem)
def test_other_engines_in_a_process_of_their_own(kind: str, proofs: Path) -> None:
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
        str(proofs),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=proofs.parents[3])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
