"""What vectorising costs beside the usual ways: seconds, ratios and memory, from one run.

    python tests/speed/vectorize.py [--only trace simplify memory holes predict] [--rounds 5] [--side 10240]

The mask is seeded smooth noise of six classes: at 10240² some 675,000 polygons. Rivals: rasterio.features.shapes with
a loop that makes shapely polygons; gdal_polygonize to a GeoPackage (gdal-bin, where it is installed); shapes, then
GEOS's coverage_simplify, then GeoDataFrame.to_file. Rounds are interleaved, compilation is excluded.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyproj
import rasterio
import shapely
from machine import facts
from numpy.typing import NDArray
from predict import SIDE, STEP, TILES_ACROSS, make_context, make_model, write_image
from rasterio import features
from scipy.ndimage import gaussian_filter

from aerial_seg import Grid, Measure, VectorizeSettings, vectorize
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.jobs.predict.one_scene import map_scene
from aerial_seg.jobs.predict.scenes import Scene
from aerial_seg.polygonize.batch import PolygonBatch
from aerial_seg.polygonize.tracing.simplify import Simplification
from aerial_seg.polygonize.tracing.tracer import Tracer
from aerial_seg.vectors.from_mask.settings import LayerSettings, ShapeSettings
from aerial_seg.vectors.ground import Ground

CLASSES, GRAIN, SEED = 6, 4.93, 0
TRANSFORM = rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 3e6)
CRS = "EPSG:32645"
EVERY = np.ones(65536, bool)
Mask = NDArray[np.uint8]


def smooth_noise(height: int, width: int, *, grain: float = GRAIN) -> Mask:
    """The class with the largest of six smoothed random fields at every pixel. grain: pixels of the smoothing."""
    random = np.random.default_rng(SEED)
    best = np.full((height, width), -np.inf, np.float32)
    mask = np.zeros((height, width), np.uint8)
    for value in range(CLASSES):
        field = gaussian_filter(random.standard_normal((height, width), dtype=np.float32), grain)
        mask[field > best] = value
        np.maximum(best, field, out=best)
    return mask


def holed(side: int, holes: int) -> Mask:
    """One connected background with that many separate holes."""
    mask = np.zeros((side, side), np.uint8)
    step = int(side / holes**0.5)
    y, x = np.meshgrid(np.arange(2, side - step, step), np.arange(2, side - step, step), indexing="ij")
    for dy in range(step // 2):
        for dx in range(step // 2 - dy):
            mask[y + dy, x + dx] = 1
    return mask


def save(path: Path, mask: Mask) -> Path:
    """As predict writes it: tiled, deflate."""
    with rasterio.open(
        path, "w", driver="GTiff", height=mask.shape[0], width=mask.shape[1], count=1, dtype="uint8", nodata=255,
        crs=CRS, transform=TRANSFORM, tiled=True, blockxsize=512, blockysize=512, compress="deflate",
    ) as file:  # fmt: skip
        file.write(mask, 1)
    return path


def traced(mask: Mask, how: Simplification) -> Iterator[PolygonBatch]:
    """Our polygons, as ragged arrays."""
    rows = ((mask[top : top + 512].astype(np.uint16), None) for top in range(0, len(mask), 512))
    return Tracer(mask.shape[1], wanted=EVERY, how=how).trace(rows)


def ours(mask: Mask) -> int:
    """Traced to ragged arrays; the count."""
    return sum(len(batch) for batch in traced(mask, Simplification()))


def shapes_loop(mask: Mask) -> NDArray[np.object_]:
    """rasterio.features.shapes and shapely, one polygon at a time."""
    found = [shapely.geometry.shape(geometry) for geometry, _ in features.shapes(mask, connectivity=4)]
    return np.array(found, object)


def measure_all(batches: list[PolygonBatch], ground: Ground) -> None:
    """Geodesic areas and perimeters of all polygons."""
    for batch in batches:
        ground.measure(batch.coords, batch.rings, batch.polygons)


def polygonized(path: Path, out: Path) -> None:
    """GDAL's own command."""
    tool = shutil.which("gdal_polygonize.py") or shutil.which("gdal_polygonize")
    assert tool is not None
    out.unlink(missing_ok=True)
    subprocess.run([tool, "-q", str(path), "-f", "GPKG", str(out)], check=True, capture_output=True)


def vectorized(path: Path, out: Path, tolerance: float) -> None:
    """Our whole command."""
    settings = VectorizeSettings(
        classes=("all",),
        shape=ShapeSettings(simplify=Measure(tolerance, "px")),
        layer=LayerSettings(overwrite=True),
    )
    vectorize(path, out, settings)


def chain(mask: Mask, out: Path, tolerance: float) -> NDArray[np.object_]:
    """What one writes by hand: shapes, coverage_simplify, to_file; the simplified polygons in pixels."""
    found = list(features.shapes(mask, connectivity=4))
    polygons = np.array([shapely.geometry.shape(geometry) for geometry, _ in found], object)
    simple: NDArray[np.object_] = shapely.coverage_simplify(polygons, tolerance)
    table = geopandas.GeoDataFrame(
        {"class_id": [int(value) for _, value in found]},
        geometry=shapely.transform(simple, lambda xy: xy * [0.5, -0.5] + [3e5, 3e6]),
        crs=CRS,
    )
    out.unlink(missing_ok=True)
    table.to_file(out, driver="GPKG")
    return simple


def interleaved(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each way; every round runs each once."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
            print(f"  round {number + 1}: {name} {seconds[name][-1]:.2f} s", flush=True)
    return {name: statistics.median(times) for name, times in seconds.items()}


def trace_rows(folder: Path, mask: Mask, rounds: int) -> dict[str, Any]:
    """Tracing against shapes and gdal_polygonize, and the geodesic measures against tracing."""
    path = save(folder / "mask.tif", mask)
    batches = list(traced(mask, Simplification()))
    ground = Ground(Grid(pyproj.CRS(CRS), TRANSFORM, *mask.shape))
    ways: dict[str, Callable[[], object]] = {
        "trace": lambda: ours(mask),
        "measure": lambda: measure_all(batches, ground),
        "shapes": lambda: shapes_loop(mask),
        "to gpkg, pixel outlines": lambda: vectorized(path, folder / "ours.gpkg", 0.0),
    }
    if shutil.which("gdal_polygonize.py") or shutil.which("gdal_polygonize"):
        ways["gdal_polygonize"] = lambda: polygonized(path, folder / "gdal.gpkg")
    found = interleaved(ways, rounds)
    result: dict[str, Any] = {
        "polygons": sum(len(batch) for batch in batches),
        "seconds": found,
        "shapes / trace (bar 4)": found["shapes"] / found["trace"],
        "measure / trace (bar 0.5)": found["measure"] / found["trace"],
    }
    if "gdal_polygonize" in found:
        result["gdal_polygonize / to gpkg (bar 8)"] = (
            found["gdal_polygonize"] / found["to gpkg, pixel outlines"]
        )
    return result


def simplify_rows(folder: Path, mask: Mask, rounds: int) -> dict[str, Any]:
    """The whole command against the chain, at a Hausdorff distance that is no larger."""
    path = save(folder / "mask.tif", mask)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: vectorized(path, folder / "ours.gpkg", 1.5),
        "chain": lambda: chain(mask, folder / "chain.gpkg", 1.5),
    }
    found = interleaved(ways, rounds)
    part = np.ascontiguousarray(mask[:2048, :2048])
    return {
        "seconds": found,
        "chain / ours (bar 4)": found["chain"] / found["ours"],
        **fidelity(folder, part),
    }


def fidelity(folder: Path, mask: Mask) -> dict[str, Any]:
    """Vertices, Hausdorff distances and fit, of a piece small enough for GEOS to judge."""
    batches = {
        name: [batch for batch in traced(mask, how) if len(batch)]
        for name, how in {
            "exact": Simplification(),
            "ours": Simplification(1.5),
            "visvalingam": Simplification(1.5, "visvalingam"),
        }.items()
    }
    shapes = {name: np.concatenate([_polygons(batch) for batch in found]) for name, found in batches.items()}
    raw = shapes_loop(mask)
    shapes["chain"] = shapely.coverage_simplify(raw, 1.5)
    judged: dict[str, Any] = {}
    for name in ("ours", "visvalingam", "chain"):
        before = raw if name == "chain" else shapes["exact"]
        distance = shapely.hausdorff_distance(shapely.boundary(before), shapely.boundary(shapes[name]))
        judged[name] = {
            "vertices": int(shapely.get_num_coordinates(shapes[name]).sum()),
            "largest Hausdorff distance, px": round(float(distance.max()), 3),
            "mean": round(float(distance.mean()), 3),
            "valid coverage": bool(shapely.coverage_is_valid(shapes[name])),
            "gaps and overlaps, px²": round(
                float(abs(shapely.area(shapes[name]).sum() - shapely.union_all(shapes[name]).area)), 6
            ),
        }
    return {"piece of 2048²": judged}


def _polygons(batch: PolygonBatch) -> NDArray[np.object_]:
    kind = shapely.GeometryType.POLYGON
    return np.asarray(shapely.from_ragged_array(kind, batch.coords, (batch.rings, batch.polygons)))


def memory_rows(folder: Path, side: int, rounds: int) -> dict[str, Any]:
    """Peak memory above the baseline of `vectorize`, background and all: medians of processes of their own."""
    masks = {
        name: save(folder / f"{name}.tif", smooth_noise(height, side))
        for name, height in {"half": side // 2, "whole": side, "double": 2 * side}.items()
    }
    peaks: dict[str, list[float]] = {name: [] for name in masks}
    for _ in range(rounds):
        for name, path in masks.items():
            peaks[name].append(probed_peak(path, folder / "m.gpkg"))
    found = {name: statistics.median(seen) for name, seen in peaks.items()}
    return {
        "peak MiB above baseline by height": found,
        "every round": peaks,
        "at full height (bar 600)": found["whole"],
        "growth per doubling (bar 1.10)": max(
            found["whole"] / found["half"], found["double"] / found["whole"]
        ),
    }


def probed_peak(mask: Path, out: Path) -> float:
    """MiB that vectorising this mask takes above what a loaded process holds."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("vectorize_probe.py")), str(mask), str(out)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    peak: float = json.loads(done.stdout.splitlines()[-1])["peak_mib"]
    return peak


def holes_rows(rounds: int) -> dict[str, Any]:
    """A connected background with 100,000 holes must not be slower per megapixel than the noise."""
    holes, noise = holed(8192, 100_000), smooth_noise(8192, 8192)
    found = interleaved({"holes": lambda: ours(holes), "noise": lambda: ours(noise)}, rounds)
    ratio = found["holes"] / found["noise"]
    return {"seconds": found, "polygons": ours(holes), "holes / noise (bar: same class)": ratio}


def predict_rows(folder: Path, rounds: int) -> dict[str, Any]:
    """What polygons add to predicting with DeepLabv3 R50 OS16: the mask to vectorise is like a town, not like noise."""
    side = STEP * (TILES_ACROSS - 1) + SIDE - 2 * 32
    write_image(folder / "image.tif", height=side, width=side)
    context = make_context(
        make_model("deeplabv3", "resnet50", 16), tiles=TILES_ACROSS**2, engine=EngineSettings(), batch_size=4
    )
    scene = Scene((folder / "image.tif",), folder / "map.tif")
    town = save(folder / "town.tif", (smooth_noise(side, side, grain=12.0) < 2).astype(np.uint8))
    found = interleaved(
        {
            "predict": lambda: map_scene(scene, context),
            "vectorize": lambda: vectorized(town, folder / "town.gpkg", 1.5),
        },
        rounds,
    )
    return {
        "seconds": found,
        "engine": str(context.predictor.runtime.as_dict()),
        "vectors / predict (bar 0.04)": found["vectorize"] / found["predict"],
    }


def main() -> None:
    """Print the figures, write them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = ("trace", "simplify", "memory", "holes", "predict")
    parser.add_argument("--only", nargs="+", choices=kinds, default=list(kinds))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=10240)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    document: dict[str, Any] = {"machine": facts(), "side": options.side, "rounds": options.rounds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = np.ascontiguousarray(smooth_noise(600, 600))
        ours(small)
        vectorized(save(folder / "warm.tif", small), folder / "warm.gpkg", 1.5)
        mask = (
            smooth_noise(options.side, options.side) if {"trace", "simplify"} & set(options.only) else small
        )
        if "trace" in options.only:
            document["trace"] = trace_rows(folder, mask, options.rounds)
        if "simplify" in options.only:
            document["simplify"] = simplify_rows(folder, mask, options.rounds)
        del mask
        if "memory" in options.only:
            document["memory"] = memory_rows(folder, options.side, options.rounds)
        if "holes" in options.only:
            document["holes"] = holes_rows(options.rounds)
        if "predict" in options.only:
            document["predict"] = predict_rows(folder, options.rounds)
    text = json.dumps(document, indent=2, default=float)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
