"""How fast and how small `predict` is, against what the network alone takes.

    python tests/speed/predict.py [--only NAME …] [--rounds 5] [--json FILE] [--model BANEPA_MODEL --raster RASTER]

Rows (names for --only): pipeline (end to end over the bare forward of the same engine), loop (against a
straightforward loop), stitch (normalise + upsample + argmax + stitch), memory (100,000 px wide; flat in height),
empty (66,000² without a measured pixel), agreement (engines against each other).
Every ratio comes from interleaved rounds in one process; imports, loading, preparation and compilation are excluded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from machine import facts
from rasterio.windows import Window

from aerial_seg.bands import Band, normalise
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.predictor import Predictor
from aerial_seg.jobs.predict.one_scene import map_scene
from aerial_seg.jobs.predict.scenes import PredictContext, Scene
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, TrainedModel, load_model
from aerial_seg.progress import silent
from aerial_seg.recipe.document import Recipe
from aerial_seg.tiling.plan import tile_shape

SIDE, STEP, CLASSES = 512, 384, 6
TILES_ACROSS = 8
WIDE = 16
"""How much larger the numbers of uint16 imagery are."""
MODELS = {
    "DeepLabv3 R50 OS8": ("deeplabv3", "resnet50", 8),
    "DeepLabv3 R50 OS16": ("deeplabv3", "resnet50", 16),
    "PSPNet R18 OS16": ("pspnet", "resnet18", 16),
}


def make_model(architecture: str, encoder: str, stride: int, *, bands: int = 3) -> TrainedModel:
    """An untrained network whose classes all occur: the pipeline's work does not depend on what the classes mean.

    bands: 3 of uint8, or 4 of uint16.
    """
    torch.manual_seed(0)
    settings = {"architecture": architecture, "encoder": encoder, "output_stride": stride}
    recipe = Recipe.model_validate({"model": settings})
    network = build_network(recipe.model, bands=bands, classes=CLASSES).eval()
    card = ModelCard(
        tool_version="speed", recipe=recipe, legend=make_legend({k: f"class {k}" for k in range(CLASSES)}),
        bands=_bands() if bands == 3 else _wide_bands(),
        gsd=None, class_bias=(0.0,) * CLASSES, iteration=0, validation_miou=None, data_fingerprint="",
    )  # fmt: skip
    with torch.inference_mode():
        image, valid = image_part(SIDE, SIDE, seed=5)
        if bands == 4:
            image = np.concatenate([image, image[:1]]).astype(np.uint16) * WIDE
        logits = network(torch.from_numpy(normalise(image, valid, card.bands))[None])
    spread = logits.std()
    bias = tuple(float(-m / spread) for m in logits.mean(dim=(0, 2, 3)))
    with torch.no_grad():
        last = [m for m in network.head.modules() if isinstance(m, torch.nn.Conv2d)][-1]
        last.weight /= spread
        last.bias /= spread
    return TrainedModel(network=network, card=card.model_copy(update={"class_bias": bias}), sha256="0" * 64)


def image_part(height: int, width: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A textured image of patches (3, h, w) uint8, and that all of it is valid."""
    random = np.random.default_rng(seed)
    image = np.zeros((3, height, width), np.float32)
    for size, strength in ((128, 60), (32, 40), (4, 20)):
        coarse = random.normal(0, strength, (3, -(-height // size), -(-width // size)))
        image += coarse.repeat(size, axis=1).repeat(size, axis=2)[:, :height, :width]
    return np.clip(image + 127, 0, 255).astype(np.uint8), np.ones((height, width), bool)


def write_image(path: Path, *, height: int, width: int) -> None:
    """A tiled deflate GeoTIFF of that texture."""
    image, _ = image_part(height, width, seed=1)
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=3, dtype="uint8", tiled=True, blockxsize=512,
        blockysize=512, compress="deflate", crs="EPSG:32645", transform=rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 3e6),
    ) as file:  # fmt: skip
        file.write(image)


def make_context(
    model: TrainedModel, *, tiles: int, engine: EngineSettings, batch_size: int
) -> PredictContext:
    """What `predict` runs with, prepared: nothing is left to compile."""
    shape = tile_shape(model.network.geometry, SIDE, halo=32, overlap=64)
    assert shape.step == STEP
    predictor = Predictor(model, settings=engine, batch_size=batch_size, side=SIDE, tiles=tiles)
    predictor.run([np.zeros((predictor.planes, SIDE, SIDE), np.float32)] * batch_size)
    return PredictContext(model, predictor, shape, PredictSettings(overwrite=True), silent)


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(rounds: int, works: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of every work, one after the other in every round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(seconds(work))
    return times


def bare_forward(predictor: Predictor, tiles: int) -> Callable[[], None]:
    """The predictor's network alone on as many tiles, in the same batches."""
    image = normalise(*image_part(SIDE, SIDE, seed=2), _bands())
    images = [image] * predictor.batch_size

    def run() -> None:
        for _ in range(-(-tiles // predictor.batch_size)):
            predictor.run(images)

    return run


def _bands() -> tuple[Band, ...]:
    return tuple(
        Band(name=name, dtype="uint8", mean=127.0, std=60.0, p2=0.0, p98=255.0)
        for name in ("red", "green", "blue")
    )


def _wide_bands() -> tuple[Band, ...]:
    """Four bands of uint16, of the same texture in larger numbers."""
    return tuple(
        Band(name=name, dtype="uint16", mean=127.0 * WIDE, std=60.0 * WIDE, p2=0.0, p98=255.0 * WIDE)
        for name in ("red", "green", "blue", "nir")
    )


def pipeline(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """End-to-end predict over the bare forward of the same engine."""
    length = STEP * (TILES_ACROSS - 1) + SIDE - 2 * 32
    write_image(folder / "image.tif", height=length, width=length)
    rows: dict[str, Any] = {}
    for name, arguments in MODELS.items():
        if options.network and name not in options.network:
            continue
        model = make_model(*arguments)
        context = make_context(
            model,
            tiles=TILES_ACROSS**2,
            engine=EngineSettings(options.engine, options.precision),
            batch_size=options.batch_size,
        )
        scene = Scene((folder / "image.tif",), folder / "map.tif")
        works = {
            "predict": partial(map_scene, scene, context),
            "forward": bare_forward(context.predictor, TILES_ACROSS**2),
        }
        report = map_scene(scene, context)
        times = interleaved(options.rounds, works)
        assert report.tiles == TILES_ACROSS**2
        assert min(report.class_pixels.values()) > 0, report.class_pixels
        shares = [f / p for f, p in zip(times["forward"], times["predict"], strict=True)]
        rows[name] = {
            "tiles": report.tiles,
            "engine": context.predictor.runtime.as_dict(),
            "predict_s": statistics.median(times["predict"]),
            "forward_s": statistics.median(times["forward"]),
            "share_of_forward": statistics.median(shares),
            "stages_s": report.stage_seconds,
        }
        print(
            f"  {name:20} predict {rows[name]['predict_s']:.2f} s, forward {rows[name]['forward_s']:.2f} s, "
            f"forward/predict {rows[name]['share_of_forward']:.1%}; "
            + ", ".join(f"{stage} {spent:.2f}" for stage, spent in report.stage_seconds.items()),
            flush=True,
        )
    return rows


def loop(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Against what one writes in an afternoon: eager fp32, a window per tile, whole-raster float accumulators."""
    length = STEP * (TILES_ACROSS - 1) + SIDE - 2 * 32
    write_image(folder / "image.tif", height=length, width=length)
    model = make_model(*MODELS["DeepLabv3 R50 OS16"])
    network = model.network
    forward_seconds: list[float] = []

    def straightforward() -> None:
        spent = 0.0
        with rasterio.open(folder / "image.tif") as source, torch.inference_mode():
            sums = np.zeros((CLASSES, length, length), np.float32)
            weight = np.zeros((length, length), np.float32)
            starts = [min(k * STEP, length - SIDE) for k in range(TILES_ACROSS)]
            for top in starts:
                for left in starts:
                    pixels = source.read(window=Window(left, top, SIDE, SIDE))
                    valid = source.dataset_mask(window=Window(left, top, SIDE, SIDE)) > 0
                    batch = torch.from_numpy(normalise(pixels, valid, model.card.bands))[None]
                    start = time.perf_counter()
                    logits = network(batch)
                    spent += time.perf_counter() - start
                    full = torch.nn.functional.interpolate(logits, (SIDE, SIDE), mode="bilinear")[0].numpy()
                    sums[:, top : top + SIDE, left : left + SIDE] += full
                    weight[top : top + SIDE, left : left + SIDE] += 1
            classes = (sums / weight).argmax(axis=0).astype(np.uint8)
            profile = source.profile | {"count": 1, "nodata": 255}
        with rasterio.open(folder / "loop.tif", "w", **profile) as mask:
            mask.write(classes, 1)
        forward_seconds.append(spent)

    context = make_context(
        model,
        tiles=TILES_ACROSS**2,
        engine=EngineSettings(options.engine, options.precision),
        batch_size=options.batch_size,
    )
    scene = Scene((folder / "image.tif",), folder / "map.tif")
    bare = torch.from_numpy(normalise(*image_part(SIDE, SIDE, seed=2), model.card.bands))[None]

    def bare_eager() -> None:
        with torch.inference_mode():
            for _ in range(TILES_ACROSS**2):
                network(bare)

    straightforward()
    forward_seconds.clear()
    times = interleaved(
        options.rounds,
        {"loop": straightforward, "predict": lambda: map_scene(scene, context), "eager": bare_eager},
    )
    ratios = [a / b for a, b in zip(times["loop"], times["predict"], strict=True)]
    row = {
        "model": "DeepLabv3 R50 OS16",
        "engine": context.predictor.runtime.as_dict(),
        "loop_s": statistics.median(times["loop"]),
        "predict_s": statistics.median(times["predict"]),
        "times_faster": statistics.median(ratios),
        "loops_share_in_forward": statistics.median(
            f / t for f, t in zip(forward_seconds, times["loop"], strict=True)
        ),
        "loops_forward_over_bare_eager": statistics.median(
            f / t for f, t in zip(forward_seconds, times["eager"], strict=True)
        ),
    }
    print("  " + ", ".join(f"{k} {v:.3f}" for k, v in row.items() if isinstance(v, float)), flush=True)
    return row


def memory(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Peak resident memory above a loaded model's, medians; each figure in a process of its own.

    Whether the reading thread's peak meets the stream's is chance: single runs spread by a tenth.
    """
    rows: dict[str, Any] = {}
    runs = {
        "100,000 px wide": (100_000, 3),
        "30,000 px, 4 rows": (30_000, 4),
        "30,000 px, 40 rows": (30_000, 40),
        "100,000 px wide within 1,500 MiB": (100_000, 3, "--limit-mib", 1500),
    }
    for name, arguments in runs.items():
        script = Path(__file__).with_name("memory_probe.py")
        command = [sys.executable, str(script), str(folder), *map(str, arguments)]
        each = [
            json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
            for _ in range(options.rounds)
        ]
        row = {key: statistics.median(one[key] for one in each) for key in each[0]}
        rows[name] = row | {"all_above_model_mib": [round(one["above_model_mib"]) for one in each]}
        print(
            f"  {name:32} {row['above_model_mib']:.0f} MiB above the loaded model "
            f"{rows[name]['all_above_model_mib']}, peak {row['peak_mib']:.0f} MiB, {row['panels']} panels",
            flush=True,
        )
    few, many = rows["30,000 px, 4 rows"], rows["30,000 px, 40 rows"]
    rows["growth"] = many["above_model_mib"] / few["above_model_mib"] - 1
    print(f"  growth from 4 to 40 rows of tiles {rows['growth']:+.1%}")
    return rows


def empty(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A sparse raster of 66,000² without a measured pixel, through the whole command."""
    del options
    path = folder / "empty.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=66_000, width=66_000, count=3, dtype="uint8", nodata=0, tiled=True,
        blockxsize=512, blockysize=512, compress="deflate", SPARSE_OK=True, BIGTIFF="YES", crs="EPSG:32645",
        transform=rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 3e6),
    ):  # fmt: skip
        pass
    model = make_model(*MODELS["PSPNet R18 OS16"])
    context = make_context(model, tiles=1, engine=EngineSettings(engine="eager"), batch_size=1)
    reports = []
    took = seconds(lambda: reports.append(map_scene(Scene((path,), folder / "empty_map.tif"), context)))
    print(f"  {took:.1f} s, {reports[0].tiles} tiles run, {reports[0].nodata_pixels:,} px nodata", flush=True)
    return {"seconds": took, "tiles_run": reports[0].tiles, "nodata_pixels": reports[0].nodata_pixels}


def agreement(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Argmax of each engine and precision against eager fp32 without folding, on the same tiles."""
    rows: dict[str, Any] = {}
    model, images = _agreement_tiles(options)
    with torch.inference_mode():
        plain = [model.network(torch.from_numpy(image)[None])[0].permute(1, 2, 0).numpy() for image in images]
    wanted = np.stack(plain) + np.asarray(model.card.class_bias, np.float32)
    best = np.sort(wanted, axis=-1)
    margin = best[..., -1] - best[..., -2]
    for engine, precision in product(("eager", "compile"), ("fp32", "bf16")):
        settings = EngineSettings(engine=engine, precision=precision)
        predictor = Predictor(model, settings=settings, batch_size=4, side=SIDE, tiles=10_000)
        logits = np.concatenate([predictor.run(images[k : k + 4]) for k in range(0, len(images), 4)])
        same = logits.argmax(axis=-1) == wanted.argmax(axis=-1)
        clear = margin > 1e-3
        rows[f"{engine} {precision}"] = {
            "ran_as": predictor.runtime.as_dict(),
            "agreement": float(same.mean()),
            "agreement_where_margin_above_0.001": float(same[clear].mean()),
            "differing_cells_with_clear_margin": int((~same & clear).sum()),
            "largest_logit_difference": float(np.abs(logits - wanted).max()),
            "notes": list(predictor.notes),
        }
        print(
            f"  {engine} {precision}: "
            + json.dumps(
                {k: v for k, v in rows[f"{engine} {precision}"].items() if isinstance(v, (int, float))}
            )
        )
    return rows


def _agreement_tiles(options: argparse.Namespace) -> tuple[TrainedModel, Sequence[np.ndarray]]:
    """The trained model and real tiles that the options name, else an untrained DeepLabv3 on texture."""
    if options.model is None:
        model = make_model("deeplabv3", "resnet18", 8)
        return model, [normalise(*image_part(SIDE, SIDE, seed=k), model.card.bands) for k in range(8)]
    model = load_model(options.model)
    images = []
    for path in sorted(Path(options.raster).glob("*.tif"))[:8]:
        with rasterio.open(path) as source:
            pixels = source.read(out_shape=(3, SIDE, SIDE))
        images.append(normalise(pixels, np.ones((SIDE, SIDE), bool), model.card.bands))
    return model, images


ROWS = {"pipeline": pipeline, "loop": loop, "memory": memory, "empty": empty, "agreement": agreement}


def main() -> None:
    """Print the rows, and write them as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--network", nargs="+", choices=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--raster", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": facts()}
    print(json.dumps(result["machine"]))
    for name in options.only:
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            result[name] = ROWS[name](Path(folder), options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
