"""Runs a trained network on images of any size, one shape after another, as benchmark protocols ask for it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from aerial_seg.inference.engines.choose import EagerEngine, EngineSettings, Runtime, choose
from aerial_seg.inference.engines.prepare import prepare_network
from aerial_seg.models.device import pick_device, send
from aerial_seg.models.file import TrainedModel

_EXAMPLE_SIDES = 8
"""The image that shows which batch norms may be folded has this many origin steps a side."""


class AnySizeForward:
    """Images in, logits out; nothing is cut, padded or upsampled here. The caller's network stays as it is.

    The engine is eager: every new shape would be compiled anew.
    """

    def __init__(self, model: TrainedModel, settings: EngineSettings) -> None:
        """Raises SettingsError for a device or precision that is not there."""
        self._device = pick_device(settings.device)
        choice = choose(replace(settings, engine="eager"), self._device, tiles=1)
        bands, side = len(model.card.bands), _EXAMPLE_SIDES * model.network.geometry.origin_step
        noise = torch.Generator().manual_seed(0)
        network, notes = prepare_network(
            model.network,
            self._device,
            precision=choice.precision,
            example=lambda: send(torch.randn(1, bands, side, side, generator=noise), self._device),
        )
        self._engine = EagerEngine(network, precision=choice.precision, device=self._device)
        bias = torch.tensor(model.card.class_bias, dtype=torch.float32, device=self._device)
        self._bias = bias[None, :, None, None]
        self.notes = (*choice.notes, *notes)
        self.runtime = Runtime.here(choice, self._device, batch_size=1)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised images (N,C,H,W) float32 → logits (N,K,h,w) float32 on the device, the class bias added."""
        with torch.inference_mode():
            return self._engine(send(images, self._device)).float() + self._bias
