"""Pixels that polygons hold: GDAL's rasterize is the oracle, to the pixel."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from rasterio.features import rasterize

from aerial_seg.labels.burning import NOWHERE, Outlines

SHAPE = (11, 9)
NUMBERS = st.integers(-12, 36).map(lambda k: k / 2) | st.integers(-600, 1800).map(lambda k: k / 97)
"""Centres and edges of pixels, where the rule is told by a hair, and places between; beyond the window, too."""


@st.composite
def grounds(draw: st.DrawFn) -> shapely.Geometry:
    """A valid polygon or several, with holes, walked either way."""
    corners = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=9)
    ground = shapely.make_valid(shapely.Polygon(draw(corners)), method="structure", keep_collapsed=False)
    left, top = draw(NUMBERS), draw(NUMBERS)
    width, height = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    ground = shapely.difference(ground, shapely.box(left, top, left + width / 2, top + height / 2))
    return shapely.reverse(ground) if draw(st.booleans()) else ground


def of_gdal(polygons: np.ndarray, values: np.ndarray, elsewhere: int) -> np.ndarray:
    out = np.full(SHAPE, elsewhere, np.uint8 if elsewhere >= 0 else np.int16)
    # Burnt coordinates are rounded to a millionth of a pixel.
    rounded = shapely.transform(polygons, lambda points: np.rint(points * 2**20) / 2**20)
    rasterize([(one, int(value)) for one, value in zip(rounded, values, strict=True)], out=out)
    return out


@given(
    polygons=st.lists(
        grounds().filter(lambda one: one.geom_type in ("Polygon", "MultiPolygon") and not one.is_empty),
        min_size=1,
        max_size=4,
    ),
    elsewhere=st.sampled_from([NOWHERE, 0, 255]),
    data=st.data(),
)
def test_the_pixels_are_those_that_gdal_fills(
    polygons: list[shapely.Geometry], elsewhere: int, data: st.DataObject
) -> None:
    given_polygons = np.array(polygons, object)
    values = np.array([data.draw(st.integers(0, 255)) for _ in polygons], np.uint8)
    got = Outlines.of(given_polygons).burnt(values, SHAPE, elsewhere=elsewhere)
    assert np.array_equal(got, of_gdal(given_polygons, values, elsewhere))


@pytest.mark.parametrize("turned", [False, True], ids=["as drawn", "the other way"])
def test_level_edges_through_centres_are_filled_above_a_hole_only(turned: bool) -> None:
    ring = shapely.difference(shapely.box(0, 0.5, 8, 9.5), shapely.box(2, 3.5, 6, 6.5))
    polygons = np.array([shapely.reverse(ring) if turned else ring], object)
    got = Outlines.of(polygons).burnt(np.array([1], np.uint8), SHAPE, elsewhere=0)
    assert np.array_equal(got, of_gdal(polygons, np.array([1]), 0))
    assert got[:, 4].tolist() == [1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0]


def test_an_outline_of_many_crossings_is_filled_as_a_short_one() -> None:
    """More than are sorted by hand, and more than there was room for."""
    points = [(0.0, 0.0)]
    for tooth in range(400):
        points += [(tooth / 50 + 0.004, 10.0), (tooth / 50 + 0.013, 1.0)]
    polygons = np.array([shapely.Polygon([*points, (8.5, 0.0)])], object)
    assert polygons[0].is_valid
    got = Outlines.of(polygons).burnt(np.array([3], np.uint8), SHAPE, elsewhere=0)
    assert np.array_equal(got, of_gdal(polygons, np.array([3]), 0))


def test_what_lies_far_beside_the_window_leaves_it_as_it_is() -> None:
    far = np.array([shapely.box(-1e8, -1e8, -5, -5), shapely.box(20, 20, 1e8, 1e8)], object)
    got = Outlines.of(far).burnt(np.array([1, 2], np.uint8), SHAPE, elsewhere=0)
    assert not got.any()
