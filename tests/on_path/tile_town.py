"""A drawn town to cut, and `tile` with the settings of these tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
from affine import Affine

from aerial_seg.jobs.tile.job import TileReport, tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.settings import LabelSettings

if TYPE_CHECKING:
    pass


X, Y = 300_000.0, 3_060_000.0
HEIGHT, WIDTH, CHIP = 100, 140, 20
SETTINGS = TileSettings(chip_size=CHIP, labels=LabelSettings(class_field="kind"))


def scene(height: int = HEIGHT, width: int = WIDTH, bands: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, (bands, height, width)).astype("uint8")


def at(east: float, south: float, pixel: float = 0.5) -> Affine:
    return Affine(pixel, 0, X + east, 0, -pixel, Y - south)


def run(rasters: list[Path], labels: Path, settings: TileSettings = SETTINGS) -> TileReport:
    return tile([str(path) for path in rasters], [str(labels)], labels.parent / "out" / "set", settings)


def index(report: TileReport) -> Any:
    return geopandas.read_file(report.dataset / "chips.gpkg")
