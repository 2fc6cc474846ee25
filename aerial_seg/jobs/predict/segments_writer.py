"""The pieces of one map that are missing, made here, one after the other."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from aerial_seg.inference.device.either import open_stream
from aerial_seg.inference.region import Region, RegionTiles
from aerial_seg.inference.stream import TileCount
from aerial_seg.jobs.predict.memory import choose_panels
from aerial_seg.jobs.predict.piece_writer import PieceWriter
from aerial_seg.jobs.predict.pieces import Piece, PieceLedger, RowBlocks
from aerial_seg.jobs.predict.scenes import OpenScene, PredictContext, Scene
from aerial_seg.progress import ProgressBar
from aerial_seg.stages import StageSeconds


class OwnHands:
    """Make the pieces of maps in this process."""

    def panels(self, opened: OpenScene, context: PredictContext) -> tuple[range, ...]:
        """Cut a map into column panels that keep to the memory limit."""
        return choose_panels(opened.memory_model, context.predictor, context.settings.max_memory)

    def make_all(
        self, scene: Scene, opened: OpenScene, context: PredictContext, ledger: PieceLedger, label: str
    ) -> tuple[StageSeconds, tuple[str, ...]]:
        """Make every piece that is missing."""
        del scene
        maker = PieceMaker(opened, context, ledger)
        maker.make_all(label)
        return maker.stages, ()


class PieceMaker:
    """Make the pieces of one scene that are not done yet, panel by panel."""

    def __init__(self, opened: OpenScene, context: PredictContext, ledger: PieceLedger) -> None:
        self._opened, self._context, self._ledger = opened, context, ledger
        self.stages = StageSeconds()

    def make_all(self, label: str) -> None:
        """Make every piece that is missing; afterwards all are on disk and recorded."""
        todo = [
            (number, self._opened.memory_model.tiles_of(Region(rows.start, panel, rows.stop)))
            for number, panel in enumerate(self._ledger.panels)
            for rows in self._ledger.gaps(number)
        ]
        total = sum(len(region_tiles.part) + region_tiles.blocks for _, region_tiles in todo)
        unit = "tile" if self._opened.memory_model.crf is None else "step"
        with self._context.progress(label, total=total, unit=unit) as bar:
            for number, region_tiles in todo:
                self._make(number, region_tiles, bar)

    def _make(self, number: int, region_tiles: RegionTiles, bar: ProgressBar) -> None:
        made = pieces_of(self._opened, self._context, number, region_tiles, bar, self.stages)
        with PieceWriter(self._keep) as writer, closing(made) as pieces:
            for piece in pieces:
                with self.stages.at("writing"):
                    writer.put(piece)
            with self.stages.at("writing"):
                writer.settle()

    def _keep(self, piece: Piece) -> None:
        """The piece is on the disk and recorded; in the writer's thread."""
        self._ledger.keep(piece)


def pieces_of(
    opened: OpenScene,
    context: PredictContext,
    number: int,
    region_tiles: RegionTiles,
    bar: ProgressBar,
    stages: StageSeconds,
) -> Generator[Piece, None, None]:
    """Yield the pieces of a part of panel `number`, north to south.

    Their layers are views, valid until the next but one. stages: gets the seconds of the stream.
    """
    region, card = region_tiles.region, context.model.card
    blocks = RowBlocks(
        opened.memory_model.layers,
        region.cols,
        first_row=region.first_row,
        stop=region_tiles.kept_rows.stop,
    )
    with open_stream(
        opened.raster,
        opened.source,
        region_tiles,
        context.predictor,
        context.settings.definition,
        bands=card.bands,
        legend=card.legend,
    ) as stream:
        before = TileCount()
        for finished in stream.rows(bar):
            for rows, layers in blocks.push(finished):
                tiles = stream.tiles.run - before.run, stream.tiles.skipped - before.skipped
                before = TileCount(stream.tiles.run, stream.tiles.skipped)
                yield Piece(number, rows, layers, tiles)
        stages.add(stream.stages.seconds)
