"""What keeps a GPU busy: few operations, none of which waits for it, on few values at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from aerial_seg.inference.device import upsample
from aerial_seg.inference.device.finish import ON_THE_WAY_BYTES
from aerial_seg.inference.device.lattice import DeviceStitcher
from aerial_seg.inference.device.spread import Spread
from aerial_seg.inference.device.upsample import DeviceUpsampler, softmax_cells
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.plan import TilePart, TilePlan, tile_shape
from aerial_seg.tiling.upsample import PixelAxis

VIEWS = {"slice", "select", "unsqueeze", "view", "permute", "alias", "expand", "_unsafe_view", "t", "unbind",
         "transpose", "_reshape_alias", "as_strided", "detach"}  # fmt: skip
"""They launch nothing."""


class Operations(TorchDispatchMode):
    """Counts what is launched, and remembers how many values the largest result has."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__  # type: ignore[attr-defined]
        if name not in VIEWS:
            self.launched[name] += "empty" not in name
            sizes = [each.numel() for each in tree_flatten(made)[0] if isinstance(each, torch.Tensor)]
            self.largest = max([self.largest, *sizes])
        return made

    @property
    def total(self) -> int:
        return self.launched.total()


def plan(stride: int, *, tiles_across: int) -> TilePlan:
    """Rows of tiles of 512 with step 384 over a raster two of them high."""
    shape = tile_shape(ModelGeometry(stride, stride, stride), 512)
    width = shape.core + (tiles_across - 1) * shape.step
    return TilePlan.of(height=shape.core + shape.step, width=width, shape=shape)


def axes(of: TilePlan) -> tuple[PixelAxis, PixelAxis]:
    geometry, rows, cols = of.shape.geometry, of.rows.length, of.cols.length
    return PixelAxis.of(geometry, run=rows, pixels=rows), PixelAxis.of(geometry, run=cols, pixels=cols)


@pytest.mark.parametrize("classes", [6, 150])
def test_a_tile_costs_an_addition_and_its_batch_a_weighting(classes: int) -> None:
    raster = plan(16, tiles_across=8)
    part = TilePart.whole(raster)
    stitcher = DeviceStitcher(part, classes=classes, device="meta")
    tiles = list(part.tiles_of_row(0))
    with Operations() as seen:
        stitcher.add(tiles, torch.empty(8, classes, 32, 32, device="meta"))
    assert seen.total <= len(tiles) + 2, seen.launched
    with Operations() as closing:
        stitcher.close_row()
    assert closing.total <= 2, closing.launched


@pytest.mark.parametrize(
    ("classes", "confidence", "most"), [(6, False, 20), (6, True, 40), (150, False, 140)]
)
def test_a_row_of_tiles_costs_few_operations_to_upsample(
    monkeypatch: pytest.MonkeyPatch, classes: int, confidence: bool, most: int
) -> None:
    """At 2,070 tiles per second and 5 µs each, 8 tiles' row may not take more than a tenth of the time."""
    monkeypatch.setattr(upsample, "_VALUES_AT_ONCE", {False: 1 << 25, True: 1 << 25})
    raster = plan(16, tiles_across=8)
    rows, cols = axes(raster)
    upsampler = DeviceUpsampler(rows, cols, confidence=confidence, device="meta")
    cells = torch.empty(classes, 28, len(cols.cells), device="meta")
    with Operations() as seen:
        (_,) = upsampler.push(cells)
    assert seen.total <= most, seen.launched


@pytest.mark.parametrize("pixels", [1, 2])
@pytest.mark.parametrize("softmaxed", [False, True])
def test_nothing_waits_for_the_device(softmaxed: bool, pixels: int) -> None:
    """On the meta device no value can be read, and nothing can come from the host's memory."""
    raster = plan(8, tiles_across=2)
    part = TilePart.whole(raster)
    geometry = raster.shape.geometry
    rows, cols = (
        PixelAxis.of(geometry, run=axis.length, pixels=pixels * axis.length) for axis in (raster.rows, raster.cols)
    )  # fmt: skip
    stitcher = DeviceStitcher(part, classes=20, device="meta")
    upsampler = DeviceUpsampler(
        rows, cols, confidence=True, probabilities=True, margin=True, softmaxed=softmaxed, device="meta"
    )
    made = []
    with Operations() as seen:
        for row in part.rows.tiles:
            tiles = list(part.tiles_of_row(row))
            logits = torch.empty(len(tiles), 20, 64, 64, device="meta")
            stitcher.add(tiles, softmax_cells(logits) if softmaxed else logits)
            made += list(upsampler.push(stitcher.close_row()))
    assert sum(len(done.channels) for done in made) == len(rows)
    assert all(layer is not None and layer.is_meta for done in made
               for layer in (done.channels, done.confidence, done.probabilities, done.margin))  # fmt: skip
    assert not {"_local_scalar_dense", "nonzero", "masked_select", "item"} & set(seen.launched)


@pytest.mark.parametrize("wanted", [{}, {"confidence": True}, {"probabilities": True}, {"margin": True}])
@pytest.mark.parametrize(("stride", "scale"), [(1, 1), (1, 2), (1, 0.2), (8, 1), (8, 2)])
def test_memory_grows_with_neither_the_classes_nor_the_height(
    monkeypatch: pytest.MonkeyPatch, wanted: dict[str, bool], stride: int, scale: float
) -> None:
    """150 classes: values are made for a group of channels and some rows; all channels exist as bytes alone."""
    most = 100_000
    monkeypatch.setattr(upsample, "_VALUES_AT_ONCE", {False: most, True: most})
    monkeypatch.setattr(upsample, "_BYTES_AT_ONCE", 4 * most)
    geometry = ModelGeometry(stride, stride, stride)
    rows, cols = (
        PixelAxis.of(geometry, run=cells * stride, pixels=int(cells * stride * scale)) for cells in (10, 50)
    )
    cells = torch.zeros(150, len(rows.cells), len(cols.cells))
    with Operations() as seen:
        made = list(DeviceUpsampler(rows, cols, **wanted).push(cells))
    assert sum(len(done.channels) for done in made) == len(rows)
    # The coarse part of all channels may be made at once where it is small: twice a group's pixels.
    assert seen.largest <= (4 * most if wanted == {"probabilities": True} else 2 * most)


def test_probabilities_come_in_parts_as_large_as_the_host_is_reckoned_to_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """150 classes of 100,000 columns on a device with memory of its own; pinned memory is not given back."""
    monkeypatch.setattr(
        upsample, "_VALUES_AT_ONCE", dict.fromkeys((False, True), upsample._VALUES_AT_ONCE[True])
    )
    geometry = ModelGeometry(16, 16, 16)
    rows, cols = (PixelAxis.of(geometry, run=pixels, pixels=pixels) for pixels in (64, 100_000))
    cells = torch.empty(150, len(rows.cells), len(cols.cells), device="meta")
    made = list(DeviceUpsampler(rows, cols, probabilities=True, device="meta").push(cells))
    assert sum(len(done.channels) for done in made) == 64
    assert (
        max(done.probabilities.nbytes for done in made if done.probabilities is not None) <= ON_THE_WAY_BYTES
    )


@pytest.mark.parametrize("stride", [1, 2, 3, 8, 32])
@pytest.mark.parametrize("align_corners", [False, True])
def test_on_its_own_grid_a_lattice_is_read_once_a_cell(stride: int, align_corners: bool) -> None:
    geometry = ModelGeometry(stride, stride, stride, align_corners)
    axis = PixelAxis.of(geometry, run=40 * stride, pixels=40 * stride)
    for part in (axis, axis.part(5 * stride + stride // 2, 31 * stride + 1)):
        spread = Spread.of(part, "cpu")
        assert spread.runs <= len(part.cells) + 2
        assert spread.share.numel() == stride
        cells = torch.from_numpy(
            np.random.default_rng(stride).normal(size=(1, 1, len(part.cells))).astype(np.float32)
        )
        low, high = (cells[0, 0].numpy()[at - part.cells.start] for at in (part.low, part.high))
        expected = low + (high - low) * part.share
        assert np.array_equal(spread.between(*spread.ends(cells))[0, 0].numpy(), expected)
