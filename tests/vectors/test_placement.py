"""Placed polygons lie where pyproj puts their vertices, still share their sides, and turn the right way round."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.polygonize.batch import PolygonBatch
from aerial_seg.vectors.placement import Placement, densify
from aerial_seg.vectors.wkb import multipolygons

UTM = CRS(32645)
PLACES = {
    "north-up": (UTM, Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000)),
    "south-up": (UTM, Affine(0.5, 0, 300_000, 0, 0.5, 3_060_000)),
    "rotated": (UTM, Affine.translation(300_000, 3_060_000) * Affine.rotation(33) * Affine.scale(0.5, -0.7)),
    "degrees": (CRS(4326), Affine(1e-3, 0, 10, 0, -1e-3, 62)),
    "coarse": (UTM, Affine(3000, 0, 300_000, 0, -3000, 3_060_000)),
    "hemisphere axis order": (CRS(2193), Affine(1, 0, 1_750_000, 0, -1, 5_430_000)),
    "southing": (CRS(2048), Affine(1, 0, 30_000, 0, -1, 3_700_000)),
}
SIDE = 40


def make_grid(place: str) -> Grid:
    crs, transform = PLACES[place]
    return Grid(crs=crs, transform=transform, height=SIDE, width=SIDE)


def make_batch(polygons: list[list[NDArray[np.float64]]]) -> PolygonBatch:
    """A feature of one polygon each; first rings are exteriors, clockwise with y down."""
    rings = [ring for polygon in polygons for ring in polygon]
    count, empty = len(polygons), np.zeros(0, np.int64)
    return PolygonBatch(
        coords=np.concatenate(rings).astype(float),
        rings=np.cumsum([0, *map(len, rings)], dtype=np.int64),
        polygons=np.cumsum([0, *map(len, polygons)], dtype=np.int64),
        features=np.arange(count + 1),
        values=np.zeros(count, np.int64),
        n_px=np.ones(count, np.int64),
        conf_sum=empty,
        conf_min=empty.astype(np.uint8),
    )


def box(left: float, top: float, right: float, bottom: float, *, hole: bool = False) -> NDArray[np.float64]:
    ring = np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]], float)
    return ring[::-1] if hole else ring


def fan(cuts: list[float]) -> PolygonBatch:
    """A coverage of triangles around a middle: every inner side is shared, and runs both ways."""
    angles = np.sort(np.array(cuts)) * 2 * np.pi
    rim = np.column_stack([20 + 19 * np.cos(angles), 20 + 18 * np.sin(angles)])
    middle = np.array([20.3, 19.1])
    return make_batch(
        [[np.array([middle, rim[k], rim[(k + 1) % len(rim)], middle])] for k in range(len(rim))]
    )


fans = st.lists(st.integers(0, 9), min_size=4, max_size=8, unique=True).map(
    lambda cuts: fan([(k + cut / 20) / len(cuts) for k, cut in enumerate(cuts)])
)


def geometries(batch: PolygonBatch) -> NDArray[np.object_]:
    found: NDArray[np.object_] = shapely.from_wkb(multipolygons(batch).objects())
    return found


def boxes() -> PolygonBatch:
    """A frame with its hole filled, and a neighbour."""
    return make_batch(
        [[box(0, 0, 20, 20), box(5, 5, 15, 15, hole=True)], [box(5, 5, 15, 15)], [box(20, 0, 40, 20)]]
    )


@pytest.mark.parametrize("place", PLACES)
def test_vertices_lie_where_the_transform_puts_them(place: str) -> None:
    grid, batch = make_grid(place), boxes()
    placed = Placement(grid, grid.crs).place(batch)
    expected = shapely.transform(
        geometries(batch), lambda points: np.array([grid.transform * tuple(point) for point in points])
    )
    assert shapely.equals_exact(shapely.normalize(geometries(placed)), shapely.normalize(expected)).all()
    for k in ("values", "n_px", "polygons", "features", "rings"):
        assert np.array_equal(getattr(placed, k), getattr(batch, k))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("target", [None, 4326, 3857])
def test_exteriors_turn_left_everywhere(place: str, target: int | None) -> None:
    grid = make_grid(place)
    crs = grid.crs if target is None else CRS(target)
    placed = geometries(Placement(grid, crs).place(boxes()))
    polygons = shapely.get_parts(placed)
    assert shapely.is_ccw(shapely.get_exterior_ring(polygons)).all()
    assert not shapely.is_ccw(shapely.get_interior_ring(polygons[0], 0))
    assert shapely.is_valid(placed).all()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("target", [4326, 3857, 6933])
def test_another_crs_is_where_pyproj_says(place: str, target: int) -> None:
    grid, batch = make_grid(place), boxes()
    placed = geometries(Placement(grid, CRS(target)).place(batch))
    project = Transformer.from_crs(grid.crs, target, always_xy=True)
    for found, pixels in zip(placed, geometries(batch), strict=True):
        # By an own, far finer division of the sides.
        fine = shapely.segmentize(pixels, 0.05)
        expected = shapely.transform(
            fine,
            lambda points: np.column_stack(
                project.transform(*np.array([grid.transform * tuple(p) for p in points]).T)
            ),
        )
        pixel = max(expected.bounds[2] - expected.bounds[0], expected.bounds[3] - expected.bounds[1]) / 20
        assert shapely.hausdorff_distance(found, expected) <= 1e-3 * pixel
        assert found.area == pytest.approx(expected.area, rel=1e-4)


@given(fans, st.sampled_from(sorted(PLACES)), st.sampled_from([4326, 3857, 3035]))
def test_shared_sides_stay_shared(batch: PolygonBatch, place: str, target: int) -> None:
    assert shapely.coverage_is_valid(shapely.get_parts(geometries(batch)))
    placed = shapely.get_parts(geometries(Placement(make_grid(place), CRS(target)).place(batch)))
    assert shapely.coverage_is_valid(placed)


coordinates = st.tuples(*[st.floats(-1e6, 1e6)] * 4)


@given(coordinates, st.floats(1e-3, 1e7))
def test_a_side_is_divided_alike_from_both_ends(ends: tuple[float, float, float, float], step: float) -> None:
    step = max(step, float(np.hypot(ends[2] - ends[0], ends[3] - ends[1])) / 500)
    side = np.array(ends).reshape(2, 2)
    rings = np.array([0, 2])
    there, counts = densify(side, rings, step)
    back, _ = densify(side[::-1].copy(), rings, step)
    assert np.array_equal(there, back[::-1])
    assert np.array_equal(there[[0, -1]], side)
    assert counts.tolist() == [0, len(there)]
    lengths = np.hypot(*np.diff(there, axis=0).T)
    assert (lengths <= step * (1 + 1e-9) + 1e-9).all()
    # No more vertices than it takes.
    assert len(there) - 1 <= np.hypot(*(side[1] - side[0])) / step * (1 + 1e-12) + 1


def test_a_long_side_follows_the_ground() -> None:
    """Along a parallel at 60° N, a straight line of a Lambert projection would be off by hundreds of metres."""
    grid = Grid(crs=CRS(4326), transform=Affine(1e-3, 0, 10, 0, -1e-3, 60), height=1000, width=1000)
    placed = Placement(grid, CRS(3035)).place(make_batch([[box(0, 0, 1000, 1000)]]))
    back = Transformer.from_crs(3035, 4326, always_xy=True)
    (ring,) = shapely.get_exterior_ring(shapely.get_parts(geometries(placed)))
    middles = shapely.get_coordinates(ring)
    middles = (middles[1:] + middles[:-1]) / 2
    lon, lat = back.transform(*middles.T)
    on_edge = np.min([np.abs(lon - 10), np.abs(lon - 11), np.abs(lat - 60), np.abs(lat - 59)], axis=0)
    assert on_edge.max() < 1e-7  # a centimetre


def test_nothing_is_divided_within_the_own_crs() -> None:
    grid = Grid(crs=UTM, transform=Affine(10, 0, 300_000, 0, -10, 3_060_000), height=1000, width=1000)
    assert len(Placement(grid, UTM).place(make_batch([[box(0, 0, 1000, 1000)]])).coords) == 5
    assert len(Placement(grid, CRS(4326)).place(make_batch([[box(0, 0, 1000, 1000)]])).coords) > 300


@pytest.mark.parametrize("west", [179.96, 179.985])
def test_the_antimeridian_tears_nothing(west: float) -> None:
    """Longitudes run on past ±180° on the side where the raster's middle is not."""
    x, y = Transformer.from_crs(4326, 32660, always_xy=True).transform(west, 65)
    grid = Grid(crs=CRS(32660), transform=Affine(50, 0, x, 0, -50, y), height=SIDE, width=SIDE)
    placed = geometries(Placement(grid, CRS(4326)).place(boxes()))
    left, _, right, _ = shapely.total_bounds(placed)
    assert right - left < 0.1
    assert left < (180 if west < 179.98 else -180) < right
    assert shapely.coverage_is_valid(shapely.get_parts(placed))


def test_no_crs() -> None:
    grid = Grid(crs=None, transform=Affine.identity(), height=SIDE, width=SIDE)
    assert np.array_equal(np.abs(Placement(grid, None).place(boxes()).coords).max(axis=0), [40, 20])
    with pytest.raises(InputError, match="no place in WGS 84"):
        Placement(grid, CRS(4326))


@pytest.mark.parametrize("target", ["+proj=ortho +lon_0=180", "+proj=gnom +lat_0=90"])
def test_a_target_that_does_not_cover_the_mask(target: str) -> None:
    grid = Grid(crs=CRS(4326), transform=Affine(2, 0, -20, 0, -2, 20), height=SIDE, width=SIDE)
    batch = make_batch([[box(0, 0, 40, 40)]])
    with pytest.raises(InputError, match=r"from EPSG:4326 \(WGS 84\) to .*choose (a|another) `dst_crs`"):
        Placement(grid, CRS(target)).place(batch)


@pytest.mark.parametrize(
    "transform",
    [
        Affine(1e-11, 0, 300_000, 0, -1e-11, 3_060_000),
        Affine(0, 0, 3e5, 0, 0, 0),
        Affine(1, 1, 3e5, 1, 1, 3e6),
    ],
)
def test_pixels_that_float64_cannot_tell_apart(transform: Affine) -> None:
    with pytest.raises(InputError, match="check the georeference"):
        Placement(Grid(crs=UTM, transform=transform, height=SIDE, width=SIDE), UTM)
