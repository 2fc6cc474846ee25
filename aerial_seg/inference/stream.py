"""The streaming core of predict: read a swath, run its tiles, blend, finish rows, hand them on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from aerial_seg.bands import Band
from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.statistics import Readable
from aerial_seg.geo.raster.swath import row_reader
from aerial_seg.inference.crf_rows import CrfRows
from aerial_seg.inference.definition import Definition
from aerial_seg.inference.predictor import TilePredictor
from aerial_seg.inference.region import RegionTiles
from aerial_seg.inference.tile_input import HostBatch, TileCutter
from aerial_seg.inference.tta import UPSIDE_DOWN, averaged, seen_as
from aerial_seg.inference.valid_rows import RememberedRows, RereadRows, RowsWithin, ValidRows
from aerial_seg.legend import Legend
from aerial_seg.models.pending import Pending
from aerial_seg.progress import ProgressBar
from aerial_seg.stages import StageSeconds
from aerial_seg.tiling.cut import Planes
from aerial_seg.tiling.plan import Tile
from aerial_seg.tiling.stitch import SwathStitcher
from aerial_seg.tiling.upsample import PixelRows, RowUpsampler, softmax_cells
from aerial_seg.tiling.values import put_values

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FinishedRows:
    """Hold rows `start`… of the output: class (n, w), confidence (n, w), probabilities (K, n, w), 255 = nodata.

    margin (n, w) float32: by how much the largest logit exceeds the second, where a stream was asked for it.
    """

    start: int
    layers: Mapping[str, Bytes]
    margin: Floats | None = None


@dataclass(slots=True)
class TileCount:
    """Count tiles that ran, and that were skipped: nothing in them was measured, or they lie off the area."""

    run: int = 0
    skipped: int = 0


class MaskStream:
    """Turn one region's pixels into finished rows; memory is one swath, whatever the raster's height.

    stages: seconds that reading, cutting, the network and stitching took, or were waited for. raster: read on the run's
    grid. source: the raster on the output's grid, which cuts the same ground; needed only
    where the two grids differ. margin: rows also tell how far the winning class is ahead. Use as a context manager.
    """

    def __init__(
        self,
        raster: Raster | ArrayRaster,
        source: Readable,
        region_tiles: RegionTiles,
        predictor: TilePredictor,
        definition: Definition,
        *,
        bands: tuple[Band, ...],
        legend: Legend,
        margin: bool = False,
    ) -> None:
        self._raster, self._region_tiles, self._predictor, self._bands = (
            raster,
            region_tiles,
            predictor,
            bands,
        )
        self._definition = definition
        self._shape = region_tiles.part.plan.shape
        self._reader = row_reader(
            raster, region_tiles.reading, swath=region_tiles.swath, ahead=self._shape.step
        )
        self._crf = self._crf_rows(source, legend)
        self._remembered, self._valid = self._kept_rows(source)
        self._stitcher = SwathStitcher(region_tiles.part, classes=len(legend), window=definition.window)
        self._upsampler = RowUpsampler(
            region_tiles.rows,
            region_tiles.cols,
            confidence=definition.confidence,
            probabilities=definition.probabilities,
            margin=margin,
            softmaxed=definition.softmaxed,
        )
        self._values = legend.value_table()
        self._are_values = np.array_equal(self._values[: len(legend)], np.arange(len(legend)))
        # No network has learnt the ground as in a mirror.
        submit = seen_as(predictor.submit, UPSIDE_DOWN) if raster.grid.is_mirrored else predictor.submit
        self._submit = averaged(submit, definition.tta, geometry=self._shape.geometry, side=self._shape.side)
        self._cutter = TileCutter(self._reader, region_tiles.part.plan, Planes.of(predictor.inputs))
        self._waiting: list[Tile] = []
        self._batch: HostBatch | None = None
        self._flying: deque[tuple[list[Tile], Pending]] = deque()
        self.tiles, self.stages = TileCount(), StageSeconds()

    def _crf_rows(self, source: Readable, legend: Legend) -> CrfRows | None:
        if self._region_tiles.crf != self._definition.crf:
            raise ValueError(
                f"the region is for {self._region_tiles.crf}, the result for {self._definition.crf}"
            )
        if self._region_tiles.crf is None:
            return None
        return CrfRows(source, self._region_tiles, self._definition, bands=self._bands, classes=len(legend))

    def _kept_rows(self, source: Readable) -> tuple[RememberedRows | None, ValidRows]:
        """What remembers measured rows, if anything must, and what tells which pixels are kept."""
        remembered, measured = self._measured_rows(source)
        area = self._region_tiles.area
        return remembered, measured if area is None else RowsWithin(
            measured, area, self._region_tiles.region.cols
        )

    def _measured_rows(self, source: Readable) -> tuple[RememberedRows | None, ValidRows]:
        if self._crf is not None:
            return None, self._crf
        cols = self._region_tiles.region.cols
        if not self._region_tiles.same_grid:
            return None, RereadRows(source, cols)
        start = cols.start - self._reader.cols.start
        remembered = RememberedRows(slice(start, start + len(cols)), len(cols))
        return remembered, remembered

    def __enter__(self) -> MaskStream:
        self._reader.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.__exit__(kind, error, trace)

    def rows(self, bar: ProgressBar) -> Iterator[FinishedRows]:
        """Yield the region's rows from north to south, every row once."""
        tile_rows = self._region_tiles.part.rows.tiles
        for row in tile_rows:
            for tile in self._measured_tiles(row, bar):
                self._take_up(tile)
                if len(self._waiting) >= self._predictor.batch_size:
                    yield from self._launch(bar)
            # Tiles that wait hold back finished rows: over empty ground they must not wait for ever.
            if self._waiting and row - self._waiting[0].row >= self._predictor.batch_size:
                yield from self._launch(bar)
            yield from self._close_until(min(row + 1, self._oldest_waiting(row + 1)), bar)
        if self._waiting:
            yield from self._launch(bar)
        while self._flying:
            yield from self._land(bar)
        yield from self._close_until(tile_rows.stop, bar)

    def _oldest_waiting(self, otherwise: int) -> int:
        if self._flying:
            return self._flying[0][0][0].row
        return self._waiting[0].row if self._waiting else otherwise

    def _take_up(self, tile: Tile) -> None:
        """The tile waits with its input for a batch to be full."""
        if self._batch is None:
            self._batch = self._predictor.host_batch(self._shape.side)
        with self.stages.at("cutting"):
            self._cutter.cut(tile, self._batch.place())
        self._waiting.append(tile)

    def _launch(self, bar: ProgressBar) -> Iterator[FinishedRows]:
        """The waiting tiles are on their way through the network; older ones land when it is full."""
        assert self._batch is not None
        with self.stages.at("network"):
            self._flying.append((self._waiting, self._submit(self._batch)))
        self._waiting = []
        if self._predictor.depth == 1:
            self._batch.clear()  # The network has read it: memory that is in use already costs no page faults.
        else:
            self._batch = None
        while len(self._flying) >= self._predictor.depth:
            yield from self._land(bar)

    def _land(self, bar: ProgressBar) -> Iterator[FinishedRows]:
        tiles, pending = self._flying.popleft()
        with self.stages.at("network"):
            arrived = pending.logits()
        for tile, logits in zip(tiles, arrived, strict=True):
            yield from self._close_until(tile.row, bar)
            with self.stages.at("stitching"):
                self._stitcher.add(tile, softmax_cells(logits) if self._definition.softmaxed else logits)
            self.tiles.run += 1
            bar.update()

    def _measured_tiles(self, row: int, bar: ProgressBar) -> Iterator[Tile]:
        """Every tile of a row of tiles that the area wants and with something measured in it, west to east."""
        wanted = [
            tile for tile in self._region_tiles.part.tiles_of_row(row) if self._region_tiles.wants(tile)
        ]
        self._skip(len(self._region_tiles.part.cols.tiles) - len(wanted), bar)
        if not wanted:
            return
        plan, margin = self._region_tiles.part.plan, self._region_tiles.margin
        top = plan.rows.origins[row] - self._shape.halo - margin
        rows = range(max(0, top), min(top + self._region_tiles.swath, plan.rows.length))
        with self.stages.at("reading"):
            self._reader.advance(rows.start, rows.stop)
            if self._remembered is not None:
                self._remembered.remember(self._reader, rows)
        for tile in wanted:
            if self._is_measured(tile):
                yield tile
            else:
                self._skip(1, bar)

    def _skip(self, count: int, bar: ProgressBar) -> None:
        for _ in range(count):
            self.tiles.skipped += 1
            bar.update()

    def _is_measured(self, tile: Tile) -> bool:
        return self._cutter.is_measured(tile)

    def _close_until(self, row: int, bar: ProgressBar) -> Iterator[FinishedRows]:
        while self._stitcher.row < row:
            cells = self._stitcher.close_row()
            made = self._crf.push(cells, bar.update) if self._crf else self._upsampler.push(cells)
            while True:
                with self.stages.at("stitching"):
                    done = next(made, None)
                if done is None:
                    break
                yield self._finished(done)

    def _finished(self, done: PixelRows) -> FinishedRows:
        with self.stages.at("reading"):
            valid = self._valid.take(range(done.start, done.start + len(done.channels)))
        with self.stages.at("stitching"):
            if not self._are_values:
                put_values(done.channels, self._values)
            layers: dict[str, Bytes] = {"class": done.channels}
            if done.confidence is not None:
                layers["confidence"] = done.confidence
            if done.probabilities is not None:
                layers["probabilities"] = done.probabilities
            if valid is not None:
                # 0 where measured, 255 elsewhere: all bits of nodata, many times faster than a masked assignment.
                unmeasured = valid.view(np.uint8) - np.uint8(1)
                for layer in layers.values():
                    layer |= unmeasured
        return FinishedRows(done.start, layers, done.margin)
