"""The loop: forward, loss, backward, update; validate now and then; keep the best and the last weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from aerial_seg.errors import AerialSegError
from aerial_seg.recipe.document import Recipe
from aerial_seg.training.batch_norm.norms import telling_of_single_values
from aerial_seg.training.batch_norm.training_norms import training_norms
from aerial_seg.training.batches import TrainingData, batches, chips_of, training_crops
from aerial_seg.training.callbacks import Callback, Checkpoint, Step
from aerial_seg.training.crops import CropDataset, Sample
from aerial_seg.training.fabric import Computing, Members, hear
from aerial_seg.training.freezing import Freezing
from aerial_seg.training.loss import SegmentationLoss
from aerial_seg.training.memory import telling_what_fits
from aerial_seg.training.optimisation import base_rate
from aerial_seg.training.processes import first_goes_on, seed_of_update
from aerial_seg.training.state import Keeper, Scored, TrainingState, unscored, validated
from aerial_seg.training.stopping import Stopping
from aerial_seg.training.validation.monitor import Monitor


class TrainingError(AerialSegError):
    """Training cannot go on."""


@dataclass(frozen=True, slots=True)
class _Run:
    """What does not change while the loop goes on. model, optimizer: those of the state, as Fabric has wrapped them."""

    data: TrainingData
    recipe: Recipe
    computing: Computing
    criterion: SegmentationLoss
    freezing: Freezing
    keeper: Keeper
    log: Callback
    callbacks: Sequence[Callback]
    stopping: Stopping
    model: Any
    optimizer: Any

    def unscored(self, state: TrainingState) -> Checkpoint:
        """The checkpoint of now between two validations."""
        return unscored(state, self.data.names, validates=self.data.val is not None)

    def checkpoint(self, state: TrainingState) -> Checkpoint:
        """The checkpoint of now, validated where there is something to validate on."""
        if self.data.val is None:
            return self.unscored(state)
        assert self.data.validator is not None
        return validated(state, self.data.validator, self.computing.device, self.tell)

    def tell(self, done: int, total: int, unit: str) -> None:
        """Callbacks hear how far a validation is."""
        for one in self.callbacks:
            one.on_validating(done, total, unit)


def run_training(
    state: TrainingState,
    data: TrainingData,
    recipe: Recipe,
    *,
    computing: Computing,
    keeper: Keeper,
    log: Callback | None = None,
    callbacks: Sequence[Callback] = (),
    stopping: Stopping | None = None,
) -> None:
    """Train the state's network up to the recipe's iterations, from wherever the state stands.

    Of several processes each calls this with the same state; only the first one's keeper and callbacks are asked.
    The keeper has each validation's checkpoint, that of the last update, and others as they are due or as the run is
    asked to end by what the first one's `stopping` hears, of which it tells the others. The log is told of a validation
    before the keeper is, the callbacks after it: what they raise costs nothing. It ends earlier where the recipe's
    patience is over. A loss that is not finite stops the run, with the chips of its batch.
    """
    settings, fabric = recipe.training, computing.fabric
    criterion = SegmentationLoss.of(settings, state.network.geometry, data.names).to(computing.device)
    state.network.train()
    with training_norms(state.network, recipe.batch_norm):
        module: Any = Members(state.network, own_lattices=criterion.terms.at_logits)
        module = torch.compile(module) if computing.compiled else module
        model, optimizer = fabric.setup(module, state.optimizer, move_to_device=False)
        if state.scaling:
            fabric.strategy.precision.load_state_dict(state.scaling)
        stopping = stopping or Stopping()
        freezing = Freezing(state.network, settings, recipe.batch_norm)
        run = _Run(
            data,
            recipe,
            computing,
            criterion,
            freezing,
            keeper,
            log or Callback(),
            callbacks,
            stopping,
            model,
            optimizer,
        )
        try:
            _go_on(state, run)
        except KeyboardInterrupt:
            if run.stopping.is_orderly:
                with run.stopping.held():
                    state.give_back()
                    if state.iteration > state.kept:
                        _keep(state, run, run.unscored(state))
                    first_goes_on(False, computing.device)
            raise
        with stopping.held():
            _meet(run)
    for one in (run.log, *callbacks):
        one.on_end(state.iteration)


def _go_on(state: TrainingState, run: _Run) -> None:
    """All updates that are left. What ends the run comes between two steps, while it waits for a batch or validates."""
    for one in (run.log, *run.callbacks):
        one.on_start(state.iteration, run.recipe.training.iterations)
    _validate_if_due(state, run)
    crops = training_crops(run.data, run.recipe)
    for batch in batches(crops, run.recipe, run.computing.device, done=state.iteration):
        if state.search.is_patience_over(run.recipe.training.patience):
            break
        with run.stopping.held():
            _meet(run)
            with (
                telling_of_single_values(),
                telling_what_fits(state.network, run.criterion, run.recipe, run.computing),
            ):
                step = _update(state, run, crops, batch)
            for one in (run.log, *run.callbacks):
                one.on_step(step)
        if not _validate_if_due(state, run) and run.keeper.is_due():
            with run.stopping.held():
                _keep(state, run, run.unscored(state))


def _meet(run: _Run) -> None:
    """Of several processes the first may have been asked to end where it waited: none begins a step without it."""
    if not first_goes_on(True, run.computing.device):
        raise KeyboardInterrupt


def _update(state: TrainingState, run: _Run, crops: CropDataset, batch: Sample) -> Step:
    """One update: of the weights by the gradients of all parts and processes, of the schedule and the average."""
    settings, fabric, parts = run.recipe.training, run.computing.fabric, run.computing.accumulate
    image, labels = batch
    if fabric.world_size > 1:
        torch.manual_seed(seed_of_update(settings.seed, state.iteration))
    run.freezing.before_update(state.iteration)
    weight, value = run.criterion.total_weight(labels), 0.0
    run.optimizer.zero_grad()
    for part, (some, theirs) in enumerate(zip(image.chunk(parts), labels.chunk(parts), strict=True), start=1):
        with fabric.no_backward_sync(run.model, enabled=fabric.world_size > 1 and part < parts):
            (logits, *others), aux_logits = run.model(some)
            loss = run.criterion(logits, aux_logits, theirs, others, total_weight=weight, parts=parts)
            fabric.backward(loss)
        value += float(loss.detach())
    rate = base_rate(state.iteration, settings)
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss became {value} at iteration {state.iteration + 1:,}, learning rate {rate:.3g}, on "
            f"{chips_of(crops, state.iteration, settings.batch_size)}; lower training.learning_rate, lengthen "
            "training.warmup, or look at these chips"
        )
    if settings.gradient_clip:
        fabric.clip_gradients(
            run.model, run.optimizer, max_norm=settings.gradient_clip, error_if_nonfinite=False
        )
    run.optimizer.step()
    state.scaling = fabric.strategy.precision.state_dict() or None
    state.schedule.step()
    if state.average is not None:
        state.average.update(state.network)
    state.iteration += 1
    return Step(state.iteration, value, rate, settings.batch_size)


def _validate_if_due(state: TrainingState, run: _Run) -> bool:
    """The present weights are validated and kept, where the recipe wants that and it was not done."""
    done = 0 if state.validated is None else state.validated.iteration
    settings = run.recipe.training
    is_end = state.iteration == settings.iterations
    if done == state.iteration or not (is_end or state.iteration % settings.validate_every == 0):
        return False
    fabric = run.computing.fabric
    # One process validates, the others wait and hear what came of it: all of them know which weights are the best.
    checkpoint = run.checkpoint(state) if fabric.is_global_zero else None
    with run.stopping.held():
        _meet(run)
        heard = hear(fabric, None if checkpoint is None else replace(checkpoint, state={}))
        noted = state.take_note(heard, Monitor(settings.monitor, run.data.names))
        state.validated = Scored.of(noted)
        if checkpoint is not None:
            checkpoint = replace(checkpoint, is_best=noted.is_best)
            run.log.on_validation(checkpoint)
            _keep(state, run, checkpoint)
            for one in run.callbacks:
                one.on_validation(checkpoint)
    return True


def _keep(state: TrainingState, run: _Run, checkpoint: Checkpoint) -> None:
    run.keeper.keep(state, checkpoint)
    state.kept = state.iteration
