"""Smaller versions hold what is there, span the same ground, and cost nothing where nothing is."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from gdal_cogs import half, sizes_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.errors import OutputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import BLOCK, Extent
from aerial_seg.legend import IGNORE
from aerial_seg.outputs import pieces
from aerial_seg.outputs.halving import Halving, halve, halve_part
from aerial_seg.outputs.overviews import Version
from aerial_seg.outputs.pieces import read_pieces
from aerial_seg.outputs.segments import Layer, SegmentStore


@given(length=st.integers(1, 5000))
def test_every_pixel_belongs_to_one_pixel_of_half_the_size(length: int) -> None:
    half_axis = Halving.of(length)
    assert len(half_axis) == (length + 1) // 2
    assert half_axis.low[0] == 0
    assert half_axis.high[-1] == length - 1
    np.testing.assert_array_equal(half_axis.low[1:], half_axis.high[:-1] + 1)
    assert set(half_axis.high - half_axis.low) <= {0, 1}
    # Spread evenly: nowhere more than half a pixel from where GDAL shows it.
    drawn = np.arange(len(half_axis)) * length / len(half_axis)
    assert np.abs(half_axis.low - drawn).max() <= 0.5


@given(data=st.data(), length=st.integers(1, 3000))
def test_a_part_of_an_axis_stands_for_just_these_pixels(data: st.DataObject, length: int) -> None:
    axis = Halving.of(length)
    start = data.draw(st.integers(0, len(axis) - 1))
    part = range(start, data.draw(st.integers(start + 1, len(axis))))
    span = axis.span(part)
    assert axis.reached(span) == part
    assert axis.reached(range(span.start, span.start + 1)) == range(part.start, part.start + 1)
    low, high = axis.within(part)
    np.testing.assert_array_equal(low + span.start, axis.low[part.start : part.stop])
    np.testing.assert_array_equal(high + span.start, axis.high[part.start : part.stop])


def oracle_mode(four: tuple[int, ...]) -> int:
    measured = [value for value in four if value != IGNORE]
    if not measured:
        return IGNORE
    counts = Counter(measured)
    # Of equals the first.
    return next(value for value in measured if counts[value] == max(counts.values()))


def of_four(fours: list[tuple[int, ...]], *, classes: bool) -> list[int]:
    """What becomes of a raster of 2 rows in which every four pixels stand side by side."""
    a, b, c, d = np.array(fours, np.uint8).T
    rows = np.stack([np.stack([a, b], -1).ravel(), np.stack([c, d], -1).ravel()])[..., None]
    made = halve(rows, Halving.of(2), Halving.of(2 * len(fours)), classes=classes)
    return made.ravel().tolist()


def test_every_four_classes_give_the_most_frequent() -> None:
    fours = list(product((0, 1, 3, 7, IGNORE), repeat=4))
    assert of_four(fours, classes=True) == [oracle_mode(four) for four in fours]


@given(four=st.lists(st.tuples(*[st.integers(0, 255)] * 4), min_size=1, max_size=50))
def test_the_mean_is_of_measured_bytes_only(four: list[tuple[int, ...]]) -> None:
    measured = [[value for value in values if value != IGNORE] for values in four]
    wanted = [int(np.floor(np.mean(m) + 0.5)) if m else IGNORE for m in measured]
    assert of_four(four, classes=False) == wanted


@settings(max_examples=examples(60))
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 90),
    bands=st.integers(1, 9),
    seed=st.integers(0, 99),
    classes=st.booleans(),
    data=st.data(),
)
def test_the_kernel_gives_what_numpy_gives_whole_or_in_parts(
    height: int, width: int, bands: int, seed: int, classes: bool, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    values = random.choice(np.array([0, 1, 3, 250, 254, IGNORE], np.uint8), (bands, height, width))
    rows, cols = Halving.of(height), Halving.of(width)
    wanted = half(values, classes=classes)
    beside = np.ascontiguousarray(values.transpose(1, 2, 0))
    np.testing.assert_array_equal(halve(beside, rows, cols, classes=classes).transpose(2, 0, 1), wanted)
    parts = []
    for axis in (rows, cols):
        start = data.draw(st.integers(0, len(axis) - 1))
        parts.append(range(start, data.draw(st.integers(start + 1, len(axis)))))
    down, across = rows.span(parts[0]), cols.span(parts[1])
    part = np.ascontiguousarray(beside[down.start : down.stop, across.start : across.stop])
    made = halve_part(part, rows.within(parts[0]), cols.within(parts[1]), classes=classes)
    inside = wanted[:, parts[0].start : parts[0].stop, parts[1].start : parts[1].stop]
    np.testing.assert_array_equal(made.transpose(2, 0, 1), inside)


def pixels(version: Version, bands: int) -> np.ndarray:
    """(bands, h, w) of a version, from its pieces."""
    rows, cols = map(range, version.shape)
    return read_pieces(version.pieces.overlapping(rows, cols), bands, rows, cols).transpose(2, 0, 1)


def store_of(folder: Path, values: np.ndarray, layer: Layer, extent: Extent | None = None) -> SegmentStore:
    _, height, width = values.shape
    grid = Grid(crs=None, transform=Affine.identity(), height=height, width=width)
    cols = range(width) if extent is None else extent.cols
    return SegmentStore(folder, grid, (layer,), panels=(cols,), extent=extent)


@settings(
    max_examples=examples(12), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    shape=st.sampled_from([(1300, 2500), (1025, 513), (512, 512), (3, 3000), (1537, 1026)]),
    classes=st.booleans(),
    live=st.booleans(),
)
def test_levels_are_halved_and_halved_again_down_to_a_block(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int], classes: bool, live: bool
) -> None:
    values = np.random.default_rng(1).choice(np.array([1, 3, 200, IGNORE], np.uint8), (1, *shape))
    layer = Layer("class" if classes else "confidence", 1)
    store = store_of(tmp_path_factory.mktemp("o"), values, layer)
    for top in range(0, shape[0], BLOCK):
        rows = range(top, min(top + BLOCK, shape[0]))
        store.write(0, rows, {layer.name: values[:, rows.start : rows.stop]})
        if live:
            store.reduce()
    wanted = sizes_of(values, classes=classes)
    versions = store.versions(layer)
    assert len(versions) == len(wanted)
    for version, size in zip(versions, wanted, strict=True):
        np.testing.assert_array_equal(pixels(version, 1), size)


def test_rows_are_reduced_as_soon_as_they_can_be(tmp_path: Path) -> None:
    values = np.ones((1, 2048, 600), np.uint8)
    layer = Layer("class", 1)
    store = store_of(tmp_path, values, layer)
    made = []
    for top in range(0, 2048, BLOCK):
        store.write(0, range(top, top + BLOCK), {"class": values[:, top : top + BLOCK]})
        store.reduce()
        made.append([len(list(tmp_path.glob(f"class.overviews/{level}/*"))) for level in (1, 2)])
    assert made == [[0, 0], [1, 0], [1, 0], [2, 1]]


def test_rows_that_are_written_anew_are_reduced_anew(tmp_path: Path) -> None:
    layer = Layer("class", 1)
    values = np.ones((1, 1024, 600), np.uint8)
    store = store_of(tmp_path, values, layer)
    for value in (1, 2):
        values[:, 512:] = value
        for top in (0, BLOCK):
            store.write(0, range(top, top + BLOCK), {"class": values[:, top : top + BLOCK]})
        store.reduce()
    _, smaller = store.versions(layer)
    np.testing.assert_array_equal(pixels(smaller, 1), half(values, classes=True))


def test_where_nothing_was_measured_nothing_is_written(tmp_path: Path) -> None:
    layer = Layer("confidence", 1)
    values = np.full((1, 2048, 2048), IGNORE, np.uint8)
    store = store_of(tmp_path, values, layer)
    store.write(0, range(2048), {layer.name: values})
    assert len(store.versions(layer)) == 3
    files = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert files == ["confidence-p00-r00000000-00002048.empty"]


def test_a_lost_write_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer("class", 1)
    values = np.ones((1, 600, 600), np.uint8)
    store = store_of(tmp_path, values, layer)
    store.write(0, range(600), {"class": values})
    unpacked = pieces.unpacked
    monkeypatch.setattr(pieces, "unpacked", lambda data, bands: unpacked(data, bands) + np.uint8(bands))
    with pytest.raises(OutputError, match=r"reads back other than it was written; free disk"):
        store.versions(layer)
