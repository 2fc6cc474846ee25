"""The two models of a run as files: the best one and the last one."""

from __future__ import annotations

import math
from pathlib import Path

from safetensors.torch import load

from aerial_seg.errors import InputError
from aerial_seg.jobs.train.data import Dataset
from aerial_seg.jobs.train.run_folder import BEST, LAST
from aerial_seg.models.file import ModelCard, read_card, save_model
from aerial_seg.models.meta import build_on_meta
from aerial_seg.models.network import Network
from aerial_seg.models.validated import Validated
from aerial_seg.recipe.document import Recipe, StageOfRun
from aerial_seg.training.callbacks import Checkpoint
from aerial_seg.training.state import Scored, TrainingState
from aerial_seg.training.validation.calibration import threshold_bias
from aerial_seg.training.validation.outcome import Outcome
from aerial_seg.version import __version__


class ModelFiles:
    """Write checkpoints as model files that `predict` takes; they say that the run is unfinished while it is."""

    def __init__(
        self,
        folder: Path,
        dataset: Dataset,
        recipe: Recipe,
        own: Network | None = None,
        stage: StageOfRun | None = None,
    ) -> None:
        """own: the network that is trained, where the recipe does not build it.

        recipe: with as many iterations as the run, or its stage, is to have.
        """
        self._folder, self._dataset, self._recipe, self._stage = folder, dataset, recipe, stage
        self._own = None if own is None else own.name
        self._described: Network | None = None
        if own is None:
            self._described = build_on_meta(
                recipe.model, bands=len(dataset.bands), classes=len(dataset.legend)
            )

    def write(self, checkpoint: Checkpoint) -> None:
        """Make last.safetensors this checkpoint, and best.safetensors too if it is the best so far."""
        # What `predict` will build from the card takes these weights: better known now than after the training.
        if self._described is not None:
            self._described.load_state_dict(checkpoint.state, assign=True)
            self._described.to("meta")
        card = self._card(Scored.of(checkpoint))
        save_model(checkpoint.state, card, self._folder / LAST)
        if checkpoint.is_best:
            save_model(checkpoint.state, card, self._folder / BEST)

    def mend(self, state: TrainingState) -> tuple[str, ...]:
        """Make both files those of the state, from which the run goes on: a kill may have come between the files.

        A best model that is gone is told in a note, and chosen anew among what follows.
        """
        best, done = state.best, state.iteration
        here = (
            state.validated
            if state.validated is not None and state.validated.iteration == done
            else Scored(done)
        )
        weights = state.weights()
        if self._iteration(LAST) != done:
            save_model(weights, self._card(here), self._folder / LAST)
        if best is None or self._iteration(BEST) == best.iteration:
            return ()
        if best.iteration == done:
            save_model(weights, self._card(best), self._folder / BEST)
            return ()
        state.forget_best()
        return (
            f"{self._folder / BEST} is not that of iteration {best.iteration:,} any more; "
            "the best is chosen among what follows",
        )

    def mark(self, *, finished: bool) -> None:
        """Make both files those of a run that is finished, or of one that is not, and may have been before."""
        mark(self._folder, finished=finished, recipe=self._recipe)

    def _iteration(self, name: str) -> int | None:
        card = self._card_of(name)
        return None if card is None else card.iteration

    def _card_of(self, name: str) -> ModelCard | None:
        return _card_of(self._folder / name)

    def _card(self, scored: Scored) -> ModelCard:
        dataset = self._dataset
        threshold = scored.threshold
        zero = (0.0,) * len(dataset.legend)
        scores = scored.scores
        return ModelCard(
            tool_version=__version__,
            recipe=self._recipe,
            own_network=self._own,
            legend=dataset.legend,
            bands=dataset.bands,
            gsd=dataset.gsd,
            class_bias=zero if threshold in (None, 0.5) else threshold_bias(threshold),
            iteration=scored.iteration,
            validation_miou=scores.miou if scores is not None and scores.counted else None,
            validated=None if scored.outcome is None else self._validated(scored.outcome),
            data_fingerprint=dataset.fingerprint,
            finished=False,
            overfit=dataset.overfit,
            stage=self._stage,
        )

    def _validated(self, outcome: Outcome) -> Validated:
        training, told = self._recipe.training, outcome.intervals
        known = {name: None if math.isnan(ends[0]) else ends for name, ends in told.of_all.items()}
        return Validated(
            on=training.validate_on,
            monitor=training.monitor,
            value=outcome.value,
            unit=told.unit,
            units=told.units,
            intervals=known,
            doubts=outcome.notes,
        )


def mark(folder: Path, *, finished: bool, recipe: Recipe | None = None) -> None:
    """Make both model files of the folder those of what is finished, or is not; recipe: None keeps their own."""
    for path in (folder / LAST, folder / BEST):
        card = _card_of(path)
        if card is None:
            continue
        wanted = card.model_copy(update={"finished": finished, "recipe": recipe or card.recipe})
        if card != wanted:
            # Not load_file: its tensors keep the file open that is to be replaced.
            save_model(load(path.read_bytes()), wanted, path)


def _card_of(path: Path) -> ModelCard | None:
    """Of the model that lies there; None where there is none that can be read."""
    try:
        return read_card(path)
    except InputError:
        return None
