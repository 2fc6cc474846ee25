"""How much of the image a logit cell sees, read off the operations of a forward that computes shapes only."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import numpy as np
import torch
from torch import nn

from aerial_seg.models.network import Network
from aerial_seg.models.receptive_field.intervals import CellExtent
from aerial_seg.models.receptive_field.trace import Trace, Untraceable, trace
from aerial_seg.tiling.geometry import ModelGeometry

_FIRST_SIDE, _LAST_SIDE = 4096, 65536
"""Sides of the images that are tried; a field is believed when an image twice as large has the same."""

_CANNOT = (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError, AssertionError)
"""What the forwards of smp's and timm's networks raise on an image that they do not take, each in its own way."""


@dataclass(frozen=True, slots=True)
class Reach:
    """One axis: the cell that begins at pixel p sees pixels p + first to p + last at the most, `side` of them."""

    first: int
    last: int
    side: int


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """Tell what can change a logit cell.

    rows, cols: along either axis; None: the whole image. halo: the smallest that `predict` can use (a multiple of the
    origin step) with which every kept cell has the logits of an endless image; None: none is large enough. reason: why
    there is None.
    """

    rows: Reach | None
    cols: Reach | None
    halo: int | None
    reason: str | None = None

    @property
    def side(self) -> int | None:
        """Pixels of the longer side of what a cell sees; None: the whole image."""
        if self.rows is None or self.cols is None:
            return None
        return max(self.rows.side, self.cols.side)


def receptive_field(network: Network, bands: int) -> ReceptiveField:
    """Find which pixels of an endless image a logit cell of the network, in evaluation mode, can depend on.

    Exact for convolutions, pooling and interpolation; where a forward does anything to places that is not known here,
    the answer is the whole image, never too small a part. A pixel counts even where trained weights give it next to no
    influence. Nothing is computed but shapes; the network stays as it is.

    Source: Araujo et al. 2019, Computing Receptive Fields of Convolutional Neural Networks, Distill; there for chains
    and by formula, here cell by cell, so that branches, upsampling and borders need no formula of their own.
    """
    outline = _outline(network)
    before: _Finding | None = None
    side = _FIRST_SIDE
    while side <= _LAST_SIDE:
        valid = network.geometry.nearest_valid_sides(side)[1]
        try:
            traced = trace(outline, bands, valid)
        except _CANNOT as error:
            return _whole_image(f"the forward cannot be followed: {_one_line(error)}")
        if isinstance(traced, Untraceable):
            return _whole_image(traced.reason)
        found = _find(traced, network.geometry)
        if found is not None and before is not None and found.reaches == before.reaches:
            return _agreed(before, found)
        before, side = found, side * 2
    return _whole_image(f"more than {_LAST_SIDE // 2} px, or other pixels in every larger image")


@dataclass(frozen=True, slots=True)
class _Finding:
    """What an image of one side shows. scales: of all interpolations."""

    reaches: tuple[Reach, Reach]
    halo: int | None
    scales: tuple[Fraction, ...]


def _find(traced: Trace, geometry: ModelGeometry) -> _Finding | None:
    """None where the image is too small to tell."""
    axes = [_AxisFinding.of(extent, geometry) for extent in (traced.rows, traced.cols)]
    rows, cols = axes
    if rows is None or cols is None:
        return None
    halo = None if rows.halo is None or cols.halo is None else max(rows.halo, cols.halo)
    return _Finding((rows.reach, cols.reach), halo, traced.scales)


@dataclass(frozen=True, slots=True)
class _AxisFinding:
    reach: Reach
    halo: int | None

    @classmethod
    def of(cls, extent: CellExtent, geometry: ModelGeometry) -> _AxisFinding | None:
        """None unless at least half of the cells are clear of the borders, one behind the other."""
        clear = np.flatnonzero(extent.whole)
        if clear.size * 2 < len(extent) or clear[-1] - clear[0] + 1 != clear.size:
            return None
        start, stop = int(clear[0]), int(clear[-1]) + 1
        stride, period = geometry.logit_stride, geometry.origin_step // geometry.logit_stride
        offsets = stride * np.arange(start, stop, dtype=np.int64)
        seeing = extent.high[start:stop] >= extent.low[start:stop]
        if not seeing.any():
            return None
        # A cell that sees nothing, as beside the kernels of a sparse transposed convolution, widens no field.
        first = np.where(seeing, extent.low[start:stop] - offsets, 0)
        last = np.where(seeing, extent.high[start:stop] - offsets, 0)
        reach = Reach(
            first=int(first[seeing].min()),
            last=int(last[seeing].max()),
            side=int((last - first + 1)[seeing].max()),
        )
        alike = all(np.array_equal(ends[period:], ends[:-period]) for ends in (first, last, seeing))
        blind = max(start, len(extent) - stop)
        return cls(reach, -(-blind // period) * geometry.origin_step if alike else None)


def _agreed(one: _Finding, other: _Finding) -> ReceptiveField:
    rows, cols = other.reaches
    if one.scales != other.scales:
        return ReceptiveField(rows, cols, None, "upsampling whose scale depends on the size of the tile")
    if one.halo is None or one.halo != other.halo:
        return ReceptiveField(
            rows, cols, None, "cells that depend on more than their place in the origin step"
        )
    return ReceptiveField(rows, cols, one.halo)


def _whole_image(reason: str) -> ReceptiveField:
    return ReceptiveField(None, None, None, reason)


def _outline(network: Network) -> nn.Module:
    """A copy of the network in evaluation mode without weights, on torch's meta device."""
    tensors: Iterator[torch.Tensor] = chain(network.parameters(), network.buffers())
    # What deepcopy finds in its memo it takes for copied.
    bare = {
        id(tensor): nn.Parameter(tensor.detach().to("meta"), requires_grad=False)
        if isinstance(tensor, nn.Parameter)
        else tensor.to("meta")
        for tensor in tensors
    }
    return copy.deepcopy(network, bare).eval()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
