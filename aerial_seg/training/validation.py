"""Validation on whole chips: the exact confusion matrix, and the decision threshold of two-class models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from aerial_seg.inference.device.upsample import first_largest
from aerial_seg.inference.padded_forward import PaddedForward
from aerial_seg.legend import IGNORE
from aerial_seg.metrics import ConfusionMatrix
from aerial_seg.models.device import OutOfMemory, batch_to_device, has_own_memory, release_memory
from aerial_seg.models.network import Network
from aerial_seg.training.crops import Sample, Samples

Result = TypeVar("Result")

THRESHOLDS = np.arange(0.05, 0.951, 0.01)
_PIXELS_AT_ONCE = 1 << 19
"""Of chips that run together on a device: 8 of 256 pixels a side, which keep it busy and fit where training did."""
_VALUES_AT_ONCE = 1 << 24
"""Logits at full size, likewise: 64 MiB."""


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
    store: Samples,
    *,
    classes: int,
    device: torch.device,
    bias: Sequence[float] | None = None,
    each: Callable[[ConfusionMatrix], None] | None = None,
) -> tuple[ConfusionMatrix, ThresholdCurve | None]:
    """Every chip whole, padded to a side that the network takes; nothing is augmented.

    On a device with memory of its own, neighbours of one size run together; on the CPU each runs alone, where another
    batch size would move logits in their last digits. bias: added to the logits before the argmax (a trained model's
    class bias). each: is given the matrix of every chip, in their order. The network is left in the mode it came in.
    """
    shift = torch.zeros(classes) if bias is None else torch.tensor(bias)
    shift = shift.to(device)[None, :, None, None]
    matrix = ConfusionMatrix(classes)
    curve = ThresholdCurve() if classes == 2 else None
    # As in training: every side is padded, also for a network that would take it as it is.
    whole = PaddedForward(
        lambda images: network(batch_to_device(images, device)).float(), network.geometry, any_side=False
    )

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        logits = whole.logits(images) + shift
        return logits, first_largest(logits, dim=1)[1]

    was_training = network.training
    network.eval()
    with torch.inference_mode():
        for images, labels in _batches(
            store, most=_VALUES_AT_ONCE // classes if has_own_memory(device) else 1
        ):
            for (logits, predicted), truth in _fitting(run, images, labels, device):
                for labels_of_one, said in zip(truth.numpy(), predicted.cpu().numpy(), strict=True):
                    one = ConfusionMatrix(classes)
                    one.add(labels_of_one, said)
                    matrix.merge(one)
                    if each is not None:
                        each(one)
                if curve is not None:
                    curve.add(logits, truth)
    network.train(was_training)
    return matrix, curve


def _fitting(
    run: Callable[[Tensor], Result], images: Tensor, labels: Tensor, device: torch.device
) -> Iterator[tuple[Result, Tensor]]:
    """What `run` gives for the images, and their labels; in halves where the device runs out of memory."""
    try:
        result = run(images)
    except OutOfMemory:
        if len(images) == 1:
            raise
    else:
        yield result, labels
        return
    release_memory(device)  # only outside the handler are the failed attempt's tensors free
    half = len(images) // 2
    yield from _fitting(run, images[:half], labels[:half], device)
    yield from _fitting(run, images[half:], labels[half:], device)


def _batches(store: Samples, *, most: int) -> Iterator[Sample]:
    """images (N,C,H,W) and labels (N,H,W): neighbours of one size with at most so many pixels, or one chip."""
    waiting: list[Sample] = []
    for index in range(len(store)):
        image, labels = store[index]
        if waiting and (
            image.shape != waiting[0][0].shape
            or (len(waiting) + 1) * labels.numel() > min(most, _PIXELS_AT_ONCE)
        ):
            yield _stacked(waiting)
            waiting = []
        waiting.append((image, labels))
    if waiting:
        yield _stacked(waiting)


def _stacked(samples: Sequence[Sample]) -> Sample:
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(labels)


def threshold_bias(threshold: float) -> tuple[float, float]:
    """What to add to two logits so that their argmax is 1 exactly where p(1) > threshold."""
    return 0.0, -math.log(threshold / (1 - threshold))
