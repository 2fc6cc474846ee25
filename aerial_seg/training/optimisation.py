"""Loss, optimiser, learning-rate schedule and weight averaging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.legend import IGNORE
from aerial_seg.models.network import Network
from aerial_seg.recipe import TrainingSettings
from aerial_seg.tiling.geometry import ModelGeometry


def to_label_size(logits: Tensor, geometry: ModelGeometry, height: int, width: int) -> Tensor:
    """Logits upsampled bilinearly to the labels' size, never the labels to the logits'."""
    if logits.shape[2:] == (height, width):
        return logits
    return interpolate(logits, size=(height, width), mode="bilinear", align_corners=geometry.align_corners)


class SegmentationLoss(nn.Module):
    """The loss of the main logits plus `auxiliary_weight` times that of the auxiliary ones.

    The loss is cross-entropy, the mean over labelled pixels, each with its class's weight, plus `dice_weight` times
    the Dice loss over the batch's labelled pixels; a batch without a labelled pixel has loss 0.
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
        self._dice = DiceLoss(mode="multiclass", ignore_index=IGNORE)
        self.class_weights: Tensor
        self.register_buffer("class_weights", class_weights)

    def forward(
        self, logits: Tensor, auxiliary: Tensor | None, labels: Tensor, others: Sequence[Tensor] = ()
    ) -> Tensor:
        """logits, auxiliary and others (N,K,h,w), labels (N,H,W) int64, 255 = ignore → scalar.

        others: logits that have the full loss too, as each scale's beside the largest ones (DeepLabv2's MSC).
        """
        loss = self._one(logits, labels)
        for other in others:
            loss = loss + self._one(other, labels)
        if auxiliary is not None and self.auxiliary_weight:
            loss = loss + self.auxiliary_weight * self._one(auxiliary, labels)
        return loss

    def _one(self, logits: Tensor, labels: Tensor) -> Tensor:
        full = to_label_size(logits.float(), self.geometry, *labels.shape[1:])
        if not (labels != IGNORE).any():
            return full.sum() * 0.0
        loss = cross_entropy(full, labels, weight=self.class_weights, ignore_index=IGNORE)
        return loss + self.dice_weight * self._dice(full, labels) if self.dice_weight else loss


def class_weight_tensor(weights: Mapping[str, float], names: Sequence[str]) -> Tensor:
    """The weight of every channel; 1 for classes that are not named. Raises SettingsError for unknown classes."""
    for name in weights:
        if name not in names:
            raise SettingsError(
                f"training.class_weights names '{name}', which is no class of the dataset"
                f"{did_you_mean(name, names)}; known: {', '.join(names)}"
            )
    return torch.tensor([float(weights.get(name, 1.0)) for name in names])


def make_optimizer(network: Network, settings: TrainingSettings) -> Optimizer:
    """SGD with momentum or AdamW over every parameter, the auxiliary head's included; fused: one pass over memory."""
    if settings.optimizer == "sgd":
        return SGD(
            network.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    return AdamW(
        network.parameters(),
        lr=settings.learning_rate,
        betas=(settings.momentum, settings.adam_beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )


def learning_rate_factor(iteration: int, settings: TrainingSettings) -> float:
    """Poly: (1 − i/n)^power for the update number i = 0 … n−1, after a linear rise over `warmup` updates.

    The last update still has a positive rate. Source: Chen et al. 2017, section 4.1 (power 0.9).
    """
    poly = (1 - min(iteration, settings.iterations - 1) / settings.iterations) ** settings.power
    rise = min(1.0, (iteration + 1) / (settings.warmup + 1))
    return float(poly * rise)


def make_schedule(optimizer: Optimizer, settings: TrainingSettings) -> LambdaLR:
    """The schedule to step once after every update."""
    return LambdaLR(optimizer, lambda iteration: learning_rate_factor(iteration, settings))


class WeightAverage:
    """An exponential moving average of all weights and batch-norm statistics.

    The decay rises from 0 as (1 + i)/(10 + i) up to `decay`, so that the first random weights are soon forgotten.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self._decay = decay
        self.updates = 0
        self.state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    def update(self, network: Network) -> None:
        """Take in the network's weights after one update of the optimiser."""
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor.detach(), 1 - decay)
            else:
                self.state[name].copy_(tensor)

    def load(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Go on from an average of so many updates. Raises ValueError where it is of other weights."""
        if state.keys() != self.state.keys():
            raise ValueError("the averaged weights are of another network")
        for name, tensor in self.state.items():
            tensor.copy_(state[name])
        self.updates = int(updates)
