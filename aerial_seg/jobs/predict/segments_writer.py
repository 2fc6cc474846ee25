"""Finished rows become pieces: whole rows of blocks, safe on disk, recorded, never made twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.files.journal import Journal, damaged_records
from aerial_seg.geo.raster.covered import BLOCK
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.inference.device.either import open_stream
from aerial_seg.inference.region import Region, RegionTiles
from aerial_seg.inference.stream import FinishedRows, TileCount
from aerial_seg.jobs.predict.piece_writer import PieceWriter
from aerial_seg.jobs.predict.scenes import OpenScene, PredictContext
from aerial_seg.legend import IGNORE
from aerial_seg.outputs.segments import Layer, SegmentStore
from aerial_seg.progress import ProgressBar
from aerial_seg.stages import StageSeconds
from aerial_seg.tiling.values import count_values

Layers = Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A row of blocks of a panel. tiles: how many ran and were skipped for it."""

    panel: int
    rows: range
    layers: Layers
    tiles: tuple[int, int]


class RowBlocks:
    """Collect finished rows of a panel, up to row `stop`, into rows of blocks, in two buffers that take turns."""

    def __init__(self, layers: tuple[Layer, ...], panel: range, *, first_row: int, stop: int) -> None:
        self._buffers, self._others = (
            {layer.name: np.empty((layer.bands, BLOCK, len(panel)), np.uint8) for layer in layers}
            for _ in range(2)
        )
        self._start, self._filled, self._stop = first_row, 0, stop

    def push(self, rows: FinishedRows) -> Iterator[tuple[range, Layers]]:
        """Yield (rows, layers (bands, n, w)) for every complete row of blocks; views, valid until the next but one."""
        if rows.start != self._start + self._filled:
            raise ValueError(f"row {rows.start} does not follow row {self._start + self._filled}")
        count, taken = rows.layers["class"].shape[0], 0
        while taken < count:
            some = min(count - taken, BLOCK - self._filled)
            for name, buffer in self._buffers.items():
                buffer[:, self._filled : self._filled + some] = rows.layers[name][
                    ..., taken : taken + some, :
                ]
            taken, self._filled = taken + some, self._filled + some
            end = self._start + self._filled
            if self._filled == BLOCK or end == self._stop:
                yield (
                    range(self._start, end),
                    {name: buffer[:, : self._filled] for name, buffer in self._buffers.items()},
                )
                self._buffers, self._others = self._others, self._buffers
                self._start, self._filled = end, 0


class PieceMaker:
    """Make the pieces of one scene that are not done yet, panel by panel, and know the counts of all."""

    def __init__(
        self, opened: OpenScene, context: PredictContext, folder: Path, journal: Journal, still: Unchanged
    ) -> None:
        self._opened, self._context, self._journal, self._still = opened, context, journal, still
        self.stages = StageSeconds()
        self.panels = tuple(range(start, stop) for start, stop in journal.job["panels"])
        self._rows = opened.memory_model.extent.rows
        grid, layers = opened.source.grid, opened.memory_model.layers
        self.store = SegmentStore(folder, grid, layers, panels=self.panels, extent=opened.memory_model.extent)
        self._done = self._intact_pieces()
        for number in range(len(self.panels)):
            self.store.discard(number, after=self._next_row(number))

    @property
    def rows_done(self) -> int:
        """Rows that are done in all panels."""
        return min(map(self._next_row, range(len(self.panels)))) - self._rows.start

    def make_all(self, label: str) -> None:
        """Make every piece that is missing; afterwards all are on disk and recorded."""
        panels = range(len(self.panels))
        todo = [(n, self._region_tiles(n)) for n in panels if self._next_row(n) < self._rows.stop]
        total = sum(len(region_tiles.part) + region_tiles.blocks for _, region_tiles in todo)
        unit = "tile" if self._opened.memory_model.crf is None else "step"
        with self._context.progress(label, total=total, unit=unit) as bar:
            for number, region_tiles in todo:
                self._make_panel(number, region_tiles, bar)

    def counts(self) -> dict[int, int]:
        """Count pixels by value of the class layer, over all pieces and what lies outside of them."""
        memory_model = self._opened.memory_model
        outside = memory_model.height * memory_model.width - memory_model.extent.pixels
        total: dict[int, int] = {IGNORE: outside} if outside else {}
        for record in self._done.values():
            for value, pixels in record["counts"].items():
                total[int(value)] = total.get(int(value), 0) + pixels
        return total

    def tiles(self) -> TileCount:
        """Count tiles run and skipped for all pieces and outside of them, those of interrupted runs included."""
        records, memory_model = self._done.values(), self._opened.memory_model
        outside = len(memory_model.plan) - len(memory_model.region_tiles(memory_model.extent.cols).part)
        return TileCount(sum(r["tiles"][0] for r in records), sum(r["tiles"][1] for r in records) + outside)

    def _region_tiles(self, number: int) -> RegionTiles:
        region = Region(self._next_row(number), self.panels[number], self._rows.stop)
        return self._opened.memory_model.tiles_of(region)

    def _make_panel(self, number: int, region_tiles: RegionTiles, bar: ProgressBar) -> None:
        opened, context, stop = self._opened, self._context, self._rows.stop
        blocks = RowBlocks(
            opened.memory_model.layers,
            self.panels[number],
            first_row=region_tiles.region.first_row,
            stop=stop,
        )
        card = context.model.card
        with (
            PieceWriter(self._keep) as writer,
            open_stream(
                opened.raster,
                opened.source,
                region_tiles,
                context.predictor,
                context.settings.definition,
                bands=card.bands,
                legend=card.legend,
            ) as stream,
        ):
            before = TileCount()
            for finished in stream.rows(bar):
                for rows, layers in blocks.push(finished):
                    tiles = stream.tiles.run - before.run, stream.tiles.skipped - before.skipped
                    before = TileCount(stream.tiles.run, stream.tiles.skipped)
                    with self.stages.at("writing"):
                        writer.put(_Piece(number, rows, layers, tiles))
            with self.stages.at("writing"):
                writer.settle()
        self.stages.add(stream.stages.seconds)

    def _keep(self, piece: _Piece) -> None:
        """The piece is on the disk and recorded; in the writer's thread."""
        self._still.check_now_and_then()
        self.store.write(piece.panel, piece.rows, piece.layers)
        record = {
            "panel": piece.panel,
            "rows": [piece.rows.start, piece.rows.stop],
            "counts": _count_values(piece.layers["class"]),
            "tiles": piece.tiles,
        }
        self._journal.add(record)
        self._done[piece.panel, piece.rows.start] = record
        self.store.reduce()

    def _next_row(self, number: int) -> int:
        return max(
            (r["rows"][1] for (panel, _), r in self._done.items() if panel == number),
            default=self._rows.start,
        )

    def _intact_pieces(self) -> dict[tuple[int, int], dict[str, Any]]:
        """Recorded pieces of every panel from the north, up to the first that is missing or damaged."""
        with damaged_records(self._journal.path):
            recorded = {
                (int(r["panel"]), int(r["rows"][0])): _checked(r)
                for r in self._journal.records
                if "panel" in r
            }
        done: dict[tuple[int, int], dict[str, Any]] = {}
        for number in range(len(self.panels)):
            row = self._rows.start
            while (record := recorded.get((number, row))) is not None:
                stop = record["rows"][1]
                if not self.store.intact(number, range(row, stop)):
                    break
                done[number, row] = record
                row = stop
        return done


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    """The record of a piece. Raises ValueError, TypeError or KeyError unless it is one."""
    start, stop = record["rows"]
    numbers = (start, stop, *record["counts"].values(), *map(int, record["counts"]), *record["tiles"])
    if not 0 <= start < stop or not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"rows {record['rows']}")
    return record


def _count_values(classes: NDArray[np.uint8]) -> dict[str, int]:
    """Pixels of classes (1, n, w) by value."""
    return {str(value): int(n) for value, n in enumerate(count_values(classes[0])) if n}
