"""train: a chip dataset or a benchmark and a recipe in, a model file with its log and curves out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from aerial_seg.errors import SettingsError
from aerial_seg.files.journal import describe_changes
from aerial_seg.files.names import check_output
from aerial_seg.files.protect import Inputs
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.inference.tile_choice import stitched_prediction
from aerial_seg.jobs.train.company import Plan, in_company, train_along
from aerial_seg.jobs.train.data import Dataset, open_dataset, with_class_weights
from aerial_seg.jobs.train.environment import environment
from aerial_seg.jobs.train.keeper import EVERY, RunKeeper, telling_what_is_kept
from aerial_seg.jobs.train.model_files import ModelFiles
from aerial_seg.jobs.train.overfit import few_chips, overfit_note, without_augmentation
from aerial_seg.jobs.train.pictures import missing, pictures
from aerial_seg.jobs.train.report import TrainReport, report_on
from aerial_seg.jobs.train.run_folder import (
    LOG,
    Run,
    RunFolder,
    locked,
    require_as_before,
    require_same,
    require_same_weights,
    run_to_continue,
)
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.jobs.train.time_limit import iterations_within
from aerial_seg.jobs.train.validation import open_validator
from aerial_seg.models.build import build_network
from aerial_seg.models.device import pick_device, to_device
from aerial_seg.models.network import Network, OwnNetwork, check_shapes
from aerial_seg.models.pretrained import start_from
from aerial_seg.models.weights_source import check_weights, weights_file
from aerial_seg.paths import StrPath, as_path, with_device
from aerial_seg.progress import Progress, ProgressBar, announce, silent
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import load_recipe
from aerial_seg.settings import chosen
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.training.callbacks import Callback, Step
from aerial_seg.training.companions import is_onlooker, started_by_others
from aerial_seg.training.fabric import hear
from aerial_seg.training.freezing import Freezing, check_freezing
from aerial_seg.training.loader import lost_workers
from aerial_seg.training.log import Log
from aerial_seg.training.loop import run_training
from aerial_seg.training.manifest import DOCUMENT, INDEX
from aerial_seg.training.state import TrainingState
from aerial_seg.training.stopping import Stopping, left_to_the_first
from aerial_seg.version import __version__


def train(
    dataset: StrPath,
    recipe: Recipe | StrPath,
    run: StrPath,
    settings: TrainSettings | None = None,
    progress: Progress = silent,
    *,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    network: Network | nn.Module | None = None,
    geometry: ModelGeometry | None = None,
) -> TrainReport:
    """Train a network: the folder `run` holds best.safetensors, last.safetensors, log.csv, curves.png and run.json.

    dataset: what `tile` made or, for a recipe with data.benchmark, the folder of that benchmark as its publishers ship
    it. recipe: also the name of a shipped one, or a .toml file. callbacks: are told of every update and validation.
    Best is by the recipe's training.monitor, validation mIoU unless it says otherwise; without validation chips it is
    the last.

    network: one's own in place of the one that recipe.model says: a Network, or any module that makes logits of images
    (N,C,H,W) together with their geometry. Its model files name its class: `load` and `load_model` take them with a
    new one of that class, `predict` and the command line cannot build it and say so.

    A run that was interrupted, however that came, goes on where its last checkpoint stands when the same call is made
    again, and ends as it would have without the interruption: on the CPU with the same bytes. Weights that the recipe
    names and that cannot be had are told before the data are looked at. Raises Incomplete or Interrupted where
    something is kept to go on with, OutputError for a finished run or one of another recipe or other data.
    """
    begun = time.monotonic()
    dataset, run = as_path(dataset, "dataset"), as_path(run, "run")
    asked = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    settings = with_device(chosen(settings, TrainSettings), device)
    own = _own_network(network, geometry, asked)
    check_output(run)
    before = run_to_continue(run, settings)
    plan = Plan.of(settings, asked, pick_device(settings.device), before)
    if is_onlooker():
        return _look_on(plan, dataset, asked, own)
    ready = prepare((dataset, asked, own), run, settings, plan, before)
    asked, opened, beginning = ready.recipe, ready.dataset, ready.beginning
    stopping, as_written = Stopping(), beginning.recipe
    with (
        open_validator(opened, as_written, beginning.network) as validator,
        locked(run),
        stopping.listening(),
    ):
        opened = replace(opened, data=replace(opened.data, validator=validator))
        require_as_before(run, before, settings)
        facts = {} if before is not None else _first_facts(begun, beginning, opened, asked, plan, settings)
        folder = RunFolder(run, before, ready.job)
        with folder.restoring():
            if before is None:
                folder.begin(facts)
            folder.extend(settings.extend)
            recipe = with_iterations(as_written, folder.iterations)
            state = TrainingState.begin(beginning.network, recipe)
            around = _Around(
                plan, (dataset, asked, own), settings, ready.still, progress, callbacks, stopping
            )
            files = _Files.of(folder, opened, recipe, around)
        return _go_on(files, state, opened, recipe, around)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Hold what a run needs before its folder is touched. recipe: as it is trained. job: what run.json knows it by."""

    recipe: Recipe
    dataset: Dataset
    beginning: Beginning
    still: Unchanged
    job: dict[str, Any]


def prepare(
    given: tuple[Path, Recipe, Network | None],
    run: Path,
    settings: TrainSettings,
    plan: Plan,
    before: Run | None,
) -> Prepared:
    """Open the data and build the network, on its device; nothing is written.

    given: dataset, recipe and a network of one's own. before: the run that is gone on with. Raises OutputError,
    SettingsError or InputError for what cannot be trained so.
    """
    dataset, recipe, own = given
    # Nothing kept, nothing to take the place of the first weights: a run that was stopped so early begins as it began.
    anew = before is None or not before.is_kept
    weights = weights_file(recipe.model) if anew else None
    Inputs([dataset] if weights is None else [dataset, weights]).refuse_folder(run)
    if anew:
        check_weights(recipe.model)
        check_freezing(recipe)
    still = Unchanged([dataset / DOCUMENT, dataset / INDEX, *([] if weights is None else [weights])])
    opened = open_dataset(dataset, recipe)
    recipe = with_class_weights(recipe, opened)
    if settings.overfit is not None:
        opened, recipe = few_chips(opened, settings.overfit), without_augmentation(recipe)
    still.add([*opened.files, *opened.addresses])
    job = {
        "recipe": recipe.model_dump(mode="json"),
        "data_fingerprint": opened.fingerprint,
        "data": opened.extent(),
        "own_network": None if own is None else own.name,
        "overfit": settings.overfit,
    }
    if before is not None:
        require_same(before, job)
    torch.manual_seed(recipe.training.seed)
    beginning = _begin(recipe, opened, own, anew=anew)
    if before is not None and anew:
        require_same_weights(before, recipe.model.weights, beginning.sha256)
    to_device(beginning.network, plan.device)
    return Prepared(recipe, opened, beginning, still, job)


def with_iterations(recipe: Recipe, iterations: int) -> Recipe:
    """Return the recipe for so many iterations."""
    return recipe.model_copy(
        update={"training": recipe.training.model_copy(update={"iterations": iterations})}
    )


def _first_facts(
    begun: float,
    beginning: Beginning,
    dataset: Dataset,
    recipe: Recipe,
    plan: Plan,
    settings: TrainSettings,
) -> dict[str, Any]:
    """What run.json tells of a run that begins, besides its job."""
    iterations = recipe.training.iterations
    if settings.time_limit is not None:
        iterations = iterations_within(
            settings.time_limit, begun, beginning.network, dataset.data, plan.timed(recipe), plan.alone()
        )
    return {
        "tool_version": __version__,
        "iteration": 0,
        "iterations": iterations,
        "notes": (*dataset.notes, *beginning.notes, *plan.notes),
        "weights_sha256": beginning.sha256,
        "environment": environment(plan.device, plan.precision),
        **plan.facts(),
        "data_newest": dataset.newest(),
    }


@dataclass(frozen=True, slots=True)
class _Around:
    """What a run has around it that changes nothing of what it learns."""

    plan: Plan
    given: tuple[Path, Recipe, Network | None]
    settings: TrainSettings
    still: Unchanged
    progress: Progress
    callbacks: Sequence[Callback]
    stopping: Stopping


@dataclass(frozen=True, slots=True)
class _Files:
    """What writes into a run's folder, and the notes on what was found there."""

    folder: RunFolder
    models: ModelFiles
    log: Log
    keeper: RunKeeper
    notes: tuple[str, ...]

    @classmethod
    def of(cls, folder: RunFolder, dataset: Dataset, recipe: Recipe, around: _Around) -> _Files:
        models = ModelFiles(folder.folder, dataset, recipe, around.given[2])
        log = Log(folder.folder / LOG, dataset.legend.names if dataset.data.val is not None else ())
        every = around.settings.checkpoint_every
        keeper = RunKeeper(folder, models, log, around.still, every=EVERY if every is None else every)
        notes = (
            *(() if dataset.overfit is None else (overfit_note(dataset.overfit),)),
            *(folder.fact("notes") or ()),
            *_what_is_other(folder, dataset, around.plan),
        )
        return cls(folder, models, log, keeper, notes)


def _go_on(
    files: _Files, state: TrainingState, dataset: Dataset, recipe: Recipe, around: _Around
) -> TrainReport:
    """The run from where it stands to its end, in its folder, which is locked."""
    folder, models, keeper = files.folder, files.models, files.keeper
    events = around.settings.tensorboard
    with telling_what_is_kept(folder, keeper):
        notes = [*files.notes, *keeper.resume(state), *missing(events=events)]
        for note in notes:
            announce(f"note: {note}")  # now, not after hours
        if folder.is_kept:  # else those that lie there are of the run that is to be replaced
            models.mark(finished=False)
        with (
            around.still.holding(),
            lost_workers(),
            in_company(around.plan, state, recipe, around.given) as computing,
            pictures(folder.folder, dataset, recipe, state, around.plan.device, events=events) as drawn,
            _bar(around, recipe) as bar,
        ):
            begun = {"time": time.time(), "iteration": state.iteration}
            folder.write("running", begun=begun, **around.plan.facts())
            run_training(
                state,
                dataset.data,
                recipe,
                computing=computing,
                keeper=keeper,
                log=files.log,
                # One's own come last: what they raise leaves no validation without its pictures.
                callbacks=(bar, *drawn, *around.callbacks),
                stopping=around.stopping,
            )
        models.mark(finished=True)
        keeper.tell("finished", state)
    report = report_on(folder, state, recipe, notes)
    if started_by_others():
        hear(computing.fabric, report)
    return report


def _own_network(
    network: Network | nn.Module | None, geometry: ModelGeometry | None, recipe: Recipe
) -> Network | None:
    """The network of one's own, if there is one. Raises SettingsError where its geometry is missing, or told twice."""
    if network is None:
        if geometry is not None:
            raise SettingsError("geometry is that of a network of one's own, and none is given; leave it out")
        return None
    if isinstance(network, Network) == (geometry is not None):
        raise SettingsError(
            f"network is a {type(network).__name__}, "
            + (
                "which has its geometry; leave geometry out"
                if geometry
                else "wanted with geometry=ModelGeometry(…)"
            )
        )
    if recipe.model.weights != "none":
        raise SettingsError(
            f"model.weights is {recipe.model.weights}, which a network of one's own is not filled with; load it "
            'yourself and set model.weights = "none"'
        )
    return network if isinstance(network, Network) else OwnNetwork(network, cast(ModelGeometry, geometry))


def _look_on(plan: Plan, dataset: Path, recipe: Recipe, own: Network | None) -> TrainReport:
    """Train along as torchrun's further process; the report is that of the first one."""
    with left_to_the_first():
        with lost_workers():
            computing = train_along(plan, dataset, recipe, own)
        return hear(computing.fabric, None)


def _what_is_other(folder: RunFolder, dataset: Dataset, plan: Plan) -> tuple[str, ...]:
    """Notes on what a run that goes on finds other than at its beginning, and need not mind."""
    if not folder.goes_on:
        return ()
    then, now = folder.fact("environment") or {}, environment(plan.device, plan.precision)
    notes = [] if then == now else [f"the run goes on in another environment: {describe_changes(then, now)}"]
    later = dataset.written_after(int(folder.fact("data_newest") or 0))
    if later:
        notes.append(
            f"{len(later)} files of the dataset were written again since the run began, with the sizes they had, "
            f"first {later[0]}"
        )
    return tuple(notes)


@contextmanager
def _bar(around: _Around, recipe: Recipe) -> Iterator[_Bar]:
    with around.progress("train", total=recipe.training.iterations, unit="iteration") as bar:
        yield _Bar(bar)


class _Bar(Callback):
    """Moves a progress bar."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar

    def on_start(self, iteration: int, iterations: int) -> None:
        """The bar stands where the run stands."""
        if iteration:
            self._bar.update(iteration)

    def on_step(self, step: Step) -> None:
        """One further."""
        self._bar.update()


@dataclass(frozen=True, slots=True)
class Beginning:
    """Hold the untrained network with the weights that it starts from; sha256: of their file, if they are one's.

    recipe: with a tile that the network stitches well.
    """

    network: Network
    recipe: Recipe
    notes: tuple[str, ...] = ()
    sha256: str | None = None


def _begin(recipe: Recipe, dataset: Dataset, given: Network | None, *, anew: bool) -> Beginning:
    """The network, with its first weights where the run begins anew. Raises for what cannot be trained or predicted."""
    file = weights_file(recipe.model) if anew else None
    own = anew and file is None
    settings = recipe.model if own else recipe.model.model_copy(update={"weights": "none"})
    counts = {"bands": len(dataset.bands), "classes": len(dataset.legend)}
    network = given if given is not None else build_network(settings, **counts)
    network.geometry.check_crop(recipe.training.crop)
    prediction, grown = stitched_prediction(network.geometry, recipe.prediction)
    frozen = (*grown, *Freezing(network, recipe.training).notes)
    recipe = recipe.model_copy(update={"prediction": prediction})
    if given is not None:
        check_shapes(given, side=recipe.training.crop, **counts)
    if file is None:
        return Beginning(network, recipe, frozen)
    bands = [band.name for band in dataset.bands]
    notes = start_from(network, file, bands=bands, classes=dataset.legend.names, statistics=dataset.bands)
    with file.open("rb") as content:
        return Beginning(
            network, recipe, (*notes, *frozen), hashlib.file_digest(content, "sha256").hexdigest()
        )
