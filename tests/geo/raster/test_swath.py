"""The swath reader gives what whole reads give, decodes every block once, and never holds more than its ring."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.errors import InputError
from aerial_seg.geo.raster import swath
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.swath import SwathReader

HEIGHT, WIDTH = 333, 150
LAYOUTS = {
    "tiled 16": {"tiled": True, "blockxsize": 16, "blockysize": 16},
    "tiled 128": {"tiled": True, "blockxsize": 128, "blockysize": 128},
    "strips of 1": {"tiled": False, "blockysize": 1},
    "strips of 7": {"tiled": False, "blockysize": 7},
    "one strip": {"tiled": False, "blockysize": HEIGHT},
}
SAME_FILE = settings(
    max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same image (nodata 0) in every layout."""
    folder = tmp_path_factory.mktemp("layouts")
    image = np.random.default_rng(1).integers(0, 9, (2, HEIGHT, WIDTH), dtype=np.uint8)
    paths = {}
    for name, layout in LAYOUTS.items():
        paths[name] = folder / f"{name}.tif"
        with rasterio.open(
            paths[name], "w", driver="GTiff", count=2, height=HEIGHT, width=WIDTH, dtype="uint8", nodata=0,
            crs="EPSG:32645", transform=Affine(0.5, 0, 3e5, 0, -0.5, 3e6), compress="deflate", **layout,
        ) as file:  # fmt: skip
            file.write(image)
    return paths


@st.composite
def journeys(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Swaths (top, bottom) that only move south, some beyond both ends of the raster, none taller than 60 rows."""
    top, swaths = -20, []
    for _ in range(draw(st.integers(1, 9))):
        top += draw(st.integers(0, 90))
        swaths.append((top, top + draw(st.integers(1, 60))))
    return swaths


@pytest.mark.parametrize("layout", LAYOUTS)
@SAME_FILE
@given(journey=journeys(), left=st.integers(0, WIDTH - 1), ahead=st.integers(0, 50), data=st.data())
def test_swaths_equal_whole_reads_and_every_row_is_read_once(
    files: dict[str, Path],
    layout: str,
    journey: list[tuple[int, int]],
    left: int,
    ahead: int,
    data: st.DataObject,
) -> None:
    cols = range(left, data.draw(st.integers(left + 1, WIDTH)))
    read: Counter[int] = Counter()
    with Raster(files[layout]) as raster:
        honest = raster.read_into
        image, valid = raster.read(top=0, left=0, height=HEIGHT, width=WIDTH)

        def counting(into: np.ndarray, *, top: int, left: int) -> Any:
            read.update(range(top, top + into.shape[1]))
            return honest(into, top=top, left=left)

        raster.read_into = counting  # type: ignore[method-assign]
        with SwathReader(raster, cols, swath=60, ahead=ahead) as reader:
            for top, bottom in journey:
                reader.advance(top, bottom)
                rows = range(min(max(0, top), HEIGHT), max(0, min(bottom, HEIGHT)))
                if not len(rows):
                    continue
                some = range(data.draw(st.integers(cols.start, cols.stop - 1)), cols.stop)
                got, got_valid = reader.take(rows, some)
                np.testing.assert_array_equal(got, image[:, rows.start : rows.stop, some.start : some.stop])
                np.testing.assert_array_equal(
                    got_valid, valid[rows.start : rows.stop, some.start : some.stop]
                )
                assert reader.is_measured(rows) == valid[rows.start : rows.stop, cols.start : cols.stop].all()
                np.testing.assert_array_equal(
                    reader.valid(rows), valid[rows.start : rows.stop, cols.start : cols.stop]
                )
    assert set(read.values()) <= {1}
    assert read or not any(min(max(0, top), HEIGHT) < min(bottom, HEIGHT) for top, bottom in journey)


@pytest.mark.parametrize("layout", ["tiled 128", "strips of 7"])
def test_reads_begin_and_end_at_blocks(
    files: dict[str, Path], layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swath, "CHUNK_BYTES", 20_000)
    windows: list[tuple[int, int, int, int]] = []
    with Raster(files[layout]) as raster:
        honest = raster.read_into

        def noting(into: np.ndarray, *, top: int, left: int) -> Any:
            windows.append((top, left, top + into.shape[1], left + into.shape[2]))
            return honest(into, top=top, left=left)

        raster.read_into = noting  # type: ignore[method-assign]
        with SwathReader(raster, range(0, WIDTH), swath=50, ahead=20) as reader:
            for top in range(0, HEIGHT, 30):
                reader.advance(top, top + 50)
        rows, cols = raster.block_shape
    assert all(top % rows == 0 and (bottom % rows == 0 or bottom == HEIGHT) for top, _, bottom, _ in windows)
    assert all(left % cols == 0 and (right % cols == 0 or right == WIDTH) for _, left, _, right in windows)


def test_it_does_not_go_back_north(files: dict[str, Path]) -> None:
    with Raster(files["tiled 16"]) as raster, SwathReader(raster, range(WIDTH), swath=30, ahead=0) as reader:
        reader.advance(10, 20)
        with pytest.raises(ValueError, match="north of row 10"):
            reader.advance(9, 30)
        with pytest.raises(ValueError, match="not held"):
            reader.take(range(9, 12), range(3))


@pytest.mark.parametrize("all_cores", [False, True])
def test_a_damaged_block_is_an_error_with_its_place_also_when_it_was_read_ahead(
    files: dict[str, Path], tmp_path: Path, all_cores: bool
) -> None:
    content = files["tiled 16"].read_bytes()
    cut = tmp_path / "cut.tif"
    cut.write_bytes(content[: len(content) * 2 // 3])

    def read_all() -> None:
        with (
            Raster(cut, all_cores=all_cores) as raster,
            SwathReader(raster, range(WIDTH), swath=40, ahead=40) as reader,
        ):
            for top in range(0, HEIGHT, 40):
                reader.advance(top, top + 40)

    with pytest.raises(InputError, match=r"cut.tif could not be read at row \d+, column \d+"):
        read_all()


def test_a_resampled_raster_is_read_the_same(files: dict[str, Path]) -> None:
    with Raster(files["tiled 128"]) as raster:
        raster.resample(raster.grid.resized(height=200, width=90))
        image, valid = raster.read(top=0, left=0, height=200, width=90)
        with SwathReader(raster, range(5, 80), swath=64, ahead=10) as reader:
            for top in range(0, 200, 50):
                reader.advance(top, top + 64)
                rows = range(top, min(top + 64, 200))
                got, got_valid = reader.take(rows, range(5, 80))
                np.testing.assert_array_equal(got, image[:, rows.start : rows.stop, 5:80])
                np.testing.assert_array_equal(got_valid, valid[rows.start : rows.stop, 5:80])
