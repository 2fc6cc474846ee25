"""What a call of a Segmenter costs beside the bare forward: CPU seconds, medians of interleaved rounds.

    python tests/speed/segmenter.py [--rounds 9] [--side 400] [--large 4000] [--architecture fcn]

small: one tile holds the image, batch size 1; the bare forward runs the same prepared network on the same tile, already
in memory. large: many tiles of an image in memory, beside the same number of bare batches; and what the process held at
the most beyond the image. Model loading is excluded. CPU seconds are those of all threads.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from machine import facts

from aerial_seg.bands import Band
from aerial_seg.files.operating_system import peak_while
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.segmenter import Segmenter
from aerial_seg.inference.settings import SegmentSettings
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.recipe.document import PredictionSettings, Recipe
from aerial_seg.recipe.model import ModelSettings

TILE = 512


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--side", type=int, default=400)
    parser.add_argument("--large", type=int, default=4000)
    parser.add_argument("--architecture", default="fcn")
    options = parser.parse_args()
    print(json.dumps({"machine": facts(), "small": small(options), "large": large(options)}, indent=2))


def small(options: argparse.Namespace) -> dict[str, object]:
    """Milliseconds of CPU time per call, and what a call adds to the bare forward."""
    one = segmenter(options.architecture, batch_size=1)
    image = noise(options.side)
    tile = [np.zeros((3, TILE, TILE), np.float32)]
    works: dict[str, Callable[[], object]] = {
        "bare forward": lambda: one._predictor.run(tile),
        "segmenter": lambda: one(image),
    }
    medians = interleaved(options.rounds, works)
    return {
        "side": options.side,
        "ms": {name: 1000 * seconds for name, seconds in medians.items()},
        "overhead ms": 1000 * (medians["segmenter"] - medians["bare forward"]),
        "ratio": medians["segmenter"] / medians["bare forward"],
    }


def large(options: argparse.Namespace) -> dict[str, object]:
    """Seconds of CPU time for all tiles, to bare batches as many; bytes held beyond the image."""
    one = segmenter(options.architecture, batch_size=4)
    image = noise(options.large)
    step = 384
    tiles = (-(-(options.large - 448) // step) + 1) ** 2
    batch = [np.zeros((3, TILE, TILE), np.float32)] * 4

    def bare() -> None:
        for _ in range(-(-tiles // 4)):
            one._predictor.run(batch)

    medians = interleaved(
        max(1, options.rounds // 4), {"bare forward": bare, "segmenter": lambda: one(image)}
    )
    forward = peak_while(lambda: one._predictor.run(batch))
    return {
        "side": options.large,
        "tiles": tiles,
        "s": medians,
        "ratio (bar 1.10)": medians["segmenter"] / medians["bare forward"],
        "MB beyond the image and one forward": (peak_while(lambda: one(image)) - forward) / 1e6,
        "MB of the image": image.nbytes / 1e6,
    }


def interleaved(rounds: int, works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median CPU seconds by name; every work runs once before."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for round_number in range(rounds + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            if round_number:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(seen) for name, seen in times.items()}


def noise(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, side, side), dtype=np.uint8)


def segmenter(architecture: str, *, batch_size: int) -> Segmenter:
    torch.manual_seed(0)
    card = ModelCard(
        tool_version="speed",
        recipe=Recipe(prediction=PredictionSettings(tile_size=TILE, batch_size=batch_size)),
        legend=make_legend({0: "background", 1: "road", 2: "building"}, background=[0]),
        bands=tuple(
            Band(name=name, dtype="uint8", mean=120, std=60, p2=5, p98=250)
            for name in ("red", "green", "blue")
        ),
        gsd=None,
        class_bias=(0.0, 0.0, 0.0),
        iteration=1,
        validation_miou=None,
        data_fingerprint="none",
    )
    network = build_network(ModelSettings(architecture=architecture, encoder="resnet18"), bands=3, classes=3)
    model = TrainedModel(network.eval(), card, "0" * 64)
    return Segmenter(
        Ensemble((model,)), SegmentSettings(), EngineSettings("eager", "fp32", "cpu"), batch_size=batch_size
    )


if __name__ == "__main__":
    main()
