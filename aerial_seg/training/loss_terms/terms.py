"""Which terms a loss has, and where they can be computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aerial_seg.errors import SettingsError
from aerial_seg.mentions import setting
from aerial_seg.recipe.training import TrainingSettings
from aerial_seg.tiling.geometry import ModelGeometry

PixelLoss = Literal["cross-entropy", "focal", "ohem", "none"]


@dataclass(frozen=True, slots=True)
class Terms:
    """Hold the terms of a loss as the recipe's training keys of the same names have them. ohem_min_kept: per image.

    at_logits: labels are taken at the cells of the logits, instead of logits upsampled to the labels' size.
    """

    pixel: PixelLoss = "cross-entropy"
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    ohem_threshold: float = 0.7
    ohem_min_kept: int = 100_000
    dice_weight: float = 0.0
    lovasz_weight: float = 0.0
    at_logits: bool = False

    @classmethod
    def of(cls, settings: TrainingSettings) -> Terms:
        """The recipe's."""
        return cls(
            pixel=settings.loss,
            label_smoothing=settings.label_smoothing,
            focal_gamma=settings.focal_exponent,
            ohem_threshold=settings.hard_below,
            ohem_min_kept=settings.hard_at_least,
            dice_weight=settings.dice_weight,
            lovasz_weight=settings.lovasz_weight,
            at_logits=settings.loss_at == "logits",
        )

    @property
    def whole_batch(self) -> str:
        """The key of a term that needs all pixels of a batch at once; empty where there is none."""
        if self.pixel == "ohem":
            return 'training.loss = "ohem"'
        return f"training.lovasz_weight = {self.lovasz_weight:g}" if self.lovasz_weight else ""

    def check_parts(self, parts: int) -> None:
        """Raises SettingsError for a term that a batch in parts does not have: the gradients of its parts are others.

        Hard pixels are the hardest of the batch, and Lovász sorts all errors of a class; the first part would have to
        know the others' logits. Dice is the mean of that of each part, which its key says.
        """
        if parts > 1 and self.whole_batch:
            raise SettingsError(
                f"{self.whole_batch} needs the whole batch at once, got one in {parts} parts; leave "
                f"{setting('accumulate', parts)} out, and take a smaller training.batch_size or training.crop, or "
                'training.loss = "cross-entropy" and training.lovasz_weight = 0'
            )

    def check_geometry(self, geometry: ModelGeometry) -> None:
        """Raises SettingsError where labels would be taken at logits that have the labels' size anyway."""
        if self.at_logits and geometry.logit_stride == 1:
            raise SettingsError(
                "training.loss_at is 'logits', but the network's logits have the labels' size, wanted a network whose "
                "logits are smaller (deeplabv2, deeplabv3, fcn, pspnet); leave it out, or set "
                'training.loss_at = "labels"'
            )


def check_loss(settings: TrainingSettings, geometry: ModelGeometry, *, parts: int) -> None:
    """Raises SettingsError for a loss that this network, or a batch in so many parts, cannot have."""
    terms = Terms.of(settings)
    terms.check_parts(parts)
    terms.check_geometry(geometry)
