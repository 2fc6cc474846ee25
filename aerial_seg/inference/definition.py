"""What a result is, whatever the machine that makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aerial_seg.crf.blocks import BlockedCrf
from aerial_seg.models.file import TrainedModel
from aerial_seg.tiling.plan import TileShape
from aerial_seg.version import __version__


@dataclass(frozen=True, slots=True)
class Definition:
    """Say what the result is, whatever the machine: how tiles are run, weighted and blended, which layers are wanted.

    crf: the field that the network's probabilities go through on the raster's own grid, and its blocks.
    """

    window: str = "linear"
    blend: str = "logits"
    tta: tuple[str, ...] = ()
    confidence: bool = False
    probabilities: bool = False
    crf: BlockedCrf | None = None

    @property
    def softmaxed(self) -> bool:
        """Tell whether cells hold probabilities, not logits."""
        return self.blend == "probabilities"

    def facts(
        self,
        model: TrainedModel,
        shape: TileShape,
        *,
        sources: Sequence[str],
        nodata: float | None,
        more: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """What the result is, as its files tell; no times and no execution settings: equal work gives equal bytes.

        sources: the rasters' public names. more: further parameters, of runs that have them.
        """
        return {
            "version": __version__,
            "model_sha256": model.sha256,
            "sources": list(sources),
            "model_gsd": model.card.gsd,
            "parameters": {
                "tile_size": shape.side,
                "halo": shape.halo,
                "overlap": shape.overlap,
                "nodata": nodata,
                "class_bias": model.card.class_bias,
                **asdict(self),
                **(more or {}),
            },
        }
