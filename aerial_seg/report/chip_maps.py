"""What the network of a checkpoint makes of single chips, for those who draw them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from aerial_seg.inference.device.upsample import first_largest
from aerial_seg.inference.padded_forward import PaddedForward
from aerial_seg.models.device import batch_to_device
from aerial_seg.models.network import Network
from aerial_seg.training.callbacks import Checkpoint
from aerial_seg.training.crops import Samples
from aerial_seg.training.validation.calibration import is_above


class ChipMaps:
    """The maps of chips by their numbers, with the weights of a checkpoint; each is made once per checkpoint.

    The network that is being trained is copied, never touched.
    """

    def __init__(self, network: Network, samples: Samples, device: torch.device) -> None:
        self._network, self._samples, self._device = network, samples, device
        self._iteration: int | None = None
        self._made: dict[int, NDArray[np.uint8]] = {}

    def maps(self, checkpoint: Checkpoint, numbers: Sequence[int]) -> list[NDArray[np.uint8]]:
        """(H,W) channels of each chip, as validation counts them: one chip at a time, at the threshold that ships."""
        if checkpoint.iteration != self._iteration:
            self._iteration, self._made = checkpoint.iteration, {}
        missing = [number for number in dict.fromkeys(numbers) if number not in self._made]
        if missing:
            self._make(checkpoint, missing)
        return [self._made[number] for number in numbers]

    def _make(self, checkpoint: Checkpoint, numbers: Sequence[int]) -> None:
        # Copied each time: a second network in the device's memory is not held while the first one trains.
        network = copy.deepcopy(self._network)
        network.load_state_dict(checkpoint.state)
        network.eval()
        device, outcome = self._device, checkpoint.outcome
        threshold = None if outcome is None else outcome.threshold
        whole = PaddedForward(
            lambda images: network(batch_to_device(images, device)).float(), network.geometry, any_side=False
        )
        with torch.inference_mode():
            for number in numbers:
                image, _ = self._samples[number]
                logits = whole.logits(image[None])[0]
                if threshold is None:
                    channels = first_largest(logits, dim=0)[1].cpu().numpy()
                else:
                    channels = is_above((logits[1] - logits[0]).cpu().numpy(), threshold)
                self._made[number] = channels.astype(np.uint8)
