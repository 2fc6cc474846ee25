"""The traps that vectorising and vector formats hold, each by its name: the naive way falls in, vectorize does not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio import features
from scipy import ndimage

from aerial_seg.geo.measures import Measure
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.legend import make_legend
from aerial_seg.outputs.mask import LEGEND_TAG
from aerial_seg.vectors.from_mask.settings import (
    CleanSettings,
    LayerSettings,
    ShapeSettings,
    VectorizeSettings,
)

LEGEND = make_legend({value: f"class {value}" for value in range(4)}, background=[0])
UTM = Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000)
Run = Callable[..., gpd.GeoDataFrame]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def made(
        mask: np.ndarray, *, crs: str = "EPSG:32645", transform: Affine = UTM, **parts: object
    ) -> gpd.GeoDataFrame:
        with rasterio.open(
            tmp_path / "m.tif", "w", driver="GTiff", height=mask.shape[0], width=mask.shape[1], count=1,
            dtype=mask.dtype, crs=crs, transform=transform, nodata=255,
        ) as file:  # fmt: skip
            file.write(mask, 1)
            if mask.dtype == np.uint8:
                file.update_tags(**{LEGEND_TAG: LEGEND.model_dump_json()})
        over = LayerSettings(overwrite=True)
        settings = VectorizeSettings(classes=("all",), layer=over, **parts)  # type: ignore[arg-type]
        vectorize(tmp_path / "m.tif", tmp_path / "m.gpkg", settings)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="More than one layer")
            return gpd.read_file(tmp_path / "m.gpkg")

    return made


def noise(side: int = 160) -> np.ndarray:
    """Four classes, smooth, with salt: thousands of junctions."""
    random = np.random.default_rng(7)
    fields = [ndimage.gaussian_filter(random.normal(size=(side, side)), 2) for _ in range(4)]
    mask = np.argmax(fields, axis=0).astype(np.uint8)
    salt = random.random((side, side)) < 0.03
    mask[salt] = random.integers(0, 4, salt.sum())
    return mask


def raw(mask: np.ndarray, connectivity: int) -> np.ndarray:
    found = features.shapes(mask, connectivity=connectivity)
    return np.array([shapely.geometry.shape(geometry) for geometry, _ in found], object)


def parts(table: gpd.GeoDataFrame) -> np.ndarray:
    return np.asarray(shapely.get_parts(table.geometry.array))


def test_1_raw_polygonize_output_is_no_valid_coverage(run: Run) -> None:
    assert not shapely.coverage_is_valid(raw(noise(), 4))
    for tolerance in (0, 1.5):
        table = run(noise(), shape=ShapeSettings(simplify=Measure(tolerance, "px")))
        assert shapely.coverage_is_valid(parts(table))


def test_3_polygons_of_eight_neighbours_are_invalid(run: Run) -> None:
    assert not shapely.is_valid(raw(noise(), 8)).all()
    table = run(noise(), shape=ShapeSettings(connectivity=8))
    assert table.geometry.is_valid.all()
    assert len(table) == len(raw(noise(), 8))


def test_8_web_mercator_is_metric_but_false(run: Run) -> None:
    mask = np.ones((40, 40), np.uint8)
    table = run(mask, crs="EPSG:3857", transform=Affine(0.5, 0, 1_000_000, 0, -0.5, 8_399_738))
    (planar,), (area,), (perimeter,) = table.geometry.area, table["area_m2"], table["perim_m"]
    assert planar == pytest.approx(400)
    # At 60°N a projected metre is half a metre, a little less or more on the ellipsoid.
    assert area == pytest.approx(100, rel=0.01)
    assert perimeter == pytest.approx(40, rel=0.01)


def test_10_class_300_does_not_become_255(run: Run) -> None:
    mask = np.array([[300, 300, 44, 255]], np.uint16)
    table = run(mask).sort_values("class_id")
    assert table["class_id"].tolist() == [44, 300]
    assert table["n_px"].tolist() == [1, 2]


def test_polygons_simplified_one_by_one_leave_gaps(run: Run) -> None:
    mask = noise()
    alone = shapely.simplify(raw(mask, 4), 1.5)
    assert abs(shapely.area(alone).sum() - mask.size) > 0.01 * mask.size
    table = run(mask, shape=ShapeSettings(simplify=Measure(1.5, "px")))
    assert table.geometry.area.sum() == pytest.approx(mask.size * 0.25)
    assert shapely.union_all(parts(table)).area == pytest.approx(mask.size * 0.25)


def test_corners_cut_one_by_one_leave_gaps_but_shared_ones_do_not(run: Run) -> None:
    table = run(noise(), shape=ShapeSettings(smooth=True))
    assert shapely.coverage_is_valid(parts(table))
    assert table.geometry.area.sum() == pytest.approx(noise().size * 0.25)


def test_a_sieve_without_a_mask_bleeds_into_nodata(run: Run) -> None:
    mask = np.full((40, 40), 255, np.uint8)
    mask[10:30, 10:30] = 1
    mask[12, 12] = 255
    mask[35, 35] = 2
    bled = features.sieve(mask, 9)
    assert bled[12, 12] == 1
    table = run(mask, clean=CleanSettings(min_area=Measure(9, "px")))
    assert table["n_px"].tolist() == [399]


def test_a_checkerboard_survives_one_pass_of_a_sieve(run: Run) -> None:
    mask = (np.indices((30, 30)).sum(axis=0) % 2).astype(np.uint8)
    assert len(raw(features.sieve(mask, 4), 4)) > 1
    table = run(mask, clean=CleanSettings(min_area=Measure(4, "px")))
    assert table["n_px"].sum() == 900
    assert (table["n_px"] >= 4).all()


def test_nothing_is_dropped_however_small(run: Run) -> None:
    mask = noise()
    table = run(mask, shape=ShapeSettings(simplify=Measure(20, "px")))
    assert len(table) == len(raw(mask, 4))
    assert (table.geometry.area > 0).all()
