"""train: a chip dataset or a benchmark and a recipe in, a model file with its log and curves out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from aerial_seg.errors import AerialSegError
from aerial_seg.files.protect import Inputs
from aerial_seg.files.staging import check_folder, staged_folder
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.jobs.train.data import Dataset, open_dataset
from aerial_seg.jobs.train.model_files import BEST, LAST, Keeper
from aerial_seg.metrics import Scores
from aerial_seg.models.build import build_network
from aerial_seg.models.device import pick_device, to_device
from aerial_seg.models.network import Network
from aerial_seg.models.pretrained import start_from
from aerial_seg.models.weights_source import check_weights, weights_file
from aerial_seg.paths import StrPath, as_path
from aerial_seg.progress import Progress, silent
from aerial_seg.recipe import Recipe, load_recipe
from aerial_seg.report.curves import draw_curves
from aerial_seg.tiling.plan import tile_shape
from aerial_seg.training.loop import Checkpoint, run_training
from aerial_seg.training.manifest import DOCUMENT, INDEX
from aerial_seg.version import __version__

LOG, CURVES, SUMMARY = "log.csv", "curves.png", "run.json"
_OWN = (BEST, LAST, LOG, CURVES)


@dataclass(frozen=True, slots=True)
class TrainReport:
    """Tell what `train` made. threshold is that of the best checkpoint when the recipe asked to calibrate it.

    notes: what it started from, and what of that was adapted or left out.
    """

    run: Path
    model: Path
    iterations: int
    best_iteration: int
    scores: Scores | None
    threshold: float | None
    notes: tuple[str, ...] = ()


def train(
    dataset: StrPath,
    recipe: Recipe | StrPath,
    run: StrPath,
    *,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress = silent,
) -> TrainReport:
    """Train a network: the folder `run` holds best.safetensors, last.safetensors, log.csv, curves.png and run.json.

    dataset: what `tile` made or, for a recipe with data.benchmark, the folder of that benchmark as its publishers ship
    it. recipe: also the name of a shipped one, or a .toml file. Best is by validation mIoU; without validation chips it
    is the last. Nothing is left behind after an error. Weights that the recipe names and that cannot be had are told
    before the data are looked at. Raises InputError when chips, images or weights
    change meanwhile.
    """
    dataset, run = as_path(dataset, "dataset"), as_path(run, "run")
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    check_folder(run, overwrite=overwrite, marker=SUMMARY, own=_OWN)
    weights = weights_file(recipe.model)
    Inputs([dataset] if weights is None else [dataset, weights]).refuse_folder(run)
    check_weights(recipe.model)
    still = Unchanged([dataset / DOCUMENT, dataset / INDEX, *([] if weights is None else [weights])])
    opened = open_dataset(dataset, recipe.data)
    still.add(opened.files)
    target = pick_device(device)
    torch.manual_seed(recipe.training.seed)
    beginning = _begin(recipe, opened)
    network = beginning.network
    network.geometry.check_side(recipe.training.crop)
    prediction = recipe.prediction
    tile_shape(network.geometry, prediction.tile_size, halo=prediction.halo, overlap=prediction.overlap)
    to_device(network, target)
    with staged_folder(run, overwrite=overwrite, marker=SUMMARY, own=_OWN) as work, still.holding():
        keeper = Keeper(work, opened, recipe, still)
        with _errors_of_workers():
            history = run_training(
                network, opened.data, recipe, device=target, progress=progress, keep=keeper.keep
            )
        history.write_csv(work / LOG)
        draw_curves(history, opened.legend, work / CURVES)
        best = keeper.best
        assert best is not None
        document = _summary(best, keeper, recipe, opened.fingerprint)
        document["weights_sha256"] = beginning.sha256
        (work / SUMMARY).write_text(json.dumps(document, indent=2), encoding="utf-8", newline="\n")
    return TrainReport(
        run=run,
        model=run / BEST,
        iterations=recipe.training.iterations,
        best_iteration=best.iteration,
        scores=best.scores,
        threshold=keeper.threshold(best),
        notes=beginning.notes,
    )


@dataclass(frozen=True, slots=True)
class _Beginning:
    """The untrained network with the weights that it starts from; sha256: of their file, if they are one's."""

    network: Network
    notes: tuple[str, ...] = ()
    sha256: str | None = None


def _begin(recipe: Recipe, dataset: Dataset) -> _Beginning:
    file = weights_file(recipe.model)
    settings = recipe.model if file is None else recipe.model.model_copy(update={"weights": "none"})
    network = build_network(settings, bands=len(dataset.bands), classes=len(dataset.legend))
    if file is None:
        return _Beginning(network)
    bands = [band.name for band in dataset.bands]
    notes = start_from(network, file, bands=bands, classes=dataset.legend.names, statistics=dataset.bands)
    with file.open("rb") as content:
        return _Beginning(network, notes, hashlib.file_digest(content, "sha256").hexdigest())


@contextmanager
def _errors_of_workers() -> Iterator[None]:
    """Inside, a DataLoader worker's error keeps its one line; torch puts the worker's traceback in front of it.

    And its notes behind it: the file that was at work is named in the line.
    """
    try:
        yield
    except AerialSegError as error:
        kind = type(error)
        said = str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].strip()
        line = said.partition("\n")[0]
        if line == str(error):
            raise
        raise kind(line) from error


def _summary(best: Checkpoint, keeper: Keeper, recipe: Recipe, fingerprint: str) -> dict[str, object]:
    return {
        "tool_version": __version__,
        "best_iteration": best.iteration,
        "validation": best.scores.as_json() if best.scores else None,
        "threshold": keeper.threshold(best),
        "data_fingerprint": fingerprint,
        "recipe": recipe.model_dump(mode="json"),
    }
