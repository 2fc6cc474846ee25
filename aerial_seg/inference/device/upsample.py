"""From lattice cells to pixels on a device: the second carrier of what `tiling/upsample.py` promises.

Channels are made a group at a time, so that memory grows with neither their number nor that of the pixels. Sums over
channels are taken in one order, whatever the shape: torch.sum and torch.softmax promise none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aerial_seg.inference.device.spread import Spread
from aerial_seg.models.device import has_own_memory
from aerial_seg.tiling.upsample import MOST_CLASSES, PixelAxis

_GROUP = 16
"""Channels at a time. It is in the bits of probabilities, so it depends on nothing."""
_VALUES_AT_ONCE = {True: 1 << 25, False: 1 << 19}
"""Values that are interpolated at a time, in float32: much for each launch where a device has memory of its own, what
a core's cache holds elsewhere."""
_BYTES_AT_ONCE = 1 << 26
"""Of probabilities: no more than `finish` has on the way, for the host holds what comes and what came."""
_INFINITE = float("inf")


@dataclass(frozen=True, slots=True)
class DevicePixelRows:
    """Hold finished pixel rows on a device: `start`, the first one's number in the whole output, and what was made.

    As PixelRows. channels (n, W) uint8: the channel with the largest value, the first one in a tie.
    confidence (n, W) uint8: the probability p of that channel as round(250·p); 255 stays free for nodata.
    probabilities (K, n, W) uint8: those of all channels, likewise.
    margin (n, W) float32: by how much the largest interpolated value exceeds the second, ∞ with one class.
    """

    start: int
    channels: Tensor
    confidence: Tensor | None = None
    probabilities: Tensor | None = None
    margin: Tensor | None = None


class DeviceUpsampler:
    """Turns finished lattice rows, pushed in order, into finished pixel rows; holds one row of cells between pushes.

    Values are interpolated between rows of cells first, then between columns, as by RowUpsampler and with the same
    bits: equal classes, equal margins, and equal confidence of blended probabilities. A softmax's exponentials are
    torch's here and a polynomial there; its bytes may differ by one where 250·p is within 0.01 of a half.
    """

    @torch.inference_mode()
    def __init__(
        self,
        rows: PixelAxis,
        cols: PixelAxis,
        *,
        confidence: bool = False,
        probabilities: bool = False,
        margin: bool = False,
        softmaxed: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        """softmaxed: the cells hold probabilities; else these are the softmax of the interpolated logits."""
        self._rows, self._cols = rows, cols
        self._north, self._south, self._down = (
            torch.from_numpy(np.ascontiguousarray(array)).to(device)
            for array in (rows.low, rows.high, rows.share)
        )
        self._across = Spread.of(cols, device)
        self._is_identity = rows.is_identity() and cols.is_identity()
        self._confidence, self._probabilities, self._margin = confidence, probabilities, margin
        self._softmaxed = softmaxed
        self._values_at_once = _VALUES_AT_ONCE[has_own_memory(torch.device(device))]
        self._next = 0
        self._end = rows.cells.start
        self._held: Tensor | None = None

    @torch.inference_mode()
    def push(self, cells: Tensor) -> Iterator[DevicePixelRows]:
        """Yield all pixel rows that the cells (K, n, cells across) float32 decide, following those pushed before."""
        if cells.ndim != 3 or cells.shape[2] != len(self._cols.cells):
            raise ValueError(
                f"rows of cells are (classes, n, {len(self._cols.cells)}), got {tuple(cells.shape)}"
            )
        if cells.shape[0] > MOST_CLASSES:
            raise ValueError(f"at most {MOST_CLASSES} classes fit a byte beside nodata, got {cells.shape[0]}")
        if cells.shape[1] == 0:
            return
        first = self._end
        self._end += cells.shape[1]
        if self._held is not None:
            cells, first = torch.cat([self._held, cells], 1), first - 1
        end = int(np.searchsorted(self._rows.high, self._end, side="left"))
        at_once = self._rows_at_once(cells.shape[0])
        for start in range(self._next, end, at_once):
            yield self._made(cells, first, slice(start, min(start + at_once, end)))
        self._next = max(self._next, end)
        is_waited_for = self._next < len(self._rows) and self._rows.low[self._next] < self._end
        self._held = cells[:, -1:].clone() if is_waited_for else None

    def _rows_at_once(self, classes: int) -> int:
        wide = max(len(self._cols), len(self._cols.cells))
        most = self._values_at_once // (min(classes, _GROUP) * wide)
        return max(1, min(most, _BYTES_AT_ONCE // (classes * wide)) if self._probabilities else most)

    def _made(self, cells: Tensor, first_cell: int, rows: slice) -> DevicePixelRows:
        """Some pixel rows that lie between these rows of cells."""
        block = _Block(self._between(cells, first_cell, rows), cells.shape[0])
        leader = block.leader(with_second=self._margin)
        wants_probability = self._confidence or self._probabilities
        scale = None if self._softmaxed or not wants_probability else block.softmax_scale(leader.best)
        confidence = leader.best if scale is None else scale
        return DevicePixelRows(
            self._rows.first + rows.start,
            channels=leader.channel,
            confidence=_bytes(confidence) if self._confidence else None,
            probabilities=block.probabilities(leader.best, scale) if self._probabilities else None,
            margin=None if leader.second is None else leader.best - leader.second,
        )

    def _between(self, cells: Tensor, first_cell: int, rows: slice) -> Callable[[slice], Tensor]:
        """Gives a group of channels, interpolated: values (G, n, W), which are not to be written to."""
        if self._is_identity:
            first = int(self._rows.low[rows.start]) - first_cell
            same = cells[:, first : first + rows.stop - rows.start]
            return lambda group: same[group]
        north, south = self._north[rows] - first_cell, self._south[rows] - first_cell
        share = self._down[rows, None]

        def ends(group: slice) -> tuple[Tensor, Tensor]:
            low = cells[group].index_select(1, north)
            rise = cells[group].index_select(1, south).sub_(low).mul_(share)
            return self._across.ends(low.add_(rise))

        # What costs a group of launches is done for all groups at once where it is small beside the pixels.
        if len(cells) * self._across.runs > 2 * _GROUP * len(self._cols):
            return lambda group: self._across.between(*ends(group))
        low, rise = ends(slice(len(cells)))
        return lambda group: self._across.between(low[group], rise[group])


@dataclass(frozen=True, slots=True)
class _Leader:
    """best (n, W): the largest value. channel uint8: the first that has it. second: the next value, if wanted."""

    best: Tensor
    channel: Tensor
    second: Tensor | None


class _Block:
    """Some pixel rows of all channels, of which a group exists at a time."""

    def __init__(self, values: Callable[[slice], Tensor], classes: int) -> None:
        self._values, self._classes = values, classes
        self._only = values(slice(classes)) if classes <= _GROUP else None

    def _groups(self) -> Iterator[tuple[slice, Tensor]]:
        if self._only is not None:
            yield slice(self._classes), self._only
            return
        for start in range(0, self._classes, _GROUP):
            group = slice(start, min(start + _GROUP, self._classes))
            yield group, self._values(group)

    def leader(self, *, with_second: bool) -> _Leader:
        """Who leads at every pixel."""
        leader: _Leader | None = None
        for group, values in self._groups():
            best, channel = first_largest(values)
            second = _second(values, channel) if with_second else None
            new = _Leader(best, channel.add_(group.start or 0), second)
            leader = new if leader is None else _leader_of(leader, new)
        assert leader is not None
        return leader

    def softmax_scale(self, best: Tensor) -> Tensor:
        """What the exponential of a value's lag behind the best is to be multiplied by: (n, W)."""
        total: Tensor | None = None
        for _, values in self._groups():
            part = _sum(_exponentials(values, best))
            total = part if total is None else total.add_(part)
        assert total is not None
        return total.reciprocal_()

    def probabilities(self, best: Tensor, scale: Tensor | None) -> Tensor:
        """Bytes (K, n, W); without a scale the values are probabilities already."""
        made = torch.empty((self._classes, *best.shape), dtype=torch.uint8, device=best.device)
        for group, values in self._groups():
            made[group] = _bytes(values if scale is None else _exponentials(values, best).mul_(scale))
        return made


def first_largest(values: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    """The largest values along a dimension of at most 255, and as uint8 the first channel that has each.

    torch.max documents that of several maxima it takes the first; torch.argmax promises none, and takes five times as
    long on a CPU.
    """
    best, index = values.max(dim)
    return best, index.to(torch.uint8)


def _second(values: Tensor, leader: Tensor) -> Tensor:
    """The largest value of all channels but the leader, −∞ where there are none."""
    return values.scatter(0, leader[None].long(), -_INFINITE).amax(0)


def _leader_of(west: _Leader, east: _Leader) -> _Leader:
    """Of two groups of channels, the lower one first."""
    second = None
    if west.second is not None and east.second is not None:
        behind = torch.maximum(west.second, east.second)
        second = torch.maximum(torch.minimum(west.best, east.best), behind)
    return _Leader(
        best=torch.maximum(west.best, east.best),
        channel=torch.where(east.best > west.best, east.channel, west.channel),
        second=second,
    )


def _exponentials(values: Tensor, best: Tensor) -> Tensor:
    return (values - best).exp_()


def _sum(values: Tensor) -> Tensor:
    """The sum over the first dimension, in an order that depends on its length alone; perhaps a part of values."""
    while len(values) > 1:
        half = len(values) // 2
        folded = values[:half] + values[-half:]
        if len(values) % 2:
            folded[0] += values[half]
        values = folded
    return values[0]


def _bytes(probabilities: Tensor) -> Tensor:
    """As the host rounds them: a step is 0.004, half a step goes up."""
    return (probabilities * 250).add_(0.5).to(torch.uint8)


@torch.inference_mode()
def softmax_cells(logits: Tensor) -> Tensor:
    """The softmax over the channels of tiles' cells (n, K, h, w) float32: what is blended instead of logits."""
    planar = logits.movedim(1, 0)
    probabilities = _exponentials(planar, planar.amax(0))
    return (probabilities / _sum(probabilities)).movedim(0, 1)
