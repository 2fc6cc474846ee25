from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import aerial_seg


def test_every_public_name_is_there_and_documented() -> None:
    for name in aerial_seg.__all__:
        thing = getattr(aerial_seg, name)
        assert name == "__version__" or thing.__doc__, name
    assert len(set(aerial_seg.__all__)) == len(aerial_seg.__all__)
    assert set(aerial_seg.__all__) == set(aerial_seg._ROOM_OF)


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, aerial_seg; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert not {"torch", "rasterio", "geopandas", "numpy", "pydantic"} & set(done.stdout.split())


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(aerial_seg, "nothing_of_the_kind")
