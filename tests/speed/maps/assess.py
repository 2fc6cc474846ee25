"""How long drawing a sample takes on a large map, and its memory.

    python tests/speed/maps/assess.py [--side 50000] [-o FOLDER]

The map is made first (patches of 64 pixels, six classes, nodata at its rim; deflate, tiles of 512) and kept in the
folder. Prints seconds of `assess design` and of `assess report`, Mpx/s, and the most memory that the process held,
beside a bare reading of the same map by rasterio with its valid pixels counted.

Bar: 60 s and flat memory for 50,000 × 50,000 pixels on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import geopandas
import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

BLOCK = 512


def make_map(path: Path, side: int) -> None:
    """A map whose classes lie in patches, each row of blocks from a seed of its own."""
    profile = {
        "driver": "GTiff", "width": side, "height": side, "count": 1, "dtype": "uint8", "nodata": 255, "crs": 32645,
        "transform": Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000), "tiled": True, "blockxsize": BLOCK,
        "blockysize": BLOCK, "compress": "deflate", "bigtiff": "if_safer",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as out:
        for top in range(0, side, BLOCK):
            random = np.random.default_rng(top)
            rough = random.choice(6, (BLOCK // 64, -(-side // 64)), p=[0.5, 0.3, 0.1, 0.07, 0.02, 0.01])
            rows = min(BLOCK, side - top)
            values = np.kron(rough, np.ones((64, 64), np.uint8))[:rows, :side].astype(np.uint8)
            values[:, : side // 20] = 255
            out.write(values, 1, window=Window(0, top, side, rows))


def bare(path: Path) -> None:
    """Read all of it, by rows of blocks."""
    with rasterio.Env(GDAL_CACHEMAX=256 * 2**20), rasterio.open(path) as source:
        for top in range(0, source.height, BLOCK):
            window = Window(0, top, source.width, min(BLOCK, source.height - top))
            np.count_nonzero(source.read(1, window=window) != 255)


def timed(words: list[str]) -> tuple[float, float, str]:
    """Wall seconds, megabytes and stdout of one command in a process of its own."""
    start = time.perf_counter()
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, done.stdout


def main() -> None:
    """Make, draw, label at random, estimate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=50_000)
    parser.add_argument("-o", "--output", type=Path, default=Path(tempfile.gettempdir()) / "assess")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    mask = options.output / f"map{options.side}.tif"
    if not mask.is_file():
        make_map(mask, options.side)
    start = time.perf_counter()
    bare(mask)
    reading = time.perf_counter() - start
    command = str(Path(sys.executable).with_name("aerial-seg"))
    points = options.output / "points.gpkg"
    designing, memory, out = timed(
        [command, "assess", "design", str(mask), "-o", str(points), "--overwrite", "--json"]
    )
    frame = geopandas.read_file(points, layer="points")
    frame["reference"] = frame["stratum"]
    frame.to_file(points, layer="points", driver="GPKG")
    reporting, memory_after, _ = timed([command, "assess", "report", str(points), str(mask), "--json"])
    mpx = options.side**2 / 1e6
    told = {
        "cores": os.cpu_count(), "side": options.side, "points": json.loads(out)["count"],
        "bare_read_s": round(reading, 1), "design_s": round(designing, 1), "report_s": round(reporting, 1),
        "design_mpx_per_s": round(mpx / designing), "memory_mb": round(max(memory, memory_after)),
    }  # fmt: skip
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
