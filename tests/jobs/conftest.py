"""Rasters, and networks so small that what they must answer can be computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.io import MemoryFile
from rasterio.transform import from_origin
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from aerial_seg.bands import Band, normalise
from aerial_seg.choices import CarrierName
from aerial_seg.geo.grid_area import GridArea
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.inference.definition import Definition
from aerial_seg.inference.device.either import open_stream
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.predictor import Predictor
from aerial_seg.inference.region import Region, RegionTiles
from aerial_seg.inference.stream import TileCount
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.models.network import Network
from aerial_seg.progress import silent
from aerial_seg.recipe.document import PredictionSettings, Recipe
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.plan import TilePlan, TileShape

NODATA = 7
"""In all bands of an image in memory: not measured."""
MEAN, STD = 100.0, 50.0


class Pointwise(Network):
    """Averages over its stride, then a 1×1 convolution: every cell knows its own pixels only."""

    def __init__(self, *, bands: int, classes: int, stride: int, origin_step: int) -> None:
        super().__init__()
        self.geometry = ModelGeometry(output_stride=stride, logit_stride=stride, origin_step=origin_step)
        self.classify = nn.Conv2d(bands, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,H/s,W/s)."""
        logits: Tensor = self.classify(avg_pool2d(image, self.geometry.logit_stride))
        return logits


class Neighbourly(Network):
    """Two 3×3 convolutions: a receptive field of radius 2 at logit stride 1."""

    def __init__(self, *, bands: int, classes: int, origin_step: int) -> None:
        super().__init__()
        self.geometry = ModelGeometry(output_stride=1, logit_stride=1, origin_step=origin_step)
        self.layers = nn.Sequential(
            nn.Conv2d(bands, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, classes, 3, padding=1)
        )

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,H,W)."""
        logits: Tensor = self.layers(image)
        return logits


def _trained(
    network: Network, *, bands: int, classes: int, gsd: float | None, tile_size: int
) -> TrainedModel:
    card = ModelCard(
        tool_version="test",
        recipe=Recipe(prediction=PredictionSettings(tile_size=tile_size, batch_size=3)),
        legend=make_legend(
            {10 * k: name for k, name in enumerate(("background", "road", "water")[:classes])}
        ),
        bands=tuple(
            Band(name=f"band {b + 1}", dtype="uint8", mean=MEAN, std=STD, p2=0, p98=255) for b in range(bands)
        ),
        gsd=gsd,
        class_bias=(0.0,) * classes,
        iteration=1,
        validation_miou=None,
        data_fingerprint="none",
    )
    return TrainedModel(network=network.eval(), card=card, sha256="0" * 64)


@pytest.fixture(scope="session")
def pointwise() -> Callable[..., TrainedModel]:
    """A pointwise model of 2 bands and 3 classes (pixel values 0, 10, 20) with seeded weights."""

    def make(
        *, stride: int = 1, origin_step: int = 1, gsd: float | None = None, tile_size: int = 32
    ) -> TrainedModel:
        torch.manual_seed(stride)
        network = Pointwise(bands=2, classes=3, stride=stride, origin_step=origin_step)
        return _trained(network, bands=2, classes=3, gsd=gsd, tile_size=tile_size)

    return make


@pytest.fixture(scope="session")
def neighbourly() -> Callable[..., TrainedModel]:
    """A model that looks two pixels around."""

    def make(*, origin_step: int = 1, tile_size: int = 32) -> TrainedModel:
        torch.manual_seed(7)
        network = Neighbourly(bands=2, classes=3, origin_step=origin_step)
        return _trained(network, bands=2, classes=3, gsd=None, tile_size=tile_size)

    return make


@pytest.fixture(scope="session")
def untrained() -> Callable[[str], TrainedModel]:
    """The project's own networks and smp's, untrained, on 2 bands; deep enough that batches could matter."""

    def make(architecture: str) -> TrainedModel:
        torch.manual_seed(3)
        options = {"decoder_channels": [16, 16, 8, 8, 8]} if architecture == "Unet" else {}
        settings = ModelSettings(
            architecture=architecture, head_channels=None if options else 16, options=options
        )
        network = build_network(settings, bands=2, classes=3)
        return _trained(network, bands=2, classes=3, gsd=None, tile_size=96)

    return make


@pytest.fixture(scope="session")
def write_raster() -> Callable[..., Path]:
    """Writes image (C,H,W) as a GeoTIFF in UTM zone 33; `valid` (H,W) becomes its internal mask."""

    def write(
        path: Path | str,
        image: np.ndarray,
        *,
        gsd: float = 1.0,
        crs: str | None = "EPSG:32633",
        corner: tuple[float, float] = (500_000.0, 5_200_000.0),
        nodata: float | None = None,
        valid: np.ndarray | None = None,
        **profile: object,
    ) -> Path:
        count, height, width = image.shape
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                path, "w", driver="GTiff", count=count, height=height, width=width, dtype=image.dtype,
                crs=crs, transform=from_origin(*corner, gsd, gsd), nodata=nodata, **profile,
            ) as file,
        ):  # fmt: skip
            file.write(image)
            if valid is not None:
                file.write_mask(valid)
        return Path(path)

    return write


class Watched(Raster):
    """Remembers which rows were read."""

    def __init__(self, path: str) -> None:
        super().__init__(path, nodata=NODATA, georeferenced=False)
        self.rows_read: set[int] = set()

    def read_into(self, image: np.ndarray, *, top: int, left: int) -> np.ndarray | None:
        """As a Raster."""
        self.rows_read |= set(range(top, top + image.shape[1]))
        return super().read_into(image, top=top, left=left)


@dataclass(frozen=True)
class Streamed:
    """What came out of a stream, and what it took: all layers of the region, tiles, rows of the raster."""

    layers: dict[str, np.ndarray]
    tiles: TileCount
    rows_read: set[int]


@pytest.fixture(scope="session")
def stream_layers() -> Callable[..., Streamed]:
    """`stream_layers(image (2,H,W), model, shape, …)`: the image in memory, row by row through the carrier's stream."""

    def run(
        image: np.ndarray,
        model: TrainedModel,
        shape: TileShape,
        *,
        region: Region | None = None,
        area: GridArea | None = None,
        definition: Definition = Definition(),  # noqa: B008
        batch_size: int = 3,
        carrier: CarrierName = "auto",
    ) -> Streamed:
        count, height, width = image.shape
        region = region or Region(0, range(width))
        plan = TilePlan.of(height=height, width=width, shape=shape)
        region_tiles = RegionTiles(plan, region, height=height, width=width, crf=definition.crf, area=area)
        engine = EngineSettings("eager", "fp32", "cpu", carrier)
        predictor = Predictor(model, settings=engine, batch_size=batch_size, side=shape.side, tiles=1)
        bands, legend = model.card.bands, model.card.legend
        profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": "uint8"}
        with MemoryFile() as memory:
            with memory.open(**profile, blockysize=4) as file:
                file.write(image)
            with (
                Watched(memory.name) as raster,
                open_stream(
                    raster, raster, region_tiles, predictor, definition, bands=bands, legend=legend
                ) as stream,
            ):
                parts: dict[str, list[np.ndarray]] = {}
                following = region.first_row
                for rows in stream.rows(silent("", total=0, unit="")):
                    assert rows.start == following
                    following += len(rows.layers["class"])
                    for name, values in rows.layers.items():
                        parts.setdefault(name, []).append(values.copy())
            assert following == height
        layers = {name: np.concatenate(values, axis=-2) for name, values in parts.items()}
        return Streamed(layers, stream.tiles, raster.rows_read)

    return run


@pytest.fixture(scope="session")
def whole_logits() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """`whole_logits(image, model, ring=0)` → logits (K,H,W) by torch alone, and which pixels are measured.

    The image is mirrored out to the stride, and by a ring.
    """

    def compute(image: np.ndarray, model: TrainedModel, *, ring: int = 0) -> tuple[np.ndarray, np.ndarray]:
        valid = ~(image == NODATA).all(axis=0)
        stride = model.network.geometry.logit_stride
        height, width = valid.shape
        normal = normalise(image, valid, model.card.bands)
        beyond = (0, 0), (ring, ring + -height % stride), (ring, ring + -width % stride)
        with torch.no_grad():
            logits = model.network(torch.from_numpy(np.pad(normal, beyond, mode="symmetric"))[None])
        if stride > 1:
            logits = interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
        return logits[0, :, ring : ring + height, ring : ring + width].numpy(), valid

    return compute


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[TrainedModel], None]:
    """Makes `predict` load this model, whatever file is named."""

    def patch(model: TrainedModel) -> None:
        monkeypatch.setattr("aerial_seg.jobs.predict.plan.load_model", lambda path: model)

    return patch
