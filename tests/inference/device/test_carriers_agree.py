"""Between the carriers: equal bits where numbers are only multiplied and added, bytes one apart at most elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from carriers import HOST, Carrier, each_device
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from numpy.typing import NDArray
from scipy.special import softmax

from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.plan import TilePart, TilePlan, TileShape, tile_shape
from aerial_seg.tiling.upsample import PixelAxis, PixelRows
from aerial_seg.tiling.windows import WINDOWS

Floats = NDArray[np.float32]
NEAR_A_HALF = 0.01
"""How near to a half 250·p must be for the carriers' bytes to differ: exponentials are 2e-5 apart at most."""
LONGEST = 80
kinds = st.sampled_from(["noise", "smooth", "integers", "sharp"])


@st.composite
def shapes(draw: st.DrawFn) -> TileShape:
    stride = draw(st.integers(1, 32))
    unit = stride * draw(st.sampled_from([1, 2, 4]))
    geometry = ModelGeometry(unit, stride, unit, draw(st.booleans()))
    halo = draw(st.integers(0, 2)) * unit
    core = draw(st.integers(1, max(1, min(6, 64 // unit)))) * unit + int(geometry.align_corners)
    return tile_shape(geometry, core + 2 * halo, halo=halo, overlap=draw(st.integers(0, core - unit)))


@st.composite
def pixel_axes(draw: st.DrawFn, shape: TileShape, length: int) -> PixelAxis:
    """Some neighbouring pixels of an axis, at the run's own pixel size or at another."""
    pixels = draw(st.one_of(st.just(length), st.integers(1, length + length // 2)))
    axis = PixelAxis.of(shape.geometry, run=length, pixels=pixels)
    first = draw(st.one_of(st.just(0), st.integers(0, pixels - 1)))
    return axis.part(first, draw(st.one_of(st.just(pixels), st.integers(first + 1, pixels))))


@st.composite
def scenes(draw: st.DrawFn) -> tuple[TilePart, PixelAxis, PixelAxis]:
    """The tiles and pixels of any part of a raster ≥ 1×1: a panel, a resumed run, all of it."""
    shape = draw(shapes())
    longest = min(LONGEST, 4 * shape.step + shape.core)
    height, width = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    plan = TilePlan.of(height=height, width=width, shape=shape)
    rows, cols = draw(pixel_axes(shape, height)), draw(pixel_axes(shape, width))
    return TilePart.of(plan, rows.cells, cols.cells), rows, cols


def values(kind: str, size: Sequence[int], random: np.random.Generator) -> Floats:
    made = {
        "noise": lambda: random.normal(0, 3, size),
        "smooth": lambda: random.normal(0, 3, (size[0], 1, 1, size[3])) + random.normal(0, 0.2, size),
        "integers": lambda: random.integers(-4, 5, size),
        "sharp": lambda: np.where(random.random(size) < 0.1, 25.0, -25.0),
    }[kind]()
    return np.asarray(made, np.float32)


def logits_of(part: TilePart, kind: str, classes: int, seed: int) -> dict[int, Floats]:
    """For every row of tiles the logits (tiles, h, w, K) of tiles that have nothing in common."""
    side = part.plan.shape.geometry.cells(part.plan.shape.side)
    random = np.random.default_rng(seed)
    size = (len(part.cols.tiles), side, side, classes)
    return {row: values(kind, size, random) for row in part.rows.tiles}


def finished(
    carrier: Carrier, part: TilePart, logits: dict[int, Floats], *, window: str, batch: int
) -> Iterator[Floats]:
    classes = next(iter(logits.values())).shape[3]
    stitcher = carrier.stitcher(part, classes=classes, window=window)
    for row in part.rows.tiles:
        tiles = list(part.tiles_of_row(row))
        for first in range(0, len(tiles), batch):
            stop = first + batch
            stitcher.add(tiles[first:stop], list(logits[row][first:stop]))
        yield stitcher.close_row().copy()


def joined(made: Sequence[PixelRows], layer: str) -> NDArray[np.generic] | None:
    parts = [getattr(done, layer) for done in made]
    return None if parts[0] is None else np.concatenate(parts, axis=-2)


@each_device
@settings(max_examples=examples(100))
@given(
    scene=scenes(),
    kind=kinds,
    classes=st.one_of(st.integers(1, 8), st.integers(1, 150)),
    window=st.sampled_from(WINDOWS),
    batch=st.integers(1, 5),
    seed=st.integers(0, 99),
    softmaxed=st.booleans(),
)
def test_cells_classes_and_margins_have_the_hosts_bits(
    carrier: Carrier,
    scene: tuple[TilePart, PixelAxis, PixelAxis],
    kind: str,
    classes: int,
    window: str,
    batch: int,
    seed: int,
    softmaxed: bool,
) -> None:
    """More than the contract asks for: it holds for all logits, not for clear margins and integers alone."""
    part, rows, cols = scene
    logits = logits_of(part, kind, classes, seed)
    if softmaxed:
        logits = {row: softmax(of_row, axis=3) for row, of_row in logits.items()}
    wanted = {"confidence": True, "margin": True, "softmaxed": softmaxed}
    pixels: list[list[PixelRows]] = []
    cells: list[list[Floats]] = []
    for each, at_once in ((HOST, 1), (carrier, batch)):
        upsampler = each.upsampler(rows, cols, **wanted)
        cells.append(list(finished(each, part, logits, window=window, batch=at_once)))
        pixels.append([done for some in cells[-1] for done in upsampler.push(some)])
    for ours, hosts in zip(*cells, strict=True):
        np.testing.assert_array_equal(ours, hosts)
    assert pixels[1][0].start == rows.first
    for layer in ("channels", "margin", *(("confidence",) if softmaxed else ())):
        hosts, ours = (joined(made, layer) for made in pixels)
        assert ours is not None
        assert ours.shape == (len(rows), len(cols))
        np.testing.assert_array_equal(ours, hosts, err_msg=layer)


@each_device
@settings(max_examples=examples(80))
@given(
    cells=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kind=kinds,
    classes=st.integers(1, 40),
    stride=st.integers(1, 32),
    seed=st.integers(0, 9999),
)
def test_probabilities_round_like_the_hosts_but_where_they_are_half_a_step(
    carrier: Carrier, cells: tuple[int, int], kind: str, classes: int, stride: int, seed: int
) -> None:
    lattice = values(kind, (1, *cells, classes), np.random.default_rng(seed))[0]
    geometry = ModelGeometry(stride, stride, stride)
    rows, cols = (PixelAxis.of(geometry, run=n * stride, pixels=n * stride) for n in cells)
    ours, hosts = (
        list(each.upsampler(rows, cols, confidence=True, probabilities=True).push(lattice))
        for each in (carrier, HOST)
    )
    down = _between(lattice, rows, axis=0)
    exact = 250 * np.moveaxis(softmax(_between(down, cols, axis=1).astype(np.float64), axis=2), 2, 0)
    for layer, truth in (("probabilities", exact), ("confidence", exact.max(axis=0))):
        of_ours, of_host = (joined(made, layer) for made in (ours, hosts))
        assert of_ours is not None
        assert of_host is not None
        assert (np.abs(of_ours - truth) <= 0.5 + NEAR_A_HALF).all()
        differ = of_ours != of_host
        assert (np.abs(of_ours.astype(int) - of_host)[differ] == 1).all()
        assert (np.abs(truth % 1 - 0.5)[differ] < NEAR_A_HALF).all()


def _between(cells: Floats, pixels: PixelAxis, *, axis: int) -> Floats:
    share = pixels.share.reshape(-1, *(1,) * (cells.ndim - axis - 1))
    low, high = (np.take(cells, at, axis=axis) for at in (pixels.low, pixels.high))
    mixed: Floats = low + (high - low) * share
    return mixed


@each_device
@pytest.mark.parametrize("kind", ["noise", "integers"])
def test_softmax_cells_agree_and_do_not_depend_on_the_batch(carrier: Carrier, kind: str) -> None:
    random = np.random.default_rng(5)
    tiles = values(kind, (7, 9, 11, 21), random)
    hosts = [HOST.softmax_cells(tile) for tile in tiles]
    alone = [carrier.softmax_cells(tile) for tile in tiles]
    for ours, host in zip(alone, hosts, strict=True):
        np.testing.assert_allclose(ours, host, rtol=2e-6, atol=1e-12)
    together = carrier.softmax_cells_of_batch(tiles)
    np.testing.assert_array_equal(together, np.stack(alone))
