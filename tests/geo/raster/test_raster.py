"""Pixels come as they are stored, unmeasured ones are known, and what cannot be read is never zeros."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples
from rasterio.control import GroundControlPoint

from aerial_seg.errors import InputError
from aerial_seg.geo.raster.raster import Raster, raster_info

if TYPE_CHECKING:
    from tests.conftest import RasterFile

HEIGHT, WIDTH = 48, 64
SAME_FILE = settings(
    max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
KINDS = ["all measured", "nodata", "mask", "alpha", "nan", "override"]


def random_image(dtype: str = "uint8", bands: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 250, (bands, HEIGHT, WIDTH)).astype(dtype)


def collar() -> np.ndarray:
    """True = measured: a collar, a hole and a lonely pixel are not."""
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[:, :8] = valid[20:24, 30:38] = valid[41, 51] = False
    return valid


def make(raster_file: RasterFile, kind: str, bands: int = 3) -> tuple[Path, Any, Any, float | None]:
    """path, image, valid and the `nodata=` to open it with."""
    image, valid = random_image("float32" if kind == "nan" else "uint8", bands), collar()
    filler = {"nodata": 255, "override": 255, "nan": np.nan}.get(kind, 7)
    image[:, ~valid] = filler
    if kind in ("nodata", "override"):
        image[0, 30:40, 40:60] = 255  # one saturated band of measured pixels
    options: dict[str, Any] = {
        "nodata": {"nodata": 255},
        "mask": {"mask": valid},
        "alpha": {"alpha": np.where(valid, 255, 0)},
    }.get(kind, {})
    if kind == "all measured":
        valid[:] = True
    return raster_file("r.tif", image, **options), image, valid, 255 if kind == "override" else None


# With one band, a saturated pixel is nodata.
@pytest.mark.parametrize(
    ("kind", "bands"),
    [(kind, n) for kind in KINDS for n in range(1, 6) if n > 1 or kind not in ("nodata", "override")],
)
def test_measured_pixels_are_known_however_the_file_marks_them(
    raster_file: RasterFile, kind: str, bands: int
) -> None:
    path, image, valid, nodata = make(raster_file, kind, bands)
    with Raster(path, nodata=nodata) as raster:
        got, got_valid = raster.read(top=0, left=0, height=HEIGHT, width=WIDTH)
        assert raster.info.bands == tuple(range(1, bands + 1))
    np.testing.assert_array_equal(got, image)
    np.testing.assert_array_equal(got_valid, valid)
    if kind in ("nodata", "mask", "all measured"):
        with rasterio.open(path) as oracle:
            np.testing.assert_array_equal(got_valid, oracle.dataset_mask() > 0)


def test_infinite_numbers_are_not_measured(raster_file: RasterFile) -> None:
    image = random_image("float32")
    image[1, 3, 4] = np.inf
    with Raster(raster_file("r.tif", image)) as raster:
        _, valid = raster.read(top=0, left=0, height=HEIGHT, width=WIDTH)
    assert np.argwhere(~valid).tolist() == [[3, 4]]


@SAME_FILE
@given(
    top=st.integers(-20, HEIGHT + 5),
    left=st.integers(-20, WIDTH + 5),
    height=st.integers(0, 60),
    width=st.integers(0, 80),
)
def test_a_window_may_reach_beyond_the_raster(
    raster_file: RasterFile, top: int, left: int, height: int, width: int
) -> None:
    path, _, _, _ = make(raster_file, "mask")
    with Raster(path) as raster, rasterio.open(path) as oracle:
        image, valid = raster.read(top=top, left=left, height=height, width=width)
        assert image.shape == (3, height, width)
        padded = np.zeros((4, HEIGHT + 200, WIDTH + 200), np.uint8)
        padded[:3, 100 : 100 + HEIGHT, 100 : 100 + WIDTH] = oracle.read()
        padded[3, 100 : 100 + HEIGHT, 100 : 100 + WIDTH] = oracle.dataset_mask()
    want = padded[:, 100 + top : 100 + top + height, 100 + left : 100 + left + width]
    np.testing.assert_array_equal(image, want[:3])
    np.testing.assert_array_equal(valid, want[3] > 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bands", [2, 3, 4])
def test_whole_groups_of_pixels_are_averaged_over_what_was_measured(
    raster_file: RasterFile, kind: str, bands: int
) -> None:
    path, image, valid, nodata = make(raster_file, kind, bands)
    with Raster(path, nodata=nodata) as raster:
        raster.resample(raster.grid.resized(height=HEIGHT // 4, width=WIDTH // 4))
        got, got_valid = raster.read(top=0, left=0, height=HEIGHT // 4, width=WIDTH // 4)
    groups = image.astype(float).reshape(bands, HEIGHT // 4, 4, WIDTH // 4, 4)
    known = valid.reshape(HEIGHT // 4, 4, WIDTH // 4, 4)
    count = known.sum((1, 3))
    np.testing.assert_array_equal(got_valid, count > 0)
    want = np.where(known, groups, 0).sum((2, 4)) / np.maximum(count, 1)
    assert np.abs(got.astype(float) - want)[:, got_valid].max() <= (1e-4 if kind == "nan" else 0.51)


@pytest.mark.parametrize("nodata", [None, np.nan])
def test_one_band_that_is_no_number_is_enough_after_resampling_too(
    raster_file: RasterFile, nodata: float | None
) -> None:
    image = random_image("float32")
    image[0, :8] = image[1, :, :6] = image[2, 12, 12] = np.nan
    with Raster(raster_file("r.tif", image, nodata=nodata)) as raster:
        raster.resample(raster.grid.resized(height=HEIGHT // 4, width=WIDTH // 4))
        got, valid = raster.read(top=0, left=0, height=HEIGHT // 4, width=WIDTH // 4)
    groups = image.astype(float).reshape(3, HEIGHT // 4, 4, WIDTH // 4, 4)
    measured = np.isfinite(groups)
    # Each band is averaged over its own numbers, and a pixel counts where every band has one.
    np.testing.assert_array_equal(valid, measured.any((2, 4)).all(axis=0))
    want = np.where(measured, groups, 0).sum((2, 4)) / np.maximum(measured.sum((2, 4)), 1)
    assert np.abs(got - want)[:, valid].max() <= 1e-4
    with Raster(raster_file("r.tif", image, nodata=nodata)) as raster:
        raster.resample(raster.grid.resized(height=HEIGHT * 2, width=WIDTH * 2))
        valid = raster.read(top=0, left=0, height=HEIGHT * 2, width=WIDTH * 2)[1]
    assert not valid[:14].any()
    assert not valid[:, :10].any()
    assert valid[18:22, 14:].all()


@pytest.mark.parametrize(("nodata", "odd"), [(0, np.nan), (None, np.inf), (-9999, np.inf)])
def test_what_resampling_would_spread_in_silence_is_an_error(
    raster_file: RasterFile, nodata: float | None, odd: float
) -> None:
    image = random_image("float32") + 1
    image[0, 5, 6] = odd
    with Raster(raster_file("r.tif", image, nodata=nodata)) as raster:
        assert raster.read(top=0, left=0, height=HEIGHT, width=WIDTH)[1].sum() == HEIGHT * WIDTH - 1
        raster.resample(raster.grid.resized(height=HEIGHT // 2, width=WIDTH // 2))
        with pytest.raises(InputError, match="NaN or infinite pixels"):
            raster.read(top=0, left=0, height=HEIGHT // 2, width=WIDTH // 2)


@pytest.mark.parametrize("mark", ["mask", "alpha"])
@pytest.mark.parametrize("resampled", [False, True])
def test_a_nodata_value_of_the_callers_adds_to_mask_and_alpha(
    raster_file: RasterFile, mark: str, resampled: bool
) -> None:
    image, valid = random_image(), collar()
    image[:, 2:4, 20:24] = 250  # four groups of 2 × 2 in a row of measured pixels
    path = raster_file("r.tif", image, **{mark: valid if mark == "mask" else np.where(valid, 255, 0)})
    wanted = valid & ~(image == 250).all(axis=0)
    with Raster(path, nodata=250) as raster:
        if (
            resampled
        ):  # no measured pixel is lost; GDAL looks at alpha beside a nodata value, but not at a mask
            raster.resample(raster.grid.resized(height=HEIGHT // 2, width=WIDTH // 2))
            least, most = (
                pixels.reshape(HEIGHT // 2, 2, WIDTH // 2, 2).any(axis=(1, 3)) for pixels in (wanted, valid)
            )
            _, got = raster.read(top=0, left=0, height=HEIGHT // 2, width=WIDTH // 2)
            assert got[least].all()
            assert mark == "mask" or not got[~most].any()
        else:
            _, got = raster.read(top=0, left=0, height=HEIGHT, width=WIDTH)
            np.testing.assert_array_equal(got, wanted)


def test_a_saturated_band_of_a_measured_pixel_keeps_its_value(raster_file: RasterFile) -> None:
    path, image, _, _ = make(raster_file, "nodata")
    with Raster(path) as raster:
        raster.resample(raster.grid.resized(height=HEIGHT // 2, width=WIDTH // 2))
        got, valid = raster.read(top=15, left=20, height=5, width=10)
    assert (image[0, 30:40, 40:60] == 255).all()
    assert (got[0] == 255).all()
    assert valid.all()


@pytest.mark.parametrize(("height", "width"), [(17, 23), (24, 32), (131, 150)])
@pytest.mark.parametrize("kind", ["nodata", "alpha"])
@SAME_FILE
@given(data=st.data())
def test_resampled_pixels_do_not_depend_on_the_window(
    raster_file: RasterFile, kind: str, height: int, width: int, data: st.DataObject
) -> None:
    path, _, _, _ = make(raster_file, kind)
    with Raster(path) as raster:
        raster.resample(raster.grid.resized(height=height, width=width))
        whole, valid = raster.read(top=0, left=0, height=height, width=width)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows, cols = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    with Raster(path) as raster:
        raster.resample(raster.grid.resized(height=height, width=width))
        part, part_valid = raster.read(top=top, left=left, height=rows, width=cols)
    np.testing.assert_array_equal(part, whole[:, top : top + rows, left : left + cols])
    np.testing.assert_array_equal(part_valid, valid[top : top + rows, left : left + cols])


@pytest.mark.parametrize("resampled", [False, True])
def test_a_truncated_file_is_an_error_with_its_place_and_never_zeros(
    raster_file: RasterFile, tmp_path: Path, resampled: bool
) -> None:
    path = raster_file("r.tif", random_image())
    content = path.read_bytes()
    cut = tmp_path / "cut.tif"
    cut.write_bytes(content[: len(content) * 2 // 3])
    with Raster(cut) as raster:
        if resampled:
            raster.resample(raster.grid.resized(height=24, width=32))
        height, width = raster.grid.shape
        with pytest.raises(InputError, match=r"cut.tif could not be read at row \d+, column \d+"):
            raster.read(top=0, left=0, height=height, width=width)


@pytest.mark.parametrize("nodata", [-9999, 300, 0.5, float("nan")])
def test_a_nodata_value_that_cannot_occur_is_refused(raster_file: RasterFile, nodata: float) -> None:
    path = raster_file("r.tif", random_image())
    with pytest.raises(InputError, match=r"cannot occur in .*r.tif, whose pixels are uint8; wanted .*0..255"):
        Raster(path, nodata=nodata)


def test_without_crs_the_remedy_is_told_and_no_georef_works(raster_file: RasterFile) -> None:
    path = raster_file("r.tif", random_image(), crs=None, transform=Affine.identity())
    with pytest.raises(InputError, match=r"r.tif has no CRS.*gdal_edit.py -a_srs.*`georeferenced=False`"):
        Raster(path)
    with Raster(path, georeferenced=False) as raster:
        assert raster.grid.crs is None
        assert raster.read(top=0, left=0, height=2, width=2)[1].all()


def test_ground_control_points_alone_are_named(tmp_path: Path) -> None:
    path = tmp_path / "gcp.tif"
    points = [
        GroundControlPoint(row, col, 85.5 + col / 1e4, 27.6 - row / 1e4) for row in (0, 9) for col in (0, 9)
    ]
    with rasterio.open(path, "w", driver="GTiff", width=9, height=9, count=1, dtype="uint8") as file:
        file.gcps = (points, "EPSG:4326")
    with pytest.raises(InputError, match=r"ground control points only.*gdalwarp.*`georeferenced=False`"):
        Raster(path)


def test_what_is_no_raster_is_one_line(tmp_path: Path) -> None:
    text = tmp_path / "text.tif"
    text.write_text("not a raster")
    for path, message in (
        (tmp_path / "gone.tif", "does not exist"),
        (text, "not a raster"),
        (tmp_path, "not a raster"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            Raster(path)
        assert "\n" not in str(caught.value)


def test_complex_numbers_and_lonely_alpha_are_refused(raster_file: RasterFile) -> None:
    with pytest.raises(InputError, match="complex"):
        raster_info(raster_file("c.tif", random_image("complex64")))
    with pytest.raises(InputError, match="only an alpha band"):
        raster_info(raster_file("a.tif", random_image()[:0], alpha=random_image()[0]))


def test_band_names_come_from_descriptions_else_from_meanings(raster_file: RasterFile) -> None:
    path = raster_file("r.tif", random_image())
    assert raster_info(path).names == ("band 1", "band 2", "band 3") or len(set(raster_info(path).names)) == 3
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("red", "green", "nir")
    assert raster_info(path).names == ("red", "green", "nir")
