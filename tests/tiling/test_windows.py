from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.errors import SettingsError
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.plan import AxisPlan, tile_shape
from aerial_seg.tiling.windows import WINDOWS, axis_weights


@st.composite
def axes(draw: st.DrawFn) -> AxisPlan:
    stride = draw(st.sampled_from([1, 2, 8, 16]))
    unit = stride * draw(st.sampled_from([1, 4]))
    geometry = ModelGeometry(unit, stride, unit, draw(st.booleans()))
    core = draw(st.integers(1, 8)) * unit + int(geometry.align_corners)
    shape = tile_shape(geometry, core, halo=0, overlap=draw(st.integers(0, core - unit)))
    return AxisPlan.of(draw(st.integers(1, 900)), shape)


@given(axis=axes(), window=st.sampled_from(WINDOWS))
def test_every_cell_is_weighted_and_the_sums_are_those_of_all_tiles(axis: AxisPlan, window: str) -> None:
    weights = axis_weights(axis, window)
    sums = np.zeros(len(weights.sums))
    for origin, tile in zip(axis.cell_origins, weights.tiles, strict=True):
        assert tile.shape == (axis.shape.core_cells,)
        assert tile.dtype == np.float32
        sums[origin : origin + len(tile)] += tile
    assert len(sums) >= axis.cells
    np.testing.assert_allclose(weights.sums, sums, rtol=1e-6)
    assert (weights.sums > 0).all()


@given(axis=axes(), window=st.sampled_from(["linear", "cosine", "gaussian"]))
def test_blending_windows_are_positive_symmetric_and_rise_to_the_centre(axis: AxisPlan, window: str) -> None:
    for tile in axis_weights(axis, window).tiles:
        assert (tile > 0).all()
        np.testing.assert_allclose(tile, tile[::-1], rtol=1e-5)
        assert (np.diff(tile[: (len(tile) + 1) // 2]) >= 0).all()


@given(cells=st.integers(2, 60), overlap=st.integers(0, 30), window=st.sampled_from(["linear", "cosine"]))
def test_the_ramps_of_neighbours_sum_to_one(cells: int, overlap: int, window: str) -> None:
    overlap = min(overlap, cells // 2)
    shape = tile_shape(ModelGeometry(1, 1, 1), cells, halo=0, overlap=overlap)
    (weights, *_) = axis_weights(AxisPlan.of(10 * cells, shape), window).tiles
    np.testing.assert_allclose(weights[cells - overlap :] + weights[:overlap], 1, atol=1e-6)
    np.testing.assert_array_equal(weights[overlap : cells - overlap], 1)


@given(axis=axes())
def test_the_centre_window_takes_every_cell_from_one_tile(axis: AxisPlan) -> None:
    weights = axis_weights(axis, "centre")
    owners = np.zeros(len(weights.sums), int)
    for origin, tile in zip(axis.cell_origins, weights.tiles, strict=True):
        assert set(tile.tolist()) <= {0.0, 1.0}
        assert (np.diff(np.flatnonzero(tile)) == 1).all()
        owners[origin : origin + len(tile)] += tile.astype(int)
    assert (owners == 1).all()


@given(axis=axes())
def test_centre_seams_run_halfway_through_each_overlap(axis: AxisPlan) -> None:
    tiles, cells = axis_weights(axis, "centre").tiles, axis.shape.core_cells
    starts = [
        origin + int(np.flatnonzero(tile)[0]) for origin, tile in zip(axis.cell_origins, tiles, strict=True)
    ]
    assert starts[0] == 0
    for (west, east), seam in zip(itertools.pairwise(axis.cell_origins), starts[1:], strict=True):
        assert 0 <= (west + cells - seam) - (seam - east) <= 1


@given(axis=axes(), window=st.sampled_from(WINDOWS), data=st.data())
def test_the_shares_of_all_tiles_sum_to_one_in_any_part(
    axis: AxisPlan, window: str, data: st.DataObject
) -> None:
    weights = axis_weights(axis, window)
    first = data.draw(st.integers(0, axis.cells - 1))
    cells = range(first, data.draw(st.integers(first + 1, axis.cells)))
    total, tiles = np.zeros(len(weights.sums)), np.zeros(len(weights.sums), int)
    for tile in range(len(axis.origins)):
        start, shares = weights.shares(tile, cells)
        total[start : start + len(shares)] += shares
        tiles[start : start + len(shares)] += 1
        whole_start, whole = weights.shares(tile, range(len(weights.sums)))
        if len(shares):
            np.testing.assert_array_equal(shares, whole[start - whole_start :][: len(shares)])
    inside = slice(cells.start, cells.stop)
    np.testing.assert_allclose(total[inside], 1, rtol=1e-6)
    assert (total[inside][tiles[inside] == 1] == 1).all()
    assert tiles.sum() == tiles[inside].sum()


def test_an_unknown_window_names_the_known_ones() -> None:
    axis = AxisPlan.of(100, tile_shape(ModelGeometry(8, 8, 8), 64))
    with pytest.raises(
        SettingsError, match="use one of linear, cosine, gaussian, centre; did you mean 'gaussian'"
    ):
        axis_weights(axis, "gausian")
