"""The loss of an effective batch, over all processes and all parts that it is cut into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.legend import IGNORE
from aerial_seg.recipe.training import TrainingSettings
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.training.loss_terms.overlaps import dice, dice_sums, lovasz_share
from aerial_seg.training.loss_terms.pixels import pixel_sums
from aerial_seg.training.loss_terms.places import labels_at_cells, to_label_size
from aerial_seg.training.loss_terms.terms import Terms
from aerial_seg.training.processes import sum_over_processes

_HALVES = (torch.bfloat16, torch.float16)


class SegmentationLoss(nn.Module):
    """The loss of the main logits plus `auxiliary_weight` times that of the auxiliary ones.

    The loss of an output is that of its pixels, plus `dice_weight` times the Dice loss and `lovasz_weight` times the
    Lovász-softmax loss over the batch's labelled pixels; a batch without a labelled pixel has loss 0. All are over the
    pixels of all processes, however unequally these are labelled. Of a batch in parts the pixels' losses add up to that
    of the whole batch; Dice, which is no sum over pixels, is the mean of that of each part; hard pixels and Lovász are
    refused there.

    Pixels: cross-entropy (with smoothed labels if so asked) or focal loss, the sum over labelled pixels, each with its
    class's weight, over the sum of these weights; or the same mean of the cross-entropy of the hard pixels alone.
    Dice: 1 − 2·Σ p·t / Σ (p + t) of every class, p its probability and t whether it is the label, over labelled
    pixels; a class without any counts 0; the mean over all classes. Source: Milletari et al. 2016, V-Net, in the form
    of segmentation_models_pytorch's DiceLoss, which cannot sum over processes.
    Logits of 16 bits have their loss in float32.
    """

    def __init__(
        self,
        geometry: ModelGeometry,
        *,
        auxiliary_weight: float,
        class_weights: Tensor,
        terms: Terms = Terms(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        terms.check_geometry(geometry)
        self.geometry = geometry
        self.auxiliary_weight = auxiliary_weight
        self.terms = terms
        self.class_weights: Tensor
        self.register_buffer("class_weights", class_weights)

    @classmethod
    def of(
        cls, settings: TrainingSettings, geometry: ModelGeometry, names: Sequence[str]
    ) -> SegmentationLoss:
        """The recipe's loss for logits of these classes. Raises SettingsError where the network cannot have it."""
        return cls(
            geometry,
            auxiliary_weight=settings.auxiliary_weight,
            class_weights=class_weight_tensor(settings.class_weights, names),
            terms=Terms.of(settings),
        )

    def total_weight(self, labels: Tensor) -> TotalWeight:
        """What the pixels' losses of this effective batch are divided by. labels (N,H,W): this process's of all of it.

        All processes ask for it at once.
        """
        return TotalWeight(self, labels)

    def forward(
        self,
        logits: Tensor,
        auxiliary: Tensor | None,
        labels: Tensor,
        others: Sequence[Tensor] = (),
        *,
        total_weight: TotalWeight | None = None,
        parts: int = 1,
    ) -> Tensor:
        """logits, auxiliary and others (N,K,h,w), labels (N,H,W) int64, 255 = ignore → scalar, alike in all processes.

        others: logits that have the full loss too, as each scale's beside the largest ones (DeepLabv2's MSC).
        total_weight, parts: of the effective batch that these labels are a part of; None: they are all of it. The
        losses of the parts add up to that of the batch. Raises SettingsError for terms that a part has none of.
        """
        terms = self.terms
        terms.check_parts(parts)
        weights = self.total_weight(labels) if total_weight is None else total_weight
        outputs, shares = [logits, *others], [1.0] * (1 + len(others))
        if auxiliary is not None and self.auxiliary_weight:
            outputs.append(auxiliary)
            shares.append(self.auxiliary_weight)
        # One sum over processes for all of them: each costs a round through the network.
        sums = sum_over_processes(torch.stack([self._sums(one, labels) for one in outputs]))
        pixels = terms.pixel != "none"
        if terms.pixel == "ohem":
            weight, start = sums[:, 1].detach(), 2
        else:
            weight = (
                torch.stack([weights.at(self._size(one, labels)) for one in outputs])
                if pixels
                else sums[:, 0]
            )
            start = int(pixels)
        losses = (
            sums[:, 0] / torch.where(weight > 0, weight, 1).to(sums.dtype) if pixels else 0 * sums.sum(dim=1)
        )
        if terms.dice_weight:
            end = start + 3 * len(self.class_weights)
            losses = losses + terms.dice_weight / parts * dice(sums[:, start:end])
            start = end
        if terms.lovasz_weight:
            losses = losses + terms.lovasz_weight * sums[:, start]
        return (losses * losses.new_tensor(shares)).sum()

    def labels_at(self, labels: Tensor, size: tuple[int, int]) -> Tensor:
        """The labels at cells (height, width)."""
        return labels_at_cells(labels, *size, align_corners=self.geometry.align_corners)

    def _size(self, logits: Tensor, labels: Tensor) -> tuple[int, int]:
        """Height and width at which these logits meet the labels."""
        height, width = (logits if self.terms.at_logits else labels).shape[-2:]
        return height, width

    def _sums(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What of this process's pixels adds up: the pixels' losses, Dice's sums and the share of Lovász, as asked."""
        logits = logits.float() if logits.dtype in _HALVES else logits
        size = self._size(logits, labels)
        full, wanted = to_label_size(logits, self.geometry, *size), self.labels_at(labels, size)
        sums = []
        if self.terms.pixel != "none":
            sums.append(pixel_sums(full, wanted, self.class_weights.to(full.dtype), self.terms))
        if self.terms.dice_weight:
            sums.append(dice_sums(full, wanted))
        if self.terms.lovasz_weight:
            sums.append(lovasz_share(full, wanted)[None])
        return torch.cat(sums)


class TotalWeight:
    """The class weights of all labelled pixels of an effective batch, added up over all processes, by size of labels.

    Logits of several sizes may meet the labels at their own cells; each size is summed once, as it is asked for.
    """

    def __init__(self, loss: SegmentationLoss, labels: Tensor) -> None:
        self._loss, self._labels = loss, labels
        self._sums: dict[tuple[int, int], Tensor] = {}
        if loss.terms.pixel in ("cross-entropy", "focal") and not loss.terms.at_logits:
            height, width = labels.shape[1:]
            self.at((height, width))

    def at(self, size: tuple[int, int]) -> Tensor:
        """float64: the sum where labels are taken at cells (height, width)."""
        if size not in self._sums:
            labels, weights = self._loss.labels_at(self._labels, size), self._loss.class_weights
            pixels = torch.bincount(labels[labels != IGNORE], minlength=len(weights))
            self._sums[size] = sum_over_processes((pixels.double() * weights.double()).sum())
        return self._sums[size]


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
