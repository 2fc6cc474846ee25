"""The loss of an effective batch: cross-entropy and Dice, over all processes and all parts that it is cut into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.legend import IGNORE
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.training.processes import sum_over_processes

_HALVES = (torch.bfloat16, torch.float16)
_LEAST = 1e-7
"""Below a Dice score's denominator, as smp has it."""


def to_label_size(logits: Tensor, geometry: ModelGeometry, height: int, width: int) -> Tensor:
    """Logits upsampled bilinearly to the labels' size, never the labels to the logits'."""
    if logits.shape[2:] == (height, width):
        return logits
    return interpolate(logits, size=(height, width), mode="bilinear", align_corners=geometry.align_corners)


class SegmentationLoss(nn.Module):
    """The loss of the main logits plus `auxiliary_weight` times that of the auxiliary ones.

    The loss is cross-entropy, the mean over labelled pixels, each with its class's weight, plus `dice_weight` times
    the Dice loss over the batch's labelled pixels; a batch without a labelled pixel has loss 0. Both are over the
    pixels of all processes, however unequally these are labelled. Of a batch in parts the cross-entropies add up to
    that of the whole batch; Dice, which is no sum over pixels, is the mean of that of each part.

    Dice: 1 − 2·Σ p·t / Σ (p + t) of every class, p its probability and t whether it is the label, over labelled
    pixels; a class without any counts 0; the mean over all classes. Source: Milletari et al. 2016, V-Net, in the form
    of segmentation_models_pytorch's DiceLoss, which cannot sum over processes.
    """

    def __init__(
        self,
        geometry: ModelGeometry,
        *,
        auxiliary_weight: float,
        class_weights: Tensor,
        dice_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.geometry = geometry
        self.auxiliary_weight = auxiliary_weight
        self.dice_weight = dice_weight
        self.class_weights: Tensor
        self.register_buffer("class_weights", class_weights)

    def total_weight(self, labels: Tensor) -> Tensor:
        """The class weights of all labelled pixels of all processes, added up: what the cross-entropy is divided by.

        labels (N,H,W): this process's of the whole effective batch.
        """
        pixels = torch.bincount(labels[labels != IGNORE], minlength=len(self.class_weights))
        return sum_over_processes((pixels.double() * self.class_weights.double()).sum())

    def forward(
        self,
        logits: Tensor,
        auxiliary: Tensor | None,
        labels: Tensor,
        others: Sequence[Tensor] = (),
        *,
        total_weight: Tensor | None = None,
        parts: int = 1,
    ) -> Tensor:
        """logits, auxiliary and others (N,K,h,w), labels (N,H,W) int64, 255 = ignore → scalar, alike in all processes.

        others: logits that have the full loss too, as each scale's beside the largest ones (DeepLabv2's MSC).
        total_weight, parts: of the effective batch that these labels are a part of; None: they are all of it. The
        losses of the parts add up to that of the batch.
        """
        weight = self.total_weight(labels) if total_weight is None else total_weight
        outputs, shares = [logits, *others], [1.0] * (1 + len(others))
        if auxiliary is not None and self.auxiliary_weight:
            outputs.append(auxiliary)
            shares.append(self.auxiliary_weight)
        # One sum over processes for all of them: each costs a round through the network.
        sums = sum_over_processes(torch.stack([self._sums(one, labels) for one in outputs]))
        entropies = sums[:, 0] / torch.where(weight > 0, weight, 1).to(sums.dtype)
        losses = entropies + self.dice_weight / parts * _dice(sums[:, 1:]) if self.dice_weight else entropies
        return (losses * losses.new_tensor(shares)).sum()

    def _sums(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What of this process's pixels adds up: their cross-entropy and, for Dice, Σ p·t, Σ p and Σ t by class."""
        logits = logits.float() if logits.dtype in _HALVES else logits
        full = to_label_size(logits, self.geometry, *labels.shape[1:])
        weights = self.class_weights.to(full.dtype)
        entropy = cross_entropy(full, labels, weight=weights, ignore_index=IGNORE, reduction="sum")
        if not self.dice_weight:
            return entropy[None]
        known = (labels != IGNORE)[:, None]
        truth = (labels[:, None] == torch.arange(full.shape[1], device=labels.device)[:, None, None]).to(
            full.dtype
        )
        probability = full.softmax(dim=1) * known
        axes = (0, 2, 3)
        by_class = ((probability * truth).sum(axes), probability.sum(axes), truth.sum(axes))
        return torch.cat([entropy[None], *by_class])


def _dice(sums: Tensor) -> Tensor:
    """sums (M, 3·K): Σ p·t, Σ p and Σ t by class → the Dice loss of each of the M outputs."""
    hits, probabilities, truths = sums.chunk(3, dim=1)
    scores = 2 * hits / (probabilities + truths).clamp_min(_LEAST)
    return ((1 - scores) * (truths > 0)).mean(dim=1)


def class_weight_tensor(weights: Mapping[str, float] | str, names: Sequence[str]) -> Tensor:
    """The weight of every channel; 1 for classes that are not named. Raises SettingsError for unknown classes.

    A word for weights is a number per class by the time that a run begins.
    """
    if isinstance(weights, str):
        raise SettingsError(
            f"training.class_weights is '{weights}' and nobody counted the classes; name them"
        )
    for name in weights:
        if name not in names:
            raise SettingsError(
                f"training.class_weights names '{name}', which is no class of the dataset"
                f"{did_you_mean(name, names)}; known: {', '.join(names)}"
            )
    return torch.tensor([float(weights.get(name, 1.0)) for name in names])
