"""The traps that rasters hold, by their numbers: the naive way falls in, predict and what it stands on do not.

Traps 1, 3 and 6 are about polygons and their formats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import WindowError
from rasterio.features import rasterize
from rasterio.shutil import copy
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window, from_bounds
from shapely.geometry import box

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.inference.match_gsd import choose_run_grid
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.chip_file import write_image
from aerial_seg.legend import IGNORE

UTM = "EPSG:32633"
CORNER = Affine(1, 0, 500_000, 0, -1, 5_200_000)


def noise(bands: int, side: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (bands, side, side), dtype=np.uint8)


def blotches(count: int) -> np.ndarray:
    """Squares of 40 pixels: an untrained network is of two minds about them."""
    coarse = np.random.default_rng(6).integers(0, 2, (3, count, count), dtype=np.uint8) * np.uint8(255)
    return np.kron(coarse, np.ones((1, 40, 40), np.uint8))


def test_2_overviews_hold_no_class_that_is_not_there(
    model_file: Callable, predict: Callable, save: Callable, tmp_path: Path
) -> None:
    report = predict(model_file(3), save("in.tif", blotches(30), UTM, CORNER))
    assert min(report["class_pixels"].values()) > 1000, "the mask must hold both classes"
    with rasterio.open(tmp_path / "map.tif") as made:
        mask = made.read(1)
        assert made.overviews(1)
    plain = save("plain.tif", mask[None], UTM, CORNER)
    copy(plain, tmp_path / "naive.tif", driver="COG", blocksize=256)

    def classes(path: Path) -> set[int]:
        found: set[int] = set()
        with rasterio.open(path) as file:
            levels = len(file.overviews(1))
        for level in range(levels):
            with rasterio.open(path, overview_level=level) as file:
                found |= set(np.unique(file.read(1)).tolist())
        return found

    assert classes(tmp_path / "naive.tif") - {0, 7, 255}
    assert classes(tmp_path / "map.tif") <= {0, 7, 255}


def test_4_a_fourth_band_is_no_alpha(model_file: Callable, predict: Callable, tmp_path: Path) -> None:
    image = noise(4, 64) | np.uint8(1)
    image[3, :5] = 0
    place = {"height": 64, "width": 64, "crs": UTM, "transform": CORNER}
    naive = tmp_path / "naive.tif"
    with rasterio.open(naive, "w", driver="GTiff", count=4, dtype="uint8", **place) as file:
        file.write(image)
    with rasterio.open(naive) as file:
        assert file.colorinterp[3] == ColorInterp.alpha
        assert not file.dataset_mask()[:5].any()
    # What we write tags no band as alpha …
    grid = Grid(crs=CRS(UTM), transform=CORNER, height=64, width=64)
    write_image(tmp_path / "chip.tif", image, np.ones((64, 64), bool), grid, list("rgbn"))
    with rasterio.open(tmp_path / "chip.tif") as file:
        assert ColorInterp.alpha not in file.colorinterp
        assert file.dataset_mask().all()
    # … and such a file is read whole where the band is asked for.
    report = predict(model_file(4), naive, "--bidx", "1,2,3,4")
    assert report["nodata_pixels"] == 0
    report = predict(model_file(3), naive)
    assert report["nodata_pixels"] == 5 * 64


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_5_a_full_disk_leaves_no_mask(
    share: float, model_file: Callable, predict: Callable, save: Callable, disk_of: Callable, tmp_path: Path
) -> None:
    # What a full disk leaves of a GeoTIFF reads without a word, unwritten blocks as 0 = background.
    naive = tmp_path / "naive.tif"
    place = {"height": 256, "width": 256, "count": 1, "dtype": "uint8", "crs": UTM, "transform": CORNER}
    with rasterio.open(naive, "w", driver="GTiff", **place) as file:
        file.write(np.full((1, 100, 256), 7, np.uint8), window=Window(0, 0, 256, 100))
    with rasterio.open(naive) as file:
        assert (file.read(1)[110:] == 0).all()
    source, mask = save("in.tif", blotches(12), UTM, CORNER), tmp_path / "map.tif"
    model = model_file(3)
    predict(model, source)
    whole = mask.read_bytes()
    for path in tmp_path.glob("map*"):
        path.unlink()
    with disk_of(int(share * len(whole))):
        report = predict(model, source)
    assert "free disk space" in report["error"]
    assert not mask.exists()
    predict(model, source)
    assert mask.read_bytes() == whole


def test_7_pixels_do_not_depend_on_the_window_they_are_read_through(save: Callable) -> None:
    image = noise(1, 900)
    source = save("in.tif", image, "EPSG:32633", CORNER * Affine.scale(30))

    def differing(tolerance: float) -> float:
        with rasterio.open(source) as file, WarpedVRT(
            file, crs="EPSG:4326", resampling=Resampling.bilinear, tolerance=tolerance
        ) as vrt:  # fmt: skip
            whole = vrt.read(1)
            parts = np.zeros_like(whole)
            for top in range(0, vrt.height, 256):
                for left in range(0, vrt.width, 256):
                    rows, cols = slice(top, top + 256), slice(left, left + 256)
                    size = parts[rows, cols].shape
                    parts[rows, cols] = vrt.read(1, window=Window(left, top, size[1], size[0]))
        return float((whole != parts).mean())

    assert differing(0.125) > 0
    # What predict reads: degrees at 60° N, each axis resampled for itself, bilinear and averaged.
    degrees = save("degrees.tif", image, "EPSG:4326", Affine(9e-6, 0, 10, 0, -9e-6, 60))
    for gsd in (0.6, 0.65, 0.703, 0.9):
        whole = read_by(degrees, gsd, 5000)
        for side in (256, 77):
            np.testing.assert_array_equal(read_by(degrees, gsd, side), whole)


def read_by(path: Path, gsd: float, side: int) -> np.ndarray:
    """The raster on the grid of a model of this GSD, read by windows of this side."""
    with Raster(path) as raster:
        raster.resample(choose_run_grid(raster.grid, gsd, False, "in.tif"))
        height, width = raster.grid.shape
        made = np.zeros((height, width), np.uint8)
        for top in range(0, height, side):
            for left in range(0, width, side):
                size = {"height": min(side, height - top), "width": min(side, width - left)}
                image, valid = raster.read(top=top, left=left, **size)
                assert valid.all()
                made[top : top + side, left : left + side] = image[0]
    return made


def test_8_web_mercators_metres_are_no_metres(
    model_file: Callable, predict: Callable, save: Callable
) -> None:
    y = math.log(math.tan(math.pi / 4 + math.radians(60) / 2)) * 6378137
    source = save("in.tif", noise(3, 64), "EPSG:3857", Affine(0.5, 0, 1e6, 0, -0.5, y + 16))
    assert predict(model_file(3, gsd=0.25), source)["resampled_to"] is None
    assert predict(model_file(3, gsd=0.5), source)["resampled_to"] == 0.5


@pytest.mark.parametrize(
    "place",
    [
        Affine.translation(500_000, 5_200_000) * Affine.rotation(30) * Affine.scale(1, -1),
        Affine(1, 0, 500_000, 0, 1, 5_200_000),
    ],
    ids=["rotated", "south-up"],
)
def test_9_rotated_and_south_up_rasters_are_mapped_where_they_lie(
    place: Affine, model_file: Callable, predict: Callable, save: Callable, tmp_path: Path
) -> None:
    image = noise(3, 100)
    west, south, east, north = Grid(crs=CRS(UTM), transform=place, height=100, width=100).bounds
    # The box holds the whole raster; asked for its window, rasterio raises or answers with another one.
    try:
        window = from_bounds(west, south, east, north, place)
        assert (round(window.height), round(window.width)) != (100, 100)
    except WindowError:
        pass
    valid = np.ones((100, 100), bool)
    valid[:30, 10:20] = False
    report = predict(model_file(3), save("in.tif", image, UTM, place, mask=valid))
    assert report["nodata_pixels"] == 300
    with rasterio.open(tmp_path / "map.tif") as made:
        assert made.transform == place
        assert made.crs.to_epsg() == 32633
        np.testing.assert_array_equal(made.read(1) == 255, ~valid)


def test_10_a_value_that_does_not_fit_is_refused_and_never_becomes_255(
    save: Callable, tmp_path: Path
) -> None:
    burnt = rasterize([(box(0, 0, 2, 2), 300)], out_shape=(2, 2), dtype="uint8")
    assert (burnt == IGNORE).all()
    image = save("in.tif", noise(3, 64), UTM, CORNER)
    labels = save("labels.tif", np.full((1, 64, 64), 300, np.uint16), UTM, CORNER)
    with pytest.raises(InputError, match=r"300 \(4096 times\); wanted 0..254"):
        tile([str(image)], [str(labels)], tmp_path / "chips", TileSettings(chip_size=32))
    assert not (tmp_path / "chips").exists()
