"""train: a chip dataset or a benchmark and a recipe in, a model file with its log and curves out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from aerial_seg.files.journal import describe_changes
from aerial_seg.files.names import check_output
from aerial_seg.geo.raster.unchanged import Unchanged
from aerial_seg.jobs.train.company import Plan, in_company, train_along
from aerial_seg.jobs.train.continuing import require_as_before, require_same, run_to_continue
from aerial_seg.jobs.train.data import COUNTED, Dataset
from aerial_seg.jobs.train.environment import environment
from aerial_seg.jobs.train.keeper import EVERY, RunKeeper, telling_of_stages, telling_what_is_kept
from aerial_seg.jobs.train.model_files import ModelFiles
from aerial_seg.jobs.train.overfit import overfit_note
from aerial_seg.jobs.train.pictures import missing, pictures
from aerial_seg.jobs.train.preparing import Opened, Prepared, check_ahead, own_network, prepare, same_in_all
from aerial_seg.jobs.train.report import TrainReport, report_on
from aerial_seg.jobs.train.run_folder import LOG, STAGE_ENDED, Run, RunFolder, locked
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.jobs.train.stages import AskedStage, after, asked_stages, beginning_note, put_aside
from aerial_seg.jobs.train.time_limit import iterations_within
from aerial_seg.jobs.train.validation import open_validator
from aerial_seg.models.device import pick_device
from aerial_seg.models.network import Network
from aerial_seg.paths import StrPath, as_path, with_device
from aerial_seg.progress import Progress, ProgressBar, announce, silent
from aerial_seg.recipe.document import Recipe, StageOfRun
from aerial_seg.recipe.loading import load_recipe
from aerial_seg.settings import chosen
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.training.callbacks import Callback, Step
from aerial_seg.training.companions import is_onlooker, started_by_others
from aerial_seg.training.fabric import hear
from aerial_seg.training.loader import lost_workers
from aerial_seg.training.log import Log
from aerial_seg.training.loop import run_training
from aerial_seg.training.optimisation import warmup_notes
from aerial_seg.training.state import TrainingState
from aerial_seg.training.stopping import Stopping, ended_when_asked, left_to_the_first
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
    own = own_network(network, geometry, asked)
    check_output(run)
    before = run_to_continue(run, settings)
    plan = Plan.of(settings, asked, pick_device(settings.device), before)
    if is_onlooker():
        return _look_on(plan, dataset, own)
    stopping = Stopping()
    around = _Around(plan, (dataset, own), settings, progress, callbacks, stopping, begun)
    with ExitStack() as holding:

        def hold() -> None:
            holding.enter_context(locked(run))
            holding.enter_context(stopping.listening())
            require_as_before(run, before, settings)

        return _train_stages(asked_stages(asked), run, before, around, hold)


def _train_stages(
    stages: Sequence[AskedStage], run: Path, before: Run | None, around: _Around, hold: Callable[[], None]
) -> TrainReport:
    """All stages that are left. hold: locks the folder, once all that can be told before that is found good."""
    number = 1
    ended: Mapping[str, Any] | None = None
    if before is not None:
        require_same(before, stages[0].job())
        number = 1 if before.stage is None else before.stage.number
        if before.is_between:
            require_same(before, same_in_all(stages[0], around.given[1], around.settings))
            hold()
            ended, number = before.document, number + 1
            before = None
    left = stages[number - 1 :]
    # Of the next stage alone: until a later one begins its files may be others.
    opened, *_ = check_ahead(left, around.given, around.settings, before)
    report: TrainReport | None = None
    for stage in left:
        if stage.at is None or ended is None:
            report, ended = _train_stage(stage, run, before, None, around, hold, opened)
        else:
            with telling_of_stages(run, stage.at):
                put_aside(run, ended)
                report, ended = _train_stage(stage, run, None, ended, replace(around, begun=time.monotonic()))
    assert report is not None
    return report


def _train_stage(
    stage: AskedStage,
    run: Path,
    before: Run | None,
    ended: Mapping[str, Any] | None,
    around: _Around,
    hold: Callable[[], None] | None = None,
    opened: Opened | None = None,
) -> tuple[TrainReport, Mapping[str, Any]]:
    """One stage, to its end, with what run.json tells then.

    ended: run.json of the stage before, where that has just ended. hold: locks the folder; None: it is locked. opened:
    its data, where they have just been.
    """
    settings = around.settings
    ready = prepare(stage, around.given, run, settings, around.plan, before, opened=opened)
    dataset, beginning = ready.dataset, ready.beginning
    with open_validator(dataset, beginning.recipe, beginning.network) as validator:
        dataset = replace(dataset, data=replace(dataset.data, validator=validator))
        if hold is not None:
            hold()
        facts = {} if before is not None else _first_facts(stage, ready, dataset, ended, around)
        folder = RunFolder(run, before, ready.job, stage.at)
        with folder.restoring():
            if before is None:
                folder.begin(facts)
            folder.extend(settings.extend)
            recipe = with_iterations(beginning.recipe, folder.iterations)
            state = TrainingState.begin(beginning.network, recipe)
            files = _Files.of(folder, dataset, recipe, ready.still, around)
        return _go_on(files, state, dataset, recipe, around), folder.facts()


def with_iterations(recipe: Recipe, iterations: int) -> Recipe:
    """Return the recipe for so many iterations."""
    return recipe.model_copy(
        update={"training": recipe.training.model_copy(update={"iterations": iterations})}
    )


def _first_facts(
    stage: AskedStage,
    ready: Prepared,
    dataset: Dataset,
    ended: Mapping[str, Any] | None,
    around: _Around,
) -> dict[str, Any]:
    """What run.json tells of a run, or a stage, that begins, besides its job."""
    plan, recipe, beginning = around.plan, ready.recipe, ready.beginning
    before = {} if ended is None else after(ended)
    limit = around.settings.time_limit if ended is None else before["time_limit"]
    iterations = recipe.training.iterations
    if limit is not None:
        share = stage.share * limit
        iterations = iterations_within(
            share, around.begun, beginning.network, dataset.data, plan.timed(recipe), plan.alone()
        )
    begins = () if ended is None else (beginning_note(stage, ended),)
    return {
        "tool_version": __version__,
        "iteration": 0,
        "iterations": iterations,
        "notes": (
            *begins,
            *dataset.notes,
            *beginning.notes,
            *warmup_notes(with_iterations(recipe, iterations).training),
            *plan.notes,
        ),
        "weights_sha256": beginning.sha256,
        COUNTED: isinstance(stage.recipe.training.class_weights, str),
        "environment": environment(plan.device, plan.precision),
        **plan.facts(),
        "data_newest": dataset.newest(),
        **({} if limit is None else {"time_limit": limit}),
        **before,
    }


@dataclass(frozen=True, slots=True)
class _Around:
    """What a run has around it that changes nothing of what it learns.

    given: the dataset, and a network of one's own. begun: when the stage was, by time.monotonic.
    """

    plan: Plan
    given: tuple[Path, Network | None]
    settings: TrainSettings
    progress: Progress
    callbacks: Sequence[Callback]
    stopping: Stopping
    begun: float


@dataclass(frozen=True, slots=True)
class _Files:
    """What writes into a run's folder, and the notes on what was found there."""

    folder: RunFolder
    models: ModelFiles
    log: Log
    keeper: RunKeeper
    still: Unchanged
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, folder: RunFolder, dataset: Dataset, recipe: Recipe, still: Unchanged, around: _Around
    ) -> _Files:
        models = ModelFiles(folder.folder, dataset, recipe, around.given[1], folder.stage)
        log = Log(folder.folder / LOG, dataset.legend.names if dataset.data.val is not None else ())
        every = around.settings.checkpoint_every
        keeper = RunKeeper(folder, models, log, still, every=EVERY if every is None else every)
        notes = (
            *(() if dataset.overfit is None else (overfit_note(dataset.overfit),)),
            *(folder.fact("notes") or ()),
            *_what_is_other(folder, dataset, around.plan),
        )
        return cls(folder, models, log, keeper, still, notes)


def _go_on(
    files: _Files, state: TrainingState, dataset: Dataset, recipe: Recipe, around: _Around
) -> TrainReport:
    """The run, or its stage, from where it stands to its end, in its folder, which is locked."""
    folder, models, keeper = files.folder, files.models, files.keeper
    events = around.settings.tensorboard
    with telling_what_is_kept(folder, keeper):
        notes = [*files.notes, *keeper.resume(state), *missing(events=events)]
        for note in notes:
            announce(f"note: {note}")  # now, not after hours
        if folder.is_kept:  # else those that lie there are of the run that is to be replaced
            models.mark(finished=False)
        with (
            files.still.holding(),
            lost_workers(),
            in_company(around.plan, state, recipe, around.given) as computing,
            pictures(folder.folder, dataset, recipe, state, around.plan.device, events=events) as drawn,
            _bar(around, recipe, folder.stage) as bar,
        ):
            if folder.stage is not None:
                for one in around.callbacks:
                    one.on_stage(folder.stage.number, folder.stage.of, folder.stage.name)
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
        if folder.stage is None or folder.stage.is_last:
            models.mark(finished=True)
            keeper.tell("finished", state)
        else:
            keeper.tell("stopped", state, **{STAGE_ENDED: True})
    report = report_on(folder, state, recipe, notes)
    if started_by_others():
        hear(computing.fabric, report)
    return report


def _look_on(plan: Plan, dataset: Path, own: Network | None) -> TrainReport:
    """Train along as torchrun's further process, all stages that are left; the report is that of the first one."""
    # Until it has met the first one, that may still refuse the run: torchrun then asks this one to end, for 30 s.
    with ended_when_asked():
        plan.computing()
    with left_to_the_first():
        while True:
            with lost_workers():
                computing = train_along(plan, dataset, own)
            report: TrainReport = hear(computing.fabric, None)
            if report.stage is None or report.stage.is_last:
                return report


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
def _bar(around: _Around, recipe: Recipe, stage: StageOfRun | None) -> Iterator[_Bar]:
    what = "train" if stage is None else f"train, {stage}"
    with around.progress(what, total=recipe.training.iterations, unit="iteration") as bar:
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
