"""A straightforward loop over tiles, and what 8 bits are worth beside it: the rows loop and int8 of ../predict.py."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.windows import Window

from aerial_seg.bands import normalise
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.engines.prepare import prepare_network
from aerial_seg.jobs.predict.one_scene import map_scene
from aerial_seg.jobs.predict.scenes import Scene
from aerial_seg.models.eight_bits.calibrate import calibrate
from aerial_seg.models.eight_bits.layers import give_biases
from aerial_seg.models.file import TrainedModel

SIDE, STEP = 512, 384
BARS = {"loop_over_int8": 5.0, "bf16_over_int8": 1.6, "share_of_forward": 0.85}
CALIBRATED = 2
"""Images of 256 px: enough for untrained weights, whose work does not depend on how well they are rounded."""


def plain_loop(folder: Path, model: TrainedModel, *, length: int, across: int) -> Callable[[], float]:
    """What one writes in an afternoon: eager fp32, a window per tile, whole-raster float accumulators.

    What it returns maps folder/image.tif, and gives the seconds that its forwards took.
    """
    network, classes = model.network, len(model.card.legend)

    def run() -> float:
        spent = 0.0
        with rasterio.open(folder / "image.tif") as source, torch.inference_mode():
            sums = np.zeros((classes, length, length), np.float32)
            weight = np.zeros((length, length), np.float32)
            starts = [min(k * STEP, length - SIDE) for k in range(across)]
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
            mask = (sums / weight).argmax(axis=0).astype(np.uint8)
            profile = source.profile | {"count": 1, "nodata": 255}
        with rasterio.open(folder / "loop.tif", "w", **profile) as file:
            file.write(mask, 1)
        return spent

    return run


def of_8_bits(source: TrainedModel, images: list[np.ndarray]) -> TrainedModel:
    """The model with all its convolutions of 8 bits."""
    batches = [torch.from_numpy(image)[None] for image in images]
    network, _ = prepare_network(
        source.network, torch.device("cpu"), precision="fp32", example=lambda: batches[0]
    )
    give_biases(network)
    network.requires_grad_(False)
    calibrated = calibrate(network, batches, tell=lambda: None)
    made = calibrated.rounded(network, list(calibrated.errors))  # type: ignore[arg-type]
    return TrainedModel(made.network, source.card, source.sha256, (), made.layers)


def int8(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Whole predict of 8-bit weights against the loop, compiled bf16 and its own bare forward; bars beside them."""
    import predict as script

    across = script.TILES_ACROSS
    length = STEP * (across - 1) + SIDE - 2 * 32
    script.write_image(folder / "image.tif", height=length, width=length)
    model = script.make_model(*script.MODELS["DeepLabv3 R50 OS16"])
    images = [
        normalise(*script.image_part(SIDE // 2, SIDE // 2, seed=k), model.card.bands)
        for k in range(CALIBRATED)
    ]
    tiles, size = across**2, options.batch_size
    contexts = {
        "int8": script.make_context(
            of_8_bits(model, images), tiles=tiles, engine=EngineSettings(), batch_size=size
        ),
        "bf16": script.make_context(
            model, tiles=tiles, engine=EngineSettings("compile", "bf16"), batch_size=size
        ),
    }
    runtimes = {name: one.predictor.runtime for name, one in contexts.items()}
    got = {name: (one.engine, one.precision) for name, one in runtimes.items()}
    wanted = {"int8": ("openvino", "int8"), "bf16": ("compile", "bf16")}
    assert got == wanted, (got, contexts["int8"].predictor.notes, contexts["bf16"].predictor.notes)
    scenes = {name: Scene((folder / "image.tif",), folder / f"{name}.tif") for name in contexts}
    works: dict[str, Callable[[], object]] = {
        "loop": plain_loop(folder, model, length=length, across=across),
        "int8": lambda: map_scene(scenes["int8"], contexts["int8"]),
        "bf16": lambda: map_scene(scenes["bf16"], contexts["bf16"]),
        "forward": script.bare_forward(contexts["int8"].predictor, tiles),
    }
    for work in (works["int8"], works["bf16"]):
        work()
    times = script.interleaved(options.rounds, works)

    def ratio(over: str, under: str) -> float:
        return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))

    row: dict[str, Any] = {
        "loop_over_int8": ratio("loop", "int8"),
        "bf16_over_int8": ratio("bf16", "int8"),
        "share_of_forward": ratio("forward", "int8"),
        **{f"{name}_s": statistics.median(taken) for name, taken in times.items()},
        "engine": runtimes["int8"].as_dict(),
        "bars": BARS,
    }
    print("  " + ", ".join(f"{k} {v:.3f}" for k, v in row.items() if isinstance(v, float)), flush=True)
    print(
        "  " + ", ".join(f"{k} {'met' if row[k] >= bar else 'missed'} ({bar:g})" for k, bar in BARS.items())
    )
    return row
