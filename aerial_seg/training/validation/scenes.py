"""Validation ground mapped as `predict` maps it: the same tiles, halo, overlap and blending, over whole scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.inference.definition import Definition
from aerial_seg.inference.engines.choose import EngineSettings
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.inference.region import Region, RegionTiles
from aerial_seg.inference.stream import FinishedRows, MaskStream
from aerial_seg.inference.tile_choice import choose_tile
from aerial_seg.models.eight_bits.layers import EightBitLayers
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.models.network import Network
from aerial_seg.progress import silent
from aerial_seg.tiling.plan import TilePlan
from aerial_seg.training.validation.tallies import ChipTally, Count, Tallies, uncounted

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ScenePart:
    """A piece of a scene whose labels count: a chip of the split, or a whole image.

    rows, cols: of the scene. labels: reads them, (h,w) uint8 channels, 255 = unlabelled; they may reach further south
    and east than the part.
    """

    name: str
    rows: range
    cols: range
    labels: Callable[[], Bytes]


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Neighbouring parts that are mapped together."""

    rows: range
    cols: range
    parts: tuple[ScenePart, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """An image that is mapped, and where in it pixels count; what lies around these is seen, not scored.

    opened: gives the raster, in the model's bands and pixel size.
    """

    name: str
    height: int
    width: int
    opened: Callable[[], AbstractContextManager[Raster | ArrayRaster]]
    rectangles: tuple[Rectangle, ...]


def validate_scenes(
    network: Network,
    scenes: Sequence[Scene],
    card: ModelCard,
    *,
    device: torch.device,
    tell: Count = uncounted,
    eight_bits: EightBitLayers | None = None,
) -> Tallies:
    """Map the scenes as `predict` would with this network and card, and count every part's pixels.

    card: without a class bias, so that any threshold can be scored; tile size, halo, overlap and batch size are the
    ones that it asks for. The map is the one that `predict` writes by the eager engine: to the bit without a
    calibrated threshold, and with one wherever the logits are not as close to it as rounding. tell: is told at each few
    rows how many parts are done. The network is left in the mode it came in. eight_bits: of a model of such weights,
    which are run as `predict` runs them.
    """
    model = TrainedModel(network=network, card=card, sha256="", eight_bits=eight_bits)
    shape, _ = choose_tile(Ensemble((model,)), tile_size=None, halo=None, overlap=None)
    predictor = Ensemble((model,)).predictor(
        settings=EngineSettings("eager" if eight_bits is None else "auto", "auto", str(device), "host"),
        batch_size=card.prediction.batch_size,
        side=shape.side,
        tiles=1,
    )
    chips: list[ChipTally] = []
    total = sum(len(one.parts) for scene in scenes for one in scene.rectangles)
    for scene in scenes:
        plan = TilePlan.of(height=scene.height, width=scene.width, shape=shape)
        with scene.opened() as raster:
            for one in scene.rectangles:
                region = Region(one.rows.start, one.cols, one.rows.stop)
                tiles = RegionTiles(plan, region, height=scene.height, width=scene.width)
                tally = _RectangleTally(one, card)
                with MaskStream(
                    raster,
                    raster,
                    tiles,
                    predictor,
                    Definition(),
                    bands=card.bands,
                    legend=card.legend,
                    margin=len(card.legend) == 2,
                ) as stream:
                    for rows in stream.rows(silent("", total=0, unit="tile")):
                        tally.add(rows)
                        tell(len(chips) + tally.done, total)
                chips += tally.chips
    return Tallies(tuple(chips), len(card.legend))


class _RectangleTally:
    """Counts finished rows of a rectangle, part by part; holds the labels of the parts that the last rows touched."""

    def __init__(self, rectangle: Rectangle, card: ModelCard) -> None:
        self._rectangle, self._channels = rectangle, card.legend.channel_table()
        self._tallies = [ChipTally(part.name, len(card.legend)) for part in rectangle.parts]
        self._labels: dict[int, Bytes] = {}
        self._reached = 0

    @property
    def done(self) -> int:
        """How many parts lie north of the rows to come."""
        return sum(part.rows.stop <= self._reached for part in self._rectangle.parts)

    @property
    def chips(self) -> list[ChipTally]:
        """The parts' counts, in their order."""
        return self._tallies

    def add(self, rows: FinishedRows) -> None:
        """Count rows that follow those before."""
        said = self._channels[rows.layers["class"]]
        margins = None if rows.margin is None else np.where(said == 1, rows.margin, -rows.margin)
        there = range(rows.start, rows.start + len(said))
        self._reached = there.stop
        for k, part in self._touched(there):
            both = range(max(there.start, part.rows.start), min(there.stop, part.rows.stop))
            left = self._rectangle.cols.start
            window = (
                slice(both.start - there.start, both.stop - there.start),
                slice(part.cols.start - left, part.cols.stop - left),
            )
            labels = self._labels[k][
                both.start - part.rows.start : both.stop - part.rows.start, : len(part.cols)
            ]
            self._tallies[k].add(labels, said[window], None if margins is None else margins[window])

    def _touched(self, there: range) -> Iterator[tuple[int, ScenePart]]:
        """The parts with some of these rows; their labels are held, others' are not."""
        for k, part in enumerate(self._rectangle.parts):
            if part.rows.start < there.stop and there.start < part.rows.stop:
                if k not in self._labels:
                    self._labels[k] = part.labels()
                yield k, part
            else:
                self._labels.pop(k, None)
