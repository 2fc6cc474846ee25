"""Polygons from rows of class codes, north to south, in memory that does not grow with the raster's height.

Patches that lie within one chunk are finished as arrays; the few that cross its border wait as objects until their
last row has come.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aerial_seg.numba_kernels import Bytes, Ints
from aerial_seg.polygonize.batch import NONE, Codes, PolygonBatch, joined_batches
from aerial_seg.polygonize.cleaning.components import join_all, label_chunk
from aerial_seg.polygonize.row_chunks import Rows, in_row_chunks
from aerial_seg.polygonize.tracing.arcs import Arcs, Int32, Points, find_arcs, find_points, framed
from aerial_seg.polygonize.tracing.chains import Borders
from aerial_seg.polygonize.tracing.crossing import CrossingPatches, RowChunk
from aerial_seg.polygonize.tracing.packing import pack
from aerial_seg.polygonize.tracing.patches import measure_patches, touching_corners
from aerial_seg.polygonize.tracing.rings import CLOSED, Lines, Outlines, draw, find_outlines
from aerial_seg.polygonize.tracing.simplify import Simplification, simplify_arcs

Bools = NDArray[np.bool_]


@dataclass(slots=True)
class TraceCounts:
    """What a trace met: vertices of the pixels' outlines and of those drawn; shortcuts that another line forbade."""

    vertices_before: int = 0
    vertices_after: int = 0
    refused: int = 0


class Tracer:
    """Takes chunks of rows in their order, and hands out the polygons that end in each.

    wanted (65536,) bool: codes whose patches become polygons; the others shape their neighbours' edges all the same.
    connectivity 8: patches that touch at corners are one feature of several polygons.
    """

    def __init__(
        self, width: int, *, wanted: Bools, how: Simplification, connectivity: Literal[4, 8] = 4
    ) -> None:
        self._wanted, self._how, self._by_corners = wanted, how, connectivity == 8
        self._above: Codes = np.full(width, NONE, np.uint16)
        self._row = 0
        self._crossing = CrossingPatches(width + 2)
        self.counts = TraceCounts()

    def trace(self, rows: Rows) -> Iterator[PolygonBatch]:
        """All polygons of a raster whose rows come in pieces of any height, each with its confidence or None."""
        levels: Bytes | None = None
        for codes, levels in in_row_chunks(rows):
            yield self.add(codes, levels)
        nothing = np.full((1, len(self._above)), NONE, np.uint16)
        yield self.add(nothing, None if levels is None else np.zeros(nothing.shape, np.uint8))

    def add(self, codes: Codes, levels: Bytes | None = None) -> PolygonBatch:
        """The features whose last row lies above the last of these rows (h, W) uint16.

        levels (h, W) uint8: stored confidence; with all chunks or with none.
        """
        frame = framed(codes, self._above)
        points = find_points(frame, self._row)
        arcs = find_arcs(frame, points)
        labels, count = label_chunk(frame)
        measured = measure_patches(frame, labels, count, levels)
        wanted = self._wanted[measured.values] & (measured.values != NONE)
        outlines, lines = self._outline(frame, points, arcs, labels, wanted)
        corners = touching_corners(frame, labels, wanted) if self._by_corners else np.empty((0, 2), np.int64)
        groups = np.arange(count)
        if len(corners):
            left, right = corners.astype(np.int32).T
            groups = join_all(count, np.ascontiguousarray(left), np.ascontiguousarray(right)).astype(np.int64)
        crossing = _crossing(labels, groups, wanted)
        inside = np.flatnonzero((outlines.starts == CLOSED) & ~crossing[outlines.labels])
        finished = self._crossing.add(
            RowChunk(self._row, labels, measured, corners),
            np.flatnonzero(crossing),
            outlines,
            lines,
            Borders(self._row, np.isin(points.marks[0] & 15, (3, 5, 9))),
        )
        self._above, self._row = codes[-1].copy(), self._row + len(codes)
        return joined_batches(finished, pack(lines, outlines.labels, inside, groups, measured))

    def _outline(
        self, frame: Codes, points: Points, arcs: Arcs, labels: Int32, wanted: Bools
    ) -> tuple[Outlines, Lines]:
        outlines = find_outlines(points, arcs, labels, wanted)
        xy: NDArray[np.generic] = arcs.xy
        offsets = arcs.offsets
        if self._how.changes:
            shape = simplify_arcs(points, arcs, _left_alone(frame, arcs, labels, wanted), self._how)
            self.counts.refused += shape.refused
            xy, offsets = shape.xy, shape.offsets
        self.counts.vertices_before += int(np.diff(arcs.offsets)[outlines.steps >> 1].sum())
        self.counts.vertices_after += int(np.diff(offsets)[outlines.steps >> 1].sum())
        return outlines, draw(outlines, xy, offsets)


def _crossing(labels: Int32, groups: Ints, wanted: Bools) -> Bools:
    """Which patches (labels,) cross a border, or are one feature with a patch that does."""
    crosses = np.zeros(len(groups), bool)
    crosses[groups[labels[0]]] = crosses[groups[labels[-1]]] = True
    crossing: Bools = crosses[groups] & wanted
    return crossing


def _left_alone(frame: Codes, arcs: Arcs, labels: Int32, wanted: Bools) -> Bools:
    """Arcs (a,) on pixels without class or on the raster's border, which stay exact, and those that nobody draws."""
    codes, named = frame.ravel(), wanted[labels.ravel()]
    borders = (codes[arcs.right] == NONE) | (codes[arcs.left] == NONE)
    alone: Bools = borders | ~(named[arcs.right] | named[arcs.left])
    return alone
