"""A raster's rows on their way to a device: read and laid into memory that the device copies from, ahead of need."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aerial_seg.geo.raster.swath import RowReader
from aerial_seg.inference.device.pixels import as_pixels, carrier_type
from aerial_seg.models.device import CpuTransfer, CudaTransfer

AHEAD = 2
"""Parts that are laid ready while the device works on others."""
PART_BYTES = 1 << 24
"""Of the pixels of a part: enough for a copy at full speed, so little that the first tiles wait for little."""


@dataclass(frozen=True, slots=True)
class FedRows:
    """Hold rows of the raster on the host: pixels (n, W, C) in the type that carries their dtype.

    valid (n, W) uint8, 1 = measured, and the same as an array; both None where all were measured.
    """

    rows: range
    pixels: Tensor
    valid: Tensor | None
    measured: NDArray[np.bool_] | None


class RowFeed:
    """Give parts of rows one after another; a thread makes the next ones ready meanwhile. Use as a context manager.

    What fails in that thread is raised where its part is asked for.
    """

    def __init__(
        self, reader: RowReader, parts: Iterator[range], *, dtype: str, transfer: CpuTransfer | CudaTransfer
    ) -> None:
        """parts: rows in rising order, none twice; they are asked for in the thread that calls `next`."""
        self._reader, self._parts, self._dtype, self._transfer = reader, parts, dtype, transfer
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed")
        self._coming: deque[Future[FedRows]] = deque()

    def __enter__(self) -> RowFeed:
        self._reader.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._reader.__exit__(kind, error, trace)

    def next(self) -> FedRows:
        """Return the next part, as soon as it was read. Raises what reading raises."""
        self._order(1)
        part = self._coming.popleft()
        self._order(AHEAD)
        return part.result()

    def _order(self, count: int) -> None:
        """So many parts are ready or being made ready, unless the raster ends."""
        while len(self._coming) < count and (rows := next(self._parts, None)) is not None:
            self._coming.append(self._worker.submit(self._fetch, rows))

    def _fetch(self, rows: range) -> FedRows:
        """Runs in the feed's thread only."""
        cols = self._reader.cols
        self._reader.advance(rows.start, rows.stop)
        held = self._reader.hold(rows, cols)
        image = held.image[:, held.first_col : held.first_col + len(cols)]
        pixels = self._transfer.host_rows(
            len(rows), len(cols), image.shape[2], dtype=carrier_type(self._dtype)
        )
        # Not "raise", for which numpy makes the copy elsewhere first.
        np.take(image, held.rows, axis=0, out=as_pixels(pixels, self._dtype), mode="clip")
        if held.valid is None or held.valid.all():
            return FedRows(rows, pixels, None, None)
        valid = self._transfer.host_rows(*held.valid.shape, dtype=torch.uint8)
        np.copyto(valid.numpy(), held.valid)
        return FedRows(rows, pixels, valid, held.valid)


def rows_of_part(pixel: int, width: int) -> int:
    """Return how many rows a part has at the most; pixel: bytes of one, of all bands."""
    return max(1, PART_BYTES // (pixel * width))
