"""A network as inference sees it: how it is called, where its logits lie, which sides it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import interpolate, pad

from aerial_seg.models.network import Network
from aerial_seg.tiling.geometry import ModelGeometry

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Net:
    """What protocols need of a network.

    forward: normalised images (N,C,h,w) float32 → logits (N,K,cells of h,cells of w), a class bias included; on any
    device, in any float dtype. any_side: it takes every side; else images are padded at the right and at the bottom
    to a side that the geometry calls valid, with 0, which is the mean once they are normalised.
    """

    forward: Forward
    geometry: ModelGeometry
    any_side: bool

    @classmethod
    def of(cls, network: Network, forward: Forward) -> Net:
        """A network of ours, run by `forward`; the dilated ones take any side, smp's want multiples of their stride."""
        return cls(forward, network.geometry, any_side=network.any_side)

    def run_side(self, side: int) -> int:
        """The side that the network sees for an image's."""
        return side if self.any_side else self.geometry.nearest_valid_sides(side)[1]

    def cells(self, images: Tensor) -> Tensor:
        """Logits (N,K,n,m) float32 on the lattice of the sides that were run."""
        high, wide = (self.run_side(side) for side in images.shape[2:])
        more = (0, wide - images.shape[3], 0, high - images.shape[2])
        cells = self.forward(pad(images, more) if any(more) else images).float()
        lattice = (self.geometry.cells(high), self.geometry.cells(wide))
        if cells.shape[2:] != lattice:
            raise ValueError(
                f"logits of {tuple(cells.shape[2:])} cells for {high}×{wide} pixels, not {lattice}"
            )
        return cells

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N,K,h,w) float32 at the images' own size, padding cut off; a tensor that nobody else holds."""
        height, width = images.shape[2:]
        return self.upsample(self.cells(images), height, width)

    def upsample(self, cells: Tensor, height: int, width: int) -> Tensor:
        """cells (N,K,n,m) at the first height×width pixels that they cover.

        A cell stays as many pixels wide as the logit stride, as in training. The references stretch the lattice over
        the image instead, which is the same where the image's side is valid, and moves the far edge by up to
        stride − 1 pixels where it is not.
        """
        stride = self.geometry.logit_stride
        if stride == 1:
            return cells[:, :, :height, :width].clone()
        ends = int(self.geometry.align_corners)
        size = [(count - ends) * stride + ends for count in cells.shape[2:]]
        pixels = interpolate(cells, size=size, mode="bilinear", align_corners=self.geometry.align_corners)
        span = self.geometry.cell_span or stride
        if span != stride and not self.geometry.align_corners:
            pixels = _moved(pixels, (span - stride) // 2)
        return pixels[:, :, :height, :width]


def _moved(pixels: Tensor, by: int) -> Tensor:
    """The pixels moved down and right (up and left if `by` is negative), the edge repeated behind them."""
    if by > 0:
        return pad(pixels[:, :, :-by, :-by], (by, 0, by, 0), mode="replicate")
    return pad(pixels[:, :, -by:, -by:], (0, -by, 0, -by), mode="replicate")
