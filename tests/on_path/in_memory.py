"""Images in memory and a Segmenter for them, for the tests of models in memory."""

from __future__ import annotations

import numpy as np

from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.segmenter import Segmenter
from aerial_seg.inference.settings import SegmentSettings
from aerial_seg.models.file import TrainedModel

NODATA = 7


def noise(seed: int, height: int, width: int) -> np.ndarray:
    """Two bands of smooth-ish noise with a patch of nodata."""
    random = np.random.default_rng(seed)
    coarse = random.integers(NODATA + 1, 256, (2, -(-height // 3), -(-width // 3)), dtype=np.uint8)
    image = coarse.repeat(3, axis=1).repeat(3, axis=2)[:, :height, :width].copy()
    top, left = random.integers(0, height), random.integers(0, width)
    image[:, top : top + height // 3, left : left + width // 3] = NODATA
    return image


def segmenter(
    model: TrainedModel, wanted: SegmentSettings | None = None, *, batch_size: int | None = None
) -> Segmenter:
    """One whose bits no other engine, precision or device can change."""
    engine = EngineSettings("eager", "fp32", "cpu")
    return Segmenter(Ensemble((model,)), wanted or SegmentSettings(), engine, batch_size=batch_size)
