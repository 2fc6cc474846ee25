"""predict on a raster of a web server: the map of the file, also where the server fails in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from web_server import WebServer


def mask_of(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


@pytest.fixture
def served(server: WebServer, raster: Callable[..., Path]) -> tuple[Path, str]:
    path = raster("in.tif", size=(300, 200))
    (server.folder / "in.tif").write_bytes(path.read_bytes())
    return path, server.url("in.tif")


def test_the_map_is_that_of_the_file(
    run: Callable, models: Callable[..., Path], served: tuple[Path, str], server: WebServer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    local, url = served
    assert run("predict", models(), local, "-o", "local.tif", "--engine", "eager").code == 0
    monkeypatch.setattr("aerial_seg.geo.raster.remote.WAITS", (0.01, 0.02, 0.05))
    server.faults = ["", "drop", "refuse"]
    result = run("predict", models(), url, "-o", "remote.tif", "--engine", "eager")
    assert result.code == 0, result.err
    assert not server.faults
    np.testing.assert_array_equal(mask_of(tmp_path / "remote.tif"), mask_of(tmp_path / "local.tif"))
    told = run("info", url)
    assert told.code == 0, told.err


def test_a_server_that_goes_away_leaves_a_run_that_goes_on(
    run: Callable, models: Callable[..., Path], served: tuple[Path, str], server: WebServer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    local, url = served
    assert run("predict", models(), local, "-o", "local.tif", "--engine", "eager").code == 0
    monkeypatch.setattr("aerial_seg.geo.raster.remote.WAITS", (0.01,))
    server.faults = ["", *["truncate"] * 100]
    failed = run("predict", models(), url, "-o", "remote.tif", "--engine", "eager")
    assert failed.code in (1, 3)
    assert "the server failed again and again" in failed.err
    assert failed.err.count("Error") == 1
    assert not (tmp_path / "remote.tif").exists()
    server.faults = []
    result = run("predict", models(), url, "-o", "remote.tif", "--engine", "eager")
    assert result.code == 0, result.err
    np.testing.assert_array_equal(mask_of(tmp_path / "remote.tif"), mask_of(tmp_path / "local.tif"))
