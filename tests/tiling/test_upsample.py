"""Pixels from cells: torch is the oracle of the interpolation, plain numpy that of every bit that a carrier makes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from carriers import Carrier, Upsampler, each_carrier
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax
from torch.nn.functional import interpolate as torch_interpolate

from aerial_seg.tiling import upsample
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.upsample import PixelAxis, PixelRows, RowUpsampler

Floats = NDArray[np.float32]
strides = st.one_of(st.sampled_from([1, 2, 4, 8, 16, 32]), st.integers(1, 32))
KINDS = ("noise", "smooth", "tied", "nearly tied", "sharp", "even", "scaled", "tiny")


def interpolate(cells: Floats, rows: PixelAxis, cols: PixelAxis) -> Floats:
    """The oracle: every channel at the pixels of two axes, (h, w, K) → (len(rows), len(cols), K) float32."""
    cells = cells[:, cols.cells.start : cols.cells.stop]
    down = between(cells, rows, axis=0)
    return between(down, cols, axis=1)


def between(values: Floats, pixels: PixelAxis, *, axis: int) -> Floats:
    shape = [1, 1, 1]
    shape[axis] = -1
    first = pixels.cells.start
    low, high = (np.take(values, at - first, axis=axis) for at in (pixels.low, pixels.high))
    interpolated: Floats = low + (high - low) * pixels.share.reshape(shape)
    return interpolated


def make_cells(kind: str, size: tuple[int, int, int], seed: int) -> Floats:
    """Lattices that are hard on a shortcut, each in its own way."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=size)
    coarse = random.normal(size=(2, 2, size[2]))
    down, across = np.linspace(0, 1, size[0])[:, None, None], np.linspace(0, 1, size[1])[None, :, None]
    west, east = (coarse[0, c] * (1 - down) + coarse[1, c] * down for c in (0, 1))
    smooth = west * (1 - across) + east * across
    cells = {
        "noise": noise,
        "smooth": 5 * smooth,
        "tied": random.integers(0, 3, size).astype(float),
        # Leads of some units in the last place of the largest value nearby, on either side of what is certain.
        "nearly tied": smooth[..., :1] * 10.0 ** random.integers(-3, 4)
        + noise * 2.0 ** random.integers(-24, -14),
        "sharp": np.where(random.random(size) < 0.2, 30.0, -30.0) + noise,
        "even": np.broadcast_to(smooth[..., :1].round(1), size) + (random.random() < 0.3) * noise.round(),
        "scaled": noise * 10.0 ** random.integers(-3, 6, size),
        "tiny": noise * 10.0 ** random.integers(-44, -30, size),
    }[kind]
    return cells.astype(np.float32)


@st.composite
def lattices(draw: st.DrawFn, most: int = 150) -> Floats:
    classes = draw(st.one_of(st.integers(1, 8), st.integers(1, most)))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    return make_cells(draw(st.sampled_from(KINDS)), (height, width, classes), draw(st.integers(0, 10_000)))


@st.composite
def pixel_axes(draw: st.DrawFn, cells: int) -> PixelAxis:
    """Pixels over that many cells, of either kind of lattice, at the run's own pixel size or another one."""
    stride = draw(strides)
    span = draw(st.one_of(st.none(), st.integers(1, 32)))
    geometry = ModelGeometry(stride, stride, stride, draw(st.booleans()), cell_span=span)
    longest = cells * geometry.logit_stride - (geometry.logit_stride - 1) * geometry.align_corners
    run = draw(st.integers(max(1, longest - geometry.logit_stride + 1), longest))
    pixels = draw(st.one_of(st.just(run), st.integers(1, 2 * run + 1)))
    return PixelAxis.of(geometry, run=run, pixels=pixels)


@st.composite
def scenes(draw: st.DrawFn, most: int = 150) -> tuple[Floats, PixelAxis, PixelAxis]:
    cells = draw(lattices(most))
    return cells, draw(pixel_axes(cells.shape[0])), draw(pixel_axes(cells.shape[1]))


def whole(cells: Floats, upsampler: Upsampler, cuts: Sequence[int] = ()) -> PixelRows:
    """All pixel rows of cells that are pushed in pieces."""
    made = [
        done
        for first, last in itertools.pairwise([0, *cuts, len(cells)])
        for done in upsampler.push(cells[first:last])
    ]
    assert [done.start for done in made] == list(np.cumsum([0, *(len(d.channels) for d in made[:-1])]))

    def joined(layer: str, axis: int = 0) -> NDArray[np.generic] | None:
        parts = [getattr(done, layer) for done in made]
        return None if parts[0] is None else np.concatenate(parts, axis=axis)

    return PixelRows(
        0, joined("channels"), joined("confidence"), joined("probabilities", axis=1), joined("margin")
    )


def upsampled(
    carrier: Carrier, scene: tuple[Floats, PixelAxis, PixelAxis], cuts: Sequence[int] = (), **wanted: bool
) -> PixelRows:
    cells, rows, cols = scene
    seen = cells[rows.cells.start : rows.cells.stop, cols.cells.start : cols.cells.stop]
    return whole(seen, carrier.upsampler(rows, cols, **wanted), [min(cut, len(seen)) for cut in cuts])


@given(
    stride=strides,
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    corners=st.booleans(),
    seed=st.integers(0, 9),
)
def test_interpolation_equals_torchs(stride: int, height: int, width: int, corners: bool, seed: int) -> None:
    cells = np.random.default_rng(seed).normal(size=(height, width, 2)).astype(np.float32)
    geometry = ModelGeometry(stride, stride, stride, align_corners=corners)
    size = [(n - 1) * stride + 1 if corners else n * stride for n in (height, width)]
    rows, cols = (PixelAxis.of(geometry, run=n, pixels=n) for n in size)
    oracle = torch_interpolate(
        torch.from_numpy(cells.transpose(2, 0, 1)).double()[None],
        size=size,
        mode="bilinear",
        align_corners=corners,
    )[0]
    np.testing.assert_allclose(interpolate(cells, rows, cols), oracle.permute(1, 2, 0).numpy(), atol=2e-6)


@given(run=st.integers(1, 40), factor=st.integers(1, 5), stride=st.sampled_from([1, 4]))
def test_output_at_another_pixel_size_equals_torchs_resize(run: int, factor: int, stride: int) -> None:
    """run·stride network pixels shown as factor times as many: as if torch upsampled the cells by stride·factor."""
    cells = np.random.default_rng(run).normal(size=(run, run, 2)).astype(np.float32)
    geometry = ModelGeometry(stride, stride, stride)
    axis = PixelAxis.of(geometry, run=run * stride, pixels=run * stride * factor)
    oracle = torch_interpolate(
        torch.from_numpy(cells.transpose(2, 0, 1)).double()[None],
        scale_factor=stride * factor,
        mode="bilinear",
    )[0]
    np.testing.assert_allclose(interpolate(cells, axis, axis), oracle.permute(1, 2, 0).numpy(), atol=2e-6)


@each_carrier
@given(scene=scenes(), cuts=st.lists(st.integers(0, 9), max_size=3).map(sorted))
def test_channels_are_the_argmax_of_the_interpolated_logits(
    carrier: Carrier, scene: tuple[Floats, PixelAxis, PixelAxis], cuts: list[int]
) -> None:
    """Every class map is that of the plain computation, however the rows arrive: the shortcuts change no pixel."""
    cells, rows, cols = scene
    oracle = interpolate(cells[rows.cells.start : rows.cells.stop], rows, cols).argmax(axis=2)
    assert np.array_equal(upsampled(carrier, scene, cuts).channels, oracle)


@each_carrier
@pytest.mark.parametrize("kind", KINDS)
@given(classes=st.integers(1, 6), seed=st.integers(0, 1_000_000), stride=st.sampled_from([3, 8, 11]))
def test_no_kind_of_lattice_fools_the_shortcuts(
    carrier: Carrier, kind: str, classes: int, seed: int, stride: int
) -> None:
    cells = make_cells(kind, (12, 12, classes), seed)
    axis = PixelAxis.of(ModelGeometry(stride, stride, stride), run=12 * stride, pixels=12 * stride)
    oracle = interpolate(cells, axis, axis).argmax(axis=2)
    assert np.array_equal(upsampled(carrier, (cells, axis, axis)).channels, oracle)


@each_carrier
def test_a_lead_that_rounding_undoes_is_no_lead(carrier: Carrier) -> None:
    """A channel that leads by a unit in the last place at all four corners does not lead everywhere in between."""
    random = np.random.default_rng(0)
    axis = PixelAxis.of(ModelGeometry(8, 8, 8), run=16, pixels=16)
    undone = 0
    for _ in range(300):
        other = (random.uniform(0.5, 1, (2, 2)) * random.choice([-1, 1], (2, 2))).astype(np.float32)
        cells = np.stack([other, other + np.float32(2.0**-24)], axis=2)
        assert (cells[..., 1] > cells[..., 0]).all()
        oracle = interpolate(cells, axis, axis).argmax(axis=2)
        undone += int((oracle == 0).any())
        assert np.array_equal(upsampled(carrier, (cells, axis, axis)).channels, oracle)
    assert undone > 100


@each_carrier
@given(scene=scenes(most=20))
@example(
    scene=(np.zeros((3, 3, 7), np.float32), *(PixelAxis.of(ModelGeometry(8, 8, 8), run=24, pixels=24),) * 2)
)
def test_probabilities_are_the_softmax_of_the_interpolated_logits(
    carrier: Carrier,
    scene: tuple[Floats, PixelAxis, PixelAxis],
) -> None:
    cells, rows, cols = scene
    logits = interpolate(cells[rows.cells.start : rows.cells.stop], rows, cols)
    made = upsampled(carrier, scene, confidence=True, probabilities=True)
    oracle = softmax(logits.astype(np.float64), axis=2)
    assert np.array_equal(made.channels, logits.argmax(axis=2))
    assert made.confidence is not None
    assert made.probabilities is not None
    np.testing.assert_allclose(made.probabilities.transpose(1, 2, 0) / 250, oracle, atol=0.5 / 250 + 3e-5)
    np.testing.assert_allclose(made.confidence / 250, oracle.max(axis=2), atol=0.5 / 250 + 3e-5)
    own = np.take_along_axis(made.probabilities, made.channels[None].astype(np.intp), axis=0)[0]
    assert np.array_equal(made.confidence, own)
    assert np.array_equal(made.confidence, upsampled(carrier, scene, confidence=True, margin=True).confidence)


@each_carrier
@given(scene=scenes(most=20))
def test_blended_probabilities_are_interpolated_as_they_are(
    carrier: Carrier,
    scene: tuple[Floats, PixelAxis, PixelAxis],
) -> None:
    cells, rows, cols = carrier.softmax_cells(scene[0]), *scene[1:]
    values = interpolate(cells[rows.cells.start : rows.cells.stop], rows, cols)
    made = upsampled(carrier, (cells, rows, cols), confidence=True, probabilities=True, softmaxed=True)
    assert np.array_equal(made.channels, values.argmax(axis=2))
    assert made.confidence is not None
    assert made.probabilities is not None
    np.testing.assert_allclose(made.confidence / 250, values.max(axis=2), atol=0.5 / 250 + 1e-5)
    np.testing.assert_allclose(made.probabilities.transpose(1, 2, 0) / 250, values, atol=0.5 / 250 + 1e-5)


@each_carrier
@given(scene=scenes(most=20))
def test_the_margin_is_the_lead_over_the_second(
    carrier: Carrier, scene: tuple[Floats, PixelAxis, PixelAxis]
) -> None:
    cells, rows, cols = scene
    values = np.sort(interpolate(cells[rows.cells.start : rows.cells.stop], rows, cols), axis=2)
    second = values[..., -2] if values.shape[2] > 1 else np.float32(-np.inf)
    made = upsampled(carrier, scene, margin=True)
    assert made.margin is not None
    assert made.confidence is None
    assert made.probabilities is None
    assert np.array_equal(made.margin, values[..., -1] - second)


@each_carrier
@given(scene=scenes(most=20), at_once=st.integers(1, 300))
def test_how_many_pixels_are_made_at_once_changes_nothing(
    carrier: Carrier, scene: tuple[Floats, PixelAxis, PixelAxis], at_once: int
) -> None:
    for wanted in ({}, {"confidence": True, "probabilities": True}):
        usual = upsampled(carrier, scene, **wanted)
        with carrier.pixels_at_once(at_once):
            few = upsampled(carrier, scene, **wanted)
        for layer in ("channels", "confidence", "probabilities"):
            assert np.array_equal(getattr(few, layer), getattr(usual, layer))


@pytest.mark.parametrize("probabilities", [False, True])
def test_few_pixels_are_made_at_once_whatever_the_width_and_the_classes(probabilities: bool) -> None:
    rows, cols = (PixelAxis.of(ModelGeometry(8, 8, 8), run=n, pixels=n) for n in (400, 8000))
    cells = np.zeros((50, 1000, 30), np.float32)
    for made in RowUpsampler(rows, cols, probabilities=probabilities).push(cells):
        largest = made.channels if made.probabilities is None else made.probabilities
        assert largest.size <= upsample._PIXELS_AT_ONCE


@each_carrier
@given(cells=lattices())
def test_softmax_cells_equals_a_float64_softmax(carrier: Carrier, cells: Floats) -> None:
    before = cells.copy()
    np.testing.assert_allclose(
        carrier.softmax_cells(cells), softmax(cells.astype(np.float64), axis=2), atol=1e-6
    )
    assert carrier.softmax_cells(cells).dtype == np.float32
    assert np.array_equal(cells, before)


@given(axis=pixel_axes(9), data=st.data())
def test_a_part_of_an_axis_needs_only_its_own_cells(axis: PixelAxis, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(axis) - 1))
    stop = data.draw(st.integers(first + 1, len(axis)))
    part = axis.part(first, stop)
    assert (len(part), part.first) == (stop - first, first)
    assert np.array_equal(part.low, axis.low[first:stop])
    assert np.array_equal(part.share, axis.share[first:stop])
    needed = {*axis.low[first:stop].tolist(), *axis.high[first:stop].tolist()}
    assert (min(needed), max(needed)) == (part.cells.start, part.cells.stop - 1)
    again = part.part(first, stop)
    assert (again.first, again.cells) == (part.first, part.cells)
    with pytest.raises(ValueError, match="are not among"):
        part.part(first, stop + 1)


def test_a_logit_per_pixel_needs_no_neighbours() -> None:
    axis = PixelAxis.of(ModelGeometry(32, 1, 32), run=40, pixels=40)
    assert axis.is_identity()
    assert axis.part(7, 20).is_identity()
    assert axis.part(7, 20).cells == range(7, 20)
    assert not PixelAxis.of(ModelGeometry(32, 1, 32), run=40, pixels=20).is_identity()


@each_carrier
def test_cells_of_other_columns_are_our_bug(carrier: Carrier) -> None:
    axis = PixelAxis.of(ModelGeometry(8, 8, 8), run=64, pixels=64)
    with pytest.raises(ValueError, match=r"rows of cells are \(.*8.*\), got \(.*7.*\)"):
        next(carrier.upsampler(axis, axis).push(np.zeros((3, 7, 2), np.float32)))
    with pytest.raises(ValueError, match="at most 255 classes"):
        next(carrier.upsampler(axis, axis).push(np.zeros((3, 8, 256), np.float32)))
