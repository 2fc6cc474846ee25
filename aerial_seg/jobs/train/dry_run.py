"""The dry run of a training: what it would take, measured on some updates, with nothing left of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aerial_seg.errors import SettingsError
from aerial_seg.files.durable import settled_file
from aerial_seg.files.names import check_output
from aerial_seg.files.operating_system import peak_while
from aerial_seg.files.staging import check_writable
from aerial_seg.jobs.train.company import Plan
from aerial_seg.jobs.train.continuing import require_same, run_to_continue
from aerial_seg.jobs.train.data import Dataset
from aerial_seg.jobs.train.overfit import Subset
from aerial_seg.jobs.train.pictures import missing
from aerial_seg.jobs.train.preparing import Opened, check_ahead, prepare
from aerial_seg.jobs.train.run_folder import (
    BEST,
    CURVES,
    LAST,
    LOG,
    RUN,
    SAMPLES,
    STATE,
    Run,
)
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.jobs.train.stages import AskedStage, asked_stages
from aerial_seg.jobs.train.time_limit import SHARE, Timing, fitting, time_run
from aerial_seg.jobs.train.validation import open_validator
from aerial_seg.mentions import setting
from aerial_seg.models.device import device_peak_while, hardware_name, has_own_memory, pick_device
from aerial_seg.models.network import Network
from aerial_seg.paths import StrPath, as_path, with_device
from aerial_seg.recipe.document import STAGE, Recipe, StageOfRun
from aerial_seg.recipe.loading import load_recipe
from aerial_seg.report.batch import draw_batch
from aerial_seg.settings import chosen
from aerial_seg.training.batches import TrainingData, training_crops
from aerial_seg.training.crops import ChipStore
from aerial_seg.training.freezing import learnt_parameters
from aerial_seg.training.optimisation import warmup_notes
from aerial_seg.training.validation.validator import SceneValidator, Validator

_SECONDS = 10.0
"""That updates are timed for, at the most."""
_CHIPS = 16
"""Validation chips that are timed: the others take as long."""


@dataclass(frozen=True, slots=True)
class TrainForecast:
    """Foretell a training run, before it starts; nothing was written but the picture, where one was asked for.

    recipe: with all defaults. chips: by split. parameters: numbers that are learnt at some time, without what stays
    frozen. done: iterations that an interrupted run has behind it. seconds: of all that is left, validations included;
    seconds_per_iteration, the mean of what is left, and seconds_per_validation were measured. memory: peak bytes of the
    process; gpu_memory: of tensors on the GPU, if there is one. files: what the folder would hold, with bytes where
    they are known.
    stage: of a run of several the one that all of this is of, which comes next; its recipe has the further ones, too.
    later: those that follow it.
    """

    run: Path
    recipe: Recipe
    chips: dict[str, int]
    classes: tuple[str, ...]
    bands: tuple[str, ...]
    gsd: float | None
    parameters: int
    hardware: str
    precision: str
    done: int
    iterations: int
    seconds_per_iteration: float
    seconds_per_validation: float
    seconds: float
    memory: int
    gpu_memory: int | None
    files: dict[str, int | None]
    picture: Path | None
    notes: tuple[str, ...] = ()
    stage: StageOfRun | None = None
    later: tuple[TrainForecast, ...] = ()

    @property
    def seconds_of_all(self) -> float:
        """Seconds of all stages that are left."""
        return self.seconds + sum(one.seconds for one in self.later)

    def as_json(self) -> dict[str, Any]:
        """Return a JSON-ready document."""
        names = [name for name in self.__slots__ if name not in ("recipe", "stage", "later")]
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            **{name: getattr(self, name) for name in names},
            "stage": None if self.stage is None else self.stage.model_dump(),
            "later": [one.as_json() for one in self.later],
        }


def forecast_training(
    dataset: StrPath,
    recipe: Recipe | StrPath,
    run: StrPath,
    settings: TrainSettings | None = None,
    *,
    device: str = "auto",
    picture: StrPath | None = None,
) -> TrainForecast:
    """Foretell what `train` would do with the same arguments, and refuse what it would refuse; nothing is trained.

    picture: a PNG that shows the first batch as the network would see it, beside its labels; it may be replaced with
    overwrite.
    """
    dataset, run = as_path(dataset, "dataset"), as_path(run, "run")
    picture = None if picture is None else as_path(picture, "picture")
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    settings = with_device(chosen(settings, TrainSettings), device)
    if picture is not None:
        if picture.suffix.lower() != ".png":
            raise SettingsError(f"{setting('picture')} is {picture}, wanted a path that ends in .png")
        check_writable(picture, overwrite=settings.overwrite)
    check_output(run)
    before = run_to_continue(run, settings)
    plan = Plan.of(settings, recipe, pick_device(settings.device), before)
    stages, number = asked_stages(recipe), 1
    if before is not None:
        require_same(before, stages[0].job())
        number = 1 if before.stage is None else before.stage.number
    opened = check_ahead(stages[number - 1 :], (dataset, None), settings, before)
    if before is not None and before.is_between:
        before, number, opened = None, number + 1, opened[1:]
    around = _Around(dataset, run, settings, plan)
    next_one, *others = (
        _forecast(stage, around, before if k == 0 else None, picture if k == 0 else None, k, there)
        for k, (stage, there) in enumerate(zip(stages[number - 1 :], opened, strict=True))
    )
    whole = next_one.recipe.model_copy(update={STAGE: recipe.stage}) if number == 1 else next_one.recipe
    return replace(next_one, recipe=whole, later=tuple(others))


@dataclass(frozen=True, slots=True)
class _Around:
    """What all stages of a run have in common."""

    dataset: Path
    run: Path
    settings: TrainSettings
    plan: Plan


def _forecast(
    stage: AskedStage,
    around: _Around,
    before: Run | None,
    picture: Path | None,
    place: int,
    there: Opened | None,
) -> TrainForecast:
    """The forecast of one stage. place: 0 for the one that comes next. there: its data, where they are opened."""
    run, settings, plan = around.run, around.settings, around.plan
    is_ahead = place > 0 or (stage.is_later and before is None)
    ready = prepare(stage, (around.dataset, None), run, settings, plan, before, ahead=is_ahead, opened=there)
    recipe, opened, network = ready.recipe, ready.dataset, ready.beginning.network
    found: list[Timing] = []
    with open_validator(opened, ready.beginning.recipe, network) as validator:
        data, share = _some(opened.data, validator)

        def measure() -> None:
            found.append(time_run(network, data, plan.timed(recipe), plan.alone(), most=_SECONDS))

        memory, gpu_memory = _peaks(plan.device, measure)
    timing = found[0]
    if picture is not None:
        _draw(opened, recipe, picture)
    timing = replace(timing, validation=timing.validation * share)
    done, iterations = _extent(before, stage, settings, timing)
    every = recipe.training.validate_every
    validations = math.ceil(iterations / every) - done // every if opened.data.val is not None else 0
    updating = timing.updates(done, iterations)
    length = recipe.training.model_copy(update={"iterations": max(1, iterations)})
    return TrainForecast(
        run=run,
        recipe=recipe,
        chips={
            "train": len(opened.data.train),
            "val": 0 if opened.data.val is None else len(opened.data.val),
        },
        classes=opened.legend.names,
        bands=tuple(band.name for band in opened.bands),
        gsd=opened.gsd,
        parameters=sum(one.numel() for one in learnt_parameters(network, recipe)),
        hardware=hardware_name(plan.device),
        precision=plan.precision,
        done=done,
        iterations=iterations,
        seconds_per_iteration=updating / (iterations - done) if iterations > done else timing.step,
        seconds_per_validation=timing.validation,
        seconds=updating + validations * timing.validation,
        memory=memory,
        gpu_memory=gpu_memory,
        files=_files(network, recipe, has_chips=opened.data.val is not None),
        picture=picture,
        notes=(
            *opened.notes,
            *ready.beginning.notes,
            *warmup_notes(length),
            *plan.notes,
            *missing(events=settings.tensorboard),
        ),
        stage=stage.at,
    )


def _extent(
    before: Run | None, stage: AskedStage, settings: TrainSettings, timing: Timing
) -> tuple[int, int]:
    """Iterations that are done, and how many there are to be."""
    if before is not None:
        goes_further = settings.extend is not None and before.state == "finished"
        whole = before.iteration + (settings.extend or 0) if goes_further else before.iterations
        return before.iteration if before.is_kept else 0, whole
    if settings.time_limit is None:
        return 0, stage.recipe.training.iterations
    limit = SHARE * stage.share * settings.time_limit
    return 0, max(0, fitting(limit, timing, stage.recipe.training.validate_every))


def _some(data: TrainingData, validator: Validator | None) -> tuple[TrainingData, float]:
    """The data with some of the validation chips, and how many times as many there are; scenes are timed whole."""
    if isinstance(validator, SceneValidator):
        return replace(data, validator=validator), 1.0
    if data.val is None or len(data.val) <= _CHIPS:
        return data, 1.0
    numbers = tuple(int(k) for k in np.linspace(0, len(data.val) - 1, _CHIPS))
    names = tuple(data.val_names[k] for k in numbers)
    few = replace(data, val=ChipStore(Subset(data.val, numbers)), val_names=names)
    return few, len(data.val) / _CHIPS


def _peaks(device: torch.device, work: Callable[[], object]) -> tuple[int, int | None]:
    """Peak bytes of the process and, where it is one, of the GPU."""
    if not has_own_memory(device):
        return peak_while(work), None
    there: list[int] = []
    here = peak_while(lambda: there.append(device_peak_while(device, work)))
    return here, there[0]


def _draw(dataset: Dataset, recipe: Recipe, picture: Path) -> None:
    crops = training_crops(dataset.data, recipe)
    batch = [crops[k] for k in range(recipe.training.batch_size)]
    images, labels = (np.stack([one.numpy() for one in part]) for part in zip(*batch, strict=True))
    title = f"The first {len(batch)} training crops, after augmentation"
    with settled_file(picture) as partial:
        draw_batch(
            images, labels.astype(np.uint8), partial, bands=dataset.bands, legend=dataset.legend, title=title
        )


def _files(network: Network, recipe: Recipe, *, has_chips: bool) -> dict[str, int | None]:
    """What the run's folder would hold, with bytes of the large ones."""
    model = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    learnt = sum(one.numel() * one.element_size() for one in learnt_parameters(network, recipe))
    moments = 2 if recipe.training.optimizer != "sgd" else 1 if recipe.training.momentum else 0
    state = model + moments * learnt + (model if recipe.training.ema_decay else 0)
    drawn = [CURVES, *([SAMPLES] if has_chips else [])]
    return {BEST: model, LAST: model, STATE: state, RUN: None, LOG: None, **dict.fromkeys(drawn)}
