"""Stitched equals whole, and whole equals the sum of any parts, bit by bit: for every carrier of the lattice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from carriers import Carrier, each_carrier
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.plan import Tile, TilePart, TilePlan, tile_shape
from aerial_seg.tiling.upsample import PixelAxis, PixelRows
from aerial_seg.tiling.windows import WINDOWS, axis_weights

Floats = NDArray[np.float32]
windows = st.sampled_from(WINDOWS)
seeds = st.integers(0, 99)


@st.composite
def plans(draw: st.DrawFn) -> TilePlan:
    stride = draw(st.sampled_from([1, 2, 3, 8, 32]))
    unit = stride * draw(st.sampled_from([1, 4]))
    geometry = ModelGeometry(unit, stride, unit, draw(st.booleans()))
    halo = draw(st.integers(0, 2)) * unit
    core = draw(st.integers(1, 5)) * unit + int(geometry.align_corners)
    shape = tile_shape(geometry, core + 2 * halo, halo=halo, overlap=draw(st.integers(0, core - unit)))
    return TilePlan.of(height=draw(st.integers(1, 130)), width=draw(st.integers(1, 130)), shape=shape)


@st.composite
def ranges(draw: st.DrawFn, length: int) -> range:
    first = draw(st.integers(0, length - 1))
    return range(first, draw(st.integers(first + 1, length)))


def whole_lattice(plan: TilePlan, seed: int, classes: int = 3) -> Floats:
    """A lattice larger than every tile, halo included; cell (0, 0) is the first cell of the first tile's window."""
    shape, geometry = plan.shape, plan.shape.geometry
    cells = [geometry.cells(axis.origins[-1] + shape.side) + 1 for axis in (plan.rows, plan.cols)]
    return np.random.default_rng(seed).normal(size=(*cells, classes)).astype(np.float32)


def kept(plan: TilePlan, lattice: Floats) -> Floats:
    halo = plan.shape.halo_cells
    return lattice[halo : halo + plan.rows.cells, halo : halo + plan.cols.cells]


def identity(window: Floats) -> Floats:
    return window


@dataclass(frozen=True)
class Model:
    """What tiles are run by: `forward` of the tile's part of a lattice; tiles in `skipped` are not.

    batch: how many tiles are added at a time.
    """

    lattice: Floats
    window: str = "linear"
    forward: Callable[[Floats], Floats] = identity
    skipped: frozenset[tuple[int, int]] = frozenset()
    batch: int = 3

    def finished(self, part: TilePart, carrier: Carrier) -> Iterator[Floats]:
        """The carrier's rows of cells; they hold until the next ones are asked for."""
        stitcher = carrier.stitcher(part, classes=self.lattice.shape[2], window=self.window)
        for row in part.rows.tiles:
            assert stitcher.row == row
            tiles = [tile for tile in part.tiles_of_row(row) if (tile.row, tile.col) not in self.skipped]
            for first in range(0, len(tiles), self.batch):
                some = tiles[first : first + self.batch]
                stitcher.add(some, [self.logits(tile, part.plan) for tile in some])
            yield stitcher.close_row()

    def logits(self, tile: Tile, plan: TilePlan) -> Floats:
        stride, n = plan.shape.geometry.logit_stride, plan.shape.geometry.cells(plan.shape.side)
        top, left = tile.core_top // stride, tile.core_left // stride
        return self.forward(self.lattice[top : top + n, left : left + n])

    def cells(self, part: TilePart, carrier: Carrier) -> Floats:
        return np.concatenate([rows.copy() for rows in self.finished(part, carrier)])


def axes(plan: TilePlan) -> tuple[PixelAxis, PixelAxis]:
    geometry = plan.shape.geometry
    rows, cols = plan.rows.length, plan.cols.length
    return PixelAxis.of(geometry, run=rows, pixels=rows), PixelAxis.of(geometry, run=cols, pixels=cols)


@each_carrier
@given(plan=plans(), window=windows, seed=seeds)
def test_the_identity_stitched_equals_the_whole(
    carrier: Carrier, plan: TilePlan, window: str, seed: int
) -> None:
    lattice = whole_lattice(plan, seed)
    cells = Model(lattice, window).cells(TilePart.whole(plan), carrier)
    np.testing.assert_allclose(cells, kept(plan, lattice), rtol=0, atol=3e-6)
    if window == "centre":
        assert np.array_equal(cells, kept(plan, lattice))


@each_carrier
@given(plan=plans(), window=windows, seed=seeds)
def test_a_pointwise_model_has_the_channels_of_the_whole(
    carrier: Carrier, plan: TilePlan, window: str, seed: int
) -> None:
    lattice = whole_lattice(plan, seed)
    cells = Model(lattice, window, forward=np.sin).cells(TilePart.whole(plan), carrier)
    rows, cols = axes(plan)
    (whole,) = carrier.upsampler(rows, cols, margin=True).push(np.sin(kept(plan, lattice)))
    (stitched,) = carrier.upsampler(rows, cols).push(cells)
    assert whole.margin is not None
    certain = whole.margin > 1e-5
    assert np.array_equal(stitched.channels[certain], whole.channels[certain])


@each_carrier
@given(plan=plans(), window=windows, seed=seeds, radius=st.integers(0, 2))
def test_a_finite_receptive_field_within_the_halo_equals_the_whole_forward(
    carrier: Carrier, plan: TilePlan, window: str, seed: int, radius: int
) -> None:
    """The network pads with zeros at a tile's edge; only cells within its radius of the edge can tell."""
    radius = min(radius, plan.shape.halo_cells)
    weights = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 3, *2 * (2 * radius + 1,))))

    def forward(cells: Floats) -> Floats:
        planes = torch.from_numpy(np.ascontiguousarray(cells.transpose(2, 0, 1)))[None].double()
        done = torch.nn.functional.conv2d(planes, weights, padding=radius)[0]
        return done.permute(1, 2, 0).numpy().astype(np.float32)

    lattice = whole_lattice(plan, seed)
    cells = Model(lattice, window, forward).cells(TilePart.whole(plan), carrier)
    np.testing.assert_allclose(cells, kept(plan, forward(lattice)), rtol=0, atol=1e-4)


@each_carrier
@given(plan=plans(), window=windows, seed=seeds)
def test_where_tiles_disagree_cells_are_their_weighted_mean(
    carrier: Carrier, plan: TilePlan, window: str, seed: int
) -> None:
    """Against a float64 sum over the whole raster, of tiles that have nothing in common."""
    shape, random = plan.shape, np.random.default_rng(seed)
    side, halo, core = shape.geometry.cells(shape.side), shape.halo_cells, shape.core_cells
    down, across = axis_weights(plan.rows, window), axis_weights(plan.cols, window)
    sums, norms = (
        np.zeros((len(down.sums), len(across.sums), 2)),
        np.zeros((len(down.sums), len(across.sums), 1)),
    )
    stitcher, rows = carrier.stitcher(TilePart.whole(plan), classes=2, window=window), []
    for row, top in enumerate(plan.rows.cell_origins):
        tiles = list(plan.tiles_of_row(row))
        logits = random.normal(0, 5, (len(tiles), side, side, 2)).astype(np.float32)
        stitcher.add(tiles, list(logits))
        rows.append(stitcher.close_row().copy())
        for col, left in enumerate(plan.cols.cell_origins):
            weight = np.multiply.outer(down.tiles[row], across.tiles[col]).astype(np.float64)[..., None]
            window_of_tile = slice(top, top + core), slice(left, left + core)
            sums[window_of_tile] += weight * logits[col, halo : halo + core, halo : halo + core]
            norms[window_of_tile] += weight
    expected = (sums / norms)[: plan.rows.cells, : plan.cols.cells]
    np.testing.assert_allclose(np.concatenate(rows), expected, rtol=1e-5, atol=1e-5)


@each_carrier
@given(plan=plans(), window=windows, value=st.floats(-50, 50, width=32))
def test_constant_logits_stay_constant_to_the_border(
    carrier: Carrier, plan: TilePlan, window: str, value: float
) -> None:
    cells = Model(np.full_like(whole_lattice(plan, 0), value), window).cells(TilePart.whole(plan), carrier)
    # Below the smallest normal float32 no relative bound can hold.
    np.testing.assert_allclose(cells, value, rtol=1e-6, atol=1e-37)
    rows, cols = axes(plan)
    constant = np.full_like(cells, value)
    constant[..., 1] = 2.5
    (made,) = carrier.upsampler(rows, cols, margin=True).push(constant)
    assert made.margin is not None
    expected = np.partition([np.float32(value), np.float32(value), np.float32(2.5)], 1)
    assert (made.margin == expected[2] - expected[1]).all()


@each_carrier
@given(plan=plans(), window=windows, seed=seeds, data=st.data())
def test_a_cells_bits_do_not_depend_on_the_part_and_the_batches(
    carrier: Carrier, plan: TilePlan, window: str, seed: int, data: st.DataObject
) -> None:
    tiles = [(r, c) for r in range(len(plan.rows.origins)) for c in range(len(plan.cols.origins))]
    skipped = data.draw(st.frozensets(st.sampled_from(tiles), max_size=len(tiles) // 2))
    batches = st.integers(1, 4)
    whole = Model(whole_lattice(plan, seed), window, skipped=skipped, batch=data.draw(batches))
    model = replace(whole, batch=data.draw(batches))
    rows, cols = data.draw(ranges(plan.rows.cells)), data.draw(ranges(plan.cols.cells))
    part = model.cells(TilePart.of(plan, rows, cols), carrier)
    cells = whole.cells(TilePart.whole(plan), carrier)
    assert np.array_equal(part, cells[rows.start : rows.stop, cols.start : cols.stop])


@each_carrier
@given(plan=plans(), window=windows, seed=seeds, scale=st.sampled_from([1.0, 0.4, 1.7]), data=st.data())
def test_pixels_made_in_parts_are_those_of_the_whole(
    carrier: Carrier, plan: TilePlan, window: str, seed: int, scale: float, data: st.DataObject
) -> None:
    """Parts in rows and columns, also at another pixel size: every layer, bit by bit."""
    geometry = plan.shape.geometry
    height, width = (max(1, round(axis.length * scale)) for axis in (plan.rows, plan.cols))
    rows = PixelAxis.of(geometry, run=plan.rows.length, pixels=height)
    cols = PixelAxis.of(geometry, run=plan.cols.length, pixels=width)
    model = Model(whole_lattice(plan, seed, data.draw(st.sampled_from([3, 20]))) * 4, window)

    def made(rows: PixelAxis, cols: PixelAxis) -> list[PixelRows]:
        part = TilePart.of(plan, rows.cells, cols.cells)
        upsampler = carrier.upsampler(rows, cols, confidence=True, probabilities=True, margin=True)
        return [done for cells in model.finished(part, carrier) for done in upsampler.push(cells)]

    down, across = data.draw(ranges(height)), data.draw(ranges(width))
    whole, part = (
        made(rows, cols),
        made(rows.part(down.start, down.stop), cols.part(across.start, across.stop)),
    )
    assert [done.start for done in part] == list(
        np.cumsum([down.start, *(len(done.channels) for done in part[:-1])])
    )
    for layer in ("channels", "confidence", "probabilities", "margin"):
        everything = np.concatenate([getattr(done, layer) for done in whole], axis=-2)
        assert everything.shape[-2:] == (height, width)
        some = np.concatenate([getattr(done, layer) for done in part], axis=-2)
        assert np.array_equal(some, everything[..., down.start : down.stop, across.start : across.stop])


@each_carrier
def test_tiles_out_of_order_are_our_bug_and_said_so(carrier: Carrier) -> None:
    shape = tile_shape(ModelGeometry(8, 8, 8), 32, halo=0, overlap=0)
    part = TilePart.whole(TilePlan.of(height=64, width=64, shape=shape))
    stitcher = carrier.stitcher(part, classes=1)
    logits = np.zeros((4, 4, 1), np.float32)
    stitcher.add([Tile(0, 1, 0, 32)], [logits])
    for tile in (Tile(0, 0, 0, 0), Tile(1, 0, 32, 0), Tile(0, 2, 0, 64)):
        with pytest.raises(ValueError, match="out of order"):
            stitcher.add([tile], [logits])
    with pytest.raises(ValueError, match="out of order"):
        carrier.stitcher(part, classes=1).add([Tile(0, 1, 0, 32), Tile(0, 0, 0, 0)], [logits, logits])
    with pytest.raises(ValueError, match=r"the logits of (a tile|1 tiles) are .*4, 4.* got .*3, 4"):
        carrier.stitcher(part, classes=1).add([Tile(0, 0, 0, 0)], [logits[:3]])


@each_carrier
def test_no_row_follows_the_last_one(carrier: Carrier) -> None:
    shape = tile_shape(ModelGeometry(8, 8, 8), 32, halo=0, overlap=0)
    stitcher = carrier.stitcher(TilePart.whole(TilePlan.of(height=32, width=32, shape=shape)), classes=1)
    assert len(stitcher.close_row()) == 4
    with pytest.raises(ValueError, match="closed"):
        stitcher.close_row()
