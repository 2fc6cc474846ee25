"""A mosaic copies pixels, keeps uncovered ground unmeasured, and names what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from affine import Affine

from aerial_seg.errors import InputError
from aerial_seg.geo.mosaic import write_mosaic
from aerial_seg.geo.raster import Raster

if TYPE_CHECKING:
    from tests.conftest import RasterFile

RANDOM = np.random.default_rng(5)
SIDE = 40


def pixels(dtype: str = "uint8", bands: int = 2) -> np.ndarray:
    return RANDOM.integers(1, 250, (bands, SIDE, SIDE)).astype(dtype)


def at(x: float, y: float) -> Affine:
    return Affine(0.5, 0, 300_000 + x / 2, 0, -0.5, 3_060_000 - y / 2)


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with Raster(path) as raster:
        return raster.read(top=0, left=0, height=raster.grid.height, width=raster.grid.width)


def test_web_mercator_tiles_in_degrees_are_copied_pixel_for_pixel(
    raster_file: RasterFile, tmp_path: Path
) -> None:
    across, north = 0.00034332275390625 / SIDE, 27.63
    heights = (across * 0.88601, across * 0.88604)
    tiles = [pixels(bands=3), pixels(bands=3)]
    paths, top = [], north
    for i, (image, down) in enumerate(zip(tiles, heights, strict=True)):
        transform = Affine(across, 0, 85.52, 0, -down, top)
        paths.append(raster_file(f"{i}.tif", image, crs="EPSG:4326", transform=transform))
        top -= down * SIDE
    mosaic = write_mosaic(paths, tmp_path / "m.vrt")
    image, valid = read(mosaic.path)
    assert valid.all()
    assert mosaic.sources == 2
    assert 0 < mosaic.largest_shift < 0.5
    np.testing.assert_array_equal(image, np.concatenate(tiles, axis=1))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize("marked", ["all measured", "nodata", "mask", "alpha"])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_later_raster_lies_on_top_where_it_measured(
    raster_file: RasterFile, tmp_path: Path, dtype: str, marked: str, reverse: bool
) -> None:
    nodata = 0 if marked == "nodata" else None
    wanted, covered = np.zeros((2, 50, 60), dtype), np.zeros((50, 60), bool)
    paths = []
    for x, y in [(0, 0), (20, 10)][:: -1 if reverse else 1]:
        image, measured = pixels(dtype), np.ones((SIDE, SIDE), bool)
        if marked != "all measured":
            measured[:12] = measured[:, 30:] = False
            image[:, ~measured] = 0
        mask = measured if marked == "mask" else None
        alpha = np.where(measured, 255, 0) if marked == "alpha" else None
        paths.append(
            raster_file(f"{x}.tif", image, transform=at(x, y), nodata=nodata, mask=mask, alpha=alpha)
        )
        wanted[:, y : y + SIDE, x : x + SIDE][:, measured] = image[:, measured]
        covered[y : y + SIDE, x : x + SIDE] |= measured
    image, valid = read(write_mosaic(paths, tmp_path / "m.vrt").path)
    np.testing.assert_array_equal(valid, covered)
    np.testing.assert_array_equal(image[:, valid], wanted[:, valid])
    assert image.dtype == dtype


def test_band_names_and_crs_survive(raster_file: RasterFile, tmp_path: Path) -> None:
    paths = [raster_file("a.tif", pixels()), raster_file("b.tif", pixels(), transform=at(SIDE, 0))]
    with Raster(write_mosaic(paths, tmp_path / "m.vrt").path) as mosaic, Raster(paths[0]) as first:
        assert mosaic.info.names == first.info.names
        assert mosaic.grid.crs == first.grid.crs
        assert mosaic.grid.transform == first.grid.transform


def test_a_source_of_another_pixel_size_is_interpolated_in_its_place(
    raster_file: RasterFile, tmp_path: Path
) -> None:
    coarse = Affine(1, 0, 300_000 + SIDE / 2, 0, -1, 3_060_000)
    ramp = np.broadcast_to(np.arange(SIDE, dtype="float32"), (2, SIDE, SIDE)).copy()
    paths = [raster_file("a.tif", pixels("float32")), raster_file("b.tif", ramp, transform=coarse)]
    image, valid = read(write_mosaic(paths, tmp_path / "m.vrt").path)
    assert image.shape == (2, 2 * SIDE, 3 * SIDE)
    assert not valid[SIDE:, :SIDE].any()
    inner = image[0, 5:-5, SIDE + 5 : -5]
    np.testing.assert_allclose(inner[0], (np.arange(5, 2 * SIDE - 5) + 0.5) / 2 - 0.5, atol=1e-4)


def test_what_differs_is_named_with_both_sides(raster_file: RasterFile, tmp_path: Path) -> None:
    first = raster_file("a.tif", pixels())
    for odd, message in (
        (
            raster_file("crs.tif", pixels(), crs="EPSG:32644"),
            r"crs.tif has CRS EPSG:32644, but .*a.tif has EPSG:32645",
        ),
        (raster_file("bands.tif", pixels(bands=3)), r"bands.tif has number of bands 3, but .*a.tif has 2"),
        (raster_file("dtype.tif", pixels("uint16")), r"dtype.tif has dtype uint16, but .*a.tif has uint8"),
        (
            raster_file("nodata.tif", pixels(), nodata=0),
            r"nodata.tif has nodata value 0.0, but .*a.tif has None",
        ),
    ):
        with pytest.raises(InputError, match=message):
            write_mosaic([first, odd], tmp_path / "m.vrt")
    assert not (tmp_path / "m.vrt").exists()


@pytest.mark.parametrize(
    "transform", [at(0, 0) * Affine.rotation(10), Affine(0.5, 0, 300_000, 0, 0.5, 3_060_000)]
)
def test_rotated_and_south_up_rasters_are_refused(
    raster_file: RasterFile, tmp_path: Path, transform: Affine
) -> None:
    paths = [raster_file("a.tif", pixels()), raster_file("b.tif", pixels(), transform=transform)]
    with pytest.raises(InputError, match=r"b.tif is rotated or south-up.*warp it first"):
        write_mosaic(paths, tmp_path / "m.vrt")
