"""Where a part of a map lies: its pixels, the lattice behind them, the tiles that they need."""

from __future__ import annotations

from dataclasses import dataclass

from aerial_seg.crf.blocks import BlockedCrf
from aerial_seg.geo.grid_area import GridArea
from aerial_seg.tiling.plan import Tile, TilePart, TilePlan
from aerial_seg.tiling.upsample import PixelAxis


@dataclass(frozen=True, slots=True)
class Region:
    """Name the output pixels that a stream makes: these columns, from this row to row `stop` or the south end."""

    first_row: int
    cols: range
    stop: int | None = None


class RegionTiles:
    """Tell where a region's tiles and pixels lie: the part of the plan that its output pixels need.

    rows, cols: the pixels that are interpolated; with a CRF those that the region's blocks see.
    """

    def __init__(
        self,
        plan: TilePlan,
        region: Region,
        *,
        height: int,
        width: int,
        crf: BlockedCrf | None = None,
        area: GridArea | None = None,
    ) -> None:
        """height and width are the output's, on whose grid the area lies; the run's own are the plan's."""
        geometry = plan.shape.geometry
        self.region, self.crf, self.area = region, crf, area
        self._output = height, width
        self.kept_rows = range(region.first_row, height if region.stop is None else region.stop)
        rows, cols = self.kept_rows, region.cols
        if crf is not None:
            rows, cols = crf.reach(rows, height), crf.reach(cols, width)
        self.rows = PixelAxis.of(geometry, run=plan.rows.length, pixels=height).part(rows.start, rows.stop)
        self.cols = PixelAxis.of(geometry, run=plan.cols.length, pixels=width).part(cols.start, cols.stop)
        self.part = TilePart.of(plan, rows=self.rows.cells, cols=self.cols.cells)
        # Whatever lies in a cell of the lattice decides whether a tile is skipped: one cell around every core.
        self.margin = max(0, geometry.logit_stride - plan.shape.halo)
        self.same_grid = (plan.rows.length, plan.cols.length) == (height, width)

    @property
    def blocks(self) -> int:
        """Count the blocks of the CRF that the region touches."""
        if self.crf is None:
            return 0
        down = sum(1 for _ in self.crf.spans(self.kept_rows, self.kept_rows.stop))
        return down * sum(1 for _ in self.crf.spans(self.region.cols, self.region.cols.stop))

    @property
    def tiles_wanted(self) -> int:
        """Count the tiles that run where everything is measured."""
        rows = self.part.rows.tiles
        if self.area is None:
            return len(self.part)
        return sum(self.wants(tile) for row in rows for tile in self.part.tiles_of_row(row))

    def wants(self, tile: Tile) -> bool:
        """Tell whether a pixel of the region that the area holds lies within one cell of the tile's core."""
        if self.area is None:
            return True
        height, width = self._output
        plan = self.part.plan
        rows = self._reach(tile.core_top, run=plan.rows.length, pixels=height)
        cols = self._reach(tile.core_left, run=plan.cols.length, pixels=width)
        return self.area.touches(_both(rows, self.kept_rows), _both(cols, self.region.cols))

    def _reach(self, first: int, *, run: int, pixels: int) -> range:
        """Output pixels that a core, from run pixel `first` on, has a part in; with a CRF by whole blocks."""
        shape = self.part.plan.shape
        cell = shape.geometry.logit_stride
        start, stop = (first - cell) * pixels // run, -(-(first + shape.core + cell) * pixels // run)
        if self.crf is not None:
            core, halo = self.crf.core, self.crf.halo
            start, stop = (start - halo) // core * core, -(-(stop + halo) // core) * core
        return range(max(0, start), min(stop, pixels))

    @property
    def reading(self) -> range:
        """Return the columns of the run's grid that the tiles reach, and those of the output itself."""
        plan = self.part.plan
        tiles, shape = self.part.cols.tiles, plan.shape
        reach = shape.halo + self.margin
        left = plan.cols.origins[tiles[0]] - reach
        right = plan.cols.origins[tiles[-1]] + shape.core + reach
        if self.same_grid:
            left, right = min(left, self.region.cols.start), max(right, self.region.cols.stop)
        return range(max(0, left), min(right, plan.cols.length))

    @property
    def swath(self) -> int:
        """Return how many rows of the run's grid one row of tiles reaches."""
        return self.part.plan.shape.side + 2 * self.margin


def _both(one: range, other: range) -> range:
    """What two ranges share."""
    start = max(one.start, other.start)
    return range(start, max(start, min(one.stop, other.stop)))
