"""A run of several stages: each is a run in the same folder, and leaves its files in one of its own for the next."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aerial_seg.errors import InputError, OutputError
from aerial_seg.files.durable import settled_file, sync
from aerial_seg.files.operating_system import replace
from aerial_seg.files.work import link_or_copy
from aerial_seg.jobs.train.model_files import mark
from aerial_seg.jobs.train.run_folder import (
    EARLIER,
    MADE,
    PART_OF,
    RUN,
    STAGE_ENDED,
    WHOLE,
    read_run,
    written,
)
from aerial_seg.mentions import SAME_CALL
from aerial_seg.models.weights_source import weights_file
from aerial_seg.recipe.document import STAGE, Recipe, StageOfRun, stage_folder


@dataclass(frozen=True, slots=True)
class AskedStage:
    """One stage of what is asked for. recipe: its own. at: None where it is the only one. whole: the recipe of all."""

    recipe: Recipe
    whole: Recipe
    at: StageOfRun | None = None

    @property
    def is_later(self) -> bool:
        """Whether it begins with what a stage before it made."""
        return self.at is not None and self.at.number > 1

    @property
    def share(self) -> float:
        """Of the iterations of all stages."""
        return self.recipe.training.iterations / sum(one.training.iterations for one in self.whole.by_stage())

    def weights(self, run: Path) -> Path | None:
        """The file that it begins with, if it is one: of a later stage in the run's folder."""
        return run / self.recipe.model.weights if self.is_later else weights_file(self.recipe.model)

    def job(self) -> dict[str, Any]:
        """What run.json knows of all stages."""
        return {WHOLE: None if self.at is None else self.whole.model_dump(mode="json")}


def asked_stages(recipe: Recipe) -> tuple[AskedStage, ...]:
    """The stages of a recipe, in their order."""
    recipes = recipe.by_stage()
    if len(recipes) == 1:
        return (AskedStage(recipe, recipe),)
    names = ("", *(stage.name for stage in recipe.stage))
    return tuple(
        AskedStage(one, recipe, StageOfRun(number=k, of=len(recipes), name=name))
        for k, (one, name) in enumerate(zip(recipes, names, strict=True), start=1)
    )


def put_aside(folder: Path, document: Mapping[str, Any]) -> Path:
    """Let a finished stage's files lie in a folder of its own, too; it is whole as soon as it is there.

    document: the run.json of the stage. Those in the run's folder stay until the next stage has made its first
    checkpoint, so that there is a best model at any moment. Who is called again after a kill makes nothing twice.
    Raises OutputError where another folder has its name.
    """
    number = int(document[STAGE]["number"])
    final = folder / stage_folder(number)
    if _is_of(final, document):
        return final
    if final.exists():
        raise OutputError(f"{final} is there, but not of this run; move it away, and {SAME_CALL}")
    draft = final.with_name(f".{final.name}")
    shutil.rmtree(draft, ignore_errors=True)  # of a kill
    draft.mkdir()
    for name in sorted(file.relative_to(folder).as_posix() for made in MADE for file in folder.glob(made)):
        (draft / name).parent.mkdir(exist_ok=True)
        if link_or_copy(folder / name, draft / name):
            sync(draft / name)
    mark(draft, finished=True)
    own = {key: value for key, value in document.items() if key not in ("former", STAGE_ENDED)}
    with settled_file(draft / RUN) as partial:
        partial.write_text(
            written({**own, "state": "finished", PART_OF: document["run"]}),
            encoding="utf-8",
            newline="\n",
        )
    sync(draft)
    replace(draft, final)
    sync(folder)
    return final


def _is_of(final: Path, document: Mapping[str, Any]) -> bool:
    """Whether the finished stage's folder is there, made by this very run."""
    try:
        return read_run(final).whole == str(document["run"])
    except InputError:
        return False


def after(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the next stage's run.json tells of the stages before it. document: that of the stage before."""
    scores = document.get("validation")
    came_to = {
        **{key: document[STAGE][key] for key in ("number", "name")},
        "iterations": document["iteration"],
        "best_iteration": document.get("best_iteration"),
        "miou": scores.get("miou") if isinstance(scores, Mapping) else None,
    }
    return {EARLIER: [*document.get(EARLIER, ()), came_to], "time_limit": document.get("time_limit")}


def beginning_note(stage: AskedStage, before: Mapping[str, Any]) -> str:
    """Say which weights a later stage begins with. before: run.json of the stage before it."""
    assert stage.at is not None
    last = stage.recipe.model.weights.endswith("last.safetensors")
    iteration = before["iteration"] if last else before["best_iteration"]
    averaged = " (their moving average)" if before["recipe"]["training"]["ema_decay"] else ""
    return (
        f"{stage.at} begins with {stage.recipe.model.weights}: the {'last' if last else 'best'} weights of stage "
        f"{stage.at.number - 1}, of its iteration {iteration:,}{averaged}; optimiser and schedule begin anew"
    )
