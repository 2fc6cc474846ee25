"""What a result is, whatever the machine that makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Protocol

from aerial_seg.crf.blocks import BlockedCrf
from aerial_seg.crf.settings import DenseCrf
from aerial_seg.models.file import TrainedModel
from aerial_seg.tiling.plan import TileShape
from aerial_seg.version import __version__


class SaysResult(Protocol):
    """What settings of a result say of it, whatever else they hold."""

    @property
    def window(self) -> str: ...

    @property
    def blend(self) -> str: ...

    @property
    def tta(self) -> tuple[str, ...]: ...

    @property
    def confidence(self) -> bool: ...

    @property
    def probabilities(self) -> bool: ...

    @property
    def crf(self) -> DenseCrf | None: ...


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

    @classmethod
    def of(cls, settings: SaysResult) -> Definition:
        """Take from settings what the result depends on."""
        return cls(
            window=settings.window,
            blend=settings.blend,
            tta=settings.tta,
            confidence=settings.confidence,
            probabilities=settings.probabilities,
            crf=None if settings.crf is None else BlockedCrf.of(settings.crf),
        )

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
                **_as_dict(self),
                **(more or {}),
            },
        }


@lru_cache(maxsize=2)
def _as_dict(definition: Definition) -> Mapping[str, Any]:
    # Asked of each of thousands of scenes, which have one definition.
    return MappingProxyType(asdict(definition))
