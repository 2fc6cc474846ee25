"""Validation on whole chips: the exact confusion matrix, and the decision threshold of two-class models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from aerial_seg.inference.padded_forward import PaddedForward
from aerial_seg.legend import IGNORE
from aerial_seg.metrics import ConfusionMatrix
from aerial_seg.models.device import batch_to_device
from aerial_seg.models.network import Network
from aerial_seg.training.crops import ChipStore

THRESHOLDS = np.arange(0.05, 0.951, 0.01)


class ThresholdCurve:
    """Counts of two-class decisions at each threshold on the probability of channel 1."""

    def __init__(self) -> None:
        self._truth_by_bin = np.zeros((2, len(THRESHOLDS) + 1), np.int64)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """logits (N,2,H,W), labels (N,H,W)."""
        probability = torch.sigmoid(logits[:, 1] - logits[:, 0]).cpu().numpy()
        truth = labels.cpu().numpy()
        known = truth != IGNORE
        bins = np.searchsorted(THRESHOLDS, probability[known], side="left")
        flat = truth[known] * (len(THRESHOLDS) + 1) + bins
        self._truth_by_bin += np.bincount(flat, minlength=self._truth_by_bin.size).reshape(2, -1)

    def best(self) -> tuple[float, float]:
        """(threshold, IoU of channel 1) with the largest IoU; a pixel is channel 1 above the threshold."""
        above = self._truth_by_bin[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
        union = above[0] + self._truth_by_bin[1].sum()
        iou = above[1] / np.maximum(union, 1)
        k = int(np.argmax(iou))
        return float(THRESHOLDS[k]), float(iou[k])


def validate(
    network: Network,
    store: ChipStore,
    *,
    classes: int,
    device: torch.device,
    bias: Sequence[float] | None = None,
) -> tuple[ConfusionMatrix, ThresholdCurve | None]:
    """Every chip whole, one at a time, padded to a side that the network takes; nothing is augmented.

    bias: added to the logits before the argmax (a trained model's class bias). The network is left in the mode it
    came in.
    """
    shift = torch.zeros(classes) if bias is None else torch.tensor(bias)
    shift = shift.to(device)[None, :, None, None]
    matrix = ConfusionMatrix(classes)
    curve = ThresholdCurve() if classes == 2 else None
    # As in training: every side is padded, also for a network that would take it as it is.
    whole = PaddedForward(
        lambda images: network(batch_to_device(images, device)).float(), network.geometry, any_side=False
    )
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        for index in range(len(store)):
            image, labels = store[index]
            logits = whole.logits(image[None]) + shift
            matrix.add(labels.numpy(), logits.argmax(dim=1)[0].cpu().numpy())
            if curve is not None:
                curve.add(logits, labels[None])
    network.train(was_training)
    return matrix, curve


def threshold_bias(threshold: float) -> tuple[float, float]:
    """What to add to two logits so that their argmax is 1 exactly where p(1) > threshold."""
    return 0.0, -math.log(threshold / (1 - threshold))
