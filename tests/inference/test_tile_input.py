"""A tile cut into a batch is the window that bands.normalise and numpy's mirror make, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.bands import DTYPES, Band, normalise
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.memory.array_raster import ArrayRaster
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.swath import RowReader, row_reader
from aerial_seg.inference.tile_input import HostBatch, TileCutter
from aerial_seg.tiling.cut import Planes
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.plan import TilePlan, TileShape

NODATA = 7
USUAL = ("uint8", "uint16", "float16", "float32")
SHAPE = TileShape(geometry=ModelGeometry(4, 4, 4), side=24, halo=8, step=4)


def bands_of(random: np.random.Generator, count: int, dtype: str) -> tuple[Band, ...]:
    return tuple(
        Band(name=f"band {k}", dtype=dtype, mean=random.uniform(-9, 200), std=random.uniform(0.1, 90), p2=0, p98=9)
        for k in range(count)
    )  # fmt: skip


def image_of(random: np.random.Generator, dtype: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Pixels up to the ends of the type, with nodata among them."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        image = random.normal(0, 10.0 ** random.integers(0, 4), shape).astype(kind)
    else:
        ends = np.iinfo(kind)
        image = random.integers(ends.min, ends.max, shape, dtype=kind, endpoint=True)
    image[:, random.random(shape[1:]) < random.choice([0, 0.3])] = NODATA
    return image


def wanted_input(
    image: np.ndarray, top: int, left: int, bands: tuple[Band, ...], picked: list[int]
) -> np.ndarray:
    """(H,W,P) by numpy alone."""
    height, width = image.shape[1:]
    rows = range(max(0, top), min(top + SHAPE.side, height))
    cols = range(max(0, left), min(left + SHAPE.side, width))
    window = image[:, rows.start : rows.stop, cols.start : cols.stop]
    inside = normalise(window[picked], ~(window == NODATA).all(axis=0), bands)
    beyond = (
        (0, 0),
        (rows.start - top, top + SHAPE.side - rows.stop),
        (cols.start - left, left + SHAPE.side - cols.stop),
    )
    return np.pad(inside, beyond, mode="symmetric").transpose(1, 2, 0)


def check_every_tile(
    reader: RowReader, image: np.ndarray, bands: tuple[Band, ...], picked: list[int]
) -> None:
    """The tiles of every row of tiles, north to south."""
    _, height, width = image.shape
    plan = TilePlan.of(height=height, width=width, shape=SHAPE)
    cutter = TileCutter(reader, plan, Planes.of(zip(picked, bands, strict=True)))
    batch = HostBatch(torch.full((2, SHAPE.side, SHAPE.side, len(bands)), 9.0).permute(0, 3, 1, 2))
    for row, origin in enumerate(plan.rows.origins):
        top = origin - SHAPE.halo
        reader.advance(max(0, top), min(top + SHAPE.side, height))
        for tile in plan.tiles_of_row(row):
            wanted = wanted_input(image, top, tile.core_left - SHAPE.halo, bands, picked)
            batch.clear()
            cutter.cut(tile, batch.place())
            np.testing.assert_array_equal(batch[0].transpose(1, 2, 0), wanted)
            assert not batch.blank_rest()[1:].any()


def check_array(seed: int, dtype: str, height: int, width: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 5))
    image = image_of(random, dtype, (count, height, width))
    picked = random.permutation(count)[: random.integers(1, count + 1)] if seed % 2 else np.arange(count)
    raster = ArrayRaster(
        image,
        grid=Grid(crs=None, transform=rasterio.Affine.identity(), height=height, width=width),
        nodata=NODATA,
    )
    bands = bands_of(random, len(picked), dtype)
    check_every_tile(row_reader(raster, range(width), swath=24, ahead=4), image, bands, picked.tolist())


@settings(max_examples=examples(40), deadline=None)
@given(
    seed=st.integers(0, 999), dtype=st.sampled_from(USUAL), height=st.integers(1, 40), width=st.integers(1, 40)
)  # fmt: skip
def test_a_tile_of_an_array_is_normalised_and_mirrored_to_the_bit(
    seed: int, dtype: str, height: int, width: int
) -> None:
    check_array(seed, dtype, height, width)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_so_is_one_of_every_type(dtype: str) -> None:
    for seed in range(6):
        check_array(seed, dtype, 21, 30)


@settings(
    max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 999),
    height=st.integers(1, 70),
    width=st.integers(1, 40),
    block=st.sampled_from([1, 3, 16]),
)
def test_so_is_one_of_a_file_whose_rows_come_and_go(
    tmp_path: Path, seed: int, height: int, width: int, block: int
) -> None:
    random = np.random.default_rng(seed)
    image = image_of(random, "uint8", (2, height, width))
    layout = {"tiled": True, "blockxsize": 16, "blockysize": 16} if block == 16 else {"blockysize": block}
    with rasterio.open(
        tmp_path / "in.tif", "w", driver="GTiff", count=2, height=height, width=width, dtype="uint8", nodata=NODATA,
        crs="EPSG:32645", transform=rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 3e6), **layout,
    ) as file:  # fmt: skip
        file.write(image)
    with (
        Raster(tmp_path / "in.tif", all_cores=bool(seed % 2)) as raster,
        row_reader(raster, range(width), swath=24, ahead=4) as reader,
    ):
        check_every_tile(reader, image, bands_of(random, 2, "uint8"), [0, 1])
