"""The two models of a run as files: the best one and the last one."""

from __future__ import annotations

from pathlib import Path

from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.jobs.train.data import Dataset
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, save_model
from aerial_seg.recipe import Recipe
from aerial_seg.training.loop import Checkpoint
from aerial_seg.training.validation import threshold_bias
from aerial_seg.version import __version__

BEST, LAST = "best.safetensors", "last.safetensors"


class Keeper:
    """Write checkpoints as model files while the loop runs."""

    def __init__(self, folder: Path, dataset: Dataset, recipe: Recipe, still: Unchanged) -> None:
        self._folder, self._dataset, self._recipe, self._still = folder, dataset, recipe, still
        self._described = build_network(
            recipe.model.model_copy(update={"weights": "none"}),
            bands=len(dataset.bands),
            classes=len(dataset.legend),
        )
        self.best: Checkpoint | None = None

    def keep(self, checkpoint: Checkpoint, is_best: bool) -> None:
        """Make last.safetensors this checkpoint, and best.safetensors too if it is the best so far."""
        self._still.check_now_and_then()
        # What `predict` will build from the card takes these weights: better known now than after the training.
        self._described.load_state_dict(checkpoint.state)
        card = self._card(checkpoint)
        save_model(checkpoint.state, card, self._folder / LAST)
        if is_best:
            self.best = checkpoint
            save_model(checkpoint.state, card, self._folder / BEST)

    def threshold(self, checkpoint: Checkpoint) -> float | None:
        """Return the calibrated threshold, if the recipe asks for one and the classes are two."""
        if not self._recipe.training.calibrate or checkpoint.threshold is None:
            return None
        return checkpoint.threshold[0]

    def _card(self, checkpoint: Checkpoint) -> ModelCard:
        dataset = self._dataset
        threshold = self.threshold(checkpoint)
        zero = (0.0,) * len(dataset.legend)
        scores = checkpoint.scores
        return ModelCard(
            tool_version=__version__,
            recipe=self._recipe,
            legend=dataset.legend,
            bands=dataset.bands,
            gsd=dataset.gsd,
            class_bias=zero if threshold is None else threshold_bias(threshold),
            iteration=checkpoint.iteration,
            validation_miou=scores.miou if scores is not None and scores.counted else None,
            data_fingerprint=dataset.fingerprint,
        )
