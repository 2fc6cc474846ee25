"""The loop: forward, loss, backward, update; validate now and then; keep the best and the last weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch.utils.data import DataLoader

from aerial_seg.errors import AerialSegError
from aerial_seg.models.device import batch_to_device, pick_training_precision, training_precision
from aerial_seg.recipe import Recipe
from aerial_seg.training.callbacks import Callback, Checkpoint, Step
from aerial_seg.training.crops import ChipStore, CropDataset, Sample
from aerial_seg.training.loss import SegmentationLoss, class_weight_tensor
from aerial_seg.training.state import Scored, TrainingState
from aerial_seg.training.validation import validate


class TrainingError(AerialSegError):
    """Training cannot go on."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The chips of a run and what their channels are called."""

    train: ChipStore
    val: ChipStore | None
    names: tuple[str, ...]


class Keeper(Protocol):
    """Who puts a run on the disk while the loop goes on."""

    def is_due(self) -> bool:
        """Whether so much time has passed that what was done since should not be lost."""

    def keep(self, state: TrainingState, checkpoint: Checkpoint) -> None:
        """The state is on the disk, from where it goes on, and the checkpoint as a model."""


@dataclass(frozen=True, slots=True)
class _Run:
    """What does not change while the loop goes on."""

    data: TrainingData
    recipe: Recipe
    device: torch.device
    criterion: SegmentationLoss
    keeper: Keeper
    callbacks: Sequence[Callback]


def run_training(
    state: TrainingState,
    data: TrainingData,
    recipe: Recipe,
    *,
    device: torch.device,
    keeper: Keeper,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train the state's network up to the recipe's iterations, from wherever the state stands.

    The keeper has each validation's checkpoint, that of the last update, and others as they are due. A loss that is
    not finite stops the run with its parts.
    """
    settings = recipe.training
    criterion = SegmentationLoss(
        state.network.geometry,
        auxiliary_weight=settings.auxiliary_weight,
        class_weights=class_weight_tensor(settings.class_weights, data.names),
        dice_weight=settings.dice_weight,
    ).to(device)
    run = _Run(data, recipe, device, criterion, keeper, callbacks)
    state.network.train()
    for one in callbacks:
        one.on_start(state.iteration, settings.iterations)
    _validate_if_due(state, run)
    for batch in _batches(data.train, recipe, device, done=state.iteration):
        step = _update(state, run, batch)
        for one in callbacks:
            one.on_step(step)
        if not _validate_if_due(state, run) and keeper.is_due():
            keeper.keep(state, _unscored(state, data))
    for one in callbacks:
        one.on_end(state.iteration)


def _update(state: TrainingState, run: _Run, batch: Sample) -> Step:
    """One update: of the weights, the schedule and the average."""
    (image, labels), device = batch, run.device
    with training_precision(device, pick_training_precision("auto", device)[0]):
        (logits, *others), aux_logits = state.network.forward_members(batch_to_device(image, device))
    loss = run.criterion(logits, aux_logits, labels.to(device, non_blocking=True), others)
    value, rate = float(loss.detach()), float(state.schedule.get_last_lr()[0])
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss became {value} at iteration {state.iteration + 1}, learning rate "
            f"{rate:.3g}; lower training.learning_rate or lengthen training.warmup"
        )
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    state.optimizer.step()
    state.schedule.step()
    if state.average is not None:
        state.average.update(state.network)
    state.iteration += 1
    return Step(state.iteration, value, rate, len(image))


def _batches(store: ChipStore, recipe: Recipe, device: torch.device, *, done: int) -> DataLoader[Sample]:
    """The batches after the first `done` of exactly `iterations`, in an order that neither workers nor stops change."""
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
        sampler=range(done * settings.batch_size, len(crops)),
        num_workers=settings.workers,
        pin_memory=device.type == "cuda",
        persistent_workers=False,
        # The loader draws a number for its workers; of its own, so that dropout goes on where it stopped.
        generator=torch.Generator().manual_seed(settings.seed),
    )


def _validate_if_due(state: TrainingState, run: _Run) -> bool:
    """The present weights are validated and kept, where the recipe wants that and it was not done."""
    done = 0 if state.validated is None else state.validated.iteration
    settings = run.recipe.training
    is_end = state.iteration == settings.iterations
    if done == state.iteration or not (is_end or state.iteration % settings.validate_every == 0):
        return False
    checkpoint = _validated(state, run.data, run.device)
    state.take_note(checkpoint)
    for one in run.callbacks:
        one.on_validation(checkpoint)
    run.keeper.keep(state, checkpoint)
    return True


def _unscored(state: TrainingState, data: TrainingData) -> Checkpoint:
    """The checkpoint of now between two validations; without validation chips the last weights are the best."""
    checkpoint = Checkpoint(state.iteration, state.weights(), None, is_best=data.val is None)
    if checkpoint.is_best:
        state.best = Scored.of(checkpoint)
    return checkpoint


def _validated(state: TrainingState, data: TrainingData, device: torch.device) -> Checkpoint:
    """The checkpoint of now: the averaged weights where there are any, scored; training goes on as it was."""
    if data.val is None:
        return _unscored(state, data)
    weights = state.weights()
    network = state.network
    own = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    try:
        network.load_state_dict(weights)
        matrix, curve = validate(network, data.val, classes=len(data.names), device=device)
    finally:
        network.load_state_dict(own)
        network.train()
    scores = matrix.scores(data.names)
    checkpoint = Checkpoint(state.iteration, weights, scores, curve.best() if curve is not None else None)
    return replace(checkpoint, is_best=state.is_better(checkpoint.score))
