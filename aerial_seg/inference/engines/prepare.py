"""A trained network made ready to compute: a copy, folded, laid out and cast, whatever engine runs it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from aerial_seg.inference.engines.fold_batch_norm import FOLD_TOLERANCE, fold_batch_norms
from aerial_seg.models.device import cast_weights, reproducible, to_device
from aerial_seg.models.network import Network


def prepare_network(
    original: Network, device: torch.device, *, precision: str, example: Callable[[], Tensor]
) -> tuple[nn.Module, list[str]]:
    """Return (a copy of the network for inference on the device, notes); the original stays as it is.

    It has no auxiliary head, its batch norms are folded, its weights lie in `precision`. example: makes one image
    (1,C,H,W) on the device, which shows what may be folded.
    """
    network = copy.deepcopy(original).eval()
    network.drop_training_parts()
    to_device(network, device)
    with reproducible(device):
        folded = fold_batch_norms(network.run_once, example())
    cast_weights(network, precision)
    to_device(network, device)
    if folded.change <= FOLD_TOLERANCE:
        return network, []
    return network, [
        f"batch norms are not folded: that would change logits by {folded.change:.1g} of the largest, more than "
        f"{FOLD_TOLERANCE:g}; check the model's training if this is not expected"
    ]
