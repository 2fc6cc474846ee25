"""Recipe settings of the training loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aerial_seg.recipe.rates import RateSettings
from aerial_seg.recipe.section import Count, Pixels, Weight


class TrainingSettings(RateSettings):
    """The loop. Lengths are iterations, never wall-clock, so that a run can be repeated.

    iterations, optimiser, rates and weight decay: see RateSettings. crop: side of the training crop in pixels.
    auxiliary_weight: share of the auxiliary loss. dice_weight: share of the Dice loss (1 − F1 of the batch, mean over
    its classes) beside cross-entropy, in favour of the IoU. ema_decay: exponential moving average of the weights,
    validated and saved in their stead; 0 turns it off. gradient_clip: the largest norm of all gradients together,
    beyond which they are scaled down to it; 0 turns it off. class_weights: by class name, default 1; `median`: those by
    median frequency that `tile` found in the training chips.
    calibrate: for two classes, choose the decision threshold on the validation pixels; 0.5 stays, and a note says why,
    where these are fewer than 10,000 of a class or the network does not tell the classes apart.
    validate_on: `chips`: each chip whole, run once; `scenes`: the validation ground as `predict` maps it, in its tiles,
    blended: as dear as a prediction of that ground. monitor: what the best checkpoint has most of, at the threshold
    that ships: `miou`, `pixel_accuracy`, `mean_accuracy`, `frequency_weighted_iou`, `iou_CLASS`, `f1_CLASS`,
    `precision_CLASS`, `recall_CLASS`, or least of: `loss` (on chips only).
    patience: stop after so many validations in a row without a better one; None never stops early. The learning rate
    falls as it does over all `iterations`, so a run that stops early ends at a higher rate.
    freeze: `encoder` keeps the encoder's weights and batch norms as they came for the first freeze_iterations updates;
    0 is the whole run. It wants weights to start from.
    workers: processes that cut crops beside the network; "auto": as many as keep the device busy on the cores at hand.
    They change nothing in the results.
    """

    batch_size: Pixels = 8
    crop: Pixels = 256
    auxiliary_weight: Weight = 0.4
    dice_weight: Weight = 0.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gradient_clip: Weight = 0.0
    class_weights: Literal["median"] | dict[str, Annotated[float, Field(gt=0, le=1e6)]] = {}  # noqa: RUF012
    validate_every: Count = 200
    validate_on: Literal["chips", "scenes"] = "chips"
    monitor: Annotated[str, Field(min_length=1)] = "miou"
    patience: Annotated[int, Field(gt=0, le=1_000_000_000)] | None = None
    calibrate: bool = False
    freeze: Literal["none", "encoder"] = "none"
    freeze_iterations: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    workers: Literal["auto"] | Annotated[int, Field(ge=0, le=1024)] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
