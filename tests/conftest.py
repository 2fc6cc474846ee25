"""Small rasters and polygon layers that tests build for themselves: no binary fixtures in the repository."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from laws import register_profiles
from not_tried import pytest_terminal_summary  # noqa: F401 - a hook
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

register_profiles()

UTM = "EPSG:32645"
CORNER = Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Networks this small lose more to waiting for threads than they gain, above all on a busy machine."""
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


class WebServer:
    """Serves a folder with range requests. faults: what happens to the next answers that carry pixels, in order.

    heads_are_forbidden: only reading is allowed, as a signature for GET has it. tags: ETags by the file's name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.faults, self.asked = folder, list[str](), list[str]()
        self.heads_are_forbidden = False
        self.tags = dict[str, str]()
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(with_body=False)

            def do_GET(self) -> None:
                self.answer(with_body=True)

            def answer(self, *, with_body: bool) -> None:
                outer.asked.append(f"{self.command} {self.path}")
                if outer.heads_are_forbidden and not with_body:
                    self.send_error(403)
                    return
                file = outer.folder / self.path.lstrip("/").partition("?")[0]
                if not file.is_file():
                    self.send_error(404)
                    return
                data = file.read_bytes()
                match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                start, stop = (int(match[1]), int(match[2] or len(data) - 1) + 1) if match else (0, len(data))
                body = data[start : min(stop, len(data))]
                fault = outer.faults.pop(0) if with_body and outer.faults else ""
                if fault == "refuse":
                    self.send_error(503)
                    return
                if fault == "silence":
                    outer.closing.wait(600)
                    return
                if fault == "delay":
                    time.sleep(1.0)
                self.send_response(206 if match else 200)
                self.send_header("Accept-Ranges", "bytes")
                if file.name in outer.tags:
                    self.send_header("ETag", outer.tags[file.name])
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Last-Modified", self.date_time_string(int(file.stat().st_mtime)))
                if match:
                    self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(data)}")
                self.end_headers()
                if not with_body:
                    return
                if fault == "stall":
                    outer.closing.wait(600)
                for at in range(0, len(body) if fault == "drip" else 0, 40):  # 800 bytes a second
                    self.wfile.write(body[at : at + 40])
                    if outer.closing.wait(0.05):
                        return
                if fault in ("stall", "drip"):
                    return
                self.wfile.write(body[: len(body) // 2] if fault in ("drop", "truncate") else body)
                if fault == "drop":  # closing with nothing to linger for resets the connection
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                if fault == "truncate":
                    self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = bool(fault)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # clients that hang up are no news
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "served"
    folder.mkdir()
    running = WebServer(folder)
    yield running
    running.close()
