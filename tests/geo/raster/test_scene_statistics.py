"""A few windows tell what a whole raster is like; a collar is told from ground."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster import statistics
from aerial_seg.geo.raster.band_choice import BandChoice
from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.statistics import find_collar, scene_range

if TYPE_CHECKING:
    from tests.conftest import RasterFile

SAME_FILE = settings(
    max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def noise(height: int, width: int, seed: int = 0, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 251, (3, height, width)).astype(dtype)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (50, 300), (128, 129), (700, 900)])
def test_the_range_is_that_of_the_whole_raster(raster_file: RasterFile, height: int, width: int) -> None:
    image = noise(height, width)
    image[1] //= 2
    with Raster(raster_file("in.tif", image)) as raster:
        found, again = scene_range(raster), scene_range(raster)
    assert found is not None
    assert again is not None
    assert (found.p2 == again.p2).all()
    assert (found.p98 == again.p98).all()
    assert found.pixels <= 16 * 128 * 128
    want = np.percentile(image, [2, 98], axis=(1, 2))
    small = height <= 512 and width <= 512
    tolerance = 1e-9 if small else 2
    assert np.abs(found.p2 - want[0]).max() <= tolerance
    assert np.abs(found.p98 - want[1]).max() <= tolerance
    assert found.pixels == height * width if small else found.pixels < height * width


@given(
    st.sampled_from(["uint8", "int8", "uint16", "int16", "int32", "float32", "float64"]),
    st.integers(1, 130),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=examples(60), deadline=None)
def test_the_range_is_numpys_bit_by_bit(dtype: str, width: int, height: int, seed: int) -> None:
    """Also of types whose differences overflow."""
    values = np.random.default_rng(seed).random((2, height, width))
    kind = np.dtype(dtype)
    low, high = (np.iinfo(kind).min, np.iinfo(kind).max) if kind.kind in "iu" else (-1e6, 1e6)
    image = (low + values * (float(high) - low)).astype(kind)
    grid = Grid(crs=None, transform=Affine.identity(), height=height, width=width)
    found = scene_range(ArrayRaster(image, grid=grid))
    assert found is not None
    want = np.percentile(image.astype(np.float64), [2, 98], axis=(1, 2))
    assert np.array_equal([found.p2, found.p98], want)


def test_what_was_not_measured_counts_for_nothing(raster_file: RasterFile) -> None:
    image = noise(300, 300)
    image[:, 20:] = 0
    with Raster(raster_file("in.tif", image, nodata=0)) as raster:
        found = scene_range(raster)
    assert found is not None
    assert found.p2.min() > 0
    image[:] = 0
    with Raster(raster_file("empty.tif", image, nodata=0)) as raster:
        assert scene_range(raster) is None
        assert find_collar(raster) is None


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("masked", [False, True])
def test_pixels_with_nodata_in_some_bands_only_are_counted(
    raster_file: RasterFile, dtype: str, masked: bool
) -> None:
    image = noise(90, 70, dtype=dtype)
    image[:, :10] = 0
    image[1, 10:13] = 0
    image[2, 12:15] = 0
    mask = np.ones((90, 70), bool) if masked else None
    path = raster_file("in.tif", image, nodata=0, mask=mask)
    with Raster(path) as raster:
        found = scene_range(raster)
        assert raster.nodata_values == ((None if masked else 0.0,) * 3)
    assert found is not None
    # A mask says what was measured; GDAL takes no value for it then.
    assert (found.partly, found.pixels) == ((0, 90 * 70) if masked else (5 * 70, 80 * 70))
    array = ArrayRaster(
        image, grid=Grid(crs=None, transform=Affine.identity(), height=90, width=70), nodata=0
    )
    held = scene_range(array)
    assert held is not None
    assert (held.partly, held.pixels) == (5 * 70, 80 * 70)


def test_each_band_has_the_nodata_value_of_its_own_file(raster_file: RasterFile) -> None:
    first = raster_file("in.tif", noise(20, 20), nodata=7)
    other = raster_file("other.tif", noise(20, 20)[:2], nodata=9)
    with Raster(first, nodata=3, choice=BandChoice((5, 1), stack=(str(other),))) as raster:
        assert raster.nodata_values == (9.0, 3)
    with Raster(first, choice=BandChoice((2, 4, 3), stack=(str(other),))) as raster:
        assert raster.nodata_values == (7.0, 9.0, 7.0)
    with Raster(raster_file("none.tif", noise(20, 20))) as raster:
        assert raster.nodata_values == (None, None, None)


@SAME_FILE
@given(
    edge=st.sampled_from(["top", "bottom", "left", "right", "frame", "triangle"]),
    share=st.floats(0.0, 0.4),
    value=st.sampled_from([0, 255]),
)
def test_a_collar_is_found_with_its_value_from_one_per_cent_on(
    raster_file: RasterFile, edge: str, share: float, value: int
) -> None:
    height, width = 200, 240
    image, rows, cols = noise(height, width), np.arange(height)[:, None], np.arange(width)[None]
    collar = {
        "top": (rows < share * height) & (cols >= 0),
        "bottom": (rows >= height * (1 - share)) & (cols >= 0),
        "left": (cols < share * width) & (rows >= 0),
        "right": (cols >= width * (1 - share)) & (rows >= 0),
        "frame": np.minimum(
            np.minimum(rows, height - 1 - rows) / height, np.minimum(cols, width - 1 - cols) / width
        )
        < share / 4,
        "triangle": rows / height + cols / width < np.sqrt(2 * share),
    }[edge]
    image[:, collar] = value
    # A lake of the same value is no collar.
    image[:, 90:110, 110:130] = value
    with Raster(raster_file("in.tif", image)) as raster:
        found = find_collar(raster)
    covered = collar.mean()
    if covered >= 0.02:
        assert found is not None
    if covered <= 0.005:
        assert found is None
    if found is not None:
        assert found.value == value
        # A ray that runs in the collar stands for a 32nd of the raster; on two sides at most one too many or too few.
        assert abs(found.share - covered) <= 2 / 32 + 1e-9 or edge == "frame"
        assert found.share <= covered + 2 / 32 + 1e-9


@pytest.mark.parametrize("kind", ["declared", "masked", "told", "one band differs", "inside"])
def test_what_is_no_undeclared_collar(raster_file: RasterFile, kind: str) -> None:
    image, valid = noise(200, 200), np.ones((200, 200), bool)
    valid[:40] = False
    image[:, ~valid] = 0
    if kind == "one band differs":
        image[2, :40] = 9
    if kind == "inside":
        image[:, :40] = image[:, 80:120]
        image[:, 40:80, 40:160] = 0
    options = {"declared": {"nodata": 0}, "masked": {"mask": valid}}.get(kind, {})
    with Raster(raster_file("in.tif", image, **options), nodata=0 if kind == "told" else None) as raster:
        assert find_collar(raster) is None


def test_a_few_equal_pixels_at_the_border_are_chance(raster_file: RasterFile) -> None:
    image = noise(20, 20)
    image[:, :5] = 0
    with Raster(raster_file("in.tif", image)) as raster:
        assert find_collar(raster) is None


def test_a_collar_behind_declared_nodata_is_found_and_only_it_is_counted(raster_file: RasterFile) -> None:
    image = noise(200, 200)
    image[:, :, :50] = 0
    image[:, :, 50:70] = 255
    image[:, 0], image[:, -1] = 255, 255
    with Raster(raster_file("in.tif", image, nodata=0)) as raster:
        found = find_collar(raster)
    assert found is not None
    assert found.value == 255
    assert found.share == pytest.approx(0.1, abs=0.02)


@SAME_FILE
@given(
    height=st.integers(16, 90),
    width=st.integers(16, 90),
    sides=st.tuples(*[st.integers(0, 12)] * 4),
    seed=st.integers(0, 9),
)
def test_a_small_raster_read_at_once_has_the_collar_that_its_rays_find(
    raster_file: RasterFile,
    monkeypatch: pytest.MonkeyPatch,
    height: int,
    width: int,
    sides: tuple[int, int, int, int],
    seed: int,
) -> None:
    image = noise(height, width, seed)
    top, bottom, left, right = sides
    image[:, :top] = image[:, height - bottom :] = image[:, :, :left] = image[:, :, width - right :] = 0
    valid = np.random.default_rng(seed).random((height, width)) < 0.9
    with Raster(raster_file("in.tif", image, mask=valid)) as raster:
        at_once = find_collar(raster)
        with monkeypatch.context() as patch:
            patch.setattr(statistics, "_SMALL", 0)
            along_rays = find_collar(raster)
    assert at_once == along_rays
    if min(height, width) >= 2 * max(sides) and sum(sides) >= 24:
        assert at_once is not None
        assert at_once.value == 0
