"""What the device's stream holds there, measured tensor by tensor, against what is reckoned before a run."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from affine import Affine
from integer_models import whole_numbers
from pyproj import CRS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.inference.definition import Definition
from aerial_seg.inference.device.either import open_stream
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.memory import device_stream_bytes
from aerial_seg.inference.predictor import Predictor
from aerial_seg.inference.region import Region, RegionTiles
from aerial_seg.progress import silent
from aerial_seg.tiling.plan import TilePlan, tile_shape


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside and still there, and their most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = call(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._count, made)
        return made

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def measured_and_reckoned(width: int, classes: int) -> tuple[int, int]:
    model = whole_numbers(8, classes=classes, tile_size=128)
    shape = tile_shape(model.network.geometry, 128)
    height = 500
    region_tiles = RegionTiles(
        TilePlan.of(height=height, width=width, shape=shape),
        Region(0, range(width)),
        height=height,
        width=width,
    )
    predictor = Predictor(
        model, settings=EngineSettings("eager", "fp32", "cpu", "device"), batch_size=2, side=128, tiles=1
    )
    image = np.broadcast_to(np.arange(width, dtype=np.uint8), (2, height, width)) | 8
    raster = ArrayRaster(image, grid=Grid(CRS(32633), Affine(1, 0, 0, 0, -1, 0), height, width), nodata=7)
    card = model.card
    with (
        Live() as live,
        open_stream(
            raster, raster, region_tiles, predictor, Definition(), bands=card.bands, legend=card.legend
        ) as stream,
    ):
        for _ in stream.rows(silent("", total=0, unit="")):
            pass
    reckoned = device_stream_bytes(
        region_tiles, pixel=2, planes=2, classes=classes, layers=1, batch_size=2, side=128, on_gpu=False
    )
    return live.most, reckoned


def test_memory_on_the_device_grows_no_faster_than_reckoned() -> None:
    for classes in (3, 40):
        (low, low_reckoned), (high, high_reckoned) = (
            measured_and_reckoned(width, classes) for width in (1000, 9000)
        )
        assert low < low_reckoned
        assert high < high_reckoned
        growth, reckoned = high - low, high_reckoned - low_reckoned
        assert growth < reckoned < 4 * growth, (classes, growth, reckoned)
