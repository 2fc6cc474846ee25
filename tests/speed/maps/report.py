"""How long a report on a large map takes, and its memory.

    python tests/speed/maps/report.py [--side 20000] [-o FOLDER]

Mask (patches of 64 pixels, six classes; deflate, tiles of 512, overviews), confidence and imagery of the same kind, and
labels like the mask's are made first and kept in the folder. Prints wall and processor seconds and the most memory that
the process held of a page with imagery and confidence, of the same against labels, and of a QGIS project.

Bar: 20 s and 1 GiB for 20,000 × 20,000 pixels on two cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.windows import Window

from aerial_seg.legend import make_legend
from aerial_seg.outputs.mask import LEGEND_TAG

BLOCK = 512
LEGEND = make_legend({k: f"class {k}" for k in range(6)})


def make(path: Path, side: int, kind: str, *, seed: int) -> None:
    """A mask, its confidence, or imagery of three bands, row of blocks by row of blocks, with overviews."""
    profile = {
        "driver": "GTiff", "width": side, "height": side, "count": 3 if kind == "image" else 1, "dtype": "uint8",
        "crs": 32645, "transform": Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000), "tiled": True, "blockxsize": BLOCK,
        "blockysize": BLOCK, "compress": "deflate", "bigtiff": "if_safer", "zlevel": 1,
    }  # fmt: skip
    if kind != "image":
        profile["nodata"] = 255
    with rasterio.open(path, "w", **profile) as out:
        for top in range(0, side, BLOCK):
            random = np.random.default_rng(seed + top)
            rows = min(BLOCK, side - top)
            for band in range(1, out.count + 1):
                most = 6 if kind == "mask" else 250
                rough = random.choice(most, (BLOCK // 64, -(-side // 64)))
                values = np.kron(rough, np.ones((64, 64), np.uint8))[:rows, :side].astype(np.uint8)
                out.write(values, band, window=Window(0, top, side, rows))
        if kind == "mask":
            out.update_tags(**{LEGEND_TAG: LEGEND.model_dump_json()})
    with rasterio.open(path, "r+") as out:
        out.build_overviews([2, 4, 8, 16, 32], Resampling.nearest)


def timed(words: list[str]) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and megabytes of one command in a process of its own."""
    start = time.perf_counter()
    number = os.posix_spawn(words[0], words, os.environ, file_actions=[])
    _, status, used = os.wait4(number, 0)
    if status:
        raise SystemExit(f"{words} ended with {status}")
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    """Make what is not there, and report on it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("-o", "--output", type=Path, default=Path(tempfile.gettempdir()) / "report")
    options = parser.parse_args()
    folder = options.output / str(options.side)
    folder.mkdir(parents=True, exist_ok=True)
    files = {"map.tif": "mask", "truth.tif": "mask", "map_confidence.tif": "confidence", "image.tif": "image"}
    for seed, (name, kind) in enumerate(files.items()):
        if not (folder / name).is_file():
            make(folder / name, options.side, kind, seed=seed)
    command = [
        str(Path(sys.executable).with_name("aerial-seg")),
        "report",
        str(folder / "map.tif"),
        "--overwrite",
    ]
    command += ["--image", str(folder / "image.tif")]
    for told, more in (
        ("page", ["-o", str(folder / "r.html")]),
        ("page against labels", ["-o", str(folder / "l.html"), "--labels", str(folder / "truth.tif")]),
        ("project", ["-o", str(folder / "r.qgz")]),
    ):
        wall, cpu, memory = timed(command + more)
        size = Path(more[1]).stat().st_size / 1e6
        print(
            f"{told}: {wall:.1f} s ({cpu:.1f} s of processors), {memory:,.0f} MB held, {size:.2f} MB written"
        )


if __name__ == "__main__":
    main()
