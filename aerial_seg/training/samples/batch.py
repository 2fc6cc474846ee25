"""Crops of one batch: as bytes on their way to the device, and as tensors that a network takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aerial_seg.training.samples.pixels import Sample

_ALIGNED = 64


@dataclass(frozen=True, slots=True)
class Batch:
    """Hold the crops of a batch; the tensors share one memory.

    images (N,H,W,C) uint8 or float32, in the units of their files; labels (N,H,W) uint8; measured (N,H,W) uint8, 1 =
    measured; light (N,3,C) float32: what is taken from each band, what it is multiplied by then, and what is added.
    """

    images: Tensor
    labels: Tensor
    measured: Tensor
    light: Tensor


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """Say how a batch lies in a row of bytes, so that it travels as one."""

    count: int
    height: int
    width: int
    bands: int
    is_bytes: bool

    @property
    def pixels(self) -> int:
        """Pixels of all its crops together."""
        return self.count * self.height * self.width

    @property
    def size(self) -> int:
        """Bytes of a batch."""
        return self._ends()[-1]

    def _ends(self) -> list[int]:
        pixels = self.pixels
        sizes = (
            pixels * self.bands * (1 if self.is_bytes else 4),
            pixels,
            pixels,
            self.count * self.bands * 12,
        )
        ends, end = [], 0
        for size in sizes:
            end += -(-size // _ALIGNED) * _ALIGNED
            ends.append(end)
        return ends

    def split(self, flat: Tensor) -> Batch:
        """The batch in these bytes (size,) uint8, on whatever device they are; nothing is copied."""
        n, bands, pixels, size = self.count, self.bands, self.pixels, (self.height, self.width)
        images, labels, measured, light = (flat[begin:] for begin in (0, *self._ends()[:-1]))
        kind, width = (torch.uint8, 1) if self.is_bytes else (torch.float32, 4)
        return Batch(
            images[: pixels * bands * width].view(kind).view(n, *size, bands),
            labels[:pixels].view(n, *size),
            measured[:pixels].view(n, *size),
            light[: n * bands * 12].view(torch.float32).view(n, 3, bands),
        )


def finished(batch: Batch, *, all_measured: bool) -> Sample:
    """images (N,C,H,W) float32, channels-last, normalised and in the light that was drawn; labels (N,H,W) int64.

    Unmeasured pixels are 0, the training mean. It runs where the batch lies, for each image the same whatever is beside
    it. all_measured: `measured` need not be looked at.
    """
    n, height, width, bands = batch.images.shape
    # A row of pixels at a time: broadcasting over three bands in the innermost place takes twenty times as long.
    mean, factor, shift = (batch.light[:, k].repeat(1, width)[:, None] for k in range(3))
    rows = batch.images.view(n, height, width * bands).to(torch.float32)
    images = rows.sub_(mean).mul_(factor).add_(shift).view(n, height, width, bands)
    if not all_measured:
        images.masked_fill_(batch.measured.eq(0)[..., None], 0.0)
    return images.permute(0, 3, 1, 2), batch.labels.to(torch.int64)
