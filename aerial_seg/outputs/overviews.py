"""Smaller versions of a raster, made of its pieces as soon as these are there; over empty ground they cost nothing.

GDAL's own compute every pixel of them: for a raster of 66,000² that is all nodata that took fifty times as long.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from aerial_seg.geo.raster.covered import BLOCK, Extent
from aerial_seg.legend import IGNORE
from aerial_seg.outputs.durable import disk_errors, require_written
from aerial_seg.outputs.halving import Halving, halve_part
from aerial_seg.outputs.packing import in_threads, threads_within
from aerial_seg.outputs.pieces import Piece, PieceList, Recent, read_pieces, write_blocks

_BYTES_READ = 4_000_000
"""Of the larger version, by each thread; of all bands one block at least is made of four."""


def reducing_bytes(bands: int) -> int:
    """Return more than what all threads hold that halve a raster: what they read, and what they make and pack of it."""
    return _threads(bands) * _bytes_of_each(bands)


def _bytes_of_each(bands: int) -> int:
    return 3 * max(_BYTES_READ, 4 * bands * BLOCK * BLOCK)


def _threads(bands: int) -> int:
    return threads_within(_bytes_of_each(bands))


class Version(Protocol):
    """A raster in pieces. extent: what they cover, in whole blocks; done: the row up to which they are there."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def extent(self) -> Extent: ...

    @property
    def done(self) -> int: ...

    @property
    def pieces(self) -> PieceList: ...


@dataclass(slots=True)
class Overview:
    """A raster halved. All is in `folder`, whole rows of blocks from north to south; nothing of it is durable.

    classes: of four pixels the most frequent, else their mean.
    """

    larger: Version
    folder: Path
    bands: int
    classes: bool
    recent: Recent
    shape: tuple[int, int] = field(init=False)
    extent: Extent = field(init=False)
    done: int = field(init=False)
    pieces: PieceList = field(init=False, default_factory=PieceList)
    _rows: Halving = field(init=False)
    _cols: Halving = field(init=False)

    def __post_init__(self) -> None:
        height, width = self.larger.shape
        self._rows, self._cols = Halving.of(height), Halving.of(width)
        self.shape = len(self._rows), len(self._cols)
        held = self.larger.extent
        reached = Extent(self._rows.reached(held.rows), self._cols.reached(held.cols))
        self.extent = reached.in_blocks(*self.shape)
        self.done = self.extent.rows.start

    def advance(self) -> None:
        """Every row of blocks is there that the larger version's rows decide.

        Raises OutputError when the disk does not take it.
        """
        stop = self.extent.rows.stop
        while self.done < stop:
            rows = range(self.done, min(self.done + BLOCK, stop))
            if min(self._rows.span(rows).stop, self.larger.extent.rows.stop) > self.larger.done:
                return
            with disk_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                made = in_threads(_threads(self.bands), partial(self._make, rows), self._parts())
            for piece in made:
                self.pieces.add(piece)
            self.done = rows.stop

    def _parts(self) -> list[range]:
        """The columns of the files that a row of blocks is made of."""
        wide = max(1, _BYTES_READ // (4 * self.bands * BLOCK * BLOCK)) * BLOCK
        cols = self.extent.cols
        return [range(left, min(left + wide, cols.stop)) for left in range(cols.start, cols.stop, wide)]

    def _make(self, rows: range, cols: range) -> Piece:
        path = self.folder / f"r{rows.start:08d}-c{cols.start:08d}"
        down, across = self._rows.span(rows), self._cols.span(cols)
        larger = self.larger.pieces.overlapping(down, across)
        if all(piece.blocks is None for piece in larger):
            return Piece(path, rows, cols, None)
        values = read_pieces(larger, self.bands, down, across, recent=self.recent)
        made = halve_part(values, self._rows.within(rows), self._cols.within(cols), classes=self.classes)
        if made.min() == IGNORE:
            return Piece(path, rows, cols, None)
        blocks = write_blocks(path, made.transpose(2, 0, 1))
        require_written(blocks is not None, path)
        return Piece(path, rows, cols, blocks)


def overviews_of(
    larger: Version, folder: Path, recent: Recent, *, bands: int, classes: bool
) -> list[Overview]:
    """Halved and halved again, until one block holds it all; none of them made yet."""
    found: list[Overview] = []
    while max(larger.shape) > BLOCK:
        larger = Overview(larger, folder / str(len(found) + 1), bands, classes, recent)
        found.append(larger)
    return found
