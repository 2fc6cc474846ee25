"""Stitched equals whole; torch's interpolation is the oracle of the upsampling."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate as torch_interpolate

from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.plan import Tile, TilePlan, tile_shape
from aerial_seg.tiling.stitch import SwathStitcher, blend_weights
from aerial_seg.tiling.upsample import PixelAxis, RowUpsampler, argmax, interpolate


@st.composite
def plans(draw: st.DrawFn) -> TilePlan:
    stride = draw(st.sampled_from([1, 2, 8]))
    unit = stride * draw(st.sampled_from([1, 4]))
    geometry = ModelGeometry(unit, stride, unit, draw(st.booleans()))
    halo = draw(st.integers(0, 2)) * unit
    core = draw(st.integers(1, 5)) * unit + int(geometry.align_corners)
    shape = tile_shape(geometry, core + 2 * halo, halo=halo, overlap=draw(st.integers(0, core - unit)))
    return TilePlan.of(height=draw(st.integers(1, 130)), width=draw(st.integers(1, 130)), shape=shape)


def whole_lattice(plan: TilePlan, seed: int, classes: int = 3) -> np.ndarray:
    """A lattice larger than every tile, halo included; cell (0, 0) is the first cell of the first tile's window."""
    shape, geometry = plan.shape, plan.shape.geometry
    cells = [geometry.cells(axis.origins[-1] + shape.side) + 1 for axis in (plan.rows, plan.cols)]
    return np.random.default_rng(seed).normal(size=(classes, *cells)).astype(np.float32)


def stitched(plan: TilePlan, lattice: np.ndarray) -> np.ndarray:
    """The identity model: each tile's logits are its part of the lattice. Returns the stitched cells."""
    stride = plan.shape.geometry.logit_stride
    n = plan.shape.geometry.cells(plan.shape.side)
    stitcher = SwathStitcher(plan, classes=len(lattice))
    rows = []
    for row in range(len(plan.rows.origins)):
        for tile in plan.tiles_of_row(row):
            top, left = tile.core_top // stride, tile.core_left // stride
            stitcher.add(tile, lattice[:, top : top + n, left : left + n])
        rows.append(stitcher.close_row())
    return np.concatenate(rows, axis=1)


def kept(plan: TilePlan, lattice: np.ndarray) -> np.ndarray:
    halo = plan.shape.halo // plan.shape.geometry.logit_stride
    return lattice[:, halo : halo + plan.rows.cells, halo : halo + plan.cols.cells]


@given(plan=plans(), seed=st.integers(0, 9))
def test_the_identity_stitched_equals_the_whole(plan: TilePlan, seed: int) -> None:
    lattice = whole_lattice(plan, seed)
    np.testing.assert_allclose(stitched(plan, lattice), kept(plan, lattice), rtol=0, atol=3e-6)


@given(plan=plans(), value=st.floats(-50, 50, width=32))
def test_constant_logits_stay_constant_to_the_border(plan: TilePlan, value: float) -> None:
    lattice = np.full_like(whole_lattice(plan, 0), value)
    cells = stitched(plan, lattice)
    # Below the smallest normal float32 no relative bound can hold.
    np.testing.assert_allclose(cells, value, rtol=1e-6, atol=1e-37)
    rows, cols = axes(plan)
    full = interpolate(np.full_like(cells, value), rows, cols)
    assert (full == np.float32(value)).all()


def axes(plan: TilePlan) -> tuple[PixelAxis, PixelAxis]:
    geometry = plan.shape.geometry
    return (
        PixelAxis.of(geometry, run=plan.rows.length, pixels=plan.rows.length),
        PixelAxis.of(geometry, run=plan.cols.length, pixels=plan.cols.length),
    )


@given(plan=plans(), seed=st.integers(0, 9))
def test_rows_pushed_in_swaths_equal_the_whole_upsampled(plan: TilePlan, seed: int) -> None:
    cells = stitched(plan, whole_lattice(plan, seed))
    rows, cols = axes(plan)
    whole = argmax(interpolate(cells, rows, cols))
    upsampler, out, start = RowUpsampler(rows, cols), [], 0
    cuts = [0, *sorted(np.random.default_rng(seed).integers(0, cells.shape[1] + 1, 3)), cells.shape[1]]
    for first, last in itertools.pairwise(cuts):
        for at, part in upsampler.push(cells[:, first:last]):
            assert at == start
            start += len(part)
            out.append(part)
    assert np.array_equal(np.concatenate(out), whole)


@given(
    stride=st.sampled_from([1, 2, 4, 8, 16]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_upsampling_equals_torchs_without_align_corners(
    stride: int, height: int, width: int, seed: int
) -> None:
    cells = np.random.default_rng(seed).normal(size=(2, height, width)).astype(np.float32)
    geometry = ModelGeometry(stride, stride, stride)
    rows, cols = (PixelAxis.of(geometry, run=n * stride, pixels=n * stride) for n in (height, width))
    oracle = torch_interpolate(torch.from_numpy(cells).double()[None], scale_factor=stride, mode="bilinear")[
        0
    ]
    np.testing.assert_allclose(interpolate(cells, rows, cols), oracle.numpy(), atol=2e-6)


@given(
    stride=st.sampled_from([1, 2, 4, 8, 16]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_upsampling_equals_torchs_with_align_corners(stride: int, height: int, width: int, seed: int) -> None:
    cells = np.random.default_rng(seed).normal(size=(2, height, width)).astype(np.float32)
    geometry = ModelGeometry(stride, stride, stride, align_corners=True)
    size = [(n - 1) * stride + 1 for n in (height, width)]
    rows, cols = (PixelAxis.of(geometry, run=n, pixels=n) for n in size)
    oracle = torch_interpolate(
        torch.from_numpy(cells).double()[None], size=size, mode="bilinear", align_corners=True
    )[0]
    np.testing.assert_allclose(interpolate(cells, rows, cols), oracle.numpy(), atol=2e-6)


@given(run=st.integers(1, 40), factor=st.integers(1, 5), stride=st.sampled_from([1, 4]))
def test_output_at_another_pixel_size_equals_torchs_resize(run: int, factor: int, stride: int) -> None:
    """run·stride network pixels shown as factor times as many: as if torch upsampled the cells by stride·factor."""
    cells = np.random.default_rng(run).normal(size=(2, run, run)).astype(np.float32)
    geometry = ModelGeometry(stride, stride, stride)
    axis = PixelAxis.of(geometry, run=run * stride, pixels=run * stride * factor)
    oracle = torch_interpolate(
        torch.from_numpy(cells).double()[None], scale_factor=stride * factor, mode="bilinear"
    )[0]
    np.testing.assert_allclose(interpolate(cells, axis, axis), oracle.numpy(), atol=2e-6)


@given(
    logits=st.integers(1, 6).flatmap(lambda k: st.just(np.random.default_rng(k).integers(0, 3, (k, 5, 7))))
)
def test_argmax_takes_the_first_of_equals(logits: np.ndarray) -> None:
    assert np.array_equal(argmax(logits.astype(np.float32)), logits.argmax(axis=0))


@given(cells=st.integers(1, 40), overlap=st.integers(0, 39))
def test_windows_are_positive_and_neighbours_sum_to_one(cells: int, overlap: int) -> None:
    weights = blend_weights(cells, overlap)
    assert (weights > 0).all()
    assert np.allclose(weights, weights[::-1])
    if overlap <= cells / 2:
        np.testing.assert_allclose(weights[cells - overlap :] + weights[:overlap], 1, atol=1e-6)


def test_tiles_out_of_order_are_our_bug_and_said_so() -> None:
    shape = tile_shape(ModelGeometry(8, 8, 8), 32, halo=0, overlap=0)
    stitcher = SwathStitcher(TilePlan.of(height=64, width=64, shape=shape), classes=1)
    logits = np.zeros((1, 4, 4), np.float32)
    stitcher.add(Tile(0, 1, 0, 32), logits)
    with pytest.raises(ValueError, match="out of order"):
        stitcher.add(Tile(0, 0, 0, 0), logits)
    with pytest.raises(ValueError, match="out of order"):
        stitcher.add(Tile(1, 0, 32, 0), logits)
