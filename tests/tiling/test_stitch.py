"""Stitched equals whole, and whole equals the sum of any parts, bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.plan import Tile, TilePart, TilePlan, tile_shape
from aerial_seg.tiling.stitch import SwathStitcher
from aerial_seg.tiling.upsample import PixelAxis, PixelRows, RowUpsampler
from aerial_seg.tiling.windows import WINDOWS

Floats = NDArray[np.float32]
windows = st.sampled_from(WINDOWS)
seeds = st.integers(0, 99)


@st.composite
def plans(draw: st.DrawFn) -> TilePlan:
    stride = draw(st.sampled_from([1, 2, 8]))
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
    """What tiles are run by: `forward` of the tile's part of a lattice; tiles in `skipped` are not."""

    lattice: Floats
    window: str = "linear"
    forward: Callable[[Floats], Floats] = identity
    skipped: frozenset[tuple[int, int]] = frozenset()

    def finished(self, part: TilePart) -> Iterator[Floats]:
        """The stitcher's rows of cells; they hold until the next ones are asked for."""
        shape = part.plan.shape
        stride, n = shape.geometry.logit_stride, shape.geometry.cells(shape.side)
        stitcher = SwathStitcher(part, classes=self.lattice.shape[2], window=self.window)
        for row in part.rows.tiles:
            assert stitcher.row == row
            for tile in part.tiles_of_row(row):
                if (tile.row, tile.col) not in self.skipped:
                    top, left = tile.core_top // stride, tile.core_left // stride
                    stitcher.add(tile, self.forward(self.lattice[top : top + n, left : left + n]))
            yield stitcher.close_row()

    def cells(self, part: TilePart) -> Floats:
        return np.concatenate([rows.copy() for rows in self.finished(part)])


def axes(plan: TilePlan) -> tuple[PixelAxis, PixelAxis]:
    geometry = plan.shape.geometry
    rows, cols = plan.rows.length, plan.cols.length
    return PixelAxis.of(geometry, run=rows, pixels=rows), PixelAxis.of(geometry, run=cols, pixels=cols)


@given(plan=plans(), window=windows, seed=seeds)
def test_the_identity_stitched_equals_the_whole(plan: TilePlan, window: str, seed: int) -> None:
    lattice = whole_lattice(plan, seed)
    cells = Model(lattice, window).cells(TilePart.whole(plan))
    np.testing.assert_allclose(cells, kept(plan, lattice), rtol=0, atol=3e-6)
    if window == "centre":
        assert np.array_equal(cells, kept(plan, lattice))


@given(plan=plans(), window=windows, seed=seeds)
def test_a_pointwise_model_has_the_channels_of_the_whole(plan: TilePlan, window: str, seed: int) -> None:
    lattice = whole_lattice(plan, seed)
    cells = Model(lattice, window, forward=np.sin).cells(TilePart.whole(plan))
    rows, cols = axes(plan)
    (whole,) = RowUpsampler(rows, cols, margin=True).push(np.sin(kept(plan, lattice)))
    (stitched,) = RowUpsampler(rows, cols).push(cells)
    assert whole.margin is not None
    certain = whole.margin > 1e-5
    assert np.array_equal(stitched.channels[certain], whole.channels[certain])


@given(plan=plans(), window=windows, seed=seeds, radius=st.integers(0, 2))
def test_a_finite_receptive_field_within_the_halo_equals_the_whole_forward(
    plan: TilePlan, window: str, seed: int, radius: int
) -> None:
    """The network pads with zeros at a tile's edge; only cells within its radius of the edge can tell."""
    radius = min(radius, plan.shape.halo_cells)
    weights = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 3, *2 * (2 * radius + 1,))))

    def forward(cells: Floats) -> Floats:
        planes = torch.from_numpy(np.ascontiguousarray(cells.transpose(2, 0, 1)))[None].double()
        done = torch.nn.functional.conv2d(planes, weights, padding=radius)[0]
        return done.permute(1, 2, 0).numpy().astype(np.float32)

    lattice = whole_lattice(plan, seed)
    cells = Model(lattice, window, forward).cells(TilePart.whole(plan))
    np.testing.assert_allclose(cells, kept(plan, forward(lattice)), rtol=0, atol=1e-4)


@given(plan=plans(), window=windows, value=st.floats(-50, 50, width=32))
def test_constant_logits_stay_constant_to_the_border(plan: TilePlan, window: str, value: float) -> None:
    cells = Model(np.full_like(whole_lattice(plan, 0), value), window).cells(TilePart.whole(plan))
    # Below the smallest normal float32 no relative bound can hold.
    np.testing.assert_allclose(cells, value, rtol=1e-6, atol=1e-37)
    rows, cols = axes(plan)
    constant = np.full_like(cells, value)
    constant[..., 1] = 2.5
    (made,) = RowUpsampler(rows, cols, margin=True).push(constant)
    assert made.margin is not None
    expected = np.partition([np.float32(value), np.float32(value), np.float32(2.5)], 1)
    assert (made.margin == expected[2] - expected[1]).all()


@given(plan=plans(), window=windows, seed=seeds, data=st.data())
def test_a_cells_bits_do_not_depend_on_the_part(
    plan: TilePlan, window: str, seed: int, data: st.DataObject
) -> None:
    tiles = [(r, c) for r in range(len(plan.rows.origins)) for c in range(len(plan.cols.origins))]
    skipped = data.draw(st.frozensets(st.sampled_from(tiles), max_size=len(tiles) // 2))
    model = Model(whole_lattice(plan, seed), window, skipped=skipped)
    rows, cols = data.draw(ranges(plan.rows.cells)), data.draw(ranges(plan.cols.cells))
    part = model.cells(TilePart.of(plan, rows, cols))
    whole = model.cells(TilePart.whole(plan))
    assert np.array_equal(part, whole[rows.start : rows.stop, cols.start : cols.stop])


@given(plan=plans(), window=windows, seed=seeds, scale=st.sampled_from([1.0, 0.4, 1.7]), data=st.data())
def test_pixels_made_in_parts_are_those_of_the_whole(
    plan: TilePlan, window: str, seed: int, scale: float, data: st.DataObject
) -> None:
    """Parts in rows and columns, also at another pixel size: class, confidence and margin, bit by bit."""
    geometry = plan.shape.geometry
    height, width = (max(1, round(axis.length * scale)) for axis in (plan.rows, plan.cols))
    rows = PixelAxis.of(geometry, run=plan.rows.length, pixels=height)
    cols = PixelAxis.of(geometry, run=plan.cols.length, pixels=width)
    model = Model(whole_lattice(plan, seed) * 4, window)

    def made(rows: PixelAxis, cols: PixelAxis) -> list[PixelRows]:
        part = TilePart.of(plan, rows.cells, cols.cells)
        upsampler = RowUpsampler(rows, cols, confidence=True, margin=True)
        return [done for cells in model.finished(part) for done in upsampler.push(cells)]

    down, across = data.draw(ranges(height)), data.draw(ranges(width))
    whole, part = (
        made(rows, cols),
        made(rows.part(down.start, down.stop), cols.part(across.start, across.stop)),
    )
    assert [done.start for done in part] == list(
        np.cumsum([down.start, *(len(done.channels) for done in part[:-1])])
    )
    for layer in ("channels", "confidence", "margin"):
        everything = np.concatenate([getattr(done, layer) for done in whole])
        assert everything.shape == (height, width)
        some = np.concatenate([getattr(done, layer) for done in part])
        assert np.array_equal(some, everything[down.start : down.stop, across.start : across.stop])


def test_tiles_out_of_order_are_our_bug_and_said_so() -> None:
    shape = tile_shape(ModelGeometry(8, 8, 8), 32, halo=0, overlap=0)
    stitcher = SwathStitcher(TilePart.whole(TilePlan.of(height=64, width=64, shape=shape)), classes=1)
    logits = np.zeros((4, 4, 1), np.float32)
    stitcher.add(Tile(0, 1, 0, 32), logits)
    for tile in (Tile(0, 0, 0, 0), Tile(1, 0, 32, 0), Tile(0, 2, 0, 64)):
        with pytest.raises(ValueError, match="out of order"):
            stitcher.add(tile, logits)
    with pytest.raises(ValueError, match=r"the logits of a tile are \(4, 4, 1\)"):
        SwathStitcher(TilePart.whole(TilePlan.of(height=64, width=64, shape=shape)), classes=1).add(
            Tile(0, 0, 0, 0), logits[:3]
        )


def test_no_row_follows_the_last_one() -> None:
    shape = tile_shape(ModelGeometry(8, 8, 8), 32, halo=0, overlap=0)
    stitcher = SwathStitcher(TilePart.whole(TilePlan.of(height=32, width=32, shape=shape)), classes=1)
    assert len(stitcher.close_row()) == 4
    with pytest.raises(ValueError, match="closed"):
        stitcher.close_row()
