"""Smaller versions hold what is there, span the same ground, and cost nothing where nothing is."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window

from aerial_seg.errors import OutputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import BLOCK, FilledBlocks
from aerial_seg.legend import IGNORE
from aerial_seg.outputs import overviews
from aerial_seg.outputs.overviews import Halving, chunks, halve, mean, most_frequent, write_overviews
from aerial_seg.outputs.segments import scratch_profile


@given(length=st.integers(1, 5000))
def test_every_pixel_belongs_to_one_pixel_of_half_the_size(length: int) -> None:
    half = Halving.of(length)
    assert len(half) == (length + 1) // 2
    assert half.low[0] == 0
    assert half.high[-1] == length - 1
    np.testing.assert_array_equal(half.low[1:], half.high[:-1] + 1)
    assert set(half.high - half.low) <= {0, 1}
    # Spread evenly: nowhere more than half a pixel from where GDAL shows it.
    drawn = np.arange(len(half)) * length / len(half)
    assert np.abs(half.low - drawn).max() <= 0.5


def oracle_mode(four: tuple[int, ...]) -> int:
    measured = [value for value in four if value != IGNORE]
    if not measured:
        return IGNORE
    counts = Counter(measured)
    # Of equals the first.
    return next(value for value in measured if counts[value] == max(counts.values()))


def test_every_four_classes_give_the_most_frequent() -> None:
    fours = list(product((0, 1, 3, 7, IGNORE), repeat=4))
    a, b, c, d = np.array(fours, np.uint8).T
    assert most_frequent(a, b, c, d).tolist() == [oracle_mode(four) for four in fours]


@given(four=st.lists(st.tuples(*[st.integers(0, 255)] * 4), min_size=1, max_size=50))
def test_the_mean_is_of_measured_bytes_only(four: list[tuple[int, ...]]) -> None:
    measured = [[value for value in values if value != IGNORE] for values in four]
    wanted = [int(np.floor(np.mean(m) + 0.5)) if m else IGNORE for m in measured]
    a, b, c, d = np.array(four, np.uint8).T
    assert mean(a, b, c, d).tolist() == wanted


@given(height=st.integers(1, 40), width=st.integers(1, 40), bands=st.integers(1, 3), seed=st.integers(0, 99))
def test_halving_needs_no_memory_of_the_cut(height: int, width: int, bands: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (bands, height, width), dtype=np.uint8)
    rows, cols = Halving.of(height), Halving.of(width)
    whole = halve(values, rows, cols, reduction=most_frequent)
    assert whole.shape == (bands, len(rows), len(cols))
    for i, j in product(range(len(rows)), range(len(cols))):
        here = values[:, [rows.low[i]] * 2 + [rows.high[i]] * 2, [cols.low[j], cols.high[j]] * 2]
        assert whole[:, i, j].tolist() == [oracle_mode(tuple(map(int, four))) for four in here]


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), bands=st.integers(1, 200))
def test_chunks_partition_the_raster_in_whole_blocks(height: int, width: int, bands: int) -> None:
    seen = np.zeros((height, width), np.uint8)
    for window in chunks(height, width, bands=bands):
        rows, cols = window.toslices()
        seen[rows, cols] += 1
        assert rows.start % BLOCK == 0
        assert cols.start % BLOCK == 0
    assert (seen == 1).all()


def scratch(path: Path, values: np.ndarray) -> Path:
    grid = Grid(crs=None, transform=Affine.identity(), height=values.shape[-2], width=values.shape[-1])
    with rasterio.open(path, "w", **scratch_profile(grid, 1)) as file:
        file.write(values, 1)
    return path


def everywhere(shape: tuple[int, ...]) -> FilledBlocks:
    """Every block may hold something."""
    height, width = shape
    return FilledBlocks(height, width, [Window(0, 0, width, height)])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("shape", [(1300, 2500), (1025, 513), (512, 512), (3, 3000)])
def test_levels_are_halved_and_halved_again_down_to_a_block(tmp_path: Path, shape: tuple[int, int]) -> None:
    values = np.random.default_rng(1).choice(np.array([1, 3, IGNORE], np.uint8), shape)
    filled = everywhere(shape)
    levels = write_overviews(
        scratch(tmp_path / "s.tif", values), tmp_path / "levels", reduction="mode", filled=filled
    )
    for level in levels:
        values = halve(values, Halving.of(len(values)), Halving.of(values.shape[1]), reduction=most_frequent)
        with rasterio.open(level.path) as file:
            np.testing.assert_array_equal(file.read(1), values)
    assert max(values.shape) <= BLOCK
    assert len(levels) == max(0, int(np.ceil(np.log2(max(shape) / BLOCK))))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_where_nothing_was_measured_nothing_is_written(tmp_path: Path) -> None:
    values = np.full((2048, 2048), IGNORE, np.uint8)
    levels = write_overviews(
        scratch(tmp_path / "s.tif", values),
        tmp_path / "levels",
        reduction="average",
        filled=everywhere(values.shape),
    )
    assert len(levels) == 2
    for level in levels:
        assert level.path.stat().st_size < 1500
        with rasterio.open(level.path) as file:
            assert (file.read(1) == IGNORE).all()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_lost_write_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = scratch(tmp_path / "s.tif", np.ones((600, 600), np.uint8))
    checksums = iter([1, 2])
    monkeypatch.setattr(overviews.zlib, "crc32", lambda _: next(checksums))
    with pytest.raises(OutputError, match=r"1.tif reads back other than it was written; free disk"):
        write_overviews(source, tmp_path / "levels", reduction="mode", filled=everywhere((600, 600)))
