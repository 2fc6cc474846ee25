"""train: a chip dataset and a recipe in, a model file with its log and curves out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from aerial_seg.errors import InputError
from aerial_seg.metrics import Scores
from aerial_seg.models.device import pick_device, place
from aerial_seg.models.file import ModelCard, save_model
from aerial_seg.models.network import build_network
from aerial_seg.outputs import check_folder, staged_folder
from aerial_seg.progress import Progress, silent
from aerial_seg.recipe import Recipe
from aerial_seg.report.curves import draw_curves
from aerial_seg.tiling.plan import tile_shape
from aerial_seg.training.crops import ChipStore
from aerial_seg.training.loop import Checkpoint, TrainingData, run_training
from aerial_seg.training.manifest import Manifest, open_manifest
from aerial_seg.training.validation import threshold_bias
from aerial_seg.version import __version__

BEST, LAST = "best.safetensors", "last.safetensors"
LOG, CURVES, SUMMARY = "log.csv", "curves.png", "run.json"


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What `train` made. threshold is that of the best checkpoint when the recipe asked to calibrate it."""

    run: Path
    model: Path
    iterations: int
    best_iteration: int
    scores: Scores | None
    threshold: float | None


def train(
    dataset: Path,
    recipe: Recipe,
    run: Path,
    *,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress = silent,
) -> TrainReport:
    """The folder `run` holds best.safetensors, last.safetensors, log.csv, curves.png and run.json.

    Best is by validation mIoU; without validation chips it is the last. Nothing is left behind after an error.
    """
    check_folder(run, overwrite=overwrite, marker=SUMMARY)
    manifest = open_manifest(dataset)
    document = manifest.document
    target = pick_device(device)
    torch.manual_seed(recipe.training.seed)
    network = build_network(recipe.model, bands=len(document.bands), classes=len(document.legend))
    network.geometry.check_side(recipe.training.crop)
    prediction = recipe.prediction
    tile_shape(network.geometry, prediction.tile_size, halo=prediction.halo, overlap=prediction.overlap)
    place(network, target)
    with staged_folder(run, overwrite=overwrite, marker=SUMMARY) as work:
        keeper = _Keeper(work, manifest, recipe)
        history = run_training(
            network, _data(manifest), recipe, device=target, progress=progress, keep=keeper.keep
        )
        history.write_csv(work / LOG)
        draw_curves(history, document.legend, work / CURVES)
        best = keeper.best
        assert best is not None
        (work / SUMMARY).write_text(_summary(best, keeper, recipe, document.fingerprint), encoding="utf-8")
    return TrainReport(
        run, run / BEST, recipe.training.iterations, best.iteration, best.scores, keeper.threshold(best)
    )


def _data(manifest: Manifest) -> TrainingData:
    document = manifest.document
    chips, val = manifest.split("train"), manifest.split("val")
    if not chips:
        raise InputError(
            f"{manifest.root} holds no training chip; run `aerial-seg tile` with smaller --val and --test"
        )
    return TrainingData(
        train=ChipStore(chips, document.bands, document.legend),
        val=ChipStore(val, document.bands, document.legend) if val else None,
        names=document.legend.names,
    )


class _Keeper:
    """Writes checkpoints as model files while the loop runs."""

    def __init__(self, folder: Path, manifest: Manifest, recipe: Recipe) -> None:
        self._folder, self._manifest, self._recipe = folder, manifest, recipe
        self._writer = build_network(
            recipe.model.model_copy(update={"weights": "none"}),
            bands=len(manifest.document.bands),
            classes=len(manifest.document.legend),
        )
        self.best: Checkpoint | None = None

    def keep(self, checkpoint: Checkpoint, is_best: bool) -> None:
        """last.safetensors is this checkpoint; best.safetensors too if it is the best so far."""
        self._writer.load_state_dict(checkpoint.state)
        card = self._card(checkpoint)
        save_model(self._writer, card, self._folder / LAST)
        if is_best:
            self.best = checkpoint
            save_model(self._writer, card, self._folder / BEST)

    def threshold(self, checkpoint: Checkpoint) -> float | None:
        """The calibrated threshold, if the recipe asks for one and the classes are two."""
        if not self._recipe.training.calibrate or checkpoint.threshold is None:
            return None
        return checkpoint.threshold[0]

    def _card(self, checkpoint: Checkpoint) -> ModelCard:
        document = self._manifest.document
        threshold = self.threshold(checkpoint)
        zero = (0.0,) * len(document.legend)
        scores = checkpoint.scores
        return ModelCard(
            tool_version=__version__,
            recipe=self._recipe,
            legend=document.legend,
            bands=document.bands,
            gsd=document.gsd,
            class_bias=zero if threshold is None else threshold_bias(threshold),
            iteration=checkpoint.iteration,
            validation_miou=scores.miou if scores is not None and scores.counted else None,
            data_fingerprint=document.fingerprint,
        )


def _summary(best: Checkpoint, keeper: _Keeper, recipe: Recipe, fingerprint: str) -> str:
    document = {
        "tool_version": __version__,
        "best_iteration": best.iteration,
        "validation": best.scores.as_json() if best.scores else None,
        "threshold": keeper.threshold(best),
        "data_fingerprint": fingerprint,
        "recipe": recipe.model_dump(mode="json"),
    }
    return json.dumps(document, indent=2)
