"""What `predict` spends on each of thousands of scenes before its first tile is read, and what it holds of them.

    python tests/speed/many_scenes.py [--scenes 5000] [--side 64] [--run 300]

Writes so many tiny rasters to a temporary folder. Prints the CPU milliseconds a scene of looking at all of them
(model loading excluded), of opening one until its stream starts, and their sum; then resident memory and open handles
after the first tenth and after the last of `--run` scenes that are mapped for good. To be run alone on a machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rasterio
import torch
from machine import facts
from rasterio.transform import from_origin

from aerial_seg.bands import Band
from aerial_seg.inference.stream import MaskStream
from aerial_seg.jobs.predict import many_scenes
from aerial_seg.jobs.predict.plan import PredictRequest, make_plan
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, save_model
from aerial_seg.progress import silent
from aerial_seg.recipe.document import PredictionSettings, Recipe
from aerial_seg.recipe.model import ModelSettings


def write_model(path: Path, *, tile_size: int = 64, bands: int = 3) -> Path:
    """An untrained network, as small as they come."""
    torch.manual_seed(0)
    network = ModelSettings(architecture="fcn", head_channels=8, output_stride=16, auxiliary=False)
    card = ModelCard(
        tool_version="speed",
        recipe=Recipe(model=network, prediction=PredictionSettings(tile_size=tile_size, batch_size=1)),
        legend=make_legend({0: "background", 1: "road"}),
        bands=tuple(
            Band(name=f"band {b + 1}", dtype="uint8", mean=100.0, std=50.0, p2=0, p98=255) for b in range(bands)
        ),
        gsd=1.0, class_bias=(0.0, 0.0), iteration=0, validation_miou=None, data_fingerprint="",
    )  # fmt: skip
    save_model(build_network(network, bands=bands, classes=2).state_dict(), card, path)
    return path


def write_scenes(folder: Path, count: int, side: int) -> list[str]:
    """Rasters of noise, side by side."""
    image = np.random.default_rng(0).integers(1, 255, (3, side, side), dtype=np.uint8)
    paths = [folder / f"s{k:05d}.tif" for k in range(count)]
    for k, path in enumerate(paths):
        place = from_origin(5e5 + side * k, 5.2e6, 1, 1)
        with rasterio.open(
            path, "w", driver="GTiff", count=3, height=side, width=side, dtype="uint8",
            crs="EPSG:32633", transform=place,
        ) as file:  # fmt: skip
            file.write(image)
    return [str(path) for path in paths]


def held() -> dict[str, float]:
    """Resident memory in MiB and open handles."""
    process = psutil.Process()
    return {"rss_mib": process.memory_info().rss / 2**20, "handles": process.num_fds()}


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=5000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--run", type=int, default=300)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    settings = PredictSettings(engine="eager", precision="fp32")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, out = write_model(folder / "m.safetensors"), folder / "masks"
        (folder / "in").mkdir()
        paths = write_scenes(folder / "in", asked.scenes, asked.side)
        alone_asked = PredictRequest.of(model, paths[:1], folder / "one.tif", settings)
        make_plan(alone_asked, out)
        start = time.process_time()
        make_plan(alone_asked, out)
        alone = time.process_time() - start
        start = time.process_time()
        plan = make_plan(PredictRequest.of(model, paths, out, settings), out)
        looking = (time.process_time() - start - alone) / asked.scenes * 1e3

        began = 0.0
        opening: list[float] = []
        after: dict[int, dict[str, float]] = {}
        outcome, rows = many_scenes._outcome, MaskStream.rows

        def timed_outcome(*args: Any) -> many_scenes.SceneOutcome:
            nonlocal began
            began = time.process_time()
            told = outcome(*args)
            after[len(opening)] = held()
            return told

        def timed_rows(stream: MaskStream, bar: Any) -> Any:
            opening.append(time.process_time() - began)
            yield from rows(stream, bar)

        many_scenes._outcome, MaskStream.rows = timed_outcome, timed_rows  # type: ignore[method-assign]
        many_scenes.map_many_scenes(plan.scenes[: asked.run], plan.refused, plan.start(silent), out)
    own = float(np.mean(opening[3:])) * 1e3
    tenth = max(1, asked.run // 10)
    print(
        json.dumps(
            {"scenes": asked.scenes, "looking_ms": looking, "opening_ms": own, "sum_ms": looking + own}
            | {"after_a_tenth": after[tenth], "at_the_end": after[len(opening)], "machine": facts()}
        )
    )


if __name__ == "__main__":
    main()
