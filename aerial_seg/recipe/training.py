"""Recipe settings of the training loop."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from aerial_seg.recipe.crop_size import height_and_width, size_text
from aerial_seg.recipe.rates import RateSettings
from aerial_seg.recipe.section import Count, CropSize, Pixels, Weight

_OF_A_LOSS = {"focal_gamma": "focal", "ohem_threshold": "ohem", "ohem_min_kept": "ohem"}
_GAMMA, _BELOW, _AT_LEAST = 2.0, 0.7, 100_000
_AT_LEAST_OF = 512 * 1024
"""Pixels of the crops that 100,000 were chosen for."""


class TrainingSettings(RateSettings):
    """The loop. Lengths are iterations, never wall-clock, so that a run can be repeated.

    iterations, optimiser, rates and weight decay: see RateSettings. crop: pixels of the training crops: the side of a
    square, or [height, width] in this order, as the [512, 1024] of mmseg and ssseg on Cityscapes, which wants
    augmentation.rot90 = false. Tiles of `predict` are squares in any case, see prediction.tile_size.
    ema_decay: exponential moving average of the weights, validated and saved in their stead; 0 turns it off.
    gradient_clip: the largest norm of all gradients together, beyond which they are scaled down to it; 0 turns it off.
    loss: of pixels, the mean over those with a label: `cross-entropy`; `focal`: weighted by (1 − p)^focal_gamma, p the
    softmax's probability of the label (Lin et al. 2017; focal_gamma None: their 2; their α are class_weights); `ohem`:
    cross-entropy of the hard pixels alone, those whose p is below ohem_threshold (None: 0.7) and in any case the
    hardest ohem_min_kept an image (None: 100,000, as mmseg's OHEMPixelSampler), counted over the whole batch: the mean
    is over those kept, so a batch cannot come in parts; `none`: only the two below.
    label_smoothing: share of a label that all classes have alike, of cross-entropy and ohem (Szegedy et al. 2016, in
    torch's form). class_weights: of a pixel by its label's class name, default 1; `median` (or `auto`): by median
    frequency, which `tile` found in the training chips; a benchmark's training labels are counted when a run begins.
    dice_weight: share of the Dice loss (1 − F1 of the batch, mean over its classes) in favour of the IoU.
    lovasz_weight: of the Lovász-softmax loss, whose mean over the batch's classes is an extension of 1 − IoU to
    probabilities (Berman et al. 2018); it sorts all pixels of a batch, which cannot come in parts.
    loss_at: `labels`: logits are upsampled to the labels' size (DeepLabv3, section 4.1); `logits`: labels are taken at
    the cells of the logits, those of each scale of model.msc at its own (DeepLabv2; DeepLabv3's ablation, 76.01 against
    77.21 %): of the pixel in which a cell's centre lies, as Pillow's nearest (deeplab-pytorch), or with
    model.align_corners of the pixel that the cell lies on (TensorFlow's DeepLab).
    auxiliary_weight: share of the auxiliary logits' loss, which has all these terms too.
    calibrate: for two classes, choose the decision threshold on the validation pixels; 0.5 stays, and a note says why,
    where these are fewer than 10,000 of a class or the network does not tell the classes apart.
    validate_on: `chips`: each chip whole, run once; `scenes`: the validation ground as `predict` maps it, in its tiles,
    blended: as dear as a prediction of that ground. monitor: what the best checkpoint has most of, at the threshold
    that ships: `miou`, `pixel_accuracy`, `mean_accuracy`, `frequency_weighted_iou`, `iou_CLASS`, `f1_CLASS`,
    `precision_CLASS`, `recall_CLASS`, or least of: `loss` (on chips only; cross-entropy, whatever is trained with).
    patience: stop after so many validations in a row without a better one; None never stops early. The learning rate
    falls as it does over all `iterations`, so a run that stops early ends at a higher rate.
    freeze: `encoder` keeps the encoder's weights and batch norms as they came for the first freeze_iterations updates;
    0 is the whole run. It wants weights to start from.
    workers: processes that cut crops beside the network; "auto": as many as keep the device busy on the cores at hand.
    They change nothing in the results.
    """

    batch_size: Pixels = 8
    crop: CropSize = 256
    auxiliary_weight: Weight = 0.4
    loss: Literal["cross-entropy", "focal", "ohem", "none"] = "cross-entropy"
    focal_gamma: Annotated[float, Field(ge=0, le=100)] | None = None
    ohem_threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    ohem_min_kept: Count | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    dice_weight: Weight = 0.0
    lovasz_weight: Weight = 0.0
    loss_at: Literal["labels", "logits"] = "labels"
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gradient_clip: Weight = 0.0
    class_weights: Literal["median", "auto"] | dict[str, Annotated[float, Field(gt=0, le=1e6)]] = {}  # noqa: RUF012
    validate_every: Count = 200
    validate_on: Literal["chips", "scenes"] = "chips"
    monitor: Annotated[str, Field(min_length=1)] = "miou"
    patience: Annotated[int, Field(gt=0, le=1_000_000_000)] | None = None
    calibrate: bool = False
    freeze: Literal["none", "encoder"] = "none"
    freeze_iterations: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    workers: Literal["auto"] | Annotated[int, Field(ge=0, le=1024)] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @property
    def crop_size(self) -> tuple[int, int]:
        """Height and width of a crop."""
        return height_and_width(self.crop)

    @property
    def focal_exponent(self) -> float:
        """γ of the focal loss."""
        return _GAMMA if self.focal_gamma is None else self.focal_gamma

    @property
    def hard_below(self) -> float:
        """Probability of its label below which a pixel is hard."""
        return _BELOW if self.ohem_threshold is None else self.ohem_threshold

    @property
    def hard_at_least(self) -> int:
        """Pixels of an image that are kept in any case."""
        return _AT_LEAST if self.ohem_min_kept is None else self.ohem_min_kept

    @model_validator(mode="after")
    def _loss_has_its_keys(self) -> TrainingSettings:
        for key, loss in _OF_A_LOSS.items():
            value = getattr(self, key)
            if value is not None and self.loss != loss:
                raise ValueError(
                    f"{key} is {value:g}, which loss {self.loss} has no use for; "
                    f'leave it out, or set loss = "{loss}"'
                )
        if self.label_smoothing and self.loss not in ("cross-entropy", "ohem"):
            raise ValueError(
                f"label_smoothing is {self.label_smoothing:g}, but loss {self.loss} has no smoothed labels; leave it "
                'out, or set loss = "cross-entropy"'
            )
        if self.loss == "none":
            self._check_without_pixels()
        if self.loss == "ohem":
            self._check_hard_pixels()
        return self

    def _check_without_pixels(self) -> None:
        if not (self.dice_weight or self.lovasz_weight):
            raise ValueError(
                "loss is none and there is nothing else to learn from; set dice_weight or lovasz_weight, or "
                'loss = "cross-entropy"'
            )
        if self.class_weights:
            raise ValueError(
                "class_weights are those of pixels, which loss none does not have; leave them out, or set "
                'loss = "cross-entropy"'
            )

    def _check_hard_pixels(self) -> None:
        if self.loss_at == "logits":
            raise ValueError(
                'loss ohem chooses among the pixels of labels, but loss_at is logits; set loss_at = "labels"'
            )
        pixels = math.prod(self.crop_size)
        if self.hard_at_least >= pixels:
            fewer = max(1, pixels * _AT_LEAST // _AT_LEAST_OF)
            raise ValueError(
                f"ohem_min_kept is {self.hard_at_least:,}, but a crop of {size_text(self.crop)} has {pixels:,} pixels: "
                f"none would be left out; set ohem_min_kept = {fewer}, the share that 100,000 are of 512 × 1024"
            )
