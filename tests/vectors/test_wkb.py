"""Ragged arrays become the well-known binary that GEOS writes of the same polygons, byte by byte."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aerial_seg.vectors.wkb import Wkb, multipolygons

Ring = NDArray[np.float64]


@dataclass(frozen=True)
class Shapes:
    coords: NDArray[np.float64]
    rings: NDArray[np.int64]
    polygons: NDArray[np.int64]
    features: NDArray[np.int64]


def offsets(counts: list[int]) -> NDArray[np.int64]:
    return np.array([0, *accumulate(counts)], np.int64)


def ragged(features: list[list[list[Ring]]]) -> Shapes:
    polygons = [polygon for feature in features for polygon in feature]
    rings = [ring for polygon in polygons for ring in polygon]
    return Shapes(
        np.concatenate([np.zeros((0, 2)), *rings]),
        offsets([len(ring) for ring in rings]),
        offsets([len(polygon) for polygon in polygons]),
        offsets([len(feature) for feature in features]),
    )


def geometries(features: list[list[list[Ring]]]) -> NDArray[np.object_]:
    found = np.empty(len(features), object)
    for k, feature in enumerate(features):
        found[k] = shapely.MultiPolygon([shapely.Polygon(shell, holes) for shell, *holes in feature])
    return found


numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)
rings = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=6).map(
    lambda points: np.array([*points, points[0]])
)
feature_lists = st.lists(
    st.lists(st.lists(rings, min_size=1, max_size=3), min_size=1, max_size=3), max_size=5
)


@given(feature_lists)
def test_the_bytes_are_those_of_geos(features: list[list[list[Ring]]]) -> None:
    wkb = multipolygons(ragged(features))
    expected = shapely.to_wkb(geometries(features), byte_order=1, flavor="iso")
    assert wkb.objects().tolist() == expected.tolist()
    assert len(wkb) == len(features)
    assert wkb.parts().tolist() == [len(feature) for feature in features]


@given(feature_lists)
def test_geos_reads_the_same_vertices(features: list[list[list[Ring]]]) -> None:
    read = shapely.from_wkb(multipolygons(ragged(features)).objects())
    assert shapely.equals_exact(read, geometries(features)).all()
    assert (shapely.get_type_id(read) == shapely.GeometryType.MULTIPOLYGON).all()


@given(feature_lists, st.data())
def test_parts_joined_are_the_whole(features: list[list[list[Ring]]], data: st.DataObject) -> None:
    wkb = multipolygons(ragged(features))
    cut = data.draw(st.integers(0, len(features)))
    first, rest = wkb.part(0, cut), wkb.part(cut, len(features))
    assert first.objects().tolist() == wkb.objects().tolist()[:cut]
    assert rest.objects().tolist() == wkb.objects().tolist()[cut:]
    whole = first.joined(rest)
    assert isinstance(whole, Wkb)
    assert np.array_equal(whole.data, wkb.data)
    assert np.array_equal(whole.offsets, wkb.offsets)


def test_offsets_may_begin_anywhere() -> None:
    """A slice of features, with the arrays of all."""
    squares = [[[np.array([[k, 0], [k + 1, 0], [k, 1], [k, 0]], float)]] for k in range(4)]
    shapes = ragged(squares)
    later = Shapes(shapes.coords, shapes.rings, shapes.polygons, shapes.features[2:])
    assert multipolygons(later).objects().tolist() == multipolygons(shapes).objects().tolist()[2:]
