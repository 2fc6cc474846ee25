"""Chips partition a raster and give back every pixel, label and mask they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS
from rasterio.enums import ColorInterp

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.labels.chip_file import (
    chip_count,
    chip_step,
    chip_windows,
    read_chip,
    write_image,
    write_labels,
)
from aerial_seg.legend import IGNORE, make_legend

SIDE = 32
LEGEND = make_legend({0: "background", 1: "road", 7: "water"}, background=[0])
GRID = Grid(crs=CRS(32645), transform=Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000), height=SIDE, width=SIDE)


@given(height=st.integers(1, 60), width=st.integers(1, 60), size=st.integers(1, 70))
def test_chip_windows_partition_any_raster(height: int, width: int, size: int) -> None:
    count = np.zeros((height, width), int)
    places = set()
    for window in chip_windows(height=height, width=width, size=size):
        assert 0 <= window.top < height
        assert 0 <= window.left < width
        count[window.top : window.top + size, window.left : window.left + size] += 1
        places.add((window.row, window.col))
    assert (count == 1).all()
    assert len(places) == -(-height // size) * -(-width // size)


@given(height=st.integers(1, 60), width=st.integers(1, 60), size=st.integers(1, 30), part=st.floats(0.1, 1))
def test_a_stride_adds_windows_to_those_side_by_side(height: int, width: int, size: int, part: float) -> None:
    stride = max(1, round(part * size))
    windows = list(chip_windows(height=height, width=width, size=size, stride=stride))
    assert len(windows) == chip_count(height=height, width=width, size=size, stride=stride)
    step = chip_step(size, stride)
    assert all((window.top, window.left) == (window.row * step, window.col * step) for window in windows)
    assert len({(window.row, window.col) for window in windows}) == len(windows)
    plain = {(w.top, w.left) for w in chip_windows(height=height, width=width, size=size)}
    assert {(w.top, w.left) for w in windows if w.apart} == plain
    every = {(w.top, w.left) for w in windows}
    within = (
        range(0, max(1, height - size + stride), stride), range(0, max(1, width - size + stride), stride)
    )  # fmt: skip
    assert {(top, left) for top in within[0] for left in within[1]} <= every
    assert all(top % stride == left % stride == 0 for top, left in every - plain)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 8])
def test_every_measured_pixel_survives_whatever_its_value(tmp_path: Path, dtype: str, bands: int) -> None:
    random = np.random.default_rng(bands)
    image = random.integers(-3, 260, (bands, SIDE, SIDE)).astype(dtype)
    image[-1] = 0  # an empty last band is what GDAL would take for full transparency
    image[:, 0] = 255 if dtype == "uint8" else 0
    valid = random.random((SIDE, SIDE)) > 0.3
    labels = random.choice(np.array([0, 1, 7, IGNORE], np.uint8), (SIDE, SIDE))
    names = tuple(f"b{k}" for k in range(bands))
    for mask in (valid, np.ones_like(valid)):
        write_image(tmp_path / "i.tif", image, mask, GRID, names)
        write_labels(tmp_path / "l.tif", labels, GRID, LEGEND)
        got, got_valid, got_labels = read_chip(tmp_path / "i.tif", tmp_path / "l.tif")
        np.testing.assert_array_equal(got, image)
        np.testing.assert_array_equal(got_valid, mask)
        np.testing.assert_array_equal(got_labels, labels)
        assert got.dtype == dtype
        with rasterio.open(tmp_path / "i.tif") as oracle:
            assert ColorInterp.alpha not in oracle.colorinterp
            np.testing.assert_array_equal(oracle.dataset_mask() > 0, mask)
            assert oracle.descriptions == names
            assert oracle.transform == GRID.transform
            assert oracle.crs.to_epsg() == 32645


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_window_of_a_chip_is_that_part_of_the_whole(tmp_path: Path, dtype: str) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 250, (4, SIDE, SIDE)).astype(dtype)
    labels = random.choice(np.array([0, 1, 7, IGNORE], np.uint8), (SIDE, SIDE))
    for valid in (random.random((SIDE, SIDE)) > 0.3, np.ones((SIDE, SIDE), bool)):
        write_image(tmp_path / "i.tif", image, valid, GRID, ("a", "b", "c", "d"))
        write_labels(tmp_path / "l.tif", labels, GRID, LEGEND)
        for rows, cols in ((slice(3, 20), slice(7, 8)), (slice(0, SIDE), slice(30, SIDE))):
            asked = []

            def choose(height: int, width: int, window=(rows, cols), asked=asked):
                asked.append((height, width))
                return window

            got = read_chip(tmp_path / "i.tif", tmp_path / "l.tif", choose)
            for part, whole in zip(got, (image, valid, labels), strict=True):
                np.testing.assert_array_equal(part, whole[..., rows, cols])
            assert asked == [(SIDE, SIDE)]


def test_labels_of_another_size_than_the_image_are_told(tmp_path: Path) -> None:
    """Before, what the labels lacked was of the class whose value is 0."""
    write_image(
        tmp_path / "i.tif", np.ones((1, SIDE, SIDE), np.uint8), np.ones((SIDE, SIDE), bool), GRID, ("a",)
    )
    small = Grid(crs=GRID.crs, transform=GRID.transform, height=SIDE, width=SIDE - 1)
    write_labels(tmp_path / "l.tif", np.ones((SIDE, SIDE - 1), np.uint8), small, LEGEND)
    with pytest.raises(InputError, match=r"i\.tif is 32 × 32 px but its labels .*l\.tif are 31 × 32 px; run"):
        read_chip(tmp_path / "i.tif", tmp_path / "l.tif")


def test_a_label_chip_shows_its_classes_in_their_colours(tmp_path: Path) -> None:
    labels = np.full((SIDE, SIDE), IGNORE, np.uint8)
    labels[:4] = 7
    write_labels(tmp_path / "l.tif", labels, GRID, LEGEND)
    with rasterio.open(tmp_path / "l.tif") as oracle:
        assert oracle.nodata == IGNORE
        assert oracle.colormap(1)[7][:3] == LEGEND.by_value()[7].rgb
        assert (oracle.dataset_mask() > 0).sum() == 4 * SIDE
