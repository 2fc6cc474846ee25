"""The kernels work wherever the package is installed, and are never those of older code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from laws import few

import aerial_seg

USE_A_KERNEL = """
import numpy as np
from aerial_seg.tiling.kernels import largest_channels
print(largest_channels(np.eye(3, dtype=np.float32)[None]).tolist())
"""
NOWHERE = "/dev/null/nowhere"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of tiling and of all that stands on the ground floor, without compiled files.

    Whatever is not copied is missing, unless the checkout itself is installed: its import hook would fill the gap.
    """
    source, copy = Path(aerial_seg.__file__).parent, tmp_path / "site" / "aerial_seg"
    shutil.copytree(source / "tiling", copy / "tiling", ignore=shutil.ignore_patterns("__pycache__"))
    for file in source.glob("*.py"):
        shutil.copy(file, copy)
    return copy


def run(code: str, package: Path, **environment: str) -> str:
    usual = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    usual |= {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True, text=True, check=False, cwd=package.parent, env=usual | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def test_without_any_place_for_a_cache_the_kernels_work_all_the_same(package: Path) -> None:
    # Not even root can make a folder of a file: that is how a read-only installation looks to numba.
    (package / "tiling" / "__pycache__").touch()
    homeless = {"HOME": NOWHERE, "XDG_CACHE_HOME": NOWHERE, "LOCALAPPDATA": NOWHERE}
    assert run(USE_A_KERNEL, package, **homeless) == "[[0, 1, 2]]"
    assert run(USE_A_KERNEL, package, NUMBA_CACHE_DIR=NOWHERE, **homeless) == "[[0, 1, 2]]"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_a_cache_that_is_full_stops_no_kernel(package: Path, tmp_path: Path) -> None:
    full = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    assert run(full + USE_A_KERNEL, package, NUMBA_CACHE_DIR=str(tmp_path / "cache")) == "[[0, 1, 2]]"


@pytest.mark.parametrize("changed", few(["inside/constants.py", "squares.py"], quick=1))
def test_a_change_in_any_file_of_the_floor_makes_new_kernels(
    package: Path, tmp_path: Path, changed: str
) -> None:
    cache = tmp_path / "cache"
    (package / "tiling" / "inside").mkdir()
    (package / "tiling" / "inside" / "constants.py").touch()

    def compiled() -> int:
        run(USE_A_KERNEL, package, NUMBA_CACHE_DIR=str(cache))
        return len(list(cache.rglob("*largest_channels*.nbi")))

    assert [compiled(), compiled()] == [1, 1]
    with (package / "tiling" / changed).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert compiled() == 2


def test_importing_compiles_nothing_and_planning_does_not_even_load_numba(
    package: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    run("import aerial_seg.tiling.stitch, aerial_seg.tiling.upsample", package, NUMBA_CACHE_DIR=str(cache))
    assert not list(cache.rglob("*.nbi"))
    code = "import sys, aerial_seg.tiling.plan, aerial_seg.tiling.geometry\nprint('numba' in sys.modules)"
    assert run(code, package) == "False"
