"""How near `predict` comes to the bare forward on a GPU, with its laws and kills there: one run of about 8 minutes.

    python tests/speed/gpu.py [--device cuda] [--down 90] [--rounds 3] [--only laws kills table memory] [--json FILE]
    python tests/speed/gpu.py --device cpu --small        # the rehearsal: the same code on a machine without a GPU

table: whole predict (reading, COG, overviews and syncs included; a warm process) over the bare forward of the same
engine on a batch that lies on the device; CPU seconds per Gpx beside the bare forward's; sources as deflate,
JPEG-in-TIFF and uint16 × 4 bands. memory: 100,000 columns on the device and in the host, each in a process of its own.
laws and kills are the tests of the device's carrier; where there is a GPU they run on it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from machine import facts
from predict import MODELS, SIDE, STEP, image_part, make_context, make_model
from rasterio.windows import Window

from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.predictor import Predictor
from aerial_seg.jobs.predict.one_scene import map_scene
from aerial_seg.jobs.predict.scenes import PredictContext, Scene

TESTS = Path(__file__).parents[1]
LAWS = ("inference/device", "tiling")
KILLS = "jobs/predict/test_resume.py"
SOURCES: dict[str, dict[str, Any]] = {
    "deflate": {"compress": "deflate"},
    "jpeg": {"compress": "jpeg", "photometric": "ycbcr"},
    "uint16": {"compress": "deflate", "dtype": "uint16", "count": 4},
}
BARS = {
    "DeepLabv3 R50 OS16": 0.75,
    "DeepLabv3 R50 OS8": 0.88,
    "PSPNet R18 OS16": 0.40,
    "jpeg": 0.60,
    "uint16": 0.60,
}


def write_source(path: Path, kind: str, *, height: int, width: int) -> None:
    """A tiled GeoTIFF of textured patches with noise, block row by block row."""
    profile: dict[str, Any] = {"dtype": "uint8", "count": 3, "BIGTIFF": "IF_SAFER"} | SOURCES[kind]
    random = np.random.default_rng(1)
    part, _ = image_part(512, 4096, seed=1)
    noisy = np.clip(part + random.normal(0, 3, part.shape), 0, 255).astype(np.uint8)
    if profile["count"] == 4:
        noisy = np.concatenate([noisy, noisy[:1]]).astype(np.uint16) * 16
    wide = np.concatenate([noisy] * -(-width // noisy.shape[2]), axis=2)[:, :, :width]
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, tiled=True, blockxsize=512, blockysize=512,
        interleave="pixel", num_threads="all_cpus", crs="EPSG:32645",
        transform=rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 3e6), **profile,
    ) as file:  # fmt: skip
        for top in range(0, height, 512):
            rows = min(512, height - top)
            file.write(wide[:, :rows], window=Window(0, top, width, rows))


def timed(work: Callable[[], Any], wait: Callable[[], None]) -> tuple[float, float]:
    """(wall-clock seconds, CPU seconds of all threads) until the device, too, is done."""
    wait()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wait()
    return time.perf_counter() - wall, time.process_time() - cpu


def bare(predictor: Predictor, tiles: int, bands: int, device: torch.device) -> Callable[[], None]:
    """The network alone, in the same batches, on a batch that lies on the device."""
    random = torch.Generator().manual_seed(0)
    batch = torch.randn(predictor.batch_size, bands, SIDE, SIDE, generator=random).to(device)

    def run() -> None:
        for _ in range(-(-tiles // predictor.batch_size)):
            predictor.logits(batch)

    return run


def measure(
    name: str, scene: Scene, context: PredictContext, wait: Callable[[], None], options: argparse.Namespace
) -> dict[str, Any]:
    """Medians of interleaved rounds of predict and its bare forward."""
    tiles, bands = options.down * options.across, len(context.model.card.bands)
    forward = bare(context.predictor, tiles, bands, torch.device(options.device))
    predict = partial(map_scene, scene, context)
    report = predict()
    assert report.tiles == tiles, (report.tiles, tiles)
    rounds = [(timed(forward, wait), timed(predict, wait)) for _ in range(options.rounds)]
    pixels = report.height * report.width
    row = {
        "tiles": tiles,
        "runtime": context.predictor.runtime.as_dict(),
        "bare_tiles_s": tiles / statistics.median(f[0] for f, _ in rounds),
        "predict_tiles_s": tiles / statistics.median(p[0] for _, p in rounds),
        "predict_mpx_s": pixels / 1e6 / statistics.median(p[0] for _, p in rounds),
        "share_of_bare": statistics.median(f[0] / p[0] for f, p in rounds),
        "cpu_s_per_gpx_beside_bare": statistics.median(p[1] - f[1] for f, p in rounds) / pixels * 1e9,
        "stages_s": dict(report.stage_seconds),
        "bar": BARS.get(name),
    }
    print(
        f"  {name:20} " + ", ".join(f"{k} {v:.3g}" for k, v in row.items() if isinstance(v, float)),
        flush=True,
    )
    return row


def table(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Rows of the table: three networks on deflate, then DeepLabv3 at 16 on the other sources."""
    height, width = (STEP * (n - 1) + SIDE - 2 * 32 for n in (options.down, options.across))
    for kind in SOURCES:
        write_source(folder / f"{kind}.tif", kind, height=height, width=width)
    wait = torch.cuda.synchronize if options.device.startswith("cuda") else (lambda: None)
    rows: dict[str, Any] = {}
    for name, kind in [*((name, "deflate") for name in MODELS), ("jpeg", "jpeg"), ("uint16", "uint16")]:
        architecture = MODELS.get(name, MODELS["DeepLabv3 R50 OS16"])
        if options.small:
            architecture = ("pspnet", "resnet18", 16)
        model = make_model(*architecture, bands=4 if kind == "uint16" else 3)
        engine = EngineSettings(options.engine, options.precision, options.device, "device")
        context = make_context(
            model, tiles=options.down * options.across, engine=engine, batch_size=options.batch_size
        )
        rows[name] = measure(
            name, Scene((folder / f"{kind}.tif",), folder / "map.tif"), context, wait, options
        )
    return rows


def memory(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What 100,000 columns take: on the device (the most that torch held), and in the host above the loaded model."""
    width, rows = (8_000, 2) if options.small else (100_000, 3)
    probe = Path(__file__).with_name("memory_probe.py")
    command = [
        sys.executable,
        probe,
        folder,
        width,
        rows,
        "--device",
        options.device,
        "--carrier",
        "device",
        "--batch-size",
        options.batch_size,
    ]
    if not options.small:
        command += ["--network", "DeepLabv3 R50 OS8"]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout)
    print("  " + ", ".join(f"{k} {v:.0f}" for k, v in row.items()), flush=True)
    return row


def tests(*arguments: str) -> dict[str, Any]:
    """What pytest says at its end."""
    command = ["pytest", "-q", "-n", "4", "--hypothesis-profile=fast", *arguments]
    done = subprocess.run(command, cwd=TESTS.parent, stdout=subprocess.PIPE, text=True, check=False)
    said = done.stdout.strip().splitlines()
    print("\n".join(f"  {line}" for line in said[-6:]), flush=True)
    return {"ended": done.returncode, "said": said[-1:]}


def laws(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The battery of both carriers."""
    del folder, options
    return tests(*(f"tests/{room}" for room in LAWS))


def kills(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Runs that are killed, and go on to the same bytes."""
    del folder
    return tests(
        f"tests/{KILLS}", "-m", "slow or not slow", "-k", "crash_after_crash" if options.small else "crash"
    )


ROWS = {"laws": laws, "kills": kills, "table": table, "memory": memory}


def main() -> None:
    """Print the rows, and write them as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--across", type=int, default=90)
    parser.add_argument("--down", type=int, default=90)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", default="eager")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--small", action="store_true", help="a rehearsal: few tiles of a small network")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.small:
        options.across, options.down, options.rounds, options.batch_size = 3, 4, 1, 4
    result: dict[str, Any] = {"machine": facts()}
    print(json.dumps(result["machine"]))
    begun = time.perf_counter()
    for name in options.only:
        print(f"{name} ({time.perf_counter() - begun:.0f} s)", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            result[name] = ROWS[name](Path(folder), options)
        if options.json:
            options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
