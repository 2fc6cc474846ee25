"""What a run trains on, in which batches, and which chips lie in one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from aerial_seg.recipe.document import Recipe
from aerial_seg.training.crops import ChipStore, CropDataset
from aerial_seg.training.loader import Loader, Share
from aerial_seg.training.processes import count, rank
from aerial_seg.training.samples.repeats import Repeats
from aerial_seg.training.validation.validator import Validator

_NAMED = 8
"""Chips of a batch that a message names."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The chips of a run and what their channels are called. val_names: of the validation chips.

    validator: judges checkpoints; only the process that writes has one. repeats: training chips that come more often.
    rarity: of each class, its weight where crops are balanced by it.
    """

    train: ChipStore
    val: ChipStore | None
    names: tuple[str, ...]
    val_names: tuple[str, ...] = ()
    validator: Validator | None = None
    repeats: Repeats | None = None
    rarity: tuple[float, ...] | None = None


def training_crops(data: TrainingData, recipe: Recipe) -> CropDataset:
    """All crops of a run: number i is the i-th that is trained on."""
    settings = recipe.training
    return CropDataset(
        data.train,
        length=settings.iterations * settings.batch_size,
        crop=settings.crop,
        augmentation=recipe.augmentation,
        seed=settings.seed,
        repeats=data.repeats,
        balanced=recipe.sampling.balanced_crops,
        weights=data.rarity,
    )


def batches(crops: CropDataset, recipe: Recipe, device: torch.device, *, done: int) -> Loader:
    """The batches after the first `done` of exactly `iterations`, in an order that neither workers nor stops change.

    Of several processes each has its share of every batch.
    """
    settings = recipe.training
    share = Share(rank(), count())
    return Loader(
        crops,
        batch_size=settings.batch_size,
        start=done,
        share=share,
        workers=settings.workers,
        device=device,
    )


def chips_of(crops: CropDataset, iteration: int, images: int) -> str:
    """The chips of the batch after `iteration` updates, by name."""
    numbers = range(iteration * images, (iteration + 1) * images)
    names = list(dict.fromkeys(map(crops.chip_of, numbers)))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"
