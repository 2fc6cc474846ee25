from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.errors import SettingsError
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.plan import AxisPart, AxisPlan, TilePart, TilePlan, tile_shape

strides = st.sampled_from([1, 2, 4, 8, 16])


@st.composite
def shapes(draw: st.DrawFn):
    stride = draw(strides)
    unit = stride * draw(st.sampled_from([1, 2, 4]))
    geometry = ModelGeometry(unit, stride, unit, draw(st.booleans()))
    halo = draw(st.integers(0, 2)) * unit
    core = draw(st.integers(1, 6)) * unit + int(geometry.align_corners)
    overlap = draw(st.integers(0, core - unit))
    return tile_shape(geometry, core + 2 * halo, halo=halo, overlap=overlap)


@given(shape=shapes(), length=st.integers(1, 700))
def test_the_plan_covers_every_pixel_with_cores_on_the_step(shape, length: int) -> None:
    plan = AxisPlan.of(length, shape)
    covered = set()
    for origin in plan.origins:
        assert origin % shape.geometry.origin_step == 0
        covered |= set(range(origin, origin + shape.core))
    assert set(range(length)) <= covered
    assert list(plan.origins) == sorted(set(plan.origins))
    assert max(covered) - (length - 1) < shape.core + shape.geometry.origin_step


@given(shape=shapes(), length=st.integers(1, 700))
def test_neighbours_share_at_least_the_overlap(shape, length: int) -> None:
    origins = AxisPlan.of(length, shape).origins
    for west, east in itertools.pairwise(origins):
        assert east - west <= shape.step
        assert west + shape.core - east >= shape.overlap


@given(shape=shapes(), length=st.integers(1, 700))
def test_the_last_core_holds_real_pixels(shape, length: int) -> None:
    plan = AxisPlan.of(length, shape)
    if len(plan.origins) > 1:
        assert plan.origins[-1] + shape.core - length < shape.geometry.origin_step


def test_512_tiles_advance_by_384() -> None:
    for stride in (8, 16):
        shape = tile_shape(ModelGeometry(stride, stride, stride), 512)
        assert (shape.halo, shape.overlap, shape.step) == (32, 64, 384)


@given(
    geometry=st.builds(
        lambda s, k, a: ModelGeometry(s, s, s * k, a), strides, st.integers(1, 4), st.booleans()
    ),
    side=st.integers(1, 900),
)
def test_nearest_valid_sides_are_valid_and_nearest(geometry: ModelGeometry, side: int) -> None:
    below, above = geometry.nearest_valid_sides(side)
    assert geometry.is_valid_side(below)
    assert geometry.is_valid_side(above)
    assert above >= side
    assert not any(geometry.is_valid_side(n) for n in range(side, above))
    if below <= side:
        assert not any(geometry.is_valid_side(n) for n in range(below + 1, side + 1))


def test_the_papers_crops_are_valid_with_align_corners() -> None:
    geometry = ModelGeometry(8, 8, 8, align_corners=True)
    assert all(geometry.is_valid_side(side) for side in (473, 513, 713, 769))
    assert not geometry.is_valid_side(512)


def test_a_side_that_the_model_cannot_take_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"tile size 500 is not of the form 16·n .* try 496 or 512"):
        tile_shape(ModelGeometry(16, 16, 16), 500)


def test_a_tile_without_room_for_a_step_says_how_large_it_must_be() -> None:
    with pytest.raises(SettingsError, match="use a tile of at least"):
        tile_shape(ModelGeometry(8, 8, 8), 64, halo=24, overlap=16)


def test_tiles_run_west_to_east() -> None:
    shape = tile_shape(ModelGeometry(8, 8, 8), 64, halo=0, overlap=16)
    plan = TilePlan.of(height=100, width=200, shape=shape)
    tiles = [tile for row in range(len(plan.rows.origins)) for tile in plan.tiles_of_row(row)]
    assert len(tiles) == len(plan)
    assert [(t.row, t.col) for t in tiles] == sorted((t.row, t.col) for t in tiles)


@given(shape=shapes(), length=st.integers(1, 700), data=st.data())
def test_a_part_has_exactly_the_tiles_whose_cores_touch_its_cells(
    shape, length: int, data: st.DataObject
) -> None:
    axis = AxisPlan.of(length, shape)
    first = data.draw(st.integers(0, axis.cells - 1))
    stop = data.draw(st.integers(first + 1, axis.cells))
    part = AxisPart.of(axis, range(first, stop))
    touching = [
        tile
        for tile, origin in enumerate(axis.cell_origins)
        if set(range(origin, origin + shape.core_cells)) & set(range(first, stop))
    ]
    assert list(part.tiles) == touching


@given(shape=shapes(), height=st.integers(1, 700), width=st.integers(1, 700))
def test_the_whole_is_the_part_with_all_tiles(shape, height: int, width: int) -> None:
    plan = TilePlan.of(height=height, width=width, shape=shape)
    whole = TilePart.whole(plan)
    assert len(whole) == len(plan)
    for row in whole.rows.tiles:
        assert list(whole.tiles_of_row(row)) == list(plan.tiles_of_row(row))


def test_a_part_keeps_the_numbers_of_the_plan() -> None:
    shape = tile_shape(ModelGeometry(8, 8, 8), 64, halo=0, overlap=16)
    plan = TilePlan.of(height=300, width=300, shape=shape)
    part = TilePart.of(plan, rows=range(20, 30), cols=range(13, 14))
    tiles = [tile for row in part.rows.tiles for tile in part.tiles_of_row(row)]
    assert len(tiles) == len(part)
    assert set(tiles) < {tile for row in range(len(plan.rows.origins)) for tile in plan.tiles_of_row(row)}
    with pytest.raises(ValueError, match="none of the part's rows"):
        next(part.tiles_of_row(0))


@pytest.mark.parametrize("cells", [range(0), range(-1, 3), range(0, 99), range(0, 4, 2)])
def test_a_part_without_cells_of_the_axis_is_our_bug(cells: range) -> None:
    axis = AxisPlan.of(100, tile_shape(ModelGeometry(8, 8, 8), 64))
    with pytest.raises(ValueError, match="a part is at least one of the cells"):
        AxisPart.of(axis, cells)
