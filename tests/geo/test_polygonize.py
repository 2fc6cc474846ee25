"""Laws of the coverage: nothing lost, nothing doubled, nodata untouched. Oracles are scipy and rasterio."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rasterio.features import rasterize
from scipy import ndimage  # type: ignore[import-untyped]
from shapely.errors import GEOSException

from aerial_seg.geo import polygonize
from aerial_seg.geo.polygonize import Coverage, Mask, label_patches, sieve_small, simplify, trace

masks = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=16), elements=st.sampled_from([0, 1, 2, 254, 255])
)
quick = settings(max_examples=60, deadline=None)


def blobs(seed: int, *, side: int = 32, grain: int = 5, nodata: float = 0.2) -> Mask:
    """A mask of smooth regions of 4 classes, some of them in nodata."""
    noise = np.random.default_rng(seed).normal(size=(5, side, side))
    fields = np.stack([ndimage.uniform_filter(layer, grain) for layer in noise])
    mask: Mask = fields[:4].argmax(axis=0).astype(np.uint8)
    mask[fields[4] < np.quantile(fields[4], nodata)] = 255
    return mask


def patches(mask: Mask) -> list[tuple[int, np.ndarray]]:
    """Every 4-connected patch that is not nodata as (value, pixels), by scipy."""
    found = []
    for value in np.unique(mask[mask != 255]):
        labels, count = ndimage.label(mask == value)
        found += [(int(value), labels == k) for k in range(1, count + 1)]
    return found


def burn(coverage: Coverage, shape: tuple[int, int]) -> Mask:
    if not len(coverage):
        return np.full(shape, 255, np.uint8)
    pairs = zip(coverage.geometries, coverage.values, strict=True)
    return np.asarray(rasterize(pairs, out_shape=shape, fill=255, dtype="uint8"))


def assert_is_coverage(coverage: Coverage) -> None:
    assert shapely.is_valid(coverage.geometries).all()
    assert not shapely.is_empty(coverage.geometries).any()
    assert (shapely.get_type_id(coverage.geometries) == shapely.GeometryType.POLYGON).all()
    assert shapely.coverage_is_valid(coverage.geometries)


@given(mask=masks)
@quick
def test_labels_are_the_4_connected_patches(mask: Mask) -> None:
    labels, sizes = label_patches(mask)
    assert sizes.sum() == mask.size
    nodata = ndimage.label(mask == 255)
    expected = patches(mask) + [(255, nodata[0] == k) for k in range(1, nodata[1] + 1)]
    assert len(sizes) == len(expected)
    for _, pixels in expected:
        (label,) = np.unique(labels[pixels])
        assert sizes[label] == pixels.sum()


@given(mask=masks)
@quick
def test_tracing_loses_nothing(mask: Mask) -> None:
    coverage = trace(mask)
    assert_is_coverage(coverage)
    assert np.array_equal(burn(coverage, mask.shape), mask)
    expected = sorted((value, int(pixels.sum())) for value, pixels in patches(mask))
    assert sorted(zip(coverage.values.tolist(), shapely.area(coverage.geometries), strict=True)) == expected


def test_tracing_takes_only_the_needed_vertices() -> None:
    whole = trace(np.zeros((5, 7), np.uint8))
    assert whole.vertices == 5
    # The upper half meets two neighbours on its straight lower side: four corners, that node, the close.
    halves = trace(np.array([[0, 0], [1, 2]], np.uint8))
    assert shapely.get_num_coordinates(halves.geometries[halves.values == 0]) == [6]


def test_touching_corners_are_two_patches() -> None:
    coverage = trace(np.array([[1, 255], [255, 1]], np.uint8))
    assert len(coverage) == 2


@given(seed=st.integers(0, 10**6), tolerance=st.floats(0.1, 6), grain=st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_simplified_coverage_has_no_gap_and_keeps_its_border(seed: int, tolerance: float, grain: int) -> None:
    mask = blobs(seed, grain=grain)
    traced = trace(mask)
    coverage, report = simplify(traced, tolerance)
    assert_is_coverage(coverage)
    assert np.array_equal(coverage.values, traced.values)
    # Together they fill exactly the measured pixels, so nodata and the raster's border did not move.
    assert shapely.area(coverage.geometries).sum() == pytest.approx((mask != 255).sum(), abs=1e-6)
    outline = shapely.union_all(traced.geometries)
    assert shapely.union_all(coverage.geometries).symmetric_difference(outline).area == 0
    assert report.used_px == tolerance
    assert report.fallback == ""
    assert report.vertices_after == coverage.vertices <= report.vertices_before == traced.vertices


@given(mask=masks, tolerance=st.sampled_from([0, 0.5, 0.7]))
@quick
def test_small_tolerances_keep_every_pixel(mask: Mask, tolerance: float) -> None:
    coverage, _ = simplify(trace(mask), tolerance)
    assert_is_coverage(coverage) if len(coverage) else None
    assert np.array_equal(burn(coverage, mask.shape), mask)


def test_simplifying_removes_stairs() -> None:
    mask = np.tri(40, dtype=np.uint8)
    coverage, report = simplify(trace(mask), 1.5)
    assert report.vertices_after < report.vertices_before / 5
    assert burn(coverage, mask.shape)[30, 2] == 1


def test_half_the_tolerance_when_the_result_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    real = shapely.coverage_simplify

    def worse(geometries: np.ndarray, tolerance: float, *, simplify_boundary: bool) -> np.ndarray:
        good = real(geometries, tolerance, simplify_boundary=simplify_boundary)
        return shapely.simplify(good, 3, preserve_topology=False) if tolerance > 1 else good

    monkeypatch.setattr(shapely, "coverage_simplify", worse)
    coverage, report = simplify(trace(blobs(1)), 2)
    assert_is_coverage(coverage)
    assert report.used_px == 1
    assert report.fallback.startswith("at 2 px")


def test_traced_outlines_when_geos_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise GEOSException("no")

    monkeypatch.setattr(shapely, "coverage_simplify", fail)
    traced = trace(blobs(1))
    coverage, report = simplify(traced, 2)
    assert coverage is traced
    assert report.used_px == 0
    assert "at 2 px" in report.fallback
    assert "at 1 px" in report.fallback


@given(mask=masks, min_pixels=st.integers(0, 40), passes=st.sampled_from([1, 64]))
@settings(max_examples=120, deadline=None)
def test_sieve_leaves_no_small_patch_and_no_nodata_grows(mask: Mask, min_pixels: int, passes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(polygonize, "_SIEVE_PASSES", passes)
        sieved, report = sieve_small(mask, min_pixels)
    assert all(pixels.sum() >= min_pixels for _, pixels in patches(sieved))
    assert (sieved[mask == 255] == 255).all()
    assert report.islands.pixels == int((sieved == 255).sum() - (mask == 255).sum())
    assert set(np.unique(sieved)) <= set(np.unique(mask)) | {255}
    small = [pixels for _, pixels in patches(mask) if pixels.sum() < min_pixels]
    reasons = (report.absorbed, report.crowded, report.islands)
    assert sum(reason.patches for reason in reasons) == len(small)
    assert sum(reason.pixels for reason in reasons) == sum(int(pixels.sum()) for pixels in small)
    # What is large before keeps its class.
    for value, pixels in patches(mask):
        assert pixels.sum() < min_pixels or (sieved[pixels] == value).all()


def test_islands_go_and_do_not_bleed() -> None:
    mask = np.full((9, 9), 255, np.uint8)
    mask[1:3, 1:3] = 1
    mask[5:, 5:] = 2
    mask[6, 6] = 0
    sieved, report = sieve_small(mask, 6)
    assert (sieved == 2).sum() == 16
    assert (sieved == 255).sum() == 81 - 16
    assert (report.islands.patches, report.islands.pixels) == (1, 4)
    assert (report.absorbed.patches, report.absorbed.pixels) == (1, 1)


def test_a_crowd_of_small_patches_takes_its_commonest_class() -> None:
    board = (np.indices((7, 7)).sum(axis=0) % 2).astype(np.uint8)
    sieved, report = sieve_small(board, 4)
    assert (sieved == 0).all()
    assert (report.crowded.patches, report.crowded.pixels) == (49, 49)


def test_sieve_returns_a_copy() -> None:
    mask = np.zeros((4, 4), np.uint8)
    sieved, _ = sieve_small(mask, 4)
    assert sieved is not mask
    assert np.array_equal(sieved, mask)


def test_nothing_but_nodata_is_an_empty_coverage() -> None:
    coverage = trace(np.full((3, 4), 255, np.uint8))
    assert len(coverage) == coverage.vertices == 0
    simpler, report = simplify(coverage, 1.5)
    assert len(simpler) == 0
    assert report.fallback == ""
    assert len(simpler.only([1])) == 0
