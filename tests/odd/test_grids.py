"""Grids as they come: the map lies on the source's own, and is nodata exactly where nothing was measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS, Geod

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.inference.match_gsd import choose_run_grid
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings

GEOD = Geod(ellps="WGS84")
HEIGHT, WIDTH = 150, 130
NODATA = 9

UTM = ("EPSG:32633", Affine(1, 0, 500_000, 0, -1, 5_200_000))
ROTATED = ("EPSG:32633", Affine.translation(500_000, 5_200_000) * Affine.rotation(33) * Affine.scale(1, -1))
SHEARED = ("EPSG:32633", Affine(1, 0.2, 500_000, 0.1, -1, 5_200_000))
SOUTH_UP = ("EPSG:32633", Affine(1, 0, 500_000, 0, 1, 5_200_000))
DEGREES = ("EPSG:4326", Affine(9e-6, 0, 10, 0, -9e-6, 60))
SOUTH_UP_DEGREES = ("EPSG:4326", Affine(9e-6, 0, 10, 0, 9e-6, -60))
MERCATOR = ("EPSG:3857", Affine(2, 0, 1e6, 0, -2, 8.4e6))
MARS = ("+proj=eqc +R=3396190 +units=m +no_defs", Affine(1, 0, 1e5, 0, -1, 1e5))
GRIDS = {
    "utm": UTM, "rotated": ROTATED, "sheared": SHEARED, "south-up": SOUTH_UP, "degrees": DEGREES,
    "south-up degrees": SOUTH_UP_DEGREES, "web mercator": MERCATOR, "mars": MARS,
}  # fmt: skip


def holes() -> np.ndarray:
    """True = measured: a collar, salt and a lonely pixel in the collar."""
    valid = np.random.default_rng(2).random((HEIGHT, WIDTH)) > 0.1
    valid[:, :20] = valid[-7:] = False
    valid[60, 5] = True
    return valid


def image(dtype: str) -> np.ndarray:
    return np.random.default_rng(3).integers(NODATA + 1, 256, (2, HEIGHT, WIDTH)).astype(dtype)


@pytest.mark.parametrize("kind", ["nodata", "mask", "alpha", "nan", "option"])
@pytest.mark.parametrize("name", GRIDS)
def test_nodata_is_exact_through_resampling_on_every_grid(
    name: str, kind: str, model_file: Callable, predict: Callable, save: Callable, tmp_path: Path
) -> None:
    crs, transform = GRIDS[name]
    pixels, valid = image("float32" if kind == "nan" else "uint8"), holes()
    pixels[:, ~valid] = np.nan if kind == "nan" else NODATA
    marks: dict[str, Any] = {"nodata": {"nodata": NODATA}, "mask": {"mask": valid}, "alpha": {"alpha": valid}}
    source = save("in.tif", pixels, crs, transform, **marks.get(kind, {}))
    options = ("--nodata", NODATA) if kind == "option" else ()
    report = predict(model_file(2, dtype=str(pixels.dtype), gsd=0.6), source, *options)
    assert report.get("resampled_to") == 0.6, report
    with rasterio.open(source) as given, rasterio.open(tmp_path / "map.tif") as made:
        assert (made.crs, made.transform, made.shape) == (given.crs, given.transform, given.shape)
        np.testing.assert_array_equal(made.read(1) == 255, ~valid)


@pytest.mark.parametrize("name", ["rotated", "sheared", "degrees", "web mercator", "mars"])
def test_a_model_without_gsd_sees_the_pixels_whatever_their_place(
    name: str, model_file: Callable, predict: Callable, save: Callable, tmp_path: Path
) -> None:
    masks = []
    for crs, transform in (UTM, GRIDS[name]):
        predict(model_file(2), save("in.tif", image("uint8"), crs, transform))
        with rasterio.open(tmp_path / "map.tif") as made:
            masks.append(made.read(1))
            assert made.transform == transform
    np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize("angle", [0, 30, 90, 200])
def test_a_rotated_raster_is_resampled_in_its_own_pixels(angle: float, save: Callable) -> None:
    """Oracle: the mean of whole groups of pixels, which no rotation can change."""
    transform = Affine.translation(5e5, 5.2e6) * Affine.rotation(angle) * Affine.scale(1, -1)
    pixels = image("float32")
    with Raster(save("in.tif", pixels, "EPSG:32633", transform)) as raster:
        raster.resample(choose_run_grid(raster.grid, 2.0, False, "in.tif"))
        assert raster.grid.shape == (HEIGHT // 2, WIDTH // 2)
        got, valid = raster.read(top=0, left=0, height=HEIGHT // 2, width=WIDTH // 2)
    groups = pixels.reshape(2, HEIGHT // 2, 2, WIDTH // 2, 2).mean(axis=(2, 4))
    assert valid.all()
    np.testing.assert_allclose(got, groups, rtol=1e-5)


@given(
    latitude=st.floats(-80, 80),
    down=st.floats(0.1, 10),
    across=st.floats(0.1, 10),
    model=st.floats(0.1, 10),
)
def test_each_axis_of_degrees_comes_to_the_models_gsd(
    latitude: float, down: float, across: float, model: float
) -> None:
    """Oracle: the geodesic itself, over the whole run grid's middle row and column."""
    north = GEOD.fwd(10, latitude, 0, 1000)[1] - latitude
    east = GEOD.fwd(10, latitude, 90, 1000)[0] - 10
    transform = Affine(across / 1000 * east, 0, 10, 0, -down / 1000 * north, latitude)
    grid = Grid(crs=CRS(4326), transform=transform, height=400, width=600)
    factor = max(down / model, model / down, across / model, model / across)
    if factor > 4.1:
        with pytest.raises(InputError, match=r"has a GSD of .*`force_gsd=True`"):
            choose_run_grid(grid, model, False, "in.tif")
    if 3.9 < factor < 4.1:
        return
    run = choose_run_grid(grid, model, True, "in.tif")
    west, south, east_edge, north_edge = run.bounds
    assert run.bounds == pytest.approx(grid.bounds, rel=1e-12)
    middle = (south + north_edge) / 2
    half, step = (north_edge - south) / run.height / 2, (east_edge - west) / run.width
    sizes = (
        GEOD.inv(10, middle - half, 10, middle + half)[2],
        GEOD.inv(10, middle, 10 + step, middle)[2],
    )
    for size, pixels, source in zip(sizes, run.shape, (down, across), strict=True):
        # Whole multiples within 3 % are taken, whole pixels rounded to; or the grid is the raster's own.
        slack = 0.031 + 0.51 / pixels if run != grid else 0.101
        assert math.log(size / model) == pytest.approx(0, abs=slack + 0.01) or pixels == 1, (size, source)


@pytest.mark.parametrize(("across", "own"), [(1.03, True), (1.08, False), (0.93, False)])
def test_pixels_that_are_not_square_are_made_so(across: float, own: bool) -> None:
    grid = Grid(crs=CRS(32633), transform=Affine(across, 0, 5e5, 0, -1, 5.2e6), height=1000, width=1000)
    run = choose_run_grid(grid, 1.0, False, "in.tif")
    assert (run == grid) == own
    if not own:
        assert run.width == pytest.approx(1000 * across, abs=2)


def test_tile_cuts_pixels_that_are_not_square_as_predict_sees_them(save: Callable, tmp_path: Path) -> None:
    """Half a degree of longitude is half as long at 60° N: what the network learns must be what it will see."""
    transform = Affine(9e-6, 0, 10, 0, -9e-6, 60)
    source = save("in.tif", image("uint8"), "EPSG:4326", transform)
    labels = save("labels.tif", (image("uint8")[:1] % 2), "EPSG:4326", transform)
    report = tile([str(source)], [str(labels)], tmp_path / "chips", TileSettings(chip_size=32, block=1))
    assert any("to be square" in note for note in report.notes)
    with Raster(source) as raster:
        seen = choose_run_grid(raster.grid, report.gsd, False, "in.tif")
    (chip, *_) = sorted((tmp_path / "chips" / "images").glob("*_0000_0000.tif"))
    with rasterio.open(chip) as made:
        assert made.transform.almost_equals(seen.transform, 1e-12)
