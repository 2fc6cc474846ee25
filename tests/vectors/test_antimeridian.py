"""Cut polygons cover the same ground, all of it within −180…180, and still share their sides."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aerial_seg.polygonize.batch import PolygonBatch
from aerial_seg.vectors.antimeridian import cut_antimeridian
from aerial_seg.vectors.wkb import multipolygons


def make_batch(features: list[list[list[NDArray[np.float64]]]]) -> PolygonBatch:
    polygons = [polygon for feature in features for polygon in feature]
    rings = [ring for polygon in polygons for ring in polygon]
    count, empty = len(features), np.zeros(0, np.int64)
    return PolygonBatch(
        coords=np.concatenate(rings).astype(float),
        rings=np.cumsum([0, *map(len, rings)], dtype=np.int64),
        polygons=np.cumsum([0, *map(len, polygons)], dtype=np.int64),
        features=np.cumsum([0, *map(len, features)], dtype=np.int64),
        values=np.arange(count),
        n_px=np.ones(count, np.int64),
        conf_sum=empty,
        conf_min=empty.astype(np.uint8),
    )


def box(
    left: float, right: float, *, bottom: float = 0, top: float = 8, hole: bool = False
) -> NDArray[np.float64]:
    ring = np.array([[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]], float)
    return ring[::-1] if hole else ring


def geometries(batch: PolygonBatch) -> NDArray[np.object_]:
    found: NDArray[np.object_] = shapely.from_wkb(multipolygons(batch).objects())
    return found


def rolled(geometry: shapely.Geometry) -> shapely.Geometry:
    """On a circle of longitudes from 0 on, where the antimeridian is in the middle."""
    return shapely.union_all(
        [
            shapely.transform(part, lambda c: c + np.array([360 if c[:, 0].max() <= 0 else 0, 0]))
            for part in shapely.get_parts(geometry)
        ]
    )


edges = st.lists(st.integers(-30, 30), min_size=2, max_size=7, unique=True).map(sorted)


@given(edges, st.sampled_from([-180, 180]))
def test_the_same_ground_within_the_world(places: list[int], line: int) -> None:
    batch = make_batch([[[box(line + a, line + b)]] for a, b in pairwise(places)])
    cut = cut_antimeridian(batch)
    assert np.abs(cut.coords[:, 0]).max() <= 180
    assert np.array_equal(cut.values, batch.values)
    found = geometries(cut)
    assert shapely.is_valid(found).all()
    polygons = shapely.get_parts(found)
    assert not shapely.is_empty(polygons).any()
    assert shapely.is_ccw(shapely.get_exterior_ring(polygons)).all()
    assert shapely.coverage_is_valid(polygons)
    for one, other in zip(found, geometries(batch), strict=True):
        moved = shapely.transform(other, lambda c: c + np.array([180 - line, 0]))
        assert rolled(one).equals(moved)


def test_holes_and_parts_are_cut_too() -> None:
    feature = [[box(170, 190), box(176, 184, bottom=2, top=6, hole=True)], [box(191, 195)], [box(160, 165)]]
    (found,) = geometries(cut_antimeridian(make_batch([feature])))
    assert len(found.geoms) == 4
    assert found.area == 20 * 8 - 8 * 4 + 4 * 8 + 5 * 8
    assert found.is_valid


def test_features_that_do_not_cross_keep_their_vertices() -> None:
    still = [[box(-180, -179.1), box(-179.7, -179.5, bottom=1, top=2, hole=True)]]
    batch = make_batch([still, [[box(-181, -180)]], still])
    cut = cut_antimeridian(batch)
    assert multipolygons(cut).objects()[[0, 2]].tolist() == multipolygons(batch).objects()[[0, 2]].tolist()
    assert geometries(cut)[1].bounds == (179, 0, 180, 8)


@pytest.mark.parametrize("left", [-180, 0, 179])
def test_nothing_is_done_where_nothing_crosses(left: float) -> None:
    batch = make_batch([[[box(left, left + 1)]]])
    assert cut_antimeridian(batch) is batch
