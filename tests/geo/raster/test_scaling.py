"""Scale and offset are applied once, where pixels are read: on files, stacks, arrays and resampled ones alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.band_choice import BandChoice
from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.swath import SwathReader
from aerial_seg.geo.raster.values.scaling import Scaling

if TYPE_CHECKING:
    from tests.conftest import RasterFile

SIDE = 32


def noise(dtype: str = "uint16", bands: int = 3, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 120, (bands, SIDE, SIDE)).astype(dtype)


def declare(path: Path, scales: Sequence[float], offsets: Sequence[float]) -> Path:
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = tuple(scales), tuple(offsets)
    return path


def meant(image: Any, scales: Sequence[float], offsets: Sequence[float]) -> Any:
    """In double precision, rounded once."""
    s, o = (np.array(one, np.float64)[:, None, None] for one in (scales, offsets))
    return (image.astype(np.float64) * s + o).astype(np.float32)


def read(raster: Raster | ArrayRaster) -> tuple[Any, Any]:
    height, width = raster.grid.shape
    return raster.read(top=0, left=0, height=height, width=width)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
@settings(
    max_examples=examples(6), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(scale=st.floats(-10, 10).filter(bool), offset=st.floats(-1e4, 1e4), seed=st.integers(0, 99))
def test_scaled_pixels_are_what_the_file_says_they_mean_and_nodata_is_what_it_stores(
    raster_file: RasterFile, dtype: str, scale: float, offset: float, seed: int
) -> None:
    image, scales, offsets = noise(dtype, seed=seed), (scale, 1.0, 2 * scale), (offset, 0.0, -offset)
    image[:, 3:5] = 7
    path = declare(raster_file("in.tif", image, nodata=7), scales, offsets)
    with Raster(path) as raster:
        assert raster.info.dtype == dtype
        assert raster.info.scalings == tuple(map(Scaling, scales, offsets))
        plain, valid = read(raster)
        raster.scale((True, True, False))
        assert raster.info.dtype == "float32"
        got, got_valid = read(raster)
        with raster.another() as again:
            again_got, _ = read(again)
    np.testing.assert_array_equal(plain, image)
    wanted = meant(image, (scale, 1, 1), (offset, 0, 0))
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(again_got, wanted)
    np.testing.assert_array_equal(got_valid, (image != 7).any(axis=0))
    np.testing.assert_array_equal(valid, got_valid)
    array = ArrayRaster(
        image,
        grid=Grid(None, Affine.identity(), SIDE, SIDE),
        nodata=7,
        scalings=tuple(map(Scaling, scales, offsets)),
    )
    array.scale((True, True, False))
    np.testing.assert_array_equal(read(array)[0], wanted)
    np.testing.assert_array_equal(read(array)[1], valid)


def test_a_file_that_declares_nothing_is_read_byte_for_byte_as_before(raster_file: RasterFile) -> None:
    image = noise()
    with Raster(raster_file("in.tif", image)) as raster:
        assert all(one.says_nothing for one in raster.info.scalings)
        raster.scale((False, False, False))
        got, _ = read(raster)
        assert got.dtype == np.uint16
        np.testing.assert_array_equal(got, image)


def test_chosen_stacked_and_resampled_bands_keep_their_own_scale(raster_file: RasterFile) -> None:
    image, heights = noise(), noise("int16", 1, seed=1)
    path = declare(raster_file("in.tif", image), (0.5, 0.25, 2), (1, 2, 3))
    stacked = declare(raster_file("height.tif", heights), (0.1,), (-5,))
    choice = BandChoice((4, 3, 1), stack=(str(stacked),))
    with Raster(path, choice=choice) as raster:
        raster.scale((True, True, True))
        got, _ = read(raster)
        with SwathReader(raster, range(SIDE), swath=8, ahead=8) as rows:
            rows.advance(0, 8)
            taken, _ = rows.take(range(8), range(SIDE))
    wanted = meant(np.concatenate([heights, image[[2, 0]]]), (0.1, 2, 0.5), (-5, 3, 1))
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(taken, wanted[:, :8])
    for size in (SIDE // 2, SIDE * 2):
        with Raster(path) as raster:
            raster.resample(raster.grid.resized(height=size, width=size))
            stored, _ = read(raster)
            raster.scale((True, True, True))
            got, _ = read(raster)
            file_grid = raster.info.grid
        np.testing.assert_array_equal(got, meant(stored, (0.5, 0.25, 2), (1, 2, 3)))
        array = ArrayRaster(image, grid=file_grid, scalings=tuple(map(Scaling, (0.5, 0.25, 2), (1, 2, 3))))
        array.scale((True, True, True))
        with array.resampled(file_grid.resized(height=size, width=size)) as raster:
            np.testing.assert_array_equal(read(raster)[0], got)
