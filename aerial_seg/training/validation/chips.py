"""Validation on whole chips: what the network makes of each, counted so that any threshold can be scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from aerial_seg.inference.device.upsample import first_largest
from aerial_seg.inference.padded_forward import PaddedForward
from aerial_seg.legend import IGNORE
from aerial_seg.models.device import OutOfMemory, batch_to_device, has_own_memory, release_memory
from aerial_seg.models.network import Network
from aerial_seg.training.crops import Sample, Samples
from aerial_seg.training.validation.tallies import ChipTally, Count, Tallies, uncounted

Result = TypeVar("Result")

_PIXELS_AT_ONCE = 1 << 19
"""Of chips that run together on a device: 8 of 256 pixels a side, which keep it busy and fit where training did."""
_VALUES_AT_ONCE = 1 << 24
"""Logits at full size, likewise: 64 MiB."""


def validate(
    network: Network,
    store: Samples,
    *,
    classes: int,
    device: torch.device,
    bias: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    with_loss: bool = False,
    tell: Count = uncounted,
) -> Tallies:
    """Every chip whole, padded to a side that the network takes; nothing is augmented.

    On a device with memory of its own, neighbours of one size run together; on the CPU each runs alone, where another
    batch size would move logits in their last digits. bias: added to the logits before the argmax (a trained model's
    class bias). names: of the chips; None: their numbers. with_loss: also the mean cross-entropy of labelled pixels.
    tell: is told how many chips are done. The network is left in the mode it came in.
    """
    shift = torch.zeros(classes) if bias is None else torch.tensor(bias)
    shift = shift.to(device)[None, :, None, None]
    told = iter(map(str, range(len(store))) if names is None else names)
    counting = _Counting(classes, with_loss=with_loss)
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
                counting.add_images(told, logits, predicted, truth)
                tell(counting.count, len(store))
    network.train(was_training)
    return counting.tallies()


class _Counting:
    """Counts images as they come from the network."""

    def __init__(self, classes: int, *, with_loss: bool) -> None:
        self._classes, self._with_loss = classes, with_loss
        self._chips: list[ChipTally] = []
        self._loss, self._pixels = 0.0, 0

    def add_images(self, names: Iterator[str], logits: Tensor, predicted: Tensor, truth: Tensor) -> None:
        """logits (N,K,H,W) and predicted (N,H,W) on the device, truth (N,H,W)."""
        if self._with_loss:
            wanted = truth.long().to(logits.device)
            self._loss += float(cross_entropy(logits, wanted, ignore_index=IGNORE, reduction="sum"))
            self._pixels += int((truth != IGNORE).sum())
        margins = (logits[:, 1] - logits[:, 0]).cpu().numpy() if self._classes == 2 else None
        for k, (labels, said) in enumerate(zip(truth.numpy(), predicted.cpu().numpy(), strict=True)):
            chip = ChipTally(next(names), self._classes)
            chip.add(labels, said, None if margins is None else margins[k])
            self._chips.append(chip)

    @property
    def count(self) -> int:
        """How many chips were counted."""
        return len(self._chips)

    def tallies(self) -> Tallies:
        """All that was counted."""
        loss = self._loss / self._pixels if self._with_loss and self._pixels else None
        return Tallies(tuple(self._chips), self._classes, loss)


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
