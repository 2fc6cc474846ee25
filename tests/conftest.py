"""Small rasters and polygon layers that tests build for themselves: no binary fixtures in the repository."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from affine import Affine
from laws import register_profiles
from not_tried import pytest_terminal_summary  # noqa: F401 - a hook
from web_server import WebServer, WebServers

# What the fixtures build with is imported in them: xdist's controller reads this file too, before any worker begins.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

register_profiles()

# The tests' own GeoPackages, too, are as good on a disk that is not waited for. Programs that tests start inherit it.
os.environ["OGR_SQLITE_SYNCHRONOUS"] = "OFF"

UTM = "EPSG:32645"
CORNER = Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays: to look again and again whether it is garbage was a third of collecting."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        # Of a million and a half objects, which every full collection within a test would walk through once more.
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _disk_not_waited_for() -> Iterator[None]:
    """Only a cut of the power shows whether the disk was waited for, and tests cut none: they kill processes.

    A descriptor must still be an open one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Networks this small lose more to waiting for threads than they gain, above all on a busy machine."""
    import torch

    torch.set_num_threads(1)


class Environment(Protocol):
    """`environment(package, …)` → the Python of a virtual environment that holds these packages and no others."""

    def __call__(self, *packages: str) -> Path: ...


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """Other people's programs in the versions that they pin; skips with pip's own reason where it cannot install."""

    def make(*packages: str) -> Path:
        folder = tmp_path / "environment"
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        python = folder / "bin" / "python"
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        done = subprocess.run([*pip, "--retries", "1", "--only-binary", ":all:", *packages],
                              capture_output=True, text=True, check=False)  # fmt: skip
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            pytest.skip(f"NOT PROVED: pip cannot install {', '.join(packages)}: {lines[-1]}")
        return python

    return make


class RasterFile(Protocol):
    """`raster_file(name, image (C,H,W), …)` → path of a tiled deflate GeoTIFF, half a metre per pixel in UTM."""

    def __call__(
        self,
        name: str,
        image: NDArray[Any],
        *,
        crs: str | None = UTM,
        transform: Affine = CORNER,
        nodata: float | None = None,
        mask: NDArray[np.bool_] | None = None,
        alpha: NDArray[np.uint8] | None = None,
    ) -> Path: ...


class PolygonFile(Protocol):
    """`polygon_file(name, geometries, {field: values})` → path of a vector layer."""

    def __call__(
        self,
        name: str,
        geometries: Sequence[Any],
        fields: Mapping[str, Sequence[Any]] | None = None,
        *,
        crs: str | None = UTM,
    ) -> Path: ...


@pytest.fixture
def raster_file(tmp_path: Path) -> RasterFile:
    import numpy as np
    import rasterio
    from rasterio.enums import ColorInterp

    def write(
        name: str,
        image: NDArray[Any],
        *,
        crs: str | None = UTM,
        transform: Affine = CORNER,
        nodata: float | None = None,
        mask: NDArray[np.bool_] | None = None,
        alpha: NDArray[np.uint8] | None = None,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        bands = image if alpha is None else np.concatenate([image, alpha[None].astype(image.dtype)])
        profile = {
            "driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2],
            "dtype": bands.dtype, "crs": crs, "transform": transform, "nodata": nodata,
            "tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate", "photometric": "MINISBLACK",
        }  # fmt: skip
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile) as file:
            meanings = [ColorInterp.gray] + [ColorInterp.undefined] * (len(bands) - 1)
            if alpha is not None:
                meanings[-1] = ColorInterp.alpha
            file.colorinterp = meanings
            file.write(bands)
            if mask is not None:
                file.write_mask(mask)
        return path

    return write


@pytest.fixture
def polygon_file(tmp_path: Path) -> PolygonFile:
    import geopandas

    def write(
        name: str,
        geometries: Sequence[Any],
        fields: Mapping[str, Sequence[Any]] | None = None,
        *,
        crs: str | None = UTM,
    ) -> Path:
        path = tmp_path / name
        geopandas.GeoDataFrame(dict(fields or {}), geometry=list(geometries), crs=crs).to_file(path)
        return path

    return write


DiskOf = Callable[[int], AbstractContextManager[None]]
"""`with disk_of(size):` as on a full disk, no file may grow beyond `size` bytes."""


@pytest.fixture
def disk_of() -> DiskOf:
    resource = pytest.importorskip("resource", reason="there is no such limit on this system")

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture(scope="session")
def web_servers() -> Iterator[WebServers]:
    servers = WebServers()
    yield servers
    servers.close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web_servers: WebServers) -> Iterator[WebServer]:
    """A web server of the folder `served`."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "served"
    folder.mkdir()
    running = WebServer(web_servers, folder)
    yield running
    running.close()
