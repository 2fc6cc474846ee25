"""A run that could not try everything says so at its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOM = Path(__file__).with_name("on_path")

WITHOUT_A_PROGRAM = """
import pytest
@pytest.mark.parametrize("number", range(3))
def test_with_a_program(number):
    pytest.skip("no_such_program is not installed")
@pytest.mark.skipif(True, reason="7 files of no_such_folder are not here")
def test_with_data():
    pass
def test_that_runs():
    pass
"""
WITHOUT_A_PACKAGE = """
import pytest
pytest.importorskip("no_such_package", reason="the extra no_such_package is not installed")
def test_never_seen():
    pass
"""


def run(folder: Path, **files: str) -> list[str]:
    """What pytest says of these files, in a worker, without its own list of skipped tests."""
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(text, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rN",
        "-n",
        "1",
        "-p",
        "not_tried",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOM)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_every_reason_stands_at_the_end_with_its_count(tmp_path: Path) -> None:
    lines = run(tmp_path, program=WITHOUT_A_PROGRAM, package=WITHOUT_A_PACKAGE)
    assert " NOT TRIED HERE " in lines[-5]
    assert lines[-4] == "3 tests: no_such_program is not installed"
    assert set(lines[-3:-1]) == {
        "1 test: 7 files of no_such_folder are not here",
        "1 test: the extra no_such_package is not installed",
    }
    assert lines[-1].startswith("1 passed, 5 skipped in ")


def test_a_run_that_tried_everything_says_nothing_of_it(tmp_path: Path) -> None:
    lines = run(tmp_path, runs="def test_that_runs():\n    pass\n")
    assert "NOT TRIED" not in "\n".join(lines)
    assert lines[-1].startswith("1 passed in ")
