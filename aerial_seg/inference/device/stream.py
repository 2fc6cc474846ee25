"""The streaming core of predict on a device: rows go there, tiles are cut, run and blended, bytes come home."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, tee
from operator import attrgetter
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.statistics import Readable
from aerial_seg.geo.raster.swath import row_reader
from aerial_seg.inference.definition import Definition
from aerial_seg.inference.device.feed import RowFeed, rows_of_part
from aerial_seg.inference.device.finish import Finisher
from aerial_seg.inference.device.held_valid import HeldValid
from aerial_seg.inference.device.lattice import DeviceStitcher
from aerial_seg.inference.device.ring import DeviceRing, mirrored_window
from aerial_seg.inference.device.tta import averaged, seen_as
from aerial_seg.inference.device.upsample import DeviceUpsampler, softmax_cells
from aerial_seg.inference.predictor import TilePredictor
from aerial_seg.inference.region import RegionTiles
from aerial_seg.inference.stream import FinishedRows, TileCount
from aerial_seg.inference.tta import UPSIDE_DOWN
from aerial_seg.inference.valid_rows import RereadRows, RowsWithin, ValidRows
from aerial_seg.legend import Legend
from aerial_seg.mentions import setting
from aerial_seg.models.device import enough_memory, transfer
from aerial_seg.progress import ProgressBar
from aerial_seg.stages import StageSeconds
from aerial_seg.tiling.plan import Tile

_WHAT = "a swath of the raster"
_REMEDY = (
    # The first of them changes no setting, which an interrupted run would be refused for.
    "end what else takes memory of the device, or use a smaller "
    f"{setting('batch_size')}, {setting('tile_size')} or {setting('max_memory')}, or {setting('carrier', 'host')}"
)


@dataclass(frozen=True, slots=True)
class _Swath:
    """A row of tiles: those that the area wants, and the rows of the raster that they reach; none where none is."""

    number: int
    wanted: tuple[Tile, ...]
    rows: range
    new: range


class DeviceStream:
    """Turn one region's pixels into finished rows, as MaskStream does, with all arithmetic where the network runs.

    The raster's own bytes go to the device once, bytes of finished layers come home; nothing in between waits for the
    device, which so is never without work. One thread reads, one lays rows ready, and the caller's gives the device
    its orders. Memory on the device is one swath of rows, the open rows of the lattice, and a batch. Arguments are
    MaskStream's, but that there is no CRF. stages: seconds that reading and the device were waited for. Use as a
    context manager.
    """

    @enough_memory(_WHAT, remedy=_REMEDY)
    def __init__(
        self,
        raster: Raster | ArrayRaster,
        source: Readable,
        region_tiles: RegionTiles,
        predictor: TilePredictor,
        definition: Definition,
        *,
        legend: Legend,
    ) -> None:
        """Raises SettingsError where the device has no memory for a swath beside the network."""
        if definition.crf is not None or region_tiles.crf is not None:
            raise ValueError("a CRF is computed on the host")
        self._region_tiles, self._predictor, self._definition = region_tiles, predictor, definition
        self._shape, self._device = region_tiles.part.plan.shape, predictor.device
        self._transfer = transfer(self._device)
        self._dtype = raster.info.dtype
        self._cols = region_tiles.reading
        pixel = len(raster.info.bands) * np.dtype(self._dtype).itemsize
        part_rows = rows_of_part(pixel, len(self._cols))
        self._part_rows = min(part_rows, region_tiles.swath)
        planned, self._swaths = tee(self._all_swaths())
        reader = row_reader(raster, self._cols, swath=self._part_rows, ahead=self._shape.step)
        parts = (part for swath in planned for part in _parts(swath.new, self._part_rows))
        self._feed = RowFeed(reader, parts, dtype=self._dtype, transfer=self._transfer)
        self._fed = 0
        self._ring = DeviceRing(
            len(raster.info.bands),
            self._cols,
            rows=region_tiles.swath,
            dtype=self._dtype,
            planes=predictor.inputs,
            transfer=self._transfer,
            device=self._device,
        )
        self._held, valid = self._kept_rows(source)
        self._stitcher = DeviceStitcher(
            region_tiles.part, classes=len(legend), window=definition.window, device=self._device
        )
        self._upsampler = DeviceUpsampler(
            region_tiles.rows,
            region_tiles.cols,
            confidence=definition.confidence,
            probabilities=definition.probabilities,
            softmaxed=definition.softmaxed,
            device=self._device,
        )
        self.tiles, self.stages = TileCount(), StageSeconds()
        self._finisher = Finisher(legend, valid, self._transfer, self.stages)
        # No network has learnt the ground as in a mirror.
        run = seen_as(predictor.logits, UPSIDE_DOWN) if raster.grid.is_mirrored else predictor.logits
        self._run = averaged(run, definition.tta, geometry=self._shape.geometry, side=self._shape.side)
        self._across = self._tile_columns()
        self._waiting: list[Tile] = []
        self._cut: list[Tensor] = []

    def _kept_rows(self, source: Readable) -> tuple[HeldValid, ValidRows]:
        """What holds measured rows, and what tells which pixels are kept."""
        region, area = self._region_tiles.region, self._region_tiles.area
        start = region.cols.start - self._cols.start
        same = self._region_tiles.same_grid
        held = HeldValid(len(self._cols), slice(start, start + len(region.cols)), finished=same)
        measured: ValidRows = held if same else RereadRows(source, region.cols)
        return held, measured if area is None else RowsWithin(measured, area, region.cols)

    def _tile_columns(self) -> Tensor:
        """For every column of tiles the held columns that it shows, (tiles, side) int64 on the device."""
        part = self._region_tiles.part
        shown = [
            mirrored_window(
                part.plan.cols.origins[col] - self._shape.halo, self._shape.side, part.plan.cols.length
            )
            for col in part.cols.tiles
        ]
        return self._transfer.numbers_to_device(np.stack(shown) - self._cols.start)

    def __enter__(self) -> DeviceStream:
        self._feed.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._feed.__exit__(kind, error, trace)

    @torch.inference_mode()
    def rows(self, bar: ProgressBar) -> Iterator[FinishedRows]:
        """Yield the region's rows from north to south, every row once.

        Raises SettingsError where the device has no memory for a swath beside the network.
        """
        with enough_memory(_WHAT, remedy=_REMEDY):
            for swath in self._swaths:
                yield from self._fill_batches(swath, bar)
                # Tiles that wait hold back finished rows: over empty ground they must not wait for ever.
                if self._waiting and swath.number - self._waiting[0].row >= self._predictor.batch_size:
                    yield from self._launch(bar)
                oldest = self._waiting[0].row if self._waiting else swath.number + 1
                yield from self._close_until(oldest)
            if self._waiting:
                yield from self._launch(bar)
            yield from self._close_until(self._region_tiles.part.rows.tiles.stop)
            yield from self._finisher.rest()

    def _all_swaths(self) -> Iterator[_Swath]:
        """All rows of tiles from north to south; of what the area does not touch no row is read."""
        part, plan = self._region_tiles.part, self._region_tiles.part.plan
        end = 0
        for number in part.rows.tiles:
            wanted = tuple(tile for tile in part.tiles_of_row(number) if self._region_tiles.wants(tile))
            top = plan.rows.origins[number] - self._shape.halo - self._region_tiles.margin
            rows = range(max(0, top), min(top + self._region_tiles.swath, plan.rows.length))
            if not wanted:
                rows = range(end, end)
            new = range(max(end, rows.start), max(end, rows.stop))
            end = new.stop
            yield _Swath(number, wanted, rows, new)

    def _fill_batches(self, swath: _Swath, bar: ProgressBar) -> Iterator[FinishedRows]:
        """Every tile of the row with something measured in it waits in a batch, west to east; full ones are run."""
        measured = self._measured(swath)
        self._skip(len(self._region_tiles.part.cols.tiles) - len(measured), bar)
        if not measured:
            return
        plan = self._region_tiles.part.plan
        top = plan.rows.origins[swath.number] - self._shape.halo
        rows = mirrored_window(top, self._shape.side, plan.rows.length)
        down = self._ring.slots_of(rows)
        while measured:
            some = _neighbours(measured, self._predictor.batch_size - len(self._waiting))
            first = some[0].col - self._region_tiles.part.cols.tiles.start
            with self.stages.at("device"):
                self._cut.append(self._ring.cut(rows, down, self._across[first : first + len(some)]))
            self._waiting += some
            del measured[: len(some)]
            if len(self._waiting) >= self._predictor.batch_size:
                yield from self._launch(bar)

    def _measured(self, swath: _Swath) -> list[Tile]:
        """The tiles wanted of a row whose core, grown by one cell, holds a measured pixel; its rows are held then."""
        if not swath.wanted:
            return []
        self._take_in(swath.rows.stop)
        plan, cell = self._region_tiles.part.plan, self._shape.geometry.logit_stride
        reach = self._shape.core + 2 * cell
        top = swath.wanted[0].core_top - cell
        columns = self._held.measured_columns(range(max(0, top), min(top + reach, plan.rows.length)))
        before = np.concatenate([[0], np.cumsum(columns)])
        lefts = np.array([tile.core_left for tile in swath.wanted]) - cell
        start = np.maximum(0, lefts) - self._cols.start
        stop = np.minimum(lefts + reach, plan.cols.length) - self._cols.start
        counts = (before[stop] - before[start]).tolist()
        return [tile for tile, count in zip(swath.wanted, counts, strict=True) if count]

    def _take_in(self, stop: int) -> None:
        """The rows up to this one are on the device, as far as they are wanted at all."""
        while self._fed < stop:
            with self.stages.at("reading"):
                part = self._feed.next()
                self._held.add(part.rows, part.measured)
            with self.stages.at("device"):
                self._ring.place(part)
            self._fed = part.rows.stop

    def _skip(self, count: int, bar: ProgressBar) -> None:
        self.tiles.skipped += count
        if count:
            bar.update(count)

    def _launch(self, bar: ProgressBar) -> Iterator[FinishedRows]:
        """The waiting tiles are on their way through the network and into the lattice; rows before them are closed."""
        with self.stages.at("device"):
            logits = self._run(self._cut[0] if len(self._cut) == 1 else torch.cat(self._cut))
        tiles, self._waiting, self._cut = self._waiting, [], []
        yield from self._finisher.batch_begun()
        start = 0
        for row, of_row in groupby(tiles, attrgetter("row")):
            some = list(of_row)
            yield from self._close_until(row)
            part = logits[start : start + len(some)]
            with self.stages.at("device"):
                self._stitcher.add(some, softmax_cells(part) if self._definition.softmaxed else part)
            start += len(some)
            self.tiles.run += len(some)
            bar.update(len(some))

    def _close_until(self, row: int) -> Iterator[FinishedRows]:
        while self._stitcher.row < row:
            made = self._upsampler.push(self._stitcher.close_row())
            while True:
                with self.stages.at("device"):
                    done = next(made, None)
                if done is None:
                    break
                yield from self._finisher.finish(done)


def _parts(rows: range, most: int) -> Iterator[range]:
    """Cut rows into parts of at most so many."""
    for start in range(rows.start, rows.stop, most):
        yield range(start, min(start + most, rows.stop))


def _neighbours(tiles: list[Tile], most: int) -> list[Tile]:
    """The first tiles, at most so many, with no gap between them."""
    count = 1
    while count < min(most, len(tiles)) and tiles[count].col == tiles[0].col + count:
        count += 1
    return tiles[:count]
