"""Chosen bands are the ones rasterio reads by those numbers, and what was measured is what rasterio says of them."""

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
from rasterio.enums import ColorInterp

from aerial_seg.band_names import role
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.geo.raster.band_choice import BandChoice, parse_bands
from aerial_seg.geo.raster.raster import Raster, raster_info

if TYPE_CHECKING:
    from tests.conftest import RasterFile, WebServer

HEIGHT, WIDTH = 40, 56
WHOLE = {"top": 0, "left": 0, "height": HEIGHT, "width": WIDTH}
SAME_FILE = settings(
    max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def image(bands: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 250, (bands, HEIGHT, WIDTH)).astype(dtype)


def holes(seed: int = 5) -> np.ndarray:
    """True = measured."""
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[:, : 3 + seed] = valid[20:24, 10 + seed : 20] = False
    return valid


def read(path: Path, choice: BandChoice, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    with Raster(path, choice=choice, **options) as raster:
        return raster.read(**WHOLE)


@pytest.mark.parametrize("kind", ["plain", "nodata", "mask", "alpha", "external mask"])
@SAME_FILE
@given(numbers=st.lists(st.integers(1, 4), min_size=1, max_size=6), seed=st.integers(0, 9))
def test_bands_by_number_are_those_that_rasterio_reads(
    raster_file: RasterFile, kind: str, numbers: list[int], seed: int
) -> None:
    pixels, valid = image(4, seed=seed), holes()
    pixels[:, ~valid] = 0
    path = raster_file(
        f"{kind}{seed}.tif",
        pixels,
        nodata=0 if kind == "nodata" else None,
        mask=valid if kind == "mask" else None,
        alpha=np.where(valid, 255, 0) if kind == "alpha" else None,
    )
    if kind == "external mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
            file.write_mask(valid)
        assert path.with_name(path.name + ".msk").exists()
    got, got_valid = read(path, BandChoice(tuple(numbers)))
    with rasterio.open(path) as oracle:
        np.testing.assert_array_equal(got, oracle.read(numbers))
        masks = oracle.read(5) if kind == "alpha" else oracle.read_masks(numbers).max(axis=0)
    np.testing.assert_array_equal(got_valid, masks > 0)
    assert got_valid.all() == (kind == "plain")


@SAME_FILE
@given(
    top=st.integers(-9, HEIGHT),
    left=st.integers(-9, WIDTH),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
)
def test_a_window_of_a_stack_is_that_window_of_the_whole(
    raster_file: RasterFile, top: int, left: int, height: int, width: int
) -> None:
    valid = holes()
    path = raster_file("rgb.tif", image(3), mask=valid)
    stacked = raster_file("height.tif", image(1, "int16", seed=3), nodata=5)
    with Raster(path, choice=BandChoice((4, 2), stack=(str(stacked),))) as raster:
        whole, measured = raster.read(**WHOLE)
        part, part_measured = raster.read(top=top, left=left, height=height, width=width)
    padded = np.pad(whole, ((0, 0), (40, 40), (40, 40)))
    padded_measured = np.pad(measured, 40)
    rows, cols = slice(40 + top, 40 + top + height), slice(40 + left, 40 + left + width)
    inside = padded_measured[rows, cols]
    np.testing.assert_array_equal(part_measured, inside)
    np.testing.assert_array_equal(part[:, inside], padded[:, rows, cols][:, inside])


def test_alpha_masks_unless_it_is_chosen_as_imagery(raster_file: RasterFile) -> None:
    """Trap 4: four bands written without photometric tags band 4 as alpha, so NIR = 0 became nodata."""
    pixels = image(4)
    pixels[3, 10:20] = 0
    path = raster_file("rgbn.tif", pixels[:3], alpha=pixels[3])
    with rasterio.open(path) as oracle:
        assert oracle.colorinterp[3] == ColorInterp.alpha
    _, valid = read(path, BandChoice((3, 2, 1)))
    np.testing.assert_array_equal(valid, pixels[3] > 0)
    got, valid = read(path, BandChoice((4, 1)))
    assert valid.all()
    np.testing.assert_array_equal(got, pixels[[3, 0]])
    with Raster(path, choice=BandChoice((4, 1))) as raster:
        raster.resample(raster.grid.resized(height=HEIGHT // 2, width=WIDTH // 2))
        got, valid = raster.read(top=0, left=0, height=HEIGHT // 2, width=WIDTH // 2)
    assert valid.all()
    groups = pixels[[3, 0]].astype(float).reshape(2, HEIGHT // 2, 2, WIDTH // 2, 2).mean((2, 4))
    assert np.abs(got - groups).max() <= 0.51


def _check_resampled(path: Path, choice: BandChoice, valid: np.ndarray) -> None:
    """A group of four pixels is measured where one of it is."""
    with Raster(path, choice=choice) as raster:
        raster.resample(raster.grid.resized(height=HEIGHT // 2, width=WIDTH // 2))
        _, got = raster.read(top=0, left=0, height=HEIGHT // 2, width=WIDTH // 2)
    np.testing.assert_array_equal(got, valid.reshape(HEIGHT // 2, 2, WIDTH // 2, 2).any(axis=(1, 3)))


def test_nodata_of_each_band_counts_for_the_chosen_bands_only(
    raster_file: RasterFile, tmp_path: Path
) -> None:
    pixels = image(3)
    pixels[0, :8], pixels[1, :, :16], pixels[2, :24, 4:] = 11, 22, 33
    source = raster_file("in.tif", pixels)
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{k}"><NoDataValue>{11 * k}</NoDataValue><SimpleSource>'
        f"<SourceFilename>{source}</SourceFilename><SourceBand>{k}</SourceBand></SimpleSource></VRTRasterBand>"
        for k in (1, 2, 3)
    )
    vrt = tmp_path / "bands.vrt"
    vrt.write_text(
        f'<VRTDataset rasterXSize="{WIDTH}" rasterYSize="{HEIGHT}"><SRS>EPSG:32645</SRS>'
        f"<GeoTransform>300000, 0.5, 0, 3060000, 0, -0.5</GeoTransform>{bands}</VRTDataset>"
    )
    filler = np.array([11, 22, 33])[:, None, None]
    for numbers in ((1,), (3,), (2, 1), (3, 2, 1)):
        _, valid = read(vrt, BandChoice(numbers))
        chosen = np.array(numbers) - 1
        want = (pixels[chosen] != filler[chosen]).any(axis=0)
        assert not want.all()
        np.testing.assert_array_equal(valid, want)
        with rasterio.open(vrt) as oracle:
            np.testing.assert_array_equal(valid, oracle.read_masks(numbers).max(axis=0) > 0)
        _check_resampled(vrt, BandChoice(numbers), want)
    _check_resampled(vrt, BandChoice(), want)
    with rasterio.open(vrt) as oracle:
        np.testing.assert_array_equal(read(vrt, BandChoice())[1], oracle.dataset_mask() > 0)
    assert raster_info(vrt).nodata == 11
    assert raster_info(vrt, BandChoice((3, 1))).nodata == 33


def test_not_a_number_is_unmeasured_in_a_chosen_band_only(raster_file: RasterFile) -> None:
    pixels = image(3, "float32")
    pixels[0, 4], pixels[2, :, 6] = np.nan, np.nan
    path = raster_file("in.tif", pixels)
    for numbers in ((1,), (2,), (3, 2), (1, 2, 3)):
        _, valid = read(path, BandChoice(numbers))
        np.testing.assert_array_equal(valid, np.isfinite(pixels[np.array(numbers) - 1]).all(axis=0))


def test_a_nodata_of_the_callers_is_looked_for_in_the_chosen_bands_of_the_raster_itself(
    raster_file: RasterFile,
) -> None:
    pixels, heights = image(3), image(1, "int16")
    pixels[:2, :7], heights[0, 20:25] = 0, 0
    path, stacked = raster_file("in.tif", pixels), raster_file("height.tif", heights)
    _, valid = read(path, BandChoice((1, 2)), nodata=0)
    np.testing.assert_array_equal(valid, pixels[:2].any(axis=0))
    _, valid = read(path, BandChoice((1, 2, 3)), nodata=0)
    assert valid.all()
    _, valid = read(path, BandChoice((4, 1, 2), stack=(str(stacked),)), nodata=0)
    np.testing.assert_array_equal(valid, pixels[:2].any(axis=0))


@pytest.mark.parametrize("numbers", [(), (1, 2, 3, 4, 5), (5, 1), (2, 4, 3, 2), (4, 5, 1)])
def test_stacked_bands_come_after_the_rasters_and_are_measured_where_every_file_is(
    raster_file: RasterFile, numbers: tuple[int, ...]
) -> None:
    pixels, heights, slopes = image(3), image(1, "int16", 1) * 9, image(1, "float32", 2) / 7
    valid = holes()
    heights[0, 30:33], slopes[0, :, 40] = -9999, np.nan
    path = raster_file("rgb.tif", pixels, mask=valid)
    stack = [raster_file("height.tif", heights, nodata=-9999), raster_file("slope.tif", slopes)]
    choice = BandChoice(numbers, stack=tuple(map(str, stack)))
    if numbers and not {4, 5} <= set(numbers):
        with pytest.raises(InputError, match="leave the file out"):
            Raster(path, choice=choice)
        return
    got, measured = read(path, choice)
    want = np.concatenate([pixels, heights, slopes], dtype="float32")
    want = want[np.array(numbers) - 1] if numbers else want
    known = valid & (heights[0] != -9999) & np.isfinite(slopes[0])
    np.testing.assert_array_equal(measured, known)
    np.testing.assert_array_equal(got[:, known], want[:, known])
    info = raster_info(path, choice)
    assert info.dtype == str(got.dtype) == "float32"
    assert len(info.names) == len(set(info.names)) or len(set(numbers)) < len(numbers)
    assert info.bands == (numbers or (1, 2, 3, 4, 5))
    with Raster(path, choice=choice) as raster:
        assert {str(path), *map(str, stack)} <= set(raster.files)


def test_bands_and_stacks_on_a_server_read_as_the_files(raster_file: RasterFile, server: WebServer) -> None:
    names = []
    for name, pixels in {"rgb.tif": image(3), "height.tif": image(1, "int16", 3)}.items():
        names.append(raster_file(name, pixels))
        (server.folder / name).write_bytes(names[-1].read_bytes())
    local, there = (
        read(path, BandChoice((4, 3), stack=(str(stacked),)))
        for path, stacked in (names, [server.url(name.name) for name in names])
    )
    np.testing.assert_array_equal(local[0], there[0])
    np.testing.assert_array_equal(local[1], there[1])
    assert any("height.tif" in asked for asked in server.asked)
    with Raster(Path(server.url("rgb.tif")), choice=BandChoice((2,))) as raster:
        server.faults = ["drop"]
        np.testing.assert_array_equal(raster.read(**WHOLE)[0], image(3)[[1]])


def test_a_stack_is_resampled_file_by_file(raster_file: RasterFile) -> None:
    pixels, heights = image(2), image(1, "int16", 4)
    heights[0, :8, :8] = -1
    path, stacked = raster_file("a.tif", pixels), raster_file("b.tif", heights, nodata=-1)
    small = {"height": HEIGHT // 4, "width": WIDTH // 4}
    with Raster(path, choice=BandChoice(stack=(str(stacked),))) as raster:
        raster.resample(raster.grid.resized(**small))
        got, valid = raster.read(top=0, left=0, **small)
    alone = []
    for file in (path, stacked):
        with Raster(file) as raster:
            raster.resample(raster.grid.resized(**small))
            alone.append(raster.read(top=0, left=0, **small))
    np.testing.assert_array_equal(got, np.concatenate([part for part, _ in alone]))
    np.testing.assert_array_equal(valid, alone[0][1] & alone[1][1])
    assert not valid[:2, :2].any()
    assert valid[2:, 2:].all()


@pytest.mark.parametrize("change", ["shape", "shift", "pixel", "crs", "none"])
def test_a_stack_of_another_grid_is_refused_with_both_grids(raster_file: RasterFile, change: str) -> None:
    path = raster_file("rgb.tif", image(3))
    corner = Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000)
    other = {
        "shape": {"image": image(1)[:, 1:]},
        "shift": {"transform": corner * Affine.translation(1, 0)},
        "pixel": {"transform": corner * Affine.scale(1.01)},
        "crs": {"crs": "EPSG:32644"},
        "none": {"crs": None},
    }[change]
    stacked = raster_file("height.tif", **{"image": image(1), **other})
    with pytest.raises(InputError, match=r"height\.tif .* cannot be stacked on .*rgb\.tif") as refusal:
        Raster(path, choice=BandChoice(stack=(str(stacked),)))
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).count(" px of ") == 2


def test_a_hundredth_of_a_pixel_is_the_same_grid(raster_file: RasterFile) -> None:
    path = raster_file("rgb.tif", image(3))
    moved = Affine(0.5, 0, 300_000.004, 0, -0.5, 3_060_000)
    assert (
        len(
            raster_info(path, BandChoice(stack=(str(raster_file("h.tif", image(1), transform=moved)),))).bands
        )
        == 4
    )


def test_blocks_stay_those_of_the_file(raster_file: RasterFile, tmp_path: Path) -> None:
    strips = tmp_path / "strips.tif"
    with rasterio.open(
        strips, "w", driver="GTiff", count=2, height=64, width=300, dtype="uint8", blockysize=3
    ) as file:
        file.write(np.ones((2, 64, 300), np.uint8))
    for path in (raster_file("tiled.tif", image(3)), strips):
        with (
            Raster(path, georeferenced=False) as plain,
            Raster(path, georeferenced=False, choice=BandChoice((2, 1))) as chosen,
        ):
            assert chosen.block_shape == plain.block_shape


def test_names_follow_the_choice(raster_file: RasterFile) -> None:
    path = raster_file("in.tif", image(4))
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("red", "green", None, "Near Infrared")
    assert raster_info(path, BandChoice((4, 3, 1))).names == ("Near Infrared", "band 3", "red")
    assert raster_info(path, BandChoice((4, 3), ("nir", "thermal"))).names == ("nir", "thermal")


@pytest.mark.parametrize("number", [5, 99])
def test_a_band_beyond_the_last_is_refused(raster_file: RasterFile, number: int) -> None:
    with pytest.raises(InputError, match=f"band {number} was asked for.*has 4 bands"):
        Raster(raster_file("in.tif", image(4)), choice=BandChoice((1, number)))


def test_what_is_typed_becomes_a_choice() -> None:
    assert parse_bands() == BandChoice()
    assert parse_bands(bidx="4, 3,2") == BandChoice((4, 3, 2))
    assert parse_bands(bands="red=1, green=2,nir=4", stack=["h.tif"]) == BandChoice(
        (1, 2, 4), ("red", "green", "nir"), ("h.tif",)
    )


@pytest.mark.parametrize(
    ("bidx", "bands"),
    [("1", "red=1"), ("", None), ("1,,2", None), ("0", None), ("-1", None), ("1.5", None), ("²", None)]
    + [(None, text) for text in ("", "red", "red=", "=1", "red=x", "red=0", "red=1,Red=2", "red=1,r=2")],
)
def test_what_is_no_choice_is_refused(bidx: str | None, bands: str | None) -> None:
    with pytest.raises(SettingsError) as refusal:
        parse_bands(bidx, bands)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value)


@given(st.permutations(["red", "green", "blue", "nir"]), st.integers(1, 4))
def test_named_bands_are_put_in_the_models_order(named: list[str], count: int) -> None:
    wanted = sorted(named)[:count]
    choice = BandChoice((1, 2, 3, 4), tuple(named)).ordered([name.upper() for name in wanted])
    assert [named[number - 1] for number in choice.numbers] == wanted
    with pytest.raises(SettingsError, match="thermal"):
        choice.ordered(["thermal"])


def test_names_that_say_nothing_have_no_role() -> None:
    assert [role(name) for name in ("gray", "Undefined", "band 3", "Band_12", "4", "", "palette")] == [
        None
    ] * 7
    assert role(" Near Infrared ") == role("NIR") == "nir"
    assert role("R") == role("red") != role("rededge")
