"""Traced polygons are GDAL's, fit together, come back as the same pixels, and do not depend on how rows arrive."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from rasterio import features
from scipy import ndimage

from aerial_seg.polygonize.batch import NONE, PolygonBatch, joined_batches
from aerial_seg.polygonize.row_chunks import in_row_chunks
from aerial_seg.polygonize.tracing.simplify import Simplification
from aerial_seg.polygonize.tracing.tracer import Tracer

ALL = np.ones(65536, bool)
EXACT = Simplification()


@st.composite
def masks(draw: st.DrawFn, largest: int = 14) -> np.ndarray:
    """Small masks of all kinds: noise, blocks, checkerboards, single rows, nodata."""
    height, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    classes = draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["noise", "blocks", "smooth", "checkerboard"]))
    if kind == "noise":
        mask = random.integers(0, classes, (height, width))
    elif kind == "blocks":
        mask = np.kron(random.integers(0, classes, (height, width)), np.ones((3, 3), int))[:height, :width]
    elif kind == "smooth":
        noise = random.normal(size=(classes, height, width))
        mask = np.stack([ndimage.gaussian_filter(layer, 1) for layer in noise]).argmax(axis=0)
    else:
        mask = np.indices((height, width)).sum(axis=0) % 2
    mask = mask.astype(np.uint16)
    mask[random.random((height, width)) < draw(st.sampled_from([0, 0, 0.2, 1]))] = NONE
    return mask


def trace(
    mask: np.ndarray,
    how: Simplification = EXACT,
    *,
    rows: int = 512,
    levels: np.ndarray | None = None,
    connectivity: int = 4,
) -> PolygonBatch:
    tracer = Tracer(mask.shape[1], wanted=ALL, how=how, connectivity=connectivity)
    batches = [tracer.add(codes, part) for codes, part in in_row_chunks([(mask, levels)], rows)]
    end = None if levels is None else np.zeros((1, mask.shape[1]), np.uint8)
    batches.append(tracer.add(np.full((1, mask.shape[1]), NONE, np.uint16), end))
    whole = batches[0]
    for batch in batches[1:]:
        whole = joined_batches(whole, batch)
    return whole


def polygons(batch: PolygonBatch) -> np.ndarray:
    return np.asarray(
        shapely.from_ragged_array(
            shapely.GeometryType.MULTIPOLYGON,
            batch.coords,
            (batch.rings, batch.polygons, batch.features),
        )
    )


def in_order(batch: PolygonBatch) -> list[tuple[int, int, bytes]]:
    """What each feature is, independent of the order in which they came."""
    shapes = polygons(batch)
    return sorted(
        (int(value), int(pixels), shapely.to_wkb(shape))
        for value, pixels, shape in zip(batch.values, batch.n_px, shapes, strict=True)
    )


def gdal(mask: np.ndarray) -> Iterator[tuple[int, shapely.Polygon]]:
    found = features.shapes(mask.astype(np.int32), mask=mask != NONE, connectivity=4)
    for geometry, value in found:
        yield int(value), shapely.geometry.shape(geometry)


@settings(deadline=None, max_examples=examples(200))
@given(mask=masks(), rows=st.integers(1, 15))
def test_the_polygons_are_those_of_gdal(mask: np.ndarray, rows: int) -> None:
    batch = trace(mask, rows=rows)
    ours = {}
    for value, multi in zip(batch.values, polygons(batch), strict=True):
        (shape,) = multi.geoms
        assert shapely.is_valid(shape)
        ours[int(value), shapely.normalize(shape.simplify(0)).wkt] = shape
    theirs = list(gdal(mask))
    assert len(ours) == len(batch) == len(theirs)
    for value, shape in theirs:
        match = ours.get((value, shapely.normalize(shape.simplify(0)).wkt))
        if match is None:
            # simplify(0) keeps a collinear first vertex: look for the one of equal area and bounds.
            (match,) = [
                s for (v, _), s in ours.items() if v == value and s.bounds == shape.bounds and s.equals(shape)
            ]
        assert match.equals(shape)


@settings(deadline=None, max_examples=examples(200))
@given(mask=masks(), rows=st.integers(1, 15), connectivity=st.sampled_from([4, 8]))
def test_the_height_of_the_stripes_changes_no_vertex(mask: np.ndarray, rows: int, connectivity: int) -> None:
    whole = trace(mask, connectivity=connectivity)
    assert in_order(trace(mask, rows=rows, connectivity=connectivity)) == in_order(whole)


@settings(deadline=None, max_examples=examples(100))
@given(mask=masks(), rows=st.integers(1, 15))
def test_rasterised_again_it_is_the_mask(mask: np.ndarray, rows: int) -> None:
    batch = trace(mask, rows=rows)
    again = np.full(mask.shape, NONE, np.int32)
    if len(batch):
        features.rasterize(zip(polygons(batch), batch.values, strict=True), out=again)
    np.testing.assert_array_equal(again, mask)


@settings(deadline=None, max_examples=examples(300))
@given(
    mask=masks(),
    rows=st.integers(1, 15),
    tolerance=st.sampled_from([0.0, 0.5, 0.8, 1.0, 1.5, 3.0, 20.0]),
    method=st.sampled_from(["douglas-peucker", "visvalingam"]),
    smooth=st.booleans(),
)
def test_neighbours_fit_together_however_they_are_simplified(
    mask: np.ndarray, rows: int, tolerance: float, method: str, smooth: bool
) -> None:
    how = Simplification(tolerance, method, smooth)
    batch, exact = trace(mask, how, rows=rows), trace(mask)
    shapes = polygons(batch)
    assert shapely.is_valid(shapes).all()
    assert (shapely.area(shapes) > 0).all()
    parts = shapely.get_parts(shapes)
    assert shapely.coverage_is_valid(parts)
    assert sorted(zip(batch.values, batch.n_px, strict=True)) == sorted(
        zip(exact.values, exact.n_px, strict=True)
    )
    assert len(batch.rings) == len(exact.rings)
    # Sides on pixels without class and on the raster's border have not moved.
    assert shapely.union_all(shapes).equals(shapely.union_all(polygons(exact)))
    assert shapely.area(shapes).sum() == pytest.approx((mask != NONE).sum())


@settings(deadline=None, max_examples=examples(100))
@given(mask=masks(20), rows=st.integers(1, 20), tolerance=st.sampled_from([0.8, 1.5, 3.0]))
def test_douglas_peucker_keeps_its_tolerance(mask: np.ndarray, rows: int, tolerance: float) -> None:
    exact, simple = trace(mask, rows=rows), trace(mask, Simplification(tolerance), rows=rows)
    assert list(exact.n_px) == list(simple.n_px)
    for before, after in zip(polygons(exact), polygons(simple), strict=True):
        assert shapely.hausdorff_distance(before.boundary, after.boundary) <= tolerance + 1e-9


@settings(deadline=None, max_examples=examples(100))
@given(mask=masks(), pieces=st.lists(st.integers(1, 5), min_size=1), smooth=st.booleans())
def test_the_pieces_in_which_rows_arrive_change_nothing(
    mask: np.ndarray, pieces: list[int], smooth: bool
) -> None:
    how = Simplification(1.5, smooth=smooth)
    cuts = np.cumsum(pieces)
    parts = [(part, None) for part in np.split(mask, cuts[cuts < len(mask)]) if len(part)]
    tracer = Tracer(mask.shape[1], wanted=ALL, how=how)
    found = PolygonBatch(*([None] * 8))
    batches = list(tracer.trace(parts))
    found = batches[0]
    for batch in batches[1:]:
        found = joined_batches(found, batch)
    assert in_order(found) == in_order(trace(mask, how))


@settings(deadline=None, max_examples=examples(100))
@given(mask=masks(), rows=st.integers(1, 15))
def test_with_eight_neighbours_features_are_the_patches_that_touch_at_corners(
    mask: np.ndarray, rows: int
) -> None:
    batch = trace(mask, rows=rows, connectivity=8)
    shapes = polygons(batch)
    assert shapely.is_valid(shapes).all()
    expected = []
    for value in np.unique(mask[mask != NONE]):
        labels, count = ndimage.label(mask == value, np.ones((3, 3)))
        expected += [(int(value), int((labels == k).sum())) for k in range(1, count + 1)]
    assert sorted(zip(batch.values.tolist(), batch.n_px.tolist(), strict=True)) == sorted(expected)
    np.testing.assert_allclose(shapely.area(shapes), batch.n_px)
    assert len(shapely.get_parts(shapes)) == len(trace(mask))


@settings(deadline=None, max_examples=examples(100))
@given(mask=masks(), rows=st.integers(1, 15), seed=st.integers(0, 1000))
def test_confidence_is_summed_over_the_patches_pixels(mask: np.ndarray, rows: int, seed: int) -> None:
    levels = np.random.default_rng(seed).integers(0, 251, mask.shape).astype(np.uint8)
    batch = trace(mask, rows=rows, levels=levels)
    expected = []
    for value in np.unique(mask[mask != NONE]):
        labels, count = ndimage.label(mask == value)
        expected += [
            (int(value), int(levels[labels == k].sum()), int(levels[labels == k].min()))
            for k in range(1, count + 1)
        ]
    found = zip(batch.values.tolist(), batch.conf_sum.tolist(), batch.conf_min.tolist(), strict=True)
    assert sorted(found) == sorted(expected)


@settings(deadline=None, max_examples=examples(100))
@given(mask=masks(), smooth=st.booleans())
def test_rings_begin_in_the_north_west_and_exteriors_run_clockwise_on_screen(
    mask: np.ndarray, smooth: bool
) -> None:
    batch = trace(mask, Simplification(1.0, smooth=smooth))
    for first, last in zip(batch.rings[:-1], batch.rings[1:], strict=True):
        ring = batch.coords[first:last]
        np.testing.assert_array_equal(ring[0], ring[-1])
        assert tuple(ring[0, ::-1]) == min(map(tuple, ring[:, ::-1]))
    for first, last in zip(batch.polygons[:-1], batch.polygons[1:], strict=True):
        for k in range(first, last):
            ring = shapely.LinearRing(batch.coords[batch.rings[k] : batch.rings[k + 1]])
            # shapely has y up: clockwise on screen is counter-clockwise there with y mirrored.
            assert ring.is_ccw == (k == first)


def test_classes_that_nobody_wants_are_not_drawn_but_bound_their_neighbours() -> None:
    mask = np.array([[0, 0, 1], [0, 2, 1], [2, 2, 1]], np.uint16)
    wanted = np.zeros(65536, bool)
    wanted[1] = True
    tracer = Tracer(3, wanted=wanted, how=EXACT)
    (batch,) = [b for b in tracer.trace([(mask, None)]) if len(b)]
    assert batch.values.tolist() == [1]
    assert batch.n_px.tolist() == [3]
    # The corner where 0 and 2 meet on its side is a vertex, so that it fits to them when they are drawn as well.
    assert [2.0, 1.0] in batch.coords.tolist()


def test_a_shortcut_that_would_cross_a_neighbour_is_refused_and_counted() -> None:
    mask = np.zeros((12, 30), np.uint16)
    mask[4:6] = 1
    mask[3:5, ::2] = 1
    mask[6, 1::4] = 2
    tracer = Tracer(30, wanted=ALL, how=Simplification(4.0))
    batches = [batch for batch in tracer.trace([(mask, None)]) if len(batch)]
    assert tracer.counts.refused > 0
    assert tracer.counts.vertices_after < tracer.counts.vertices_before
    assert shapely.coverage_is_valid(shapely.get_parts(np.concatenate([polygons(b) for b in batches])))
