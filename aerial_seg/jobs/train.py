"""train: a chip dataset or a benchmark and a recipe in, a model file with its log and curves out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from aerial_seg.bands import Band
from aerial_seg.benchmarks.catalogue import BENCHMARKS, open_benchmark
from aerial_seg.benchmarks.dataset import Benchmark
from aerial_seg.benchmarks.training_data import BANDS, fingerprint, open_split
from aerial_seg.errors import AerialSegError, InputError, SettingsError, did_you_mean
from aerial_seg.files.names import check_input
from aerial_seg.files.protect import Inputs
from aerial_seg.files.staging import check_folder, staged_folder
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.legend import Legend
from aerial_seg.mentions import setting
from aerial_seg.metrics import Scores
from aerial_seg.models.build import build_network
from aerial_seg.models.device import pick_device, to_device
from aerial_seg.models.file import ModelCard, save_model
from aerial_seg.models.network import Network
from aerial_seg.models.pretrained import start_from
from aerial_seg.models.weights_source import check_weights, weights_file
from aerial_seg.paths import StrPath, as_path
from aerial_seg.progress import Progress, silent
from aerial_seg.recipe import DataSettings, Recipe, load_recipe
from aerial_seg.report.curves import draw_curves
from aerial_seg.tiling.plan import tile_shape
from aerial_seg.training.crops import ChipReader, ChipStore
from aerial_seg.training.loop import Checkpoint, TrainingData, run_training
from aerial_seg.training.manifest import DOCUMENT, INDEX, SPLITS, open_manifest
from aerial_seg.training.validation import threshold_bias
from aerial_seg.version import __version__

BEST, LAST = "best.safetensors", "last.safetensors"
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


@dataclass(frozen=True, slots=True)
class _Dataset:
    """What a run needs to know about its data, be they chips or a benchmark.

    gsd: metres per pixel; None where the images have no place on earth. fingerprint: equal for equal data. files: of
    its images and labels, which are read again and again.
    """

    data: TrainingData
    legend: Legend
    bands: tuple[Band, ...]
    gsd: float | None
    fingerprint: str
    files: tuple[Path, ...]


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
    opened = _open_dataset(dataset, recipe.data)
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
        keeper = _Keeper(work, opened, recipe, still)
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


def _begin(recipe: Recipe, dataset: _Dataset) -> _Beginning:
    file = weights_file(recipe.model)
    settings = recipe.model if file is None else recipe.model.model_copy(update={"weights": "none"})
    network = build_network(settings, bands=len(dataset.bands), classes=len(dataset.legend))
    if file is None:
        return _Beginning(network)
    bands = [band.name for band in dataset.bands]
    notes = start_from(network, file, bands=bands, classes=dataset.legend.names)
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


def _open_dataset(root: Path, settings: DataSettings) -> _Dataset:
    """The data that the recipe asks for. Raises InputError when the folder holds data of the other kind."""
    check_input(root)
    holds_chips = (root / DOCUMENT).is_file()
    if settings.benchmark is None:
        found = None if holds_chips else _recognise(root)
        if found is not None:
            raise InputError(
                f"{root} is {found.title}, but the recipe is for chips that `aerial-seg tile` made; "
                f"use a recipe for it such as {found.name}/deeplabv3"
            )
        return _open_chips(root, settings)
    if holds_chips:
        raise InputError(
            f"{root} is a chip dataset, but the recipe trains on the benchmark {settings.benchmark}; "
            "use a recipe for chips such as deeplabv3, or name the folder of the benchmark"
        )
    return _open_examples(open_benchmark(settings.benchmark, root), settings)


def _recognise(root: Path) -> Benchmark | None:
    """The benchmark that lies under `root`, as far as one can be read there."""
    for name in BENCHMARKS:
        try:
            benchmark = open_benchmark(name, root)
            benchmark.examples("train")
        except InputError:
            continue
        return benchmark
    return None


def _open_chips(root: Path, settings: DataSettings) -> _Dataset:
    manifest = open_manifest(root)
    document = manifest.document
    for key, name in (("train", settings.train), ("val", settings.val)):
        if name not in SPLITS:
            raise SettingsError(
                f"data.{key} is '{name}', which is no split of a chip dataset{did_you_mean(name, SPLITS)}; "
                f"known: {', '.join(SPLITS)}"
            )
    train_chips, val_chips = manifest.split(settings.train), manifest.split(settings.val)
    if not train_chips:
        raise InputError(
            f"{root} holds no training chip; run `aerial-seg tile` with smaller {setting('val')} and {setting('test')}"
        )
    readers = [ChipReader(chips, document.bands, document.legend) for chips in (train_chips, val_chips)]
    data = TrainingData(
        train=ChipStore(readers[0]),
        val=ChipStore(readers[1]) if val_chips else None,
        names=document.legend.names,
    )
    files = [file for chip in (*train_chips, *val_chips) for file in (chip.image, chip.labels)]
    return _Dataset(data, document.legend, document.bands, document.gsd, document.fingerprint, tuple(files))


def _open_examples(benchmark: Benchmark, settings: DataSettings) -> _Dataset:
    readers = [open_split(benchmark, split) for split in (settings.train, settings.val)]
    legend = benchmark.legend
    data = TrainingData(train=ChipStore(readers[0]), val=ChipStore(readers[1]), names=legend.names)
    files = tuple(file for reader in readers for example in reader.examples for file in example.files)
    return _Dataset(data, legend, BANDS, None, fingerprint(benchmark, readers), files)


class _Keeper:
    """Writes checkpoints as model files while the loop runs."""

    def __init__(self, folder: Path, dataset: _Dataset, recipe: Recipe, still: Unchanged) -> None:
        self._folder, self._dataset, self._recipe, self._still = folder, dataset, recipe, still
        self._described = build_network(
            recipe.model.model_copy(update={"weights": "none"}),
            bands=len(dataset.bands),
            classes=len(dataset.legend),
        )
        self.best: Checkpoint | None = None

    def keep(self, checkpoint: Checkpoint, is_best: bool) -> None:
        """last.safetensors is this checkpoint; best.safetensors too if it is the best so far."""
        self._still.check_now_and_then()
        # What `predict` will build from the card takes these weights: better known now than after the training.
        self._described.load_state_dict(checkpoint.state)
        card = self._card(checkpoint)
        save_model(checkpoint.state, card, self._folder / LAST)
        if is_best:
            self.best = checkpoint
            save_model(checkpoint.state, card, self._folder / BEST)

    def threshold(self, checkpoint: Checkpoint) -> float | None:
        """The calibrated threshold, if the recipe asks for one and the classes are two."""
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


def _summary(best: Checkpoint, keeper: _Keeper, recipe: Recipe, fingerprint: str) -> dict[str, object]:
    return {
        "tool_version": __version__,
        "best_iteration": best.iteration,
        "validation": best.scores.as_json() if best.scores else None,
        "threshold": keeper.threshold(best),
        "data_fingerprint": fingerprint,
        "recipe": recipe.model_dump(mode="json"),
    }
