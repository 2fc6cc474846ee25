"""A value that nothing measures makes a pixel unmeasured whichever band declares it; 0 and 255 only where all do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.band_choice import BandChoice
from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.geo.raster.mosaic import write_mosaic
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.values.fill import FillerTally, stands_alone

if TYPE_CHECKING:
    from tests.conftest import RasterFile

SIDE = 24
GDAL_NAME = {"float32": "Float32", "int16": "Int16", "uint16": "UInt16"}


@pytest.fixture
def per_band(raster_file: RasterFile, tmp_path: Path) -> Callable[[Any, Sequence[float | None]], Path]:
    """A raster whose bands declare a nodata value each, which no GeoTIFF can."""

    def make(image: Any, values: Sequence[float | None]) -> Path:
        source = raster_file("source.tif", image)
        bands = "".join(
            f'<VRTRasterBand dataType="{GDAL_NAME[str(image.dtype)]}" band="{k}">'
            + ("" if value is None else f"<NoDataValue>{value}</NoDataValue>")
            + f"<SimpleSource><SourceFilename>{source}</SourceFilename><SourceBand>{k}</SourceBand></SimpleSource>"
            "</VRTRasterBand>"
            for k, value in enumerate(values, start=1)
        )
        vrt = tmp_path / "bands.vrt"
        vrt.write_text(
            f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><SRS>EPSG:32645</SRS>'
            f"<GeoTransform>300000, 0.5, 0, 3060000, 0, -0.5</GeoTransform>{bands}</VRTDataset>"
        )
        return vrt

    return make


def noise(dtype: str, bands: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(1, 200, (bands, SIDE, SIDE)).astype(dtype)


def read(path: Path, **options: Any) -> tuple[Any, Any]:
    with Raster(path, **options) as raster:
        return raster.read(top=0, left=0, height=SIDE, width=SIDE)


def halved(path: Path, **options: Any) -> tuple[Any, Any]:
    with Raster(path, **options) as raster:
        raster.resample(raster.grid.resized(height=SIDE // 2, width=SIDE // 2))
        return raster.read(top=0, left=0, height=SIDE // 2, width=SIDE // 2)


def mean_of_measured(image: Any, valid: Any) -> tuple[Any, Any]:
    """Of each 2 × 2 pixels, over those that were measured."""
    groups = image.astype(float).reshape(len(image), SIDE // 2, 2, SIDE // 2, 2)
    known = valid.reshape(SIDE // 2, 2, SIDE // 2, 2)
    count = known.sum((1, 3))
    return np.where(known, groups, 0).sum((2, 4)) / np.maximum(count, 1), count > 0


FILLED = [
    ("float32", -9999.0),
    ("int16", -9999.0),
    ("int16", -32768.0),
    ("float32", float(np.float32(-3.4e38))),
]


@pytest.mark.parametrize(("dtype", "value"), FILLED)
@pytest.mark.parametrize("told", ["by one band", "by the file", "by the caller", "beside alpha"])
@settings(
    max_examples=examples(4), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 999))
def test_what_nothing_measures_is_unmeasured_in_whichever_band_it_is_and_never_mixed_in(
    raster_file: RasterFile, per_band: Any, dtype: str, value: float, told: str, seed: int
) -> None:
    random = np.random.default_rng(seed)
    image = noise(dtype, 3, seed)
    alpha = np.where(random.random((SIDE, SIDE)) < 0.8, 255, 0).astype("uint8")
    gone = random.random((3, SIDE, SIDE)) < 0.2
    gone[:, :6, :6] = True
    if told == "by one band":
        gone[:2] = False
    image[gone] = value
    if told == "by one band":
        path, options = per_band(image, (None, None, value)), {}
    else:
        extra = {} if told == "by the caller" else {"nodata": value}
        path = raster_file("in.tif", image, **extra, **({"alpha": alpha} if "alpha" in told else {}))
        options = {"nodata": value} if told == "by the caller" else {}
    wanted = ~gone.any(axis=0) & ((alpha > 0) if "alpha" in told else True)
    got, valid = read(path, **options)
    np.testing.assert_array_equal(got, image)
    np.testing.assert_array_equal(valid, wanted)
    got, valid = halved(path, **options)
    mean, known = mean_of_measured(image, wanted)
    np.testing.assert_array_equal(valid, known)
    assert np.abs(got - mean)[:, known].max() <= (1e-4 if dtype == "float32" else 0.51)


@pytest.mark.parametrize(("dtype", "value"), FILLED)
def test_a_mosaic_and_an_array_call_the_same_pixels_measured(
    raster_file: RasterFile, per_band: Any, tmp_path: Path, dtype: str, value: float
) -> None:
    image = noise(dtype, 3)
    image[2, 3:9] = image[0, :, 4] = value
    path = raster_file("in.tif", image, nodata=value)
    wanted = (image != value).all(axis=0)
    np.testing.assert_array_equal(read(path)[1], wanted)
    for told in (None, value):
        mosaic = write_mosaic([path, path], tmp_path / f"{told}.vrt", told)
        np.testing.assert_array_equal(read(mosaic.path, nodata=told)[1], wanted)
    grid = Grid(crs=None, transform=Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000), height=SIDE, width=SIDE)
    array = ArrayRaster(image, grid=grid, nodata=value)
    np.testing.assert_array_equal(array.read(top=0, left=0, height=SIDE, width=SIDE)[1], wanted)
    with array.resampled(grid.resized(height=SIDE // 2, width=SIDE // 2)) as raster:
        got, valid = raster.read(top=0, left=0, height=SIDE // 2, width=SIDE // 2)
    mean, known = mean_of_measured(image, wanted)
    np.testing.assert_array_equal(valid, known)
    assert np.abs(got - mean)[:, known].max() <= (1e-4 if dtype == "float32" else 0.51)
    one = per_band(image, (value, None, value))
    mosaic = write_mosaic([one, one], tmp_path / "one.vrt")
    np.testing.assert_array_equal(read(mosaic.path)[1], wanted)


def test_a_value_that_is_also_measured_counts_where_all_that_declare_it_have_it(
    raster_file: RasterFile, per_band: Any
) -> None:
    image = noise("uint16", 4)
    image[3, 5:9], image[:, 10:12], image[0, :3] = 0, 0, 0
    all_declare = read(raster_file("in.tif", image, nodata=0))[1]
    np.testing.assert_array_equal(all_declare, (image != 0).any(axis=0))
    # Who declares nothing has no say in it.
    for numbers in ((), (4, 1)):
        valid = read(per_band(image, (None, None, None, 0)), choice=BandChoice(numbers))[1]
        np.testing.assert_array_equal(valid, image[3] != 0)


def test_which_values_stand_alone() -> None:
    alone = [(-9999, "float32"), (-32768, "int16"), (32767, "int16"), (float("nan"), "float32"), (-3.4e38, "float32"),
             (1e37, "float64"), (-999, "int32"), (-2147483648, "int32")]  # fmt: skip
    both = [(0, "uint8"), (255, "uint8"), (65535, "uint16"), (0, "float32"), (-1, "int16"), (-30, "float32"),
            (-128, "int8")]  # fmt: skip
    for value, dtype in alone:
        assert stands_alone(value, dtype), (value, dtype)
    for value, dtype in both:
        assert not stands_alone(value, dtype), (value, dtype)


@pytest.mark.parametrize("value", [-3.4e38, np.inf, -np.inf, np.nan, 1e31])
@pytest.mark.parametrize("bands", [1, 3])
def test_undeclared_numbers_that_nothing_measures_are_unmeasured_and_refused_where_they_would_spread(
    raster_file: RasterFile, value: float, bands: int
) -> None:
    image = noise("float32", bands)
    image[bands - 1, 4, 5:8] = value
    path = raster_file("in.tif", image)
    _, valid = read(path)
    assert np.argwhere(~valid).tolist() == [[4, 5], [4, 6], [4, 7]]
    if np.isnan(value):
        return
    with pytest.raises(InputError, match="resampling would spread"):
        halved(path)
    if np.isfinite(value):
        # What the message recommends.
        got, valid = halved(path, nodata=value)
        mean, known = mean_of_measured(image, image[bands - 1] != np.float32(value))
        np.testing.assert_array_equal(valid, known)
        np.testing.assert_allclose(got[:, known], mean[:, known], rtol=1e-5)


def test_undeclared_fillers_are_counted_band_by_band_and_declared_ones_are_no_fillers() -> None:
    image = noise("float32", 2)
    image[0, :2], image[1, 5], image[1, 6, :3] = -9999, -3.4e38, np.nan
    valid = np.ones((SIDE, SIDE), bool)
    valid[5:7] = False
    tally = FillerTally((None, None))
    tally.add(image, valid)
    tally.add(image[:, 0], valid[0])
    far, usual = tally.notes("a.tif", ("red", "nir"), lambda value: f"--nodata {value:g}")
    assert "24 pixels of a.tif" in far
    assert "-3.39999995e+38 in nir" in far
    assert "--nodata -3.4e+38" in far
    assert "72 pixels of a.tif are -9999 in red" in usual
    assert "--nodata -9999" in usual
    declared = FillerTally((-9999.0, float(np.float32(-3.4e38))))
    declared.add(image, valid)
    assert declared.notes("a.tif", ("red", "nir"), str) == [
        "72 of the 576 pixels of a.tif that were looked at have the nodata value in some bands, not in all, and count "
        "as not measured"
    ]
    whole = FillerTally((None,))
    whole.add(np.full((1, 4), 65535, "uint16"), np.ones(4, bool))
    assert whole.notes("a.tif", ("red",), str) == []
