"""What `tile` costs beside reading and writing the same bytes, and what memory it takes.

    python tests/speed/tile.py [--rounds 5] [--side 10000] [--polygons 50000] [--memory]

A tiled uint8 × 3 raster and polygons of four classes become chips of 512 pixels. The bar, 60 %, is of what rasterio
alone takes to read the same windows and to write the same chip files, with the same compression, in a thread per core:
what it writes is compared with what `tile` wrote, byte by byte. Medians of rounds that are interleaved in one process.
CPU seconds (user and system, all threads and children) are told beside: on a shared machine only they are steady.

--memory: the peak of a process that does nothing but tile, above what importing takes, for rasters of 5,000, 10,000
and 20,000 pixels a side with 50,000 polygons, and for 5,000, 50,000 and 400,000 polygons on 10,000 pixels. It is to be
flat in both: of a polygon an eighth of a byte is kept. What is left of growth has not been traced; a chip of eight
times the polygons holds eight times their outlines while it is burnt. MB, above 846 to 858 for what is imported:

    pixels a side, polygons    one thread (before)    a thread per core, on 2
    5,000    50,000            188                    136
    10,000   50,000            410                    140
    20,000   50,000                                   148
    10,000   400,000                                  151 (203 while boxes and numbers of all were kept)

CPU seconds for 5,000 pixels a side and 12,500 polygons: 3.46 before and 2.38 now, beside 1.12 of bare reading and
writing. 10,000 pixels and 50,000 polygons, alone, 3 rounds: 5.09 s beside 2.19 s, a share of 0.43 (0.53 in CPU
seconds): the bar is missed. About 1.8 s of the 5.09 were one thread's: opening the labels, statistics and qa/. Since
labels are burnt as bytes: 8.4 CPU seconds beside 4.8, a share of 0.58 (0.56 just before; 2 and 3 rounds on two cores
that 20 other processes shared). Not measured alone since.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import local

import numpy as np
import pyogrio.raw
import rasterio
import shapely
from machine import facts
from rasterio.windows import Window, transform

CHIP, GSD, X, Y = 512, 0.5, 300_000.0, 3_060_000.0
CLASSES = ("building", "road", "tree", "water")

PROBE = """
import json, sys, time
from pathlib import Path
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.settings import LabelSettings
image, polygons, out = sys.argv[1:]
# Not ru_maxrss, which begins with what the process was forked from.
held = lambda field: int(Path("/proc/self/status").read_text().partition(field)[2].split()[0]) / 1024
before = held("VmHWM:")
report = tile([image], [polygons], out, TileSettings(labels=LabelSettings(class_field="kind"), overwrite=True))
print(json.dumps({"imported_mb": round(before), "peak_mb": round(held("VmHWM:")), "chips": sum(report.chips.values())}))
"""


def write_image(path: Path, side: int) -> Path:
    """Noise on coarse squares, which deflate takes to two thirds; in rows of blocks, so that any size can be made."""
    random = np.random.default_rng(0)
    with rasterio.open(
        path, "w", driver="GTiff", height=side, width=side, count=3, dtype="uint8", tiled=True, blockxsize=512,
        blockysize=512, compress="deflate", zlevel=1, photometric="RGB", crs="EPSG:32645", NUM_THREADS="ALL_CPUS",
        transform=rasterio.Affine(GSD, 0, X, 0, -GSD, Y), BIGTIFF="IF_SAFER",
    ) as file:  # fmt: skip
        for top in range(0, side, CHIP):
            rows = min(CHIP, side - top)
            coarse = random.integers(20, 220, (3, CHIP // 16, -(-side // 16)), dtype=np.uint8)
            fine = random.integers(0, 24, (1, rows, side), dtype=np.uint8)
            pixels = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :rows, :side] + fine
            file.write(pixels, window=Window(0, top, side, rows))
    return path


def write_polygons(path: Path, side: int, count: int) -> Path:
    """Stars of 12 corners on a lattice over the whole image; none meets another."""
    random = np.random.default_rng(1)
    across = int(np.ceil(np.sqrt(count)))
    spacing = side * GSD / across
    row, col = np.divmod(np.arange(count), across)
    centre = np.stack([X + spacing * (col + 0.5), Y - spacing * (row + 0.5)], axis=-1)
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    reach = spacing * random.uniform(0.25, 0.49, (count, 12, 1))
    corners = centre[:, None] + reach * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    pyogrio.raw.write(
        path,
        geometry=shapely.to_wkb(shapely.polygons(corners)),
        field_data=[np.array([CLASSES[k] for k in random.integers(0, len(CLASSES), count)], object)],
        fields=["kind"],
        geometry_type="Polygon",
        crs="EPSG:32645",
        driver="GPKG",
    )
    return path


def cut(image: Path, polygons: Path, out: Path) -> None:
    """What is measured. (Imported here: the script also runs beside packages of other versions.)"""
    from aerial_seg.jobs.tile.job import tile
    from aerial_seg.jobs.tile.settings import TileSettings
    from aerial_seg.labels.settings import LabelSettings

    tile(
        [str(image)],
        [str(polygons)],
        out,
        TileSettings(labels=LabelSettings(class_field="kind"), overwrite=True),
    )


def bare(image: Path, labels: dict[str, np.ndarray], palette: dict[int, tuple[int, ...]], out: Path) -> None:
    """The same windows read and the same files written by rasterio, in as many threads as there are cores.

    labels: of each chip its pixels, which cost nothing here.
    """
    shutil.rmtree(out, ignore_errors=True)
    for folder in ("images", "labels"):
        (out / folder).mkdir(parents=True)
    own = local()

    def one(name: str) -> None:
        if not hasattr(own, "file"):
            own.file = rasterio.open(image)
        row, col = (int(part) for part in name.split("_")[-2:])
        window = Window(col * CHIP, row * CHIP, CHIP, CHIP)
        inner = window.intersection(Window(0, 0, own.file.width, own.file.height))
        pixels, valid = np.zeros((3, CHIP, CHIP), np.uint8), np.zeros((CHIP, CHIP), bool)
        own.file.read(window=inner, out=pixels[:, : inner.height, : inner.width])
        valid[: inner.height, : inner.width] = True
        place = {"crs": own.file.crs, "transform": transform(window, own.file.transform)}
        whole = {
            "driver": "GTiff",
            "height": CHIP,
            "width": CHIP,
            "dtype": "uint8",
            "compress": "DEFLATE",
            "zlevel": 1,
        }
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(
            out / "images" / f"{name}.tif", "w", count=3, interleave="pixel", photometric="RGB", **whole, **place
        ) as file:  # fmt: skip
            file.write(pixels)
            if not valid.all():
                file.write_mask(valid)
        with rasterio.open(
            out / "labels" / f"{name}.tif", "w", count=1, nodata=255, **whole, **place
        ) as file:
            file.write_colormap(1, palette)
            file.write(labels[name], 1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, labels))


def spent() -> float:
    """CPU seconds of this process and its ended children so far."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and CPU seconds."""
    begun, used = time.perf_counter(), spent()
    work()
    return time.perf_counter() - begun, spent() - used


def speed(folder: Path, side: int, count: int, rounds: int) -> dict[str, object]:
    image = write_image(folder / "image.tif", side)
    polygons = write_polygons(folder / "polygons.gpkg", side, count)
    cut(image, polygons, folder / "chips")
    labels = {}
    for path in sorted((folder / "chips" / "labels").glob("*.tif")):
        with rasterio.open(path) as file:
            labels[path.stem], palette = file.read(1), file.colormap(1)
    works = {
        "tile": partial(cut, image, polygons, folder / "chips"),
        "bare": partial(bare, image, labels, palette, folder / "bare"),
    }
    works["bare"]()
    compare(folder)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(measured(work))
    found: dict[str, object] = {"side": side, "polygons": count, "chips": len(labels), "rounds": rounds}
    for name, rows in times.items():
        found[name] = dict(
            zip(
                ("s", "cpu_s"), (round(statistics.median(x), 2) for x in zip(*rows, strict=True)), strict=True
            )
        )
    for k, what in enumerate(("share of bare (bar 0.60)", "share of bare in CPU seconds")):
        shares = [b[k] / t[k] for b, t in zip(times["bare"], times["tile"], strict=True)]
        found[what] = round(statistics.median(shares), 3)
    return found


def compare(folder: Path) -> None:
    """Raises AssertionError unless both wrote the same pixels in files of the same size."""
    for kind in ("images", "labels"):
        for path in sorted((folder / "bare" / kind).iterdir()):
            other = folder / "chips" / kind / path.name
            with rasterio.open(path) as one, rasterio.open(other) as two:
                assert np.array_equal(one.read(), two.read()), path
            sizes = path.stat().st_size, other.stat().st_size
            assert abs(sizes[0] - sizes[1]) < 0.01 * sizes[1] + 1000, (path, sizes)


def memory(folder: Path, cases: list[tuple[int, int]]) -> list[dict[str, object]]:
    """The peak of a process that tiles, for each raster side and number of polygons."""
    found: list[dict[str, object]] = []
    image, written = folder / "memory.tif", 0
    for side, count in sorted(cases):
        if side != written:
            write_image(image, written := side)
        polygons = write_polygons(folder / "memory.gpkg", side, count)
        done = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", "-c", PROBE, str(image), str(polygons), str(folder / "memory")],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        found.append({"side": side, "polygons": count, **json.loads(done.stdout)})
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
        polygons.unlink()
        shutil.rmtree(folder / "memory")
    return found


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--polygons", type=int, default=50_000)
    parser.add_argument("--memory", action="store_true", help="peaks instead of seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found: object
        if options.memory:
            side, count = options.side, options.polygons
            cases = [
                (side // 2, count),
                (side, count),
                (2 * side, count),
                (side, count // 10),
                (side, 8 * count),
            ]
            found = memory(Path(name), cases)
        else:
            found = speed(Path(name), options.side, options.polygons, options.rounds)
    print(json.dumps({"machine": facts(), "found": found}, indent=2))


if __name__ == "__main__":
    main()
