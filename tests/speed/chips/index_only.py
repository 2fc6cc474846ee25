"""What training from an index alone costs: random windows of a raster, against bare windowed reads by rasterio.

    PYTHONPATH=tests/speed python tests/speed/chips/index_only.py [--side 8192] [--windows 200] [--cache 32]

A tiled raster of 3 bytes is written, cut by `tile` to chips of 512 px and, with --index-only, to none. Each round reads
the same random windows of 256 px inside chips in all ways, in an order that turns: by `rasterio.read` on an opened
file, into an array of its own order and into one with a pixel's bands side by side, as training takes them; through the
dataset's own door, images alone; and whole samples with labels, from the rasters and from chips, a tenth of them. A
file with a nodata value, whose mask a bare read does not look at, is measured beside the others. GDAL's block cache is
of --cache MB for all ways together, so that blocks are decoded as in training on rasters larger than memory, or, with
much, are there already. Ratios are medians of each round's own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import rasterio
from machine import facts
from rasterio.windows import Window
from shapely import box

from aerial_seg.geo.windows.source import SourceWindow
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.training.manifest import Chip, Manifest, open_manifest
from aerial_seg.training.samples.chip_reader import ChipReader

CHIP, CROP = 512, 256
SAMPLES = 10
"""Of so many windows one is read as a whole sample: opening the label's file takes longest there."""
KINDS = {
    "deflate, blocks of 512": {"compress": "deflate", "blockxsize": 512, "blockysize": 512},
    "deflate, blocks of 256": {"compress": "deflate", "blockxsize": 256, "blockysize": 256},
    "uncompressed, blocks of 256": {"blockxsize": 256, "blockysize": 256},
    "deflate, blocks of 512, nodata 0": {
        "compress": "deflate",
        "blockxsize": 512,
        "blockysize": 512,
        "nodata": 0,
    },
}


def write(path: Path, side: int, kind: dict[str, object]) -> None:
    """Ground with texture: smooth shades and noise of a few bits, which deflate neither eats nor chokes on."""
    random = np.random.default_rng(0)
    shades = random.integers(30, 200, (3, side // 64 + 1, side // 64 + 1)).astype(np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", height=side, width=side, count=3, dtype="uint8", tiled=True,
        interleave="pixel", photometric="RGB", crs="EPSG:32645",
        transform=rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 3e6), **kind,
    ) as file:  # fmt: skip
        for top in range(0, side, 512):
            rows = min(512, side - top)
            part = np.repeat(np.repeat(shades[:, top // 64 : (top + rows) // 64], 64, 1), 64, 2)[:, :, :side]
            file.write(
                part + random.integers(1, 16, part.shape, dtype=np.uint8), window=Window(0, top, side, rows)
            )


def datasets(folder: Path, side: int, kind: dict[str, object]) -> tuple[Path, Manifest, Manifest]:
    """The raster, and it cut to chips and to an index."""
    image, labels = folder / "ortho.tif", folder / "labels.gpkg"
    write(image, side, kind)
    corners = [(x, y) for x in range(0, side // 2, 60) for y in range(0, side // 2, 50)]
    squares = [box(3e5 + x, 3e6 - y - 20, 3e5 + x + 25, 3e6 - y) for x, y in corners]
    geopandas.GeoDataFrame(geometry=squares, crs="EPSG:32645").to_file(labels)
    made = []
    for name, only in (("chips", False), ("indexed", True)):
        tile([str(image)], [str(labels)], folder / name, TileSettings(chip_size=CHIP, index_only=only))
        made.append(open_manifest(folder / name))
    return image, made[0], made[1]


Place = tuple[int, slice, slice]


def ways(image: Path, chips: Manifest, indexed: Manifest) -> dict[str, Callable[[list[Place]], None]]:
    """Each reads all places, by chip number, rows and columns."""
    file = rasterio.open(image)
    readers = {
        name: ChipReader(one.chips, one.document.bands, one.document.legend)
        for name, one in (("samples from chips", chips), ("samples by index", indexed))
    }

    def window(chip: Chip, rows: slice, cols: slice) -> Window:
        assert isinstance(chip.image, SourceWindow)
        return Window(chip.image.left + cols.start, chip.image.top + rows.start, CROP, CROP)

    def bare(places: list[Place]) -> None:
        for number, rows, cols in places:
            file.read(window=window(indexed.chips[number], rows, cols))

    def bare_by_pixel(places: list[Place]) -> None:
        for number, rows, cols in places:
            into = np.empty((CROP, CROP, 3), np.uint8)
            file.read(window=window(indexed.chips[number], rows, cols), out=into.transpose(2, 0, 1))

    def door(places: list[Place]) -> None:
        for number, rows, cols in places:
            source = indexed.chips[number].image
            assert isinstance(source, SourceWindow)
            source.read(rows, cols)

    def samples(reader: ChipReader) -> Callable[[list[Place]], None]:
        def read(places: list[Place]) -> None:
            for number, rows, cols in places[: len(places) // SAMPLES]:
                reader.read(number, lambda height, width, there=(rows, cols): there)

        return read

    return {"bare read": bare, "bare read, by pixel": bare_by_pixel, "index-only images": door} | {
        name: samples(reader) for name, reader in readers.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cache", type=int, default=32)
    asked = parser.parse_args()
    print(facts() | {"gdal": rasterio.__gdal_version__, "rasterio": rasterio.__version__})
    for kind, options in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            image, chips, indexed = datasets(Path(folder), asked.side, options)
            with rasterio.Env(GDAL_CACHEMAX=asked.cache):
                measure(kind, ways(image, chips, indexed), len(indexed.chips), asked)


def measure(
    kind: str, ways: dict[str, Callable[[list[Place]], None]], chips: int, asked: argparse.Namespace
) -> None:
    """Print seconds and CPU seconds per way, and what share of the bare read's speed each has."""
    random = np.random.default_rng(1)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    used: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(asked.rounds + 1):  # the first one opens
        places = []
        for _ in range(asked.windows):
            top, left = random.integers(0, CHIP - CROP + 1, 2).tolist()
            places.append((int(random.integers(chips)), slice(top, top + CROP), slice(left, left + CROP)))
        names = list(ways)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            begun, cpu = time.perf_counter(), time.process_time()
            ways[name](places)
            factor = SAMPLES if name.startswith("samples") else 1
            if turn:
                seconds[name].append(factor * (time.perf_counter() - begun))
                used[name].append(factor * (time.process_time() - cpu))
    print(f"\n{kind}: {asked.windows} windows of {CROP} px, {asked.rounds} rounds")
    for name in ways:
        shares = [
            statistics.median(bare / own for bare, own in zip(of["bare read"], of[name], strict=True))
            for of in (seconds, used)
        ]
        each = statistics.median(seconds[name]) / asked.windows * 1e3
        print(
            f"  {name:22} {each:7.3f} ms a window; of the bare read's speed {shares[0]:4.0%}, by CPU {shares[1]:4.0%}"
        )


if __name__ == "__main__":
    main()
