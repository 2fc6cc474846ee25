"""Peak memory of one streaming prediction above the loaded model's, in a process of its own (see predict.py).

    python tests/speed/memory_probe.py FOLDER WIDTH ROWS_OF_TILES [LIMIT_MIB]

The network is small (its forward pass is not what is measured); six classes, logit stride 8, tiles of 512, step 384.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.windows import Window
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from aerial_seg.bands import Band
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.predictor import Predictor
from aerial_seg.jobs.predict.one_scene import map_scene
from aerial_seg.jobs.predict.scenes import PredictContext, Scene
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.legend import make_legend
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.models.network import Network
from aerial_seg.progress import silent
from aerial_seg.recipe import Recipe
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.plan import tile_shape

SIDE, HALO, OVERLAP, CLASSES = 512, 32, 64, 6


class Small(Network):
    """Averages over its stride, then a 1×1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Conv2d(3, CLASSES, 1)
        self.geometry = ModelGeometry(output_stride=8, logit_stride=8, origin_step=8)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.classify(avg_pool2d(image, 8))
        return logits


def write_raster(path: Path, height: int, width: int) -> None:
    """A tiled deflate GeoTIFF of noise, written row of blocks by row of blocks."""
    random = np.random.default_rng(0)
    with rasterio.Env(GDAL_CACHEMAX=64_000_000), rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=3, dtype="uint8", tiled=True, blockxsize=512,
        blockysize=512, compress="deflate", zlevel=1, crs="EPSG:32645",
        transform=rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 3e6), BIGTIFF="IF_SAFER",
    ) as file:  # fmt: skip
        for top in range(0, height, 512):
            rows = min(512, height - top)
            coarse = random.integers(0, 256, (3, -(-rows // 16), -(-width // 16)), dtype=np.uint8)
            file.write(
                coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :rows, :width],
                window=Window(0, top, width, rows),
            )


def status_mib(field: str) -> float:
    """VmRSS (held now) or VmHWM (the most since `forget_peak`) of this process; Linux only."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """The peak begins anew: importing, compiling and loading are not what is measured."""
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    """Print one JSON line."""
    folder, width, tile_rows = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.manual_seed(0)
    network = Small().eval()
    shape = tile_shape(network.geometry, SIDE, halo=HALO, overlap=OVERLAP)
    height = shape.core + shape.step * (tile_rows - 1)
    path = folder / f"{width}x{height}.tif"
    if not path.exists():
        # In a process of its own: what writing takes is not what predicting takes.
        import multiprocessing

        writer = multiprocessing.get_context("spawn").Process(target=write_raster, args=(path, height, width))
        writer.start()
        writer.join()
    card = ModelCard(
        tool_version="speed", recipe=Recipe(), legend=make_legend({k: f"class {k}" for k in range(CLASSES)}),
        bands=tuple(
            Band(name=n, dtype="uint8", mean=127.0, std=60.0, p2=0.0, p98=255.0) for n in ("red", "green", "blue")
        ),
        gsd=None, class_bias=(0.0,) * CLASSES, iteration=0, validation_miou=None, data_fingerprint="",
    )  # fmt: skip
    model = TrainedModel(network=network, card=card, sha256="0" * 64)
    predictor = Predictor(model, settings=EngineSettings(engine="eager"), batch_size=2, side=SIDE, tiles=100)
    predictor.run([np.zeros((3, SIDE, SIDE), np.float32)] * 2)
    warm = folder / "warm.tif"
    if not warm.exists():
        write_raster(warm, 600, 600)
    settings = PredictSettings(overwrite=True)
    context = PredictContext(model, predictor, shape, settings, silent)
    map_scene(Scene((warm,), folder / "warm_map.tif"), context)
    forget_peak()
    before = status_mib("VmRSS")
    limit = int(sys.argv[4]) * 2**20 if len(sys.argv) > 4 else 64 * 10**9
    limited = replace(context, settings=replace(settings, max_memory=limit))
    report = map_scene(Scene((path,), folder / "map.tif"), limited)
    after = status_mib("VmHWM")
    result = {"width": width, "height": height, "tiles": report.tiles, "panels": report.panels}
    print(json.dumps(result | {"model_mib": before, "peak_mib": after, "above_model_mib": after - before}))


if __name__ == "__main__":
    main()
