"""From finished lattice rows to finished pixel rows through a DenseCRF, one row of blocks at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from aerial_seg.bands import Band
from aerial_seg.crf.blocks import Span
from aerial_seg.crf.dense import refine
from aerial_seg.crf.guide import guide_image
from aerial_seg.geo.raster.statistics import Readable
from aerial_seg.inference.definition import Definition
from aerial_seg.inference.region import RegionTiles
from aerial_seg.outputs.maps import PROBABILITY_STEP
from aerial_seg.tiling.probabilities import window_probabilities
from aerial_seg.tiling.upsample import PixelRows

Floats = NDArray[np.float32]
Valid = NDArray[np.bool_]


class CrfRows:
    """Take a region's lattice rows, north to south, and hand out its pixel rows; blocks are those of BlockedCrf.

    Holds the lattice rows that one row of blocks sees, and that row's finished pixels. The guide image and what was
    measured are read from the raster on the output's own grid, block by block. A block's numbers follow from its own
    window alone, so they do not depend on the region. Blocks without a measured pixel, or without one of the area,
    are not computed.
    """

    def __init__(
        self,
        source: Readable,
        region_tiles: RegionTiles,
        definition: Definition,
        *,
        bands: Sequence[Band],
        classes: int,
    ) -> None:
        """source: read on the output's grid. region_tiles: with a field, so that they reach as far as the blocks."""
        assert region_tiles.crf is not None
        self._source, self._region_tiles, self._definition = source, region_tiles, definition
        self._bands, self._field, self._classes = tuple(bands), region_tiles.crf.field, classes
        self._down = deque(region_tiles.crf.spans(region_tiles.kept_rows, source.grid.height))
        self._across = tuple(region_tiles.crf.spans(region_tiles.region.cols, source.grid.width))
        self._held: list[Floats] = []
        self._start = self._end = region_tiles.rows.cells.start
        self._rows = range(0)
        self._valid: Valid = np.zeros((0, 0), np.bool_)

    def push(self, cells: Floats, done: Callable[[], object]) -> Iterator[PixelRows]:
        """Yield the rows of blocks that the cells (n, cells across, K), following those before, decide.

        done: called after every block.
        """
        if len(cells):
            self._held.append(cells.copy())
            self._end += len(cells)
        while self._down and self._cells_seen(self._down[0]).stop <= self._end:
            yield self._row_of_blocks(self._down.popleft(), done)
            self._forget_north_of(self._cells_seen(self._down[0]).start if self._down else self._end)

    def take(self, rows: range) -> Valid:
        """Return valid (n, w) of the rows that were handed out last."""
        assert rows == self._rows
        return self._valid

    def _cells_seen(self, down: Span) -> range:
        return self._region_tiles.rows.part(down.seen.start, down.seen.stop).cells

    def _row_of_blocks(self, down: Span, done: Callable[[], object]) -> PixelRows:
        first, size = (
            self._region_tiles.region.cols.start,
            (len(down.kept), len(self._region_tiles.region.cols)),
        )
        wanted = self._definition
        made = PixelRows(
            down.kept.start,
            channels=np.zeros(size, np.uint8),
            confidence=np.zeros(size, np.uint8) if wanted.confidence else None,
            probabilities=np.zeros((self._classes, *size), np.uint8) if wanted.probabilities else None,
        )
        self._rows, self._valid = down.kept, np.zeros(size, np.bool_)
        for across in self._across:
            inside = slice(across.kept.start - first, across.kept.stop - first)
            valid, marginals = self._block(down, across)
            self._valid[:, inside] = valid
            if marginals is not None:
                _store(marginals, made, inside)
            done()
        return made

    def _block(self, down: Span, across: Span) -> tuple[Valid, Floats | None]:
        """valid (h, w) and marginals (K, h, w) of the pixels that are kept; None where nothing was measured."""
        area = self._region_tiles.area
        if area is not None and not area.touches(down.kept, across.kept):
            return np.zeros((len(down.kept), len(across.kept)), np.bool_), None
        rows, cols = down.seen, across.seen
        image, valid = self._source.read(top=rows.start, left=cols.start, height=len(rows), width=len(cols))
        kept = _inside(rows, down.kept), _inside(cols, across.kept)
        if not valid[kept].any():
            return valid[kept], None
        refined = refine(
            self._probabilities(rows, cols),
            guide_image(image, self._bands),
            valid,
            self._field,
            origin=(rows.start, cols.start),
        )
        return valid[kept], refined[:, kept[0], kept[1]]

    def _probabilities(self, rows: range, cols: range) -> Floats:
        """Of the network, (K, h, w), at these pixels."""
        down = self._region_tiles.rows.part(rows.start, rows.stop)
        across = self._region_tiles.cols.part(cols.start, cols.stop)
        first = self._region_tiles.cols.cells.start
        columns = slice(across.cells.start - first, across.cells.stop - first)
        parts, top = [], self._start
        for held in self._held:
            part = held[max(0, down.cells.start - top) : max(0, down.cells.stop - top), columns]
            parts.append(part)
            top += len(held)
        return window_probabilities(np.concatenate(parts), down, across, softmaxed=self._definition.softmaxed)

    def _forget_north_of(self, row: int) -> None:
        while self._held and self._start + len(self._held[0]) <= row:
            self._start += len(self._held.pop(0))
        if self._held and self._start < row:
            # A copy, so that the rest is given back.
            self._held[0] = self._held[0][row - self._start :].copy()
            self._start = row


def _inside(seen: range, kept: range) -> slice:
    return slice(kept.start - seen.start, kept.stop - seen.start)


def _store(marginals: Floats, made: PixelRows, cols: slice) -> None:
    """These columns hold what the marginals (K, h, w) say, the first class in a tie."""
    made.channels[:, cols] = marginals.argmax(axis=0)
    if made.confidence is not None:
        made.confidence[:, cols] = _as_bytes(marginals.max(axis=0))
    if made.probabilities is not None:
        for channel, values in enumerate(marginals):
            made.probabilities[channel, :, cols] = _as_bytes(values)


def _as_bytes(probabilities: Floats) -> NDArray[np.uint8]:
    """Probabilities as layers hold them."""
    steps = np.minimum(probabilities, np.float32(1)) * np.float32(1 / PROBABILITY_STEP)
    return (steps + np.float32(0.5)).astype(np.uint8)
