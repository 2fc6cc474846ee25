"""Runs a network on a whole image of any size: padded to a side that it takes, run once, cut back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from aerial_seg.inference.engines.choose import EagerEngine, EngineSettings, Runtime, choose
from aerial_seg.inference.engines.eight_bits import dequantised_note
from aerial_seg.inference.engines.prepare import prepare_network
from aerial_seg.models.device import batch_to_device, pick_device
from aerial_seg.models.file import TrainedModel
from aerial_seg.models.network import Network
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.upsample import PixelAxis

Forward = Callable[[Tensor], Tensor]

_EXAMPLE_SIDES = 8
"""The image that shows which batch norms may be folded has this many origin steps a side."""


@dataclass(frozen=True, slots=True)
class PaddedForward:
    """Runs whole images, one shape after another, as validation and benchmark protocols ask for it.

    forward: normalised images (N,C,h,w) float32 → logits (N,K,cells of h,cells of w), a class bias included; on any
    device, in any float dtype. any_side: it takes every side; else images are padded at the right and at the bottom
    to a side that the geometry calls valid, with 0, which is the mean once they are normalised. notes: what was decided
    and would surprise. runtime: what the bits of the logits depend on, where it is known.

    Not what `predict` and the Segmenter run: they mirror the image at its border, where this pads with the mean as
    training and the papers do.
    """

    forward: Forward
    geometry: ModelGeometry
    any_side: bool
    notes: tuple[str, ...] = ()
    runtime: Runtime | None = None

    @classmethod
    def of(cls, network: Network, forward: Forward) -> PaddedForward:
        """A network of ours, run by `forward`; the dilated ones take any side, smp's want multiples of their stride."""
        return cls(forward, network.geometry, any_side=network.any_side)

    @classmethod
    def prepared(cls, model: TrainedModel, settings: EngineSettings) -> PaddedForward:
        """A copy of the model's network, folded and on its device, the class bias added; the model stays as it is.

        The engine is eager: every new shape would be compiled anew. Raises SettingsError for a device or precision
        that is not there.
        """
        device = pick_device(settings.device)
        choice = choose(replace(settings, engine="eager"), device, tiles=1)
        bands, side = len(model.card.bands), _EXAMPLE_SIDES * model.network.geometry.origin_step
        noise = torch.Generator().manual_seed(0)
        network, notes = prepare_network(
            model.network,
            device,
            precision=choice.precision,
            example=lambda: batch_to_device(torch.randn(1, bands, side, side, generator=noise), device),
        )
        engine = EagerEngine(network, precision=choice.precision, device=device)
        bias = torch.tensor(model.card.class_bias, dtype=torch.float32, device=device)[None, :, None, None]

        def forward(images: Tensor) -> Tensor:
            with torch.inference_mode():
                return engine(batch_to_device(images, device)).float() + bias

        return replace(
            cls.of(model.network, forward),
            notes=(*_of_eight_bits(model), *choice.notes, *notes),
            runtime=Runtime.here(choice, device, batch_size=1),
        )

    def run_side(self, side: int) -> int:
        """The side that the network sees for an image's."""
        return side if self.any_side else self.geometry.nearest_valid_sides(side)[1]

    def cells(self, images: Tensor) -> Tensor:
        """Logits (N,K,n,m) float32 on the lattice of the sides that were run."""
        high, wide = (self.run_side(side) for side in images.shape[2:])
        more = (0, wide - images.shape[3], 0, high - images.shape[2])
        cells = self.forward(pad(images, more) if any(more) else images).float()
        lattice = (self.geometry.cells(high), self.geometry.cells(wide))
        if cells.shape[2:] != lattice and not self._stretches:
            raise ValueError(
                f"logits of {tuple(cells.shape[2:])} cells for {high}×{wide} pixels, not {lattice}"
            )
        return cells

    @property
    def _stretches(self) -> bool:
        """Whether all cells of an image, however many, are stretched over it, as in training and by its project."""
        return self.any_side and self.geometry.stretched_side is not None

    def axis(self, side: int, cells: int) -> PixelAxis:
        """The first `side` pixels over an axis of so many cells."""
        if self._stretches:
            return PixelAxis.stretched(cells, side)
        run = self.run_side(side)
        if self.geometry.stretched_side is not None:
            return PixelAxis.stretched(cells, run).part(0, side)
        return PixelAxis.of(self.geometry, run=run, pixels=run).part(0, side)

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N,K,h,w) float32 at the images' own size, padding cut off; a tensor that nobody else holds."""
        height, width = images.shape[2:]
        return self.upsample(self.cells(images), height, width)

    def upsample(self, cells: Tensor, height: int, width: int) -> Tensor:
        """cells (N,K,n,m) at the first height×width pixels that they cover.

        A cell stays as many pixels wide as the logit stride, as in training. The references stretch the lattice over
        the image instead, which is the same where the image's side is valid, and moves the far edge by up to
        stride − 1 pixels where it is not; only a network whose training did so on crops of s·n + 1 pixels is run so.
        """
        if self._stretches:
            return interpolate(cells, size=(height, width), mode="bilinear")
        stride = self.geometry.logit_stride
        if stride == 1:
            return cells[:, :, :height, :width].clone()
        ends = self.geometry.ends
        size = [(count - ends) * stride + ends for count in cells.shape[2:]]
        pixels = interpolate(cells, size=size, mode="bilinear", align_corners=self.geometry.align_corners)
        span = self.geometry.cell_span or stride
        if span != stride and not self.geometry.align_corners:
            pixels = _moved(pixels, (span - stride) // 2)
        return pixels[:, :, :height, :width]


def _of_eight_bits(model: TrainedModel) -> tuple[str, ...]:
    if model.eight_bits is None:
        return ()
    return (dequantised_note("images come in many shapes here, each of which would want a graph of its own"),)


def _moved(pixels: Tensor, by: int) -> Tensor:
    """The pixels moved down and right (up and left if `by` is negative), the edge repeated behind them."""
    if by > 0:
        return pad(pixels[:, :, :-by, :-by], (by, 0, by, 0), mode="replicate")
    return pad(pixels[:, :, -by:, -by:], (0, -by, 0, -by), mode="replicate")
