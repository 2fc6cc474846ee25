"""Buildings come out right-angled where that is true of them, and raw where it is not."""

from __future__ import annotations

from math import hypot

import numpy as np
import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio import features
from shapely import affinity
from shapely.geometry import Polygon, box

from aerial_seg.polygonize.regularize.areas import Ragged, common_areas
from aerial_seg.polygonize.regularize.regularize import LEAST_IOU, STATUSES, regularize

Objects = NDArray[np.object_]


def objects(*polygons: Polygon) -> Objects:
    array = np.empty(len(polygons), np.object_)
    array[:] = polygons
    return array


def footprint(outline: str, width: float, height: float, arm: float) -> Polygon:
    """A right-angled footprint around the origin; arm: share of both sides."""
    w, h = arm * width, arm * height
    shapes = {
        "box": [box(0, 0, width, height)],
        "L": [box(0, 0, w, height), box(0, 0, width, h)],
        "T": [box(0, 0, width, h), box((width - w) / 2, 0, (width + w) / 2, height)],
        "Z": [box(0, 0, width * 0.7, h), box(width * 0.7 - w, h, width, height)],
    }
    joined = shapely.union_all(shapes[outline])
    return affinity.translate(shapely.simplify(joined, 0), -width / 2, -height / 2)


def court(width: float, height: float, wall: float) -> Polygon:
    outer = box(-width / 2, -height / 2, width / 2, height / 2)
    return Polygon(outer.exterior, [outer.buffer(-wall, join_style="mitre").exterior])


def traced(mask: NDArray[np.integer]) -> Objects:
    """The 4-connected patches above 0 of a mask, in pixel space."""
    found = features.shapes(mask.astype(np.int32), mask > 0, connectivity=4)
    return objects(*(Polygon(g["coordinates"][0], g["coordinates"][1:]) for g, _ in found))


def drawn(truth: Polygon, side: int) -> NDArray[np.uint8]:
    burnt = features.rasterize([(truth, 1)], (side, side), dtype=np.uint8)
    return np.asarray(burnt, np.uint8)


def iou(one: Objects, other: Objects) -> NDArray[np.float64]:
    # Without a grid GEOS takes polygons that differ by rounding for disjoint ones.
    common = shapely.area(shapely.intersection(one, other, grid_size=1e-6))
    ratio: NDArray[np.float64] = common / (shapely.area(one) + shapely.area(other) - common)
    return ratio


def corner_angles(polygon: Polygon) -> NDArray[np.float64]:
    """Degrees by which each corner of each ring is off a right angle."""
    off = []
    for ring in (polygon.exterior, *polygon.interiors):
        sides = np.diff(np.array(ring.coords), axis=0)
        angles = np.degrees(np.arctan2(sides[:, 1], sides[:, 0]))
        off.append(np.abs((angles - np.roll(angles, 1)) % 180 - 90))
    return np.concatenate(off)


def large_holes(polygons: Objects, tolerance: float) -> NDArray[np.int64]:
    """How many holes each polygon has that are too large to go, by a margin for what regularizing adds to them."""
    areas = [[Polygon(hole).area for hole in polygon.interiors] for polygon in polygons]
    return np.array([np.sum(np.array(holes) >= 4 * tolerance**2) for holes in areas])


@st.composite
def buildings(draw: st.DrawFn) -> Polygon:
    """Right-angled footprints, turned; every side is at least 5 long."""
    outline = draw(st.sampled_from(["box", "L", "T", "Z"]))
    width, height = draw(st.floats(20, 80)), draw(st.floats(20, 80))
    shape = footprint(outline, width, height, draw(st.floats(0.3, 0.5)))
    return affinity.rotate(shape, draw(st.floats(0, 90)), origin=(0, 0))


@st.composite
def masks(draw: st.DrawFn) -> NDArray[np.int64]:
    """Ragged patches that touch each other: rectangles on a small raster, of which some pixels are lost."""
    side = draw(st.integers(4, 40))
    mask = np.zeros((side, side), np.int64)
    for value in range(1, draw(st.integers(2, 8))):
        top, left = draw(st.integers(0, side - 1)), draw(st.integers(0, side - 1))
        mask[top : top + draw(st.integers(1, 25)), left : left + draw(st.integers(1, 25))] = value
    holes = draw(st.lists(st.tuples(*[st.integers(0, side - 1)] * 2), max_size=25))
    for hole in holes:
        mask[hole] = 0
    return mask


@given(masks(), st.floats(1, 3))
def test_every_result_is_sound(mask: NDArray[np.int64], tolerance: float) -> None:
    raw = traced(mask)
    result = regularize(raw, tolerance=tolerance)
    assert len(result) == len(raw)
    assert set(result.status) <= set(STATUSES)
    assert sum(result.counts.values()) == len(raw)
    assert shapely.is_valid(result.geometries).all()
    assert (shapely.get_type_id(result.geometries) == shapely.GeometryType.POLYGON).all()
    assert (shapely.area(result.geometries) > 0).all()
    assert (large_holes(result.geometries, tolerance) >= large_holes(raw, tolerance)).all()
    kept = ~np.isin(result.status, ["regular", "cut"])
    assert all(after is before for after, before in zip(result.geometries[kept], raw[kept], strict=True))
    assert (iou(raw, result.geometries) >= LEAST_IOU - 1e-5).all()


@given(st.lists(st.tuples(masks(), masks()), min_size=1, max_size=3), st.floats(0, 90), st.floats(-1e6, 1e6))
def test_common_areas_are_those_of_geos(
    pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]], angle: float, shift: float
) -> None:
    several = [
        (a, affinity.rotate(b, angle)) for one, other in pairs for a in traced(one) for b in traced(other)
    ]
    assume(several)
    one, other = (
        shapely.transform(objects(*column), lambda xy: xy + shift) for column in zip(*several, strict=True)
    )

    def ragged(polygons: Objects) -> Ragged:
        _, coords, (rings, parts) = shapely.to_ragged_array(polygons)
        return Ragged(coords, np.asarray(rings, np.int64), np.asarray(parts, np.int64))

    expected = shapely.area(shapely.intersection(one, other))
    assert common_areas(ragged(one), ragged(other)) == pytest.approx(expected, rel=1e-6, abs=1e-5)


@given(masks(), st.floats(1, 3))
def test_neighbours_never_overlap(mask: NDArray[np.int64], tolerance: float) -> None:
    shapes = regularize(traced(mask), tolerance=tolerance).geometries
    for k in range(len(shapes)):
        assert not shapely.relate_pattern(shapes[k], shapes[k + 1 :], "T********").any()


@given(buildings(), st.floats(0.5, 2))
def test_a_right_angled_outline_stays_as_it_is(building: Polygon, tolerance: float) -> None:
    result = regularize(objects(building), tolerance=tolerance)
    assert result.status[0] == "regular"
    # Within a hundredth of a tolerance the direction of the axes is taken.
    assert shapely.hausdorff_distance(result.geometries[0], building) < 0.01 * tolerance
    assert shapely.get_num_coordinates(result.geometries[0]) == shapely.get_num_coordinates(building)


@given(buildings(), st.tuples(st.floats(50, 52), st.floats(50, 52)))
def test_a_drawn_building_gets_its_angles_back(building: Polygon, at: tuple[float, float]) -> None:
    assume(min(building.minimum_rotated_rectangle.area, building.area) > 600)
    truth = affinity.translate(building, *at)
    raw = traced(drawn(truth, 102))
    result = regularize(raw, tolerance=1.5)
    assert result.counts == {"regular": 1}
    assert corner_angles(result.geometries[0]).max() < 1e-6
    assert iou(result.geometries, objects(truth))[0] > 0.9


@given(
    masks(),
    st.tuples(st.integers(-500_000, 500_000), st.integers(-5_000_000, 5_000_000)),
    st.sampled_from([0.125, 0.5, 1.0, 30.0]),
)
def test_place_and_unit_do_not_matter(mask: NDArray[np.int64], shift: tuple[int, int], unit: float) -> None:
    for raw in traced(mask):  # each alone: whether two that touch overlap may be a matter of rounding
        moved = shapely.transform(raw, lambda xy: (xy + shift) * unit)
        here, there = (
            regularize(objects(raw), tolerance=1.5),
            regularize(objects(moved), tolerance=1.5 * unit),
        )
        assert here.counts == there.counts
        back = shapely.transform(there.geometries[0], lambda xy: xy / unit - shift)
        assert shapely.hausdorff_distance(here.geometries[0], back) < 1e-6


@given(buildings(), st.integers(0, 3), st.booleans())
def test_quarter_turns_and_mirrors_do_not_matter(building: Polygon, quarters: int, mirrored: bool) -> None:
    raw = traced(drawn(affinity.translate(building, 50.3, 50.6), 101))

    def turn(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        turned = xy * (-1, 1) if mirrored else xy
        for _ in range(quarters):
            turned = np.stack([-turned[:, 1], turned[:, 0]], axis=1)
        return turned

    expected = shapely.transform(regularize(raw, tolerance=1.5).geometries, turn)
    found = regularize(shapely.transform(raw, turn), tolerance=1.5).geometries
    assert iou(expected, found).min() > 0.97


@given(buildings(), st.integers(0, 500))
def test_a_ring_may_begin_anywhere(building: Polygon, begin: int) -> None:
    raw = traced(drawn(affinity.translate(building, 50.3, 50.6), 101))[0]
    ring = np.array(raw.exterior.coords)[:-1]
    rolled = objects(Polygon(np.roll(ring, begin % len(ring), axis=0), raw.interiors))
    before, after = regularize(objects(raw), tolerance=1.5), regularize(rolled, tolerance=1.5)
    assert before.counts == after.counts
    assert shapely.hausdorff_distance(before.geometries, after.geometries)[0] < 1e-6


def synthetic(count: int, noise: int) -> tuple[Objects, Objects]:
    """True footprints of 8 to 24 m, and the outlines of their masks at 0.5 m, both in pixels."""
    random = np.random.default_rng(144)
    truths, raws = [], []
    while len(truths) < count:
        width, height = random.uniform(16, 48, 2)
        outline = ["box", "L", "T", "Z"][len(truths) % 4]
        shape = affinity.rotate(
            footprint(outline, width, height, random.uniform(0.35, 0.5)), random.uniform(0, 90)
        )
        truth = affinity.translate(shape, *random.uniform(40, 41, 2))
        mask = drawn(truth, 81)
        for _ in range(noise):  # a pixel of the outline is lost or won
            grown = np.asarray(features.rasterize([(truth.boundary, 1)], mask.shape, all_touched=True))
            mask = np.where((grown > 0) & (random.random(mask.shape) < 0.3), 1 - mask, mask)
        patches = traced(mask)
        place = 100 * (len(truths) % 12), 100 * (len(truths) // 12)  # each on its own plot
        truths.append(affinity.translate(truth, *place))
        raws.append(affinity.translate(patches[np.argmax(shapely.area(patches))], *place))
    return objects(*truths), objects(*raws)


@pytest.mark.parametrize("noise", [0, 1], ids=["clean", "ragged"])
def test_the_regular_shape_is_nearer_to_the_truth_than_the_raw_one(noise: int) -> None:
    truths, raws = synthetic(144, noise)
    result = regularize(raws, tolerance=1.5)
    before, after = iou(truths, raws), iou(truths, result.geometries)
    assert np.mean(result.status == "regular") >= 0.98
    assert after.mean() > before.mean()
    assert after.mean() > 0.95
    assert after.min() > 0.85
    corners = shapely.get_num_coordinates
    assert corners(result.geometries).sum() < (2 if noise else 1.05) * corners(truths).sum()


@given(st.floats(40, 80), st.floats(40, 80), st.floats(10, 14), st.floats(0, 90))
def test_courtyards_stay(width: float, height: float, wall: float, angle: float) -> None:
    truth = affinity.translate(affinity.rotate(court(width, height, wall), angle), 60.4, 60.2)
    raw = traced(drawn(truth, 121))
    result = regularize(raw, tolerance=1.5)
    assert result.counts == {"regular": 1}
    assert len(result.geometries[0].interiors) == 1
    assert corner_angles(result.geometries[0]).max() < 1e-6
    # The pixels themselves meet thin walls no better than this: sides may lie half a pixel off.
    assert iou(result.geometries, objects(truth))[0] > min(0.93, iou(raw, objects(truth))[0] - 0.01)


def test_a_shaft_of_one_pixel_stays_a_hole_of_its_size() -> None:
    mask = np.ones((20, 30), np.uint8)
    mask[8, 11] = 0
    result = regularize(traced(mask), tolerance=1.5)
    assert result.status[0] == "regular"
    (shaft,) = result.geometries[0].interiors
    assert Polygon(shaft).equals(box(11, 8, 12, 9))


@pytest.mark.parametrize("angle", [0, 17, 45, 70])
def test_a_long_side_at_45_degrees_is_laid_there(angle: float) -> None:
    house = Polygon([(0, 0), (60, 0), (60, 20), (40, 40), (0, 40)])
    truth = affinity.translate(affinity.rotate(house, angle), 30.2, 35.7)
    result = regularize(traced(drawn(truth, 110)), tolerance=1.5)
    assert result.counts == {"regular": 1}
    assert shapely.get_num_coordinates(result.geometries[0]) == 6
    assert np.sort(corner_angles(result.geometries[0])) == pytest.approx([0, 0, 0, 45, 45], abs=1e-6)
    assert shapely.hausdorff_distance(result.geometries[0], truth) < 2


@pytest.mark.parametrize("angle", [0, 23, 60])
def test_a_long_wall_that_stands_askew_stays_askew(angle: float) -> None:
    house = Polygon([(0, 0), (70, 0), (70, 25), (0, 45)])
    truth = affinity.translate(affinity.rotate(house, angle), 30.2, 35.7)
    result = regularize(traced(drawn(truth, 110)), tolerance=1.5)
    assert result.counts == {"regular": 1}
    assert shapely.get_num_coordinates(result.geometries[0]) == 5
    assert shapely.hausdorff_distance(result.geometries[0], truth) < 2


def test_steps_go_and_wings_stay() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:50, 10:70] = 1
    mask[8:10, 20:30] = 1  # two pixels of noise on a wall
    mask[45:50, 60:70] = 0  # a recess of 5 × 10
    result = regularize(traced(mask), tolerance=1.5)
    expected = shapely.difference(box(10, 10, 70, 50), box(60, 45, 70, 50))
    assert result.status[0] == "regular"
    assert shapely.get_num_coordinates(result.geometries[0]) == 7
    assert shapely.hausdorff_distance(result.geometries[0], expected) < 0.2


def test_round_and_tiny_shapes_stay_raw() -> None:
    disc = shapely.Point(30, 30).buffer(20, quad_segs=32)
    drawn_disc = affinity.translate(traced(drawn(disc, 60))[0], 100, 0)
    result = regularize(objects(disc, box(0, 0, 1, 1), drawn_disc), tolerance=1.5)
    assert result.status.tolist() == ["kept_round", "kept_small", "kept_round"]


def test_what_is_too_large_for_a_building_stays_raw() -> None:
    angles = np.linspace(0, 2 * np.pi, 30_000, endpoint=False)
    radii = 1000 + 50 * (np.arange(30_000) % 2)
    star = Polygon(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1))
    result = regularize(objects(star), tolerance=1.5)
    assert result.counts == {"kept_large": 1}
    assert result.geometries[0] is star


def test_small_holes_that_a_wall_would_touch_go() -> None:
    mask = np.ones((42, 60), np.uint8)
    mask[0] = 0
    mask[0, 29:32] = 1  # the wall comes to lie below this bay, and the first hole on the wall
    mask[1, 30] = 0
    mask[12, 12] = 0
    mask[20:25, 20:30] = 0
    raw = traced(mask)
    assert len(raw[0].interiors) == 3
    result = regularize(raw, tolerance=1.5)
    assert result.counts == {"regular": 1}
    assert sorted(Polygon(hole).area for hole in result.geometries[0].interiors) == pytest.approx([1, 50])


def test_an_invalid_shape_comes_back_as_it_was() -> None:
    bowtie = Polygon([(0, 0), (20, 20), (20, 0), (0, 20)])
    house = box(100, 100, 140, 130)
    result = regularize(objects(bowtie, house, Polygon()), tolerance=1.5)
    assert result.status.tolist() == ["kept_invalid", "regular", "kept_invalid"]
    assert result.geometries[0] is bowtie


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_regular_shapes_that_overlap_the_smaller_is_cut(first: int) -> None:
    mask = np.zeros((70, 80), np.uint8)
    mask[10:60, 10:40] = 1
    mask[10:30, 40] = 1  # the large house's wall comes to lie between columns 40 and 41
    mask[32:60, 40:70] = 2
    raw = np.roll(np.array([traced((mask == k) * k)[0] for k in (1, 2)]), first)
    alone = [regularize(raw[k : k + 1], tolerance=1.5).geometries[0] for k in range(2)]
    assert shapely.area(shapely.intersection(*alone)) > 5
    result = regularize(raw, tolerance=1.5)
    assert result.status[first] == "regular"
    assert result.status[1 - first] == "cut"
    assert shapely.equals(result.geometries[first], alone[first])
    left = shapely.difference(alone[1 - first], alone[first])
    assert shapely.hausdorff_distance(result.geometries[1 - first], left) < 0.01
    assert result.geometries[1 - first].exterior.is_ccw == raw[1 - first].exterior.is_ccw


def test_a_regular_shape_never_takes_from_a_raw_one() -> None:
    tank = shapely.Point(51.5, 30).buffer(20, quad_segs=32)
    house = shapely.difference(box(70, 10, 110, 50), tank)
    alone = regularize(objects(house), tolerance=1.5)
    assert alone.counts == {"regular": 1}
    assert shapely.area(shapely.intersection(alone.geometries[0], tank)) > 5
    result = regularize(objects(house, tank), tolerance=1.5)
    assert result.status.tolist() == ["kept_overlap", "kept_round"]
    assert result.geometries[0] is house


@given(st.permutations(range(6)), st.integers(0, 1000))
def test_the_order_of_the_polygons_does_not_matter(order: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = np.zeros((40, 90), np.int64)
    for k in range(6):
        mask[5 : 25 + 2 * k, 14 * k + 2 : 14 * k + 16] = k + 1
    mask[random.random(mask.shape) < 0.02] = 0
    raw = np.array([max(traced((mask == k) * k), key=lambda p: p.area) for k in range(1, 7)], np.object_)
    assume(len(set(shapely.area(raw))) == 6)
    straight, mixed = regularize(raw, tolerance=1.5), regularize(raw[order], tolerance=1.5)
    assert np.array_equal(straight.status[order], mixed.status)
    assert shapely.equals_exact(straight.geometries[order], mixed.geometries).all()


def test_nothing_gives_nothing() -> None:
    result = regularize(np.empty(0, np.object_), tolerance=1)
    assert len(result) == 0
    assert result.counts == {}


def test_what_cannot_be_regularized_is_refused() -> None:
    with pytest.raises(ValueError, match="tolerance 0"):
        regularize(objects(box(0, 0, 9, 9)), tolerance=0)
    parts = np.array([shapely.MultiPolygon([box(0, 0, 9, 9), box(20, 0, 29, 9)])], np.object_)
    with pytest.raises(ValueError, match="not a Polygon"):
        regularize(parts, tolerance=1)


def test_sides_are_as_long_as_they_look() -> None:
    """A house from an aerial image: the sides of the regular shape are the wall lengths, to half a pixel."""
    truth = affinity.translate(affinity.rotate(box(0, 0, 52, 31), 33), 30.1, 30.9)
    shape = regularize(traced(drawn(truth, 110)), tolerance=1.5).geometries[0]
    sides = sorted(hypot(*step) for step in np.diff(np.array(shape.exterior.coords), axis=0))
    assert sides == pytest.approx([31, 31, 52, 52], abs=0.5)
