"""What it costs to make a COG of finished rows: pieces, overviews, assembly, all checks and syncs included.

    python tests/speed/assembly.py [--side 8192] [--rounds 5] [--cells 32 128 512] [--bands 1 6] [--levels]

Finished rows come as `predict` hands them over, 512 at a time. Beside it, in the same rounds: rasterio writing the same
pixels once (deflate, no overviews, nothing read back), and the way before: rows in ZSTD pieces that are read back,
overviews by numpy, GDAL's COG driver packing all of it anew, and all of it compared again. --levels: what GDAL's
levels of deflate cost and give on these pixels.

cells: pixels between the corners of smooth fields, of which the largest is the class; small ones make rough masks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
import rasterio
import rasterio.shutil
import torch
from affine import Affine
from machine import facts
from pyproj import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from aerial_seg.geo.grid import Grid
from aerial_seg.legend import IGNORE
from aerial_seg.outputs.cog import CogStyle, write_cog
from aerial_seg.outputs.segments import Layer, SegmentStore

BLOCK, CLASSES = 512, 6


def classes_of(side: int, cell: int) -> np.ndarray:
    """(1, side, side): the largest of smooth fields."""
    generator = torch.Generator().manual_seed(0)
    fields = torch.randn(1, CLASSES, side // cell + 2, side // cell + 2, generator=generator)
    made = np.empty((1, side, side), np.uint8)
    rows = torch.linspace(-1, 1, side)
    for top in range(0, side, BLOCK):
        part = rows[top : top + BLOCK]
        where = torch.stack(torch.meshgrid(part, rows, indexing="ij")[::-1], -1)[None]
        made[0, top : top + BLOCK] = (
            torch.nn.functional.grid_sample(fields, where, align_corners=True)[0].argmax(0).numpy()
        )
    return made


def probabilities_of(side: int, cell: int, bands: int) -> np.ndarray:
    """(bands, side, side), steps of 0.004, noise of one step."""
    random = np.random.default_rng(0)
    made = np.empty((bands, side, side), np.uint8)
    for band in range(bands):
        coarse = torch.from_numpy(random.uniform(0, 250, (1, 1, side // cell + 2, side // cell + 2)))
        made[band] = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")[0, 0].numpy()
    return made


def ours(values: np.ndarray, layer: Layer, folder: Path, tail: list[float]) -> Path:
    """Rows, reduced as they come, then the COG; tail: seconds after the last row, appended."""
    _, height, width = values.shape
    grid = Grid(crs=CRS(32645), transform=Affine(0.5, 0, 3e5, 0, -0.5, 3e6), height=height, width=width)
    store = SegmentStore(folder / "work", grid, (layer,), panels=(range(width),))
    for top in range(0, height, BLOCK):
        rows = range(top, min(top + BLOCK, height))
        store.write(0, rows, {layer.name: values[:, rows.start : rows.stop]})
        store.reduce()
    start = time.perf_counter()
    style = CogStyle(tuple(f"c{k}" for k in range(layer.bands)))
    write_cog(store, layer, folder / "ours.tif", style=style)
    tail.append(time.perf_counter() - start)
    shutil.rmtree(folder / "work")
    return folder / "ours.tif"


def plain(values: np.ndarray, folder: Path, *, level: int = 6) -> Path:
    """What rasterio writes of an array, on all cores."""
    path = folder / "plain.tif"
    with rasterio.open(
        path, "w", **_profile(values, compress="DEFLATE", zlevel=level, num_threads="ALL_CPUS")
    ) as file:
        for top in range(0, values.shape[1], BLOCK):
            part = values[:, top : top + BLOCK]
            file.write(part, window=Window(0, top, values.shape[2], part.shape[1]))
    return path


def before(values: np.ndarray, layer: Layer, folder: Path) -> Path:
    """ZSTD pieces read back, numpy's overviews, GDAL's COG driver, all compared: as until this way was built."""
    work = folder / "work"
    work.mkdir()
    for top in range(0, values.shape[1], BLOCK):
        _scratch(work / f"{top}.tif", values[:, top : top + BLOCK])
        _sync(work / f"{top}.tif")
    sizes = [values]
    while max(sizes[-1].shape[1:]) > BLOCK:
        sizes.append(_halved(sizes[-1], classes=layer.classes))
        _scratch(work / f"overview{len(sizes) - 1}.tif", sizes[-1])
    _vrt(work, values, len(sizes) - 1)
    final = folder / "before.tif"
    rasterio.shutil.copy(
        work / "all.vrt", final, driver="COG", compress="DEFLATE", level=6, blocksize=BLOCK, overviews="AUTO",
        num_threads="ALL_CPUS", bigtiff="IF_SAFER", sparse_ok=True, statistics="NO",
    )  # fmt: skip
    for level, size in zip((None, *range(len(sizes) - 1)), sizes, strict=True):
        options = {} if level is None else {"OVERVIEW_LEVEL": level}
        source = work / ("all.vrt" if level is None else f"overview{level + 1}.tif")
        with rasterio.open(final, NUM_THREADS="ALL_CPUS", **options) as got, rasterio.open(source) as wanted:
            for top in range(0, size.shape[1], BLOCK):
                window = Window(0, top, size.shape[2], min(BLOCK, size.shape[1] - top))
                assert np.array_equal(got.read(window=window), wanted.read(window=window))
    _sync(final)
    shutil.rmtree(work)
    return final


def _profile(values: np.ndarray, **more: object) -> dict[str, Any]:
    bands, height, width = values.shape
    return {
        "driver": "GTiff", "height": height, "width": width, "count": bands, "dtype": "uint8", "nodata": IGNORE,
        "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "crs": "EPSG:32645",
        "transform": Affine(0.5, 0, 3e5, 0, -0.5, 3e6), "photometric": "MINISBLACK", **more,
    }  # fmt: skip


def _scratch(path: Path, values: np.ndarray) -> None:
    with rasterio.open(
        path, "w", **_profile(values, compress="ZSTD", zstd_level=1, interleave="band")
    ) as file:
        file.write(values)
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(), values)


def _halved(values: np.ndarray, *, classes: bool) -> np.ndarray:
    a, b, c, d = (values[:, y::2, x::2] for y in (0, 1) for x in (0, 1))
    if classes:
        first = np.where(a != IGNORE, a, np.where(b != IGNORE, b, np.where(c != IGNORE, c, d)))
        of_c = np.where((c == d) & (c != IGNORE), c, first)
        of_b = np.where(((b == c) | (b == d)) & (b != IGNORE), b, of_c)
        return np.where(((a == b) | (a == c) | (a == d)) & (a != IGNORE), a, of_b)
    total, count = np.zeros(a.shape, np.uint16), np.zeros(a.shape, np.uint16)
    for part in (a, b, c, d):
        total += np.where(part != IGNORE, part, 0)
        count += part != IGNORE
    mean = (2 * total + count) // np.maximum(2 * count, 1)
    return np.where(count > 0, mean, IGNORE).astype(np.uint8)


def _vrt(work: Path, values: np.ndarray, overviews: int) -> None:
    bands, height, width = values.shape
    root = Xml.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    Xml.SubElement(root, "SRS").text = CRS(32645).to_wkt()
    Xml.SubElement(root, "GeoTransform").text = "300000, 0.5, 0, 3000000, 0, -0.5"
    for number in range(1, bands + 1):
        band = Xml.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(number))
        Xml.SubElement(band, "NoDataValue").text = str(IGNORE)
        for top in range(0, height, BLOCK):
            source = Xml.SubElement(band, "SimpleSource")
            Xml.SubElement(source, "SourceFilename", relativeToVRT="1").text = f"{top}.tif"
            Xml.SubElement(source, "SourceBand").text = str(number)
            rows = str(min(BLOCK, height - top))
            Xml.SubElement(
                source, "SourceProperties", RasterXSize=str(width), RasterYSize=rows, DataType="Byte"
            )
            for tag, y in (("SrcRect", 0), ("DstRect", top)):
                Xml.SubElement(source, tag, xOff="0", yOff=str(y), xSize=str(width), ySize=rows)
        for level in range(1, overviews + 1):
            overview = Xml.SubElement(band, "Overview")
            Xml.SubElement(overview, "SourceFilename", relativeToVRT="1").text = f"overview{level}.tif"
            Xml.SubElement(overview, "SourceBand").text = str(number)
    Xml.ElementTree(root).write(work / "all.vrt")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def measured(work: Callable[[], Path]) -> tuple[float, float, int]:
    """Seconds, CPU seconds, and bytes of the file."""
    cpu, start = time.process_time(), time.perf_counter()
    path = work()
    return time.perf_counter() - start, time.process_time() - cpu, path.stat().st_size


def compare(values: np.ndarray, layer: Layer, rounds: int) -> dict[str, Any]:
    """Medians of interleaved rounds."""
    megapixels = values.size / 1e6
    with tempfile.TemporaryDirectory() as name:
        folder, tail = Path(name), list[float]()
        works = {
            "plain": partial(plain, values, folder),
            "before": partial(before, values, layer, folder),
            "ours": partial(ours, values, layer, folder, tail),
        }
        measured(works["ours"])  # kernels compiled
        tail.clear()
        found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in works}
        for _ in range(rounds):
            for name, work in works.items():
                found[name].append(measured(work))
    row: dict[str, Any] = {}
    for name, each in found.items():
        seconds, cpu = (statistics.median(one[k] for one in each) for k in (0, 1))
        row[name] = {
            "Mpx/s": megapixels / seconds, "CPU s/Gpx": 1e3 * cpu / megapixels, "MB": each[0][2] / 1e6,
            "share of plain, wall": statistics.median(p[0] / o[0] for p, o in zip(found["plain"], each, strict=True)),
            "share of plain, CPU": statistics.median(p[1] / o[1] for p, o in zip(found["plain"], each, strict=True)),
        }  # fmt: skip
        print(
            f"  {name:7} " + ", ".join(f"{key} {value:.3g}" for key, value in row[name].items()), flush=True
        )
    row["seconds after the last row"] = statistics.median(tail)
    print(f"  after the last row {row['seconds after the last row']:.3f} s")
    return row


def levels(values: np.ndarray) -> dict[str, Any]:
    """What GDAL's levels cost and give."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for level in (1, 2, 3, 4, 5, 6, 7, 9):
            _, cpu, size = measured(partial(plain, values, Path(name), level=level))
            found[level] = {"Mpx/CPU s": values.size / 1e6 / cpu, "MB": size / 1e6}
            print(
                f"  level {level}: {values.size / 1e6 / cpu:.0f} Mpx per CPU second, {size / 1e6:.2f} MB",
                flush=True,
            )
    return found


def main() -> None:
    """Print the rows, and write them as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=8192, help="a multiple of 512")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cells", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--bands", type=int, nargs="*", default=[])
    parser.add_argument("--levels", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    result: dict[str, Any] = {"machine": facts()}
    print(json.dumps(result["machine"]))
    for cell in options.cells:
        print(f"classes, cells of {cell} px", flush=True)
        values = classes_of(options.side, cell)
        result[f"classes {cell}"] = compare(values, Layer("class", 1), options.rounds)
        if options.levels:
            result[f"levels {cell}"] = levels(values)
    for bands in options.bands:
        print(f"probabilities, {bands} bands", flush=True)
        values = probabilities_of(options.side // 4, 64, bands)
        result[f"probabilities {bands}"] = compare(values, Layer("probabilities", bands), options.rounds)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
