"""What `predict` costs beside its network: the network here gives one fixed tensor, so that all else remains.

    python tests/speed/host_work.py [--rounds 5] [--side 8192] [--stride 16] [--json FILE]

Noisy uint8 × 3 deflate imagery, tiles of 512 every 384, 6 classes, a warm process. Against reading all blocks of the
raster and writing the same mask with rasterio on as many threads, without overviews: `share` is the throughput of
`predict` over that of this copy. Rounds are interleaved; CPU seconds are of all threads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
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
from predict import CLASSES, SIDE, image_part, make_context
from rasterio.windows import Window

from aerial_seg.bands import Band
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.jobs.predict.one_scene import map_scene
from aerial_seg.jobs.predict.scenes import Scene
from aerial_seg.legend import make_legend
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import Recipe
from aerial_seg.tiling.geometry import ModelGeometry

_BLOCK = 512
_NOISE = 3.0
"""Grey values, of every pixel: what keeps real imagery from compressing away."""


class FixedNetwork(Network):
    """Gives the same smooth logits for every tile, at no cost."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.geometry = ModelGeometry(output_stride=stride, logit_stride=stride, origin_step=stride)
        cells = SIDE // stride
        y, x = torch.meshgrid(*[torch.linspace(0, 6.28, cells)] * 2, indexing="ij")
        waves = [torch.sin(2 * x + k) * torch.cos(y * (1 + k / 3) - k) for k in range(CLASSES)]
        self.logits = torch.nn.Parameter(torch.stack(waves) * 3)
        self._batches: dict[int, torch.Tensor] = {}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """image (N,C,H,W) → the fixed logits (N,K,h,w), laid out as the last convolution of a network leaves them."""
        if len(image) not in self._batches:
            batch = self.logits.expand(len(image), *self.logits.shape)
            self._batches[len(image)] = batch.contiguous(memory_format=torch.channels_last)
        return self._batches[len(image)]


def fixed_model(stride: int) -> TrainedModel:
    """A model around that network."""
    recipe = Recipe.model_validate({"model": {"architecture": "fcn", "encoder": "resnet18"}})
    bands = tuple(
        Band(name=name, dtype="uint8", mean=127.0, std=60.0, p2=0.0, p98=255.0)
        for name in ("red", "green", "blue")
    )
    card = ModelCard(
        tool_version="speed", recipe=recipe, legend=make_legend({k: f"class {k}" for k in range(CLASSES)}),
        bands=bands, gsd=None, class_bias=(0.0,) * CLASSES, iteration=0, validation_miou=None, data_fingerprint="",
    )  # fmt: skip
    return TrainedModel(network=FixedNetwork(stride).eval(), card=card, sha256="0" * 64)


def write_noisy(path: Path, side: int) -> None:
    """A tiled deflate GeoTIFF of texture with noise, pixel-interleaved as cameras' are."""
    random = np.random.default_rng(1)
    with rasterio.open(
        path, "w", driver="GTiff", height=side, width=side, count=3, dtype="uint8", tiled=True, blockxsize=_BLOCK,
        blockysize=_BLOCK, compress="deflate", interleave="pixel", crs="EPSG:32645", num_threads=2,
        transform=rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 3e6),
    ) as file:  # fmt: skip
        for top in range(0, side, _BLOCK):
            image, _ = image_part(min(_BLOCK, side - top), side, seed=top)
            noisy = image + random.normal(0, _NOISE, image.shape).astype(np.float32)
            window = Window(0, top, side, image.shape[1])
            file.write(np.clip(noisy, 0, 255).astype(np.uint8), window=window)


def copy_with_rasterio(source: Path, mask: np.ndarray, target: Path) -> None:
    """All blocks are read, and the mask is written, by GDAL with two threads."""
    with rasterio.open(source, num_threads=2) as raster:
        profile = raster.profile | {"count": 1, "nodata": 255, "num_threads": 2, "interleave": "band"}
        with rasterio.open(target, "w", **profile) as copy:
            for top in range(0, raster.height, _BLOCK):
                window = Window(0, top, raster.width, min(_BLOCK, raster.height - top))
                raster.read(window=window)
                copy.write(mask[top : top + _BLOCK], 1, window=window)


def timed(work: Callable[[], object]) -> tuple[float, float, Any]:
    """(wall-clock seconds, CPU seconds of all threads, what it gave) of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = work()
    return time.perf_counter() - wall, time.process_time() - cpu, made


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Medians of the interleaved rounds."""
    write_noisy(folder / "image.tif", options.side)
    context = make_context(
        fixed_model(options.stride),
        tiles=1,
        engine=EngineSettings("eager", "fp32"),
        batch_size=options.batch_size,
    )
    predict = partial(map_scene, Scene((folder / "image.tif",), folder / "map.tif"), context)
    predict()
    with rasterio.open(folder / "map.tif") as made:
        mask = made.read(1)
    copy = partial(copy_with_rasterio, folder / "image.tif", mask, folder / "copy.tif")
    copy()
    ours, theirs, stages = [], [], []
    for _ in range(options.rounds):
        wall, cpu, report = timed(predict)
        ours.append((wall, cpu))
        stages.append(report.stage_seconds)
        theirs.append(timed(copy)[:2])
    gpx, mpx = options.side**2 / 1e9, options.side**2 / 1e6
    row = {
        "predict_mpx_s": mpx / statistics.median(wall for wall, _ in ours),
        "copy_mpx_s": mpx / statistics.median(wall for wall, _ in theirs),
        "share": statistics.median(b[0] / a[0] for a, b in zip(ours, theirs, strict=True)),
        "predict_cpu_s_per_gpx": statistics.median(cpu for _, cpu in ours) / gpx,
        "copy_cpu_s_per_gpx": statistics.median(cpu for _, cpu in theirs) / gpx,
        "share_of_cpu": statistics.median(b[1] / a[1] for a, b in zip(ours, theirs, strict=True)),
        "stages_s": {name: statistics.median(one[name] for one in stages) for name in stages[0]},
    }
    return row


def main() -> None:
    """Print the row, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    with tempfile.TemporaryDirectory() as folder:
        result = {"machine": facts(), "host work": measure(Path(folder), options)}
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
