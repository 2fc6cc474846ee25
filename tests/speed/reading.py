"""What reading through a VRT of 16 files, or from a web server on this machine, adds to `predict`.

    python tests/speed/reading.py [--rounds 5]

DeepLabv3 R18, output stride 16, 512 px tiles every 384: the same pixels as one file, as a VRT of 4 × 4 files, and as
the file through HTTP range requests. Medians of rounds that are interleaved in one process.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import numpy as np
import rasterio
from machine import facts
from predict import SIDE, STEP, TILES_ACROSS, image_part, interleaved, make_context, make_model
from rasterio.windows import Window

from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.jobs.predict.one_scene import map_scene
from aerial_seg.jobs.predict.scenes import Scene

_PARTS = 4


def write_files(folder: Path, length: int) -> tuple[Path, Path]:
    """(one tiled GeoTIFF, a VRT of 16 that cut it), the same pixels."""
    image, _ = image_part(length, length, seed=1)
    transform = rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 3e6)
    profile = {
        "driver": "GTiff", "count": 3, "dtype": "uint8", "tiled": True, "blockxsize": 512, "blockysize": 512,
        "compress": "deflate", "crs": "EPSG:32645",
    }  # fmt: skip
    with rasterio.open(
        folder / "one.tif", "w", height=length, width=length, transform=transform, **profile
    ) as file:
        file.write(image)
    edges = np.linspace(0, length, _PARTS + 1).astype(int).tolist()
    sources: dict[int, list[str]] = {1: [], 2: [], 3: []}
    for row, (top, bottom) in enumerate(pairwise(edges)):
        for col, (left, right) in enumerate(pairwise(edges)):
            name, height, width = f"part_{row}_{col}.tif", bottom - top, right - left
            place = rasterio.windows.transform(Window(left, top, width, height), transform)
            with rasterio.open(
                folder / name, "w", height=height, width=width, transform=place, **profile
            ) as part:
                part.write(image[:, top:bottom, left:right])
            for band, listed in sources.items():
                listed.append(
                    f'<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename><SourceBand>{band}'
                    f'</SourceBand><SrcRect xOff="0" yOff="0" xSize="{width}" ySize="{height}"/>'
                    f'<DstRect xOff="{left}" yOff="{top}" xSize="{width}" ySize="{height}"/></SimpleSource>'
                )
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}">{"".join(listed)}</VRTRasterBand>'
        for band, listed in sources.items()
    )
    place = ", ".join(map(str, transform.to_gdal()))
    (folder / "sixteen.vrt").write_text(
        f'<VRTDataset rasterXSize="{length}" rasterYSize="{length}"><SRS>EPSG:32645</SRS>'
        f"<GeoTransform>{place}</GeoTransform>{bands}</VRTDataset>"
    )
    return folder / "one.tif", folder / "sixteen.vrt"


def serve(folder: Path) -> str:
    """The address of a server of that folder, which answers ranges."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # As every web server: else each answer's body waits 40 ms for the acknowledgement of its headers.
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            file = folder / self.path.lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            size = file.stat().st_size
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            start, stop = (int(asked[1]), min(int(asked[2] or size - 1) + 1, size)) if asked else (0, size)
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(stop - start))
            self.send_header("Accept-Ranges", "bytes")
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.end_headers()
            if with_body:
                with file.open("rb") as content:
                    content.seek(start)
                    self.wfile.write(content.read(stop - start))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps({"machine": facts(), **measure(Path(name), options.rounds)}, indent=2))


def measure(folder: Path, rounds: int) -> dict[str, object]:
    """Seconds of each, and what the median round adds to one local file's (bar 5 %)."""
    length = STEP * (TILES_ACROSS - 1) + SIDE - 2 * 32
    one, sixteen = write_files(folder, length)
    served = Path(f"{serve(folder)}/{one.name}")
    model = make_model("deeplabv3", "resnet18", 16)
    context = make_context(model, tiles=TILES_ACROSS**2, engine=EngineSettings(engine="eager"), batch_size=2)
    sources = {"one file": one, "VRT of 16": sixteen, "HTTP": served}
    works = {
        key: partial(map_scene, Scene((path,), folder / f"{key}.tif"), context)
        for key, path in sources.items()
    }
    interleaved(1, works)
    times = interleaved(rounds, works)
    with rasterio.open(folder / "one file.tif") as wanted:
        mask = wanted.read(1)
    for key in sources:
        with rasterio.open(folder / f"{key}.tif") as made:
            assert np.array_equal(made.read(1), mask), key
    return {
        "pixels": length**2,
        "tiles": TILES_ACROSS**2,
        "rounds": rounds,
        "engine": context.predictor.runtime.as_dict(),
        "seconds": {key: statistics.median(seen) for key, seen in times.items()},
        "added to one file's (bar 0.05)": {
            key: statistics.median(
                seen / one - 1 for seen, one in zip(times[key], times["one file"], strict=True)
            )
            for key in ("VRT of 16", "HTTP")
        },
    }


if __name__ == "__main__":
    main()
