"""Runs a trained network on batches of one fixed size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from aerial_seg.models.device import place, send
from aerial_seg.models.file import TrainedModel

Image = NDArray[np.float32]


class Predictor:
    """Images in, logits out, always in batches of `batch_size`.

    The last batch is padded to the full size: another batch size moves fp32 logits in their last digits, and results
    must not depend on how the work was cut.
    """

    def __init__(self, model: TrainedModel, *, device: torch.device, batch_size: int) -> None:
        self._network = model.network.eval()
        self._device = device
        self._batch_size = batch_size
        self._bias = torch.tensor(model.card.class_bias, device=device)[:, None, None]
        place(self._network, device)

    @property
    def batch_size(self) -> int:
        """How many images `run` takes at most."""
        return self._batch_size

    def run(self, images: Sequence[Image]) -> Image:
        """Normalised images, each (C,H,W) → logits (N,K,h,w) with the class bias added, float32."""
        count = len(images)
        if not 0 < count <= self._batch_size:
            raise ValueError(f"{count} images for a batch of {self._batch_size}")
        batch = np.zeros((self._batch_size, *images[0].shape), np.float32)
        batch[:count] = images
        with torch.inference_mode():
            logits = self._network(send(torch.from_numpy(batch), self._device)) + self._bias
        result: Image = logits[:count].float().cpu().numpy()
        return result
