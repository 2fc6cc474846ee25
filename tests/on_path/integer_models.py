"""Trained models whose logits are whole numbers, of any logit stride: every way to compute them gives the same bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aerial_seg.bands import Band
from aerial_seg.legend import make_legend
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import PredictionSettings, Recipe
from aerial_seg.tiling.geometry import ModelGeometry


class WholeNumbers(Network):
    """Rounds a 3×3 convolution, and looks at one pixel per cell."""

    def __init__(self, geometry: ModelGeometry, *, bands: int, classes: int, times: float) -> None:
        super().__init__()
        self.geometry, self._times = geometry, times
        self.classify = nn.Conv2d(bands, classes, 3, padding=1, padding_mode="replicate")

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,h,w)."""
        stride = self.geometry.logit_stride
        is_odd = self.geometry.align_corners or self.geometry.stretched_side is not None
        first = 0 if is_odd else stride // 2
        logits: Tensor = self.classify(image)[:, :, first::stride, first::stride]
        return torch.round(logits * self._times)


def whole_numbers(
    stride: int = 8,
    *,
    align_corners: bool = False,
    dtypes: Sequence[str] = ("uint8", "uint8"),
    classes: int = 3,
    step: int | None = None,
    seed: int = 0,
    times: float = 4.0,
    gsd: float | None = None,
    tile_size: int = 32,
    values: Sequence[int] | None = None,
    means: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    stretched_side: int | None = None,
) -> TrainedModel:
    """A model with such a network. times: of its logits; values: of its classes; means, names: of its bands.

    stretched_side: of the crops over which its cells were stretched; what is read between them is no whole number.
    """
    torch.manual_seed(seed)
    geometry = ModelGeometry(
        output_stride=stride,
        logit_stride=stride,
        origin_step=step or stride,
        align_corners=align_corners,
        stretched_side=stretched_side,
    )
    network = WholeNumbers(geometry, bands=len(dtypes), classes=classes, times=times)
    card = ModelCard(
        tool_version="test",
        recipe=Recipe(prediction=PredictionSettings(tile_size=tile_size, batch_size=3)),
        legend=make_legend({value: f"class {value}" for value in list(values or range(classes))[:classes]}),
        bands=tuple(
            Band(
                name=names[number] if names else f"band {number + 1}",
                dtype=dtype,
                mean=means[number] if means else 100.0 + number,
                std=50.0 - number,
                p2=0,
                p98=255,
            )
            for number, dtype in enumerate(dtypes)
        ),
        gsd=gsd,
        class_bias=tuple(float(k % 2) for k in range(classes)),
        iteration=1,
        validation_miou=None,
        data_fingerprint="none",
    )
    return TrainedModel(network=network.eval(), card=card, sha256=f"{seed:064}")
