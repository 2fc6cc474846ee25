"""Where the tiles lie: every pixel in the core of at least one tile, every origin on the network's step."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from aerial_seg.errors import SettingsError
from aerial_seg.tiling.geometry import ModelGeometry


@dataclass(frozen=True, slots=True)
class TileShape:
    """A square tile, in pixels: side = core + 2·halo, step = core − overlap.

    The halo is context that is run and dropped; neighbouring cores share `overlap` pixels and are blended there.
    """

    geometry: ModelGeometry
    side: int
    halo: int
    step: int

    def __post_init__(self) -> None:
        self.geometry.check_side(self.side)
        unit = self.geometry.origin_step
        if self.halo < 0 or self.halo % unit or self.step < unit or self.step % unit:
            raise SettingsError(f"halo {self.halo} and step {self.step} must be multiples of {unit}")
        if self.step > self.core:
            raise SettingsError(
                f"tile size {self.side} with halo {self.halo} leaves a core of {self.core} px, less than one step "
                f"of {self.step} px; use a larger tile or a smaller halo"
            )

    @property
    def core(self) -> int:
        """Pixels of a side that are kept."""
        return self.side - 2 * self.halo

    @property
    def overlap(self) -> int:
        """Pixels that neighbouring cores share."""
        return self.core - self.step

    @property
    def core_cells(self) -> int:
        """Lattice cells of a side that are kept."""
        return self.geometry.cells(self.core)

    @property
    def halo_cells(self) -> int:
        """Lattice cells that are dropped on each side."""
        return self.halo // self.geometry.logit_stride


_ROOMY = 8
"""Origin steps of a side whose halo and overlap are a step each: the network runs 2.56 times over every pixel, where at
half of that side it would run 16 times."""


def tile_shape(
    geometry: ModelGeometry, side: int, *, halo: int | None = None, overlap: int | None = None
) -> TileShape:
    """A tile of this side whose halo and overlap are at least what was asked, rounded up to the origin step.

    Defaults: halo side/16 and overlap side/8, so that a 512 tile advances by 384 px, rounded down to the network's
    step, but never below one step: without halo and overlap every seam shows.
    """
    geometry.check_side(side)
    unit = geometry.origin_step
    if (halo is not None and halo < 0) or (overlap is not None and overlap < 0):
        raise SettingsError(f"halo {halo} and overlap {overlap} must not be negative")
    least = _least_side(geometry, halo=halo, overlap=overlap)
    halo = _default(side // 16, unit) if halo is None else -(-halo // unit) * unit
    core = side - 2 * halo
    overlap = _default(side // 8, unit) if overlap is None else overlap
    step = (core - overlap) // unit * unit
    if step < unit:
        raise SettingsError(
            f"tile size {side} with halo {halo} and overlap {overlap} leaves no step of at least {unit} px; "
            f"use a tile of at least {least} px or less overlap"
        )
    return TileShape(geometry=geometry, side=side, halo=halo, step=step)


def _default(pixels: int, unit: int) -> int:
    return max(unit, pixels // unit * unit)


def stitched_side(
    geometry: ModelGeometry,
    side: int,
    *,
    halo: int | None = None,
    overlap: int | None = None,
    asked: bool = False,
) -> int:
    """The side itself, or the next larger one that has room for the halo and the overlap that `tile_shape` adds.

    asked: somebody wants this side: it grows only as far as it must. Else (a model's own) it grows to a side over
    which the network runs not much more often than over a large one. What does not fit by itself, a side that the
    network does not take or a halo and an overlap that somebody gave, stays for `tile_shape` to refuse.
    """
    if not geometry.is_valid_side(side) or side < _least_side(geometry, halo=halo, overlap=overlap):
        return side
    if halo is not None and overlap is not None:
        return side
    unit = geometry.origin_step
    if not asked and halo is None and overlap is None:
        least = geometry.nearest_valid_sides(_ROOMY * unit)[1]
    else:
        least = _least_side(
            geometry, halo=unit if halo is None else halo, overlap=unit if overlap is None else overlap
        )
    return max(side, least)


def _least_side(geometry: ModelGeometry, *, halo: int | None, overlap: int | None) -> int:
    """The smallest side with a step beside what was given of halo and overlap."""
    unit = geometry.origin_step
    return geometry.nearest_valid_sides(unit + 2 * (-(-(halo or 0) // unit) * unit) + (overlap or 0))[1]


@dataclass(frozen=True, slots=True)
class AxisPlan:
    """One axis of a raster: the first pixel of each core, ascending, multiples of the origin step.

    The last core is moved back to the last step that still reaches the end, so that it holds real pixels.
    """

    length: int
    shape: TileShape
    origins: tuple[int, ...]

    @classmethod
    def of(cls, length: int, shape: TileShape) -> AxisPlan:
        """The plan of an axis of `length` ≥ 1 pixels."""
        if length < 1:
            raise ValueError(f"an axis has at least one pixel, got {length}")
        unit = shape.geometry.origin_step
        last = max(0, -(-(length - shape.core) // unit) * unit)
        origins = (*range(0, last, shape.step), last)
        return cls(length=length, shape=shape, origins=origins)

    @property
    def cells(self) -> int:
        """Lattice cells that the axis needs."""
        return self.shape.geometry.cells(self.length)

    @property
    def cell_origins(self) -> tuple[int, ...]:
        """First lattice cell of each core."""
        return tuple(origin // self.shape.geometry.logit_stride for origin in self.origins)


@dataclass(frozen=True, slots=True)
class Tile:
    """One planned input: its place in the plan and its core's first pixel. The window may leave the raster."""

    row: int
    col: int
    core_top: int
    core_left: int


@dataclass(frozen=True, slots=True)
class TilePlan:
    """All tiles of one raster, west to east, then north to south."""

    rows: AxisPlan
    cols: AxisPlan

    @classmethod
    def of(cls, *, height: int, width: int, shape: TileShape) -> TilePlan:
        """The plan of a height × width raster."""
        return cls(rows=AxisPlan.of(height, shape), cols=AxisPlan.of(width, shape))

    @property
    def shape(self) -> TileShape:
        """The tile that both axes share."""
        return self.rows.shape

    def __len__(self) -> int:
        return len(self.rows.origins) * len(self.cols.origins)

    def tiles_of_row(self, row: int, cols: range | None = None) -> Iterator[Tile]:
        """The tiles of one row of tiles, west to east; of these columns of tiles only, where they are given."""
        top = self.rows.origins[row]
        for col in range(len(self.cols.origins)) if cols is None else cols:
            yield Tile(row=row, col=col, core_top=top, core_left=self.cols.origins[col])


@dataclass(frozen=True, slots=True)
class AxisPart:
    """Some neighbouring lattice cells of an axis and the tiles that they need.

    axis: the whole plan. tiles, cells: global numbers, ascending by one.
    """

    axis: AxisPlan
    tiles: range
    cells: range

    @classmethod
    def of(cls, axis: AxisPlan, cells: range) -> AxisPart:
        """The part whose tiles are those with a core that touches one of these cells."""
        if not 0 <= cells.start < cells.stop <= axis.cells or cells.step != 1:
            raise ValueError(f"a part is at least one of the cells 0..{axis.cells - 1}, got {cells}")
        origins, size = axis.cell_origins, axis.shape.core_cells
        first = bisect_right(origins, cells.start - size)
        return cls(axis=axis, tiles=range(first, bisect_left(origins, cells.stop)), cells=cells)


@dataclass(frozen=True, slots=True)
class TilePart:
    """The tiles that a rectangle of lattice cells needs: a panel, the rest of a run, a worker's share, or all."""

    plan: TilePlan
    rows: AxisPart
    cols: AxisPart

    @classmethod
    def of(cls, plan: TilePlan, rows: range, cols: range) -> TilePart:
        """The part for the cells of these lattice rows and columns."""
        return cls(plan=plan, rows=AxisPart.of(plan.rows, rows), cols=AxisPart.of(plan.cols, cols))

    @classmethod
    def whole(cls, plan: TilePlan) -> TilePart:
        """All cells and all tiles."""
        return cls.of(plan, range(plan.rows.cells), range(plan.cols.cells))

    def __len__(self) -> int:
        return len(self.rows.tiles) * len(self.cols.tiles)

    def tiles_of_row(self, row: int) -> Iterator[Tile]:
        """The part's tiles of one row of tiles (its number in the whole plan), west to east."""
        if row not in self.rows.tiles:
            raise ValueError(f"row {row} of the plan is none of the part's rows {self.rows.tiles}")
        yield from self.plan.tiles_of_row(row, self.cols.tiles)
