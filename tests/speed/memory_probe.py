"""Peak memory of one streaming prediction above the loaded model's, in a process of its own (see predict.py).

    python tests/speed/memory_probe.py FOLDER WIDTH ROWS_OF_TILES [--limit-mib N] [--device cuda] [--carrier device]

The network is small (its forward pass is not what is measured), or one of predict.py's by name; six classes, logit
stride 8, tiles of 512, step 384. On a GPU the most that torch held there is told, too.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
import torch
from predict import MODELS, make_model
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
from aerial_seg.recipe.document import Recipe
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("width", type=int)
    parser.add_argument("tile_rows", type=int)
    parser.add_argument("--limit-mib", type=int, default=60_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--carrier", default="auto")
    parser.add_argument("--network", choices=MODELS)
    parser.add_argument("--batch-size", type=int, default=2)
    options = parser.parse_args()
    folder, width, tile_rows = options.folder, options.width, options.tile_rows
    torch.manual_seed(0)
    network = make_model(*MODELS[options.network]).network if options.network else Small().eval()
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
    engine = EngineSettings(engine="eager", device=options.device, carrier=options.carrier)
    predictor = Predictor(model, settings=engine, batch_size=options.batch_size, side=SIDE, tiles=100)
    predictor.run([np.zeros((3, SIDE, SIDE), np.float32)] * options.batch_size)
    warm = folder / "warm.tif"
    if not warm.exists():
        write_raster(warm, 600, 600)
    settings = PredictSettings(overwrite=True)
    context = PredictContext(model, predictor, shape, settings, silent)
    map_scene(Scene((warm,), folder / "warm_map.tif"), context)
    forget_peak()
    before = status_mib("VmRSS")
    limited = replace(context, settings=replace(settings, max_memory=options.limit_mib * 2**20))
    on_gpu = options.device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    report = map_scene(Scene((path,), folder / "map.tif"), limited)
    after = status_mib("VmHWM")
    held = {"device_mib": torch.cuda.max_memory_reserved() / 2**20} if on_gpu else {}
    result = {"width": width, "height": height, "tiles": report.tiles, "panels": report.panels}
    print(
        json.dumps(
            result | held | {"model_mib": before, "peak_mib": after, "above_model_mib": after - before}
        )
    )


if __name__ == "__main__":
    main()
