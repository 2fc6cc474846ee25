"""A raster whose rows run from south to north shows the ground as in a mirror; the network sees it as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import CRS

from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings

UTM = "EPSG:32633"
SIDE = 96
NORTH_UP = Affine(1, 0, 500_000, 0, -1, 5_200_000 + SIDE)
SOUTH_UP = Affine(1, 0, 500_000, 0, 1, 5_200_000)


def pixels(bands: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(10, 255, (bands, SIDE, SIDE), dtype=np.uint8)


def holes() -> np.ndarray:
    """True = measured."""
    valid = np.random.default_rng(1).random((SIDE, SIDE)) > 0.1
    valid[:30, :50] = False
    return valid


@pytest.mark.parametrize(
    ("transform", "crs", "mirrored"),
    [
        (NORTH_UP, UTM, False),
        (SOUTH_UP, UTM, True),
        (SOUTH_UP, None, False),
        (Affine.scale(-1, 1), UTM, False),
        (Affine.scale(-1, -1), UTM, True),
        (Affine.rotation(70) * Affine.scale(1, -1), UTM, False),
        (Affine.rotation(70), UTM, True),
    ],
)
def test_only_a_mirror_is_one(transform: Affine, crs: str | None, mirrored: bool) -> None:
    """A turned raster shows the ground as it is, and without CRS nobody knows where north is."""
    grid = Grid(CRS(crs) if crs else None, transform, 40, 50)
    assert grid.is_mirrored == mirrored
    straight = grid.unmirrored()
    assert not straight.is_mirrored
    assert straight.bounds == pytest.approx(grid.bounds)


@pytest.mark.parametrize("kind", ["plain", "nodata", "mask", "alpha", "override"])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_turning_a_raster_over_loses_nothing(kind: str, bands: int, save: Callable) -> None:
    image, valid = pixels(bands), holes()
    image[:, ~valid] = 9
    marks: dict[str, Any] = {"nodata": {"nodata": 9}, "mask": {"mask": valid}, "alpha": {"alpha": valid}}
    path = save("in.tif", image, UTM, SOUTH_UP, **marks.get(kind, {}))
    with Raster(path, nodata=9 if kind == "override" else None) as raster:
        raster.resample(raster.grid.unmirrored())
        assert raster.grid.transform == NORTH_UP
        got, measured = raster.read(top=-3, left=5, height=40, width=SIDE)
    padded = np.pad(image, ((0, 0), (0, 0), (0, 5)))[:, ::-1, 5:]
    known = np.pad(valid, ((0, 0), (0, 5)))[::-1, 5:]
    if kind == "plain":
        known = np.pad(np.ones_like(valid), ((0, 0), (0, 5)))[::-1, 5:]
    np.testing.assert_array_equal(measured[3:], known[:37])
    assert not measured[:3].any()
    np.testing.assert_array_equal(got[:, 3:][:, measured[3:]], padded[:, :37][:, measured[3:]])


@pytest.mark.parametrize("options", [(), ("--tta", "rot90"), ("--tta", "scales=0.5")])
@pytest.mark.parametrize("turned", [0, 30], ids=["south-up", "turned"])
def test_its_mask_is_that_of_its_north_up_twin(
    turned: float, options: tuple[object, ...], model_file: Callable, predict: Callable, save: Callable,
    tmp_path: Path,
) -> None:  # fmt: skip
    """One tile over all of it, so that the twins' tiles lie alike."""
    model, place = model_file(3), Affine.translation(500_000, 5_200_000) * Affine.rotation(turned)
    image, valid = pixels(), holes()
    masks = []
    for transform, rows in (
        (place, slice(None)),
        (place * Affine.scale(1, -1), slice(None, None, -1)),
        (place * Affine.scale(1, -1), slice(None)),
    ):
        source = save("in.tif", image[:, rows], UTM, transform, mask=valid[rows])
        one_tile = ("--tile-size", SIDE, "--halo", 0, "--overlap", 0)
        assert predict(model, source, *one_tile, *options)["tiles"] == 1
        with rasterio.open(tmp_path / "map.tif") as made:
            assert made.transform == transform
            masks.append(made.read(1)[rows])
    mirrored, twin, unlike = masks
    np.testing.assert_array_equal(mirrored, twin)
    # Seen as in a mirror the same pixels are mapped otherwise: the network tells the two apart.
    assert (mirrored != unlike).any()


def test_chips_show_the_ground_as_it_is(save: Callable, tmp_path: Path) -> None:
    image, valid, truth = pixels(), holes(), pixels(1, seed=2) % 3
    folders = []
    for name, transform, rows in (
        ("south", SOUTH_UP, slice(None)),
        ("north", NORTH_UP, slice(None, None, -1)),
    ):
        source = save(f"{name}.tif", image[:, rows], UTM, transform, mask=valid[rows])
        labels = save(f"{name}-labels.tif", truth[:, rows], UTM, transform)
        report = tile([str(source)], [str(labels)], tmp_path / name, TileSettings(chip_size=32, block=1))
        folders.append(report.dataset)
    for kind in ("images", "labels"):
        south, north = (sorted((folder / kind).glob("*.tif")) for folder in folders)
        assert len(south) == len(north) > 1
        for one, other in zip(south, north, strict=True):
            with rasterio.open(one) as got, rasterio.open(other) as want:
                assert got.transform == want.transform
                known = got.dataset_mask() > 0
                np.testing.assert_array_equal(known, want.dataset_mask() > 0)
                np.testing.assert_array_equal(got.read()[:, known], want.read()[:, known])
