"""A mosaic copies pixels, keeps uncovered ground unmeasured, and names what does not fit."""

from __future__ import annotations

import zipfile
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

from aerial_seg.errors import InputError
from aerial_seg.geo.raster.mosaic import write_mosaic
from aerial_seg.geo.raster.raster import Raster

if TYPE_CHECKING:
    from tests.conftest import RasterFile, WebServer

RANDOM = np.random.default_rng(5)
SIDE = 40


def pixels(dtype: str = "uint8", bands: int = 2) -> np.ndarray:
    return RANDOM.integers(1, 250, (bands, SIDE, SIDE)).astype(dtype)


def at(x: float, y: float) -> Affine:
    return Affine(0.5, 0, 300_000 + x / 2, 0, -0.5, 3_060_000 - y / 2)


def read(path: Path, nodata: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    with Raster(path, nodata=nodata) as raster:
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


def _of_kind(raster_file: RasterFile, tmp_path: Path, kind: str, name: str, x: float, seed: int) -> Path:
    """Noise of three values, in which each of them, alone or in all bands, may mean that nothing was measured."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 3, (1 if "one band" in kind else 3, SIDE, SIDE)).astype("uint8")
    image[:, random.random((SIDE, SIDE)) < 0.3] = random.integers(0, 3)
    known = random.random((SIDE, SIDE)) < 0.7
    options: dict[str, Any] = {"transform": at(x, 0), "nodata": 0 if "nodata" in kind else None}
    if "mask" in kind:
        options["mask"] = known
    if "alpha" in kind:
        options["alpha"] = np.where(np.roll(known, 3, axis=0), 255, 0)
    path = raster_file(f"{name}.tif", image, **options)
    if kind != PER_BAND:
        return path
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{k}"><NoDataValue>{k - 1}</NoDataValue><SimpleSource>'
        f"<SourceFilename>{path}</SourceFilename><SourceBand>{k}</SourceBand></SimpleSource></VRTRasterBand>"
        for k in (1, 2, 3)
    )
    vrt = tmp_path / f"{name}.vrt"
    vrt.write_text(
        f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><SRS>EPSG:32645</SRS>'
        f"<GeoTransform>{', '.join(map(str, at(x, 0).to_gdal()))}</GeoTransform>{bands}</VRTDataset>"
    )
    return vrt


KINDS = ("plain", "nodata", "mask", "alpha", "alpha and nodata", "mask and nodata", "alpha and mask",
         "one band, alpha and nodata", "one band, nodata")  # fmt: skip
PER_BAND = "a nodata value in each band"


@pytest.mark.parametrize(
    ("kind", "nodata"), [(PER_BAND, None), *((kind, nodata) for kind in KINDS for nodata in (None, 0, 2))]
)
@settings(max_examples=examples(3), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(x=st.integers(0, SIDE + 9), seed=st.integers(0, 99))
def test_a_mosaic_shows_what_each_raster_alone_calls_measured(
    raster_file: RasterFile, tmp_path: Path, kind: str, nodata: float | None, x: int, seed: int
) -> None:
    """Also its single bands that equal nodata while others do not: nothing shines through from below."""
    paths = [_of_kind(raster_file, tmp_path, kind, f"{k}", k * x, seed + k) for k in range(2)]
    image, valid = read(write_mosaic(paths, tmp_path / "m.vrt", nodata).path, nodata)
    wanted = np.zeros_like(image)
    covered = np.zeros_like(valid)
    for k, path in enumerate(paths):
        alone, measured = read(path, nodata)
        inside = slice(k * x, k * x + SIDE)
        wanted[:, :, inside][:, measured] = alone[:, measured]
        covered[:, inside] |= measured
    np.testing.assert_array_equal(valid, covered)
    np.testing.assert_array_equal(image[:, valid], wanted[:, valid])


@pytest.mark.parametrize("nodata", [0, 1, 2])
def test_a_callers_nodata_replaces_one_in_each_band(
    raster_file: RasterFile, tmp_path: Path, nodata: int
) -> None:
    below, above = (_of_kind(raster_file, tmp_path, PER_BAND, f"{k}", 0, k) for k in range(2))
    image, valid = read(write_mosaic([below, above], tmp_path / "m.vrt", nodata).path, nodata)
    with rasterio.open(below) as a, rasterio.open(above) as b:
        bottom, top = a.read(), b.read()
    wanted = np.where((top != nodata).any(axis=0), top, bottom)
    np.testing.assert_array_equal(valid, (wanted != nodata).any(axis=0))
    np.testing.assert_array_equal(image[:, valid], wanted[:, valid])
    assert (top != wanted).any()


@pytest.mark.parametrize("nodata", [None, 0, 2])
@pytest.mark.parametrize("kind", ["plain", "nodata", "mask", "alpha", "mask and nodata"])
def test_a_resampled_mosaic_is_measured_where_any_of_four_pixels_is(
    raster_file: RasterFile, tmp_path: Path, kind: str, nodata: float | None
) -> None:
    paths = [_of_kind(raster_file, tmp_path, kind, f"{k}", k * (SIDE + 10), k) for k in range(2)]
    vrt = write_mosaic(paths, tmp_path / "m.vrt", nodata).path
    _, valid = read(vrt, nodata)
    rows, cols = valid.shape[0] // 2, valid.shape[1] // 2
    with Raster(vrt, nodata=nodata) as raster:
        raster.resample(raster.grid.resized(height=rows, width=cols))
        _, got = raster.read(top=0, left=0, height=rows, width=cols)
    np.testing.assert_array_equal(got, valid.reshape(rows, 2, cols, 2).any(axis=(1, 3)))
    assert not got[:, SIDE // 2 : SIDE // 2 + 5].any()


def test_the_callers_filler_never_covers_what_an_earlier_raster_measured(
    raster_file: RasterFile, tmp_path: Path
) -> None:
    below, above = pixels(bands=3), pixels(bands=3)
    above[:, :, :15] = 7
    above[0, :, 15:20] = 7
    paths = [raster_file("a.tif", below), raster_file("b.tif", above)]
    image, valid = read(write_mosaic(paths, tmp_path / "m.vrt", 7).path, 7)
    assert valid.all()
    np.testing.assert_array_equal(image, np.concatenate([below[:, :, :15], above[:, :, 15:]], axis=2))


def test_a_callers_nodata_reconciles_files_that_declare_others(
    raster_file: RasterFile, tmp_path: Path
) -> None:
    image = pixels()
    paths = [raster_file("a.tif", image, nodata=9), raster_file("b.tif", image, transform=at(SIDE, 0))]
    assert read(write_mosaic(paths, tmp_path / "m.vrt", 0).path, 0)[1].all()
    with pytest.raises(InputError, match=r"nodata=300` cannot occur in .*a\.tif.*0\.\.255"):
        write_mosaic(paths, tmp_path / "m.vrt", 300)


@given(
    x=st.one_of(st.integers(0, 80).map(lambda half: half / 2), st.floats(0, 40)),
    width=st.integers(1, 40),
    noise=st.floats(-1e-6, 1e-6),
)
@settings(max_examples=examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rasters_of_one_pixel_size_are_copied_wherever_they_lie(
    raster_file: RasterFile, tmp_path: Path, x: float, width: int, noise: float
) -> None:
    """Half a pixel off too; two neighbours stay neighbours, with nothing between them and nothing covered."""
    first, second, third = pixels(), pixels()[:, :, :width], pixels()[:, :, :width]
    paths = [
        raster_file("a.tif", first),
        raster_file("b.tif", second, transform=at(SIDE + 1 + x, x)),
        raster_file("c.tif", third, transform=at(SIDE + 1 + x + width + noise, x)),
    ]
    mosaic = write_mosaic(paths, tmp_path / "m.vrt")
    image, valid = read(mosaic.path)
    shown = image[:, :, SIDE + 1 :][:, valid[:, SIDE + 1 :]].reshape(2, SIDE, -1)
    np.testing.assert_array_equal(shown, np.concatenate([second, third], axis=2))
    np.testing.assert_array_equal(image[:, :SIDE, :SIDE], first)
    nearest = abs(x - round(x))
    assert mosaic.largest_shift == pytest.approx(nearest, abs=3e-3)


def test_copies_that_drift_apart_leave_no_line_unmeasured(raster_file: RasterFile, tmp_path: Path) -> None:
    tiles, paths, top = [pixels() for _ in range(6)], [], 0.0
    paths.append(raster_file("finest.tif", pixels(), transform=at(SIDE, 0)))
    for k, tile in enumerate(tiles):
        larger = at(0, top) * Affine.scale(1, 1 + 0.4 / SIDE)
        paths.append(raster_file(f"{k}.tif", tile, transform=larger))
        top += SIDE + 0.4
    image, valid = read(write_mosaic(paths, tmp_path / "m.vrt").path)
    assert image.shape[1] == 6 * SIDE + 2
    assert valid[:, :SIDE].all()
    for k, tile in enumerate(tiles):
        row = round(k * (SIDE + 0.4))
        np.testing.assert_array_equal(image[:, row : row + SIDE, :SIDE], tile)


def _as_colours(path: Path, colours: str) -> Path:
    meanings = {
        letter: ColorInterp[name]
        for letter, name in zip("rgb-", ("red", "green", "blue", "undefined"), strict=True)
    }
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [meanings[letter] for letter in colours]
    return path


def test_bands_in_another_order_are_refused(raster_file: RasterFile, tmp_path: Path) -> None:
    rgb, bgr, silent = (
        _as_colours(raster_file(f"{name}.tif", pixels(bands=3), transform=at(SIDE * k, 0)), colours)
        for k, (name, colours) in enumerate({"rgb": "rgb", "bgr": "bgr", "silent": "---"}.items())
    )
    with pytest.raises(
        InputError,
        match=r"bgr.tif has the bands blue, green, red, but .*rgb.tif has red, green, blue.*gdal_translate",
    ) as refusal:
        write_mosaic([rgb, bgr], tmp_path / "m.vrt")
    assert "\n" not in str(refusal.value)
    assert write_mosaic([rgb, silent], tmp_path / "m.vrt").sources == 2
    assert write_mosaic([bgr, bgr], tmp_path / "m.vrt").sources == 2


def test_numbers_of_palettes_are_refused(raster_file: RasterFile, tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        paths.append(tmp_path / f"{name}.tif")
        with rasterio.open(
            paths[-1], "w", driver="GTiff", count=1, height=8, width=8, dtype="uint8", photometric="palette",
            crs="EPSG:32645", transform=at(0, 0),
        ) as file:  # fmt: skip
            file.write(np.ones((1, 8, 8), "uint8"))
            file.write_colormap(1, {1: (255, 0, 0, 255)})
    with pytest.raises(InputError, match=r"a.tif .*palette.*gdal_translate -expand rgb") as refusal:
        write_mosaic(paths, tmp_path / "m.vrt")
    assert "\n" not in str(refusal.value)
    assert write_mosaic(paths[:1], tmp_path / "m.vrt").sources == 1


@pytest.mark.parametrize("kind", ["plain", "alpha and nodata"])
@pytest.mark.parametrize("place", ["server", "path", "archive", "relative"])
def test_rasters_on_servers_and_in_archives_are_read_as_the_files(
    raster_file: RasterFile,
    server: WebServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    place: str,
) -> None:
    """A Path has lost one slash of its URL, or of an archive's absolute path."""
    paths = [_of_kind(raster_file, tmp_path, kind, f"{k}", k * SIDE, k) for k in range(2)]
    archive = tmp_path / "rasters.zip"
    with zipfile.ZipFile(archive, "w") as members:
        for path in paths:
            members.write(path, path.name)
            (server.folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    there = [
        {
            "server": server.url(path.name),
            "path": Path(server.url(path.name)),
            "archive": Path(f"/vsizip/{archive}/{path.name}"),
            "relative": Path(path.name),
        }[place]
        for path in paths
    ]
    (tmp_path / "work").mkdir()
    got = read(write_mosaic(there, tmp_path / "work" / "m.vrt").path)
    for part, wanted in zip(got, read(write_mosaic(paths, tmp_path / "m.vrt").path), strict=True):
        np.testing.assert_array_equal(part, wanted)


@pytest.mark.parametrize("kind", [*KINDS, PER_BAND])
def test_what_a_mosaic_is_made_of_are_files(raster_file: RasterFile, tmp_path: Path, kind: str) -> None:
    """An interrupted run looks at them before it goes on."""
    paths = [_of_kind(raster_file, tmp_path, kind, f"{k}", k * SIDE, k) for k in range(2)]
    for nodata in (None, 0):
        with Raster(write_mosaic(paths, tmp_path / "m.vrt", nodata).path, nodata=nodata) as mosaic:
            mosaic.read(top=0, left=0, height=1, width=1)
            assert all(len(name) < 4096 and Path(name).is_file() for name in mosaic.files)
