"""The last steps of pixel rows on a device: class values, nodata put back, and the way home."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aerial_seg.inference.device.upsample import DevicePixelRows
from aerial_seg.inference.stream import FinishedRows
from aerial_seg.inference.valid_rows import ValidRows
from aerial_seg.legend import Legend
from aerial_seg.models.device import CpuTransfer, CudaTransfer, Homeward
from aerial_seg.stages import StageSeconds

ON_THE_WAY_BYTES = 1 << 26
"""Of finished rows that have not been asked for: what the device sends while it computes the next batches."""
_BATCHES_AHEAD = 2
"""Rows are waited for when the device has been given so many batches more: it must not run out of work meanwhile."""


@dataclass(frozen=True, slots=True)
class _Coming:
    """Rows from `start` on, of `size` bytes, sent when `after` batches had begun."""

    start: int
    size: int
    after: int
    layers: Mapping[str, Homeward]


class Finisher:
    """Give finished rows in their order, each as soon as its bytes have come; the device goes on meanwhile."""

    def __init__(
        self,
        legend: Legend,
        valid: ValidRows,
        transfer: CpuTransfer | CudaTransfer,
        stages: StageSeconds,
    ) -> None:
        """valid: tells which pixels are kept. stages: where the seconds of waiting are counted."""
        table = legend.value_table()[: len(legend)]
        self._values = (
            None
            if np.array_equal(table, np.arange(len(table)))
            else transfer.numbers_to_device(table.astype(np.int64)).to(torch.uint8)
        )
        self._valid, self._transfer, self._stages = valid, transfer, stages
        self._coming: deque[_Coming] = deque()
        self._bytes, self._batches = 0, 0

    def finish(self, done: DevicePixelRows) -> Iterator[FinishedRows]:
        """Send these rows home; yield earlier ones where too many bytes would be on the way."""
        with self._stages.at("reading"):
            valid = self._valid.take(range(done.start, done.start + len(done.channels)))
        with self._stages.at("device"):
            layers = self._with_nodata(done, valid)
        size = sum(layer.nbytes for layer in layers.values())
        while self._coming and self._bytes + size > ON_THE_WAY_BYTES:
            yield self._arrived()
        coming = {name: self._transfer.bytes_home(layer) for name, layer in layers.items()}
        self._coming.append(_Coming(done.start, size, self._batches, coming))
        self._bytes += size

    def _with_nodata(self, done: DevicePixelRows, valid: NDArray[np.bool_] | None) -> dict[str, Tensor]:
        layers = {"class": self._in_legend(done.channels)}
        if done.confidence is not None:
            layers["confidence"] = done.confidence
        if done.probabilities is not None:
            layers["probabilities"] = done.probabilities
        if valid is None or valid.all():
            return layers
        unmeasured = self._transfer.host_rows(*valid.shape, dtype=torch.uint8)
        # 0 where measured, 255 elsewhere: all bits of nodata.
        np.subtract(valid.view(np.uint8), 1, out=unmeasured.numpy())
        there = self._transfer.to_device(unmeasured)
        return {name: layer | there for name, layer in layers.items()}

    def batch_begun(self) -> Iterator[FinishedRows]:
        """Yield rows that were sent before the last batches: the device has been given another one."""
        self._batches += 1
        while self._coming and self._coming[0].after <= self._batches - _BATCHES_AHEAD:
            yield self._arrived()

    def rest(self) -> Iterator[FinishedRows]:
        """Yield all rows that are still on the way."""
        while self._coming:
            yield self._arrived()

    def _arrived(self) -> FinishedRows:
        rows = self._coming.popleft()
        self._bytes -= rows.size
        with self._stages.at("device"):
            return FinishedRows(rows.start, {name: wait() for name, wait in rows.layers.items()})

    def _in_legend(self, channels: Tensor) -> Tensor:
        if self._values is None:
            return channels
        return self._values.index_select(0, channels.flatten().int()).view_as(channels)
