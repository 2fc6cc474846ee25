"""The pieces of one map: which are made, what the journal tells of them, and which rows are still to be made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.files.journal import Journal, damaged_records
from aerial_seg.geo.raster.covered import BLOCK
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.inference.stream import FinishedRows, TileCount
from aerial_seg.jobs.predict.memory import MemoryModel
from aerial_seg.legend import IGNORE
from aerial_seg.outputs.segments import Layer, SegmentStore
from aerial_seg.tiling.values import count_values

Layers = Mapping[str, NDArray[np.uint8]]
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """A row of blocks of a panel. tiles: how many ran and were skipped for it."""

    panel: int
    rows: range
    layers: Layers
    tiles: tuple[int, int]

    def record(self) -> Record:
        """Return what the journal tells of it."""
        return {
            "panel": self.panel,
            "rows": [self.rows.start, self.rows.stop],
            "counts": _count_values(self.layers["class"]),
            "tiles": self.tiles,
        }


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


class PieceLedger:
    """Hold the pieces of one map on the disk, with their records; whoever makes them, in whatever order.

    A piece counts when it lies there whole and the journal tells of it: what else an interrupted run left goes.
    """

    def __init__(
        self, memory_model: MemoryModel, store: SegmentStore, journal: Journal, still: Unchanged
    ) -> None:
        self._memory_model, self.store, self._journal, self._still = memory_model, store, journal, still
        self.panels, self._rows = store.panels, memory_model.extent.rows
        self._done = self._intact_pieces()
        for number in range(len(self.panels)):
            store.leave(number, [self._rows_of(r) for (n, _), r in self._done.items() if n == number])

    @property
    def rows_done(self) -> int:
        """Rows that are done in every panel: of the panel that is farthest from its end."""
        missing = (sum(map(len, self.gaps(number))) for number in range(len(self.panels)))
        return len(self._rows) - max(missing)

    def gaps(self, number: int) -> list[range]:
        """List the rows of a panel that are not made, north to south, each range as long as it can be."""
        found, row = list[range](), self._rows.start
        for start, stop in sorted((r["rows"] for (n, _), r in self._done.items() if n == number)):
            if start > row:
                found.append(range(row, start))
            row = stop
        return [*found, range(row, self._rows.stop)] if row < self._rows.stop else found

    def has(self, panel: int, rows: range) -> bool:
        """Tell whether the piece is made."""
        return (panel, rows.start) in self._done

    def keep(self, piece: Piece) -> None:
        """The piece is on the disk and recorded. Raises ChangedError where what it is made from has changed."""
        self._still.check_now_and_then()
        self.store.write(piece.panel, piece.rows, piece.layers)
        self._add(piece.record())

    def take(self, record: Record, files: Mapping[str, bytes | None]) -> bool:
        """The piece that another store wrote is on the disk and recorded; False, and nothing is, if it is damaged.

        files: as SegmentStore.files gives them. Raises ChangedError as `keep` does.
        """
        self._still.check_now_and_then()
        if not self.store.take(int(record["panel"]), self._rows_of(record), files):
            return False
        self._add(record)
        return True

    def counts(self) -> dict[int, int]:
        """Count pixels by value of the class layer, over all pieces and what lies outside of them."""
        memory_model = self._memory_model
        outside = memory_model.height * memory_model.width - memory_model.extent.pixels
        total: dict[int, int] = {IGNORE: outside} if outside else {}
        for record in self._done.values():
            for value, pixels in record["counts"].items():
                total[int(value)] = total.get(int(value), 0) + pixels
        return total

    def tiles(self) -> TileCount:
        """Count tiles run and skipped for all pieces and outside of them, those of interrupted runs included."""
        records, memory_model = self._done.values(), self._memory_model
        outside = len(memory_model.plan) - len(memory_model.region_tiles(memory_model.extent.cols).part)
        return TileCount(sum(r["tiles"][0] for r in records), sum(r["tiles"][1] for r in records) + outside)

    def _add(self, record: Record) -> None:
        self._journal.add(record)
        self._done[record["panel"], record["rows"][0]] = record
        self.store.reduce()

    def _rows_of(self, record: Record) -> range:
        return range(*record["rows"])

    def _intact_pieces(self) -> dict[tuple[int, int], Record]:
        """Recorded pieces of every panel that lie there whole; of two that share rows the one that begins first."""
        with damaged_records(self._journal.path):
            recorded = {
                (int(r["panel"]), int(r["rows"][0])): checked_record(r)
                for r in self._journal.records
                if "panel" in r
            }
        done: dict[tuple[int, int], Record] = {}
        reached = dict.fromkeys(range(len(self.panels)), self._rows.start)
        for (panel, start), record in sorted(recorded.items()):
            stop = record["rows"][1]
            known = panel in reached and reached[panel] <= start and stop <= self._rows.stop
            if known and self.store.intact(panel, range(start, stop)):
                done[panel, start], reached[panel] = record, stop
        return done


def checked_record(record: Record) -> Record:
    """Return the record of a piece. Raises ValueError, TypeError or KeyError unless it is one."""
    start, stop = record["rows"]
    numbers = (start, stop, *record["counts"].values(), *map(int, record["counts"]), *record["tiles"])
    if not 0 <= start < stop or not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"rows {record['rows']}")
    return record


def _count_values(classes: NDArray[np.uint8]) -> dict[str, int]:
    """Pixels of classes (1, n, w) by value."""
    return {str(value): int(n) for value, n in enumerate(count_values(classes[0])) if n}
