"""The loop: forward, loss, backward, update; validate now and then; keep the best and the last weights."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from aerial_seg.errors import AerialSegError
from aerial_seg.metrics import Scores
from aerial_seg.models.device import batch_to_device, training_precision
from aerial_seg.models.network import Network
from aerial_seg.progress import Progress
from aerial_seg.recipe import Recipe
from aerial_seg.training.crops import ChipStore, CropDataset, Sample
from aerial_seg.training.optimisation import (
    SegmentationLoss,
    WeightAverage,
    class_weight_tensor,
    make_optimizer,
    make_schedule,
)
from aerial_seg.training.validation import validate


class TrainingError(AerialSegError):
    """Training cannot go on."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights after `iteration` updates, with their scores on the validation chips (None without any)."""

    iteration: int
    state: dict[str, Tensor]
    scores: Scores | None
    threshold: tuple[float, float] | None = None

    @property
    def miou(self) -> float:
        """Validation mIoU; −1 where none is defined, so that any defined one is better."""
        return -1.0 if self.scores is None or math.isnan(self.scores.miou) else self.scores.miou


@dataclass(slots=True)
class History:
    """What the CSV log holds: the loss of every update, the scores of every validation."""

    losses: list[tuple[int, float, float]] = field(default_factory=list)
    validations: list[tuple[int, Scores]] = field(default_factory=list)

    def write_csv(self, path: Path) -> None:
        """iteration, loss, learning_rate and, on validated iterations, miou and one IoU column per class."""
        names = [entry.name for entry in self.validations[0][1].classes] if self.validations else []
        scored = dict(self.validations)
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["iteration", "loss", "learning_rate", "miou", *(f"iou_{name}" for name in names)])
            for iteration, loss, rate in self.losses:
                scores = scored.get(iteration)
                numbers = [scores.miou, *(c.iou for c in scores.classes)] if scores else []
                rows.writerow([iteration, f"{loss:.6g}", f"{rate:.6g}", *(f"{n:.6f}" for n in numbers)])


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The chips of a run and what their channels are called."""

    train: ChipStore
    val: ChipStore | None
    names: tuple[str, ...]


def run_training(
    network: Network,
    data: TrainingData,
    recipe: Recipe,
    *,
    device: torch.device,
    progress: Progress,
    keep: Callable[[Checkpoint, bool], None],
) -> History:
    """The network is trained; `keep(checkpoint, is_best)` was called after each validation and at the end.

    A loss that is not finite stops the run with its parts.
    """
    settings = recipe.training
    weights = class_weight_tensor(settings.class_weights, data.names)
    criterion = SegmentationLoss(
        network.geometry,
        auxiliary_weight=settings.auxiliary_weight,
        class_weights=weights,
        dice_weight=settings.dice_weight,
    ).to(device)
    optimizer = make_optimizer(network, settings)
    schedule = make_schedule(optimizer, settings)
    average = WeightAverage(network, settings.ema_decay) if settings.ema_decay else None
    history, best = History(), -math.inf
    network.train()
    with progress("train", total=settings.iterations, unit="iteration") as bar:
        for iteration, (image, labels) in enumerate(_batches(data.train, recipe, device), start=1):
            with training_precision(device):
                (logits, *others), aux_logits = network.forward_members(batch_to_device(image, device))
            loss = criterion(logits, aux_logits, labels.to(device, non_blocking=True), others)
            value, rate = float(loss.detach()), float(schedule.get_last_lr()[0])
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss became {value} at iteration {iteration}, learning rate "
                    f"{rate:.3g}; lower training.learning_rate or lengthen training.warmup"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            history.losses.append((iteration, value, rate))
            schedule.step()
            if average is not None:
                average.update(network)
            if iteration % settings.validate_every == 0 or iteration == settings.iterations:
                checkpoint = _validated(network, average, data, iteration, device)
                if checkpoint.scores is not None:
                    history.validations.append((iteration, checkpoint.scores))
                keep(checkpoint, checkpoint.miou > best)
                best = max(best, checkpoint.miou)
            bar.update()
    return history


def _batches(store: ChipStore, recipe: Recipe, device: torch.device) -> DataLoader[Sample]:
    """Exactly `iterations` batches, in an order that neither workers nor batches change."""
    settings = recipe.training
    crops = CropDataset(
        store,
        length=settings.iterations * settings.batch_size,
        crop=settings.crop,
        augmentation=recipe.augmentation,
        seed=settings.seed,
    )
    return DataLoader(
        crops,
        batch_size=settings.batch_size,
        shuffle=False,
        num_workers=settings.workers,
        pin_memory=device.type == "cuda",
        persistent_workers=False,
    )


def _validated(
    network: Network, average: WeightAverage | None, data: TrainingData, iteration: int, device: torch.device
) -> Checkpoint:
    """The checkpoint of now: the averaged weights where there are any, scored; training goes on as it was."""
    own = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    if average is not None:
        network.load_state_dict(average.state)
    state = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
    scores, threshold = None, None
    if data.val is not None:
        matrix, curve = validate(network, data.val, classes=len(data.names), device=device)
        scores = matrix.scores(data.names)
        threshold = curve.best() if curve is not None else None
    if average is not None:
        network.load_state_dict(own)
    return Checkpoint(iteration, state, scores, threshold)
