"""Where a training run stands: what its folder tells, also while it goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aerial_seg.errors import InputError
from aerial_seg.files.lock import is_held
from aerial_seg.jobs.train.run_folder import (
    BEST,
    CURVES,
    LAST,
    LOCK,
    LOG,
    RUN,
    SAMPLES,
    Run,
    finished_stages,
    read_run,
)
from aerial_seg.mentions import SAME_CALL
from aerial_seg.metrics import or_null
from aerial_seg.training.log import History, ValidationRow, read_log

_RECENT = 50
"""Updates whose mean loss is told."""


def run_card(folder: Path) -> dict[str, Any]:
    """Return where the run in a folder stands, JSON-ready. Raises InputError where there is none.

    state: running (a process holds its lock now), stopped, finished, or unknown where no lock can be asked. iteration:
    of the last update in the log. kept_iteration: of the last checkpoint, from which the run goes on. stage: the one
    that a run of several is at, which all of this is of; None for a run of one. earlier: what those before came to.
    """
    run, history = read_run(folder), read_history(folder / LOG)
    state, reason = _state(run)
    done = run.iteration if state == "finished" else max([run.iteration, *_last_iteration(history)])
    pace = _seconds_per_iteration(run, done)
    return {
        "kind": "training run",
        "path": str(folder),
        "state": state,
        "reason": reason,
        "stage": None if run.stage is None else run.stage.model_dump(),
        "earlier": _earlier(run),
        "iteration": done,
        "iterations": run.iterations,
        "kept_iteration": run.iteration,
        "seconds_per_iteration": pace,
        "seconds_left": pace * (run.iterations - done) if pace is not None and state == "running" else None,
        "loss": _recent_loss(history),
        "learning_rate": history.losses[-1][2] if history.losses else None,
        "best": _best(run),
        "last_validation": _validation(history.validations[-1]) if history.validations else None,
        "recipe": _recipe(run.document["recipe"]),
        "files": [name for name in (BEST, LAST, LOG, CURVES, SAMPLES) if name in run.own_files],
        "tool_version": run.document.get("tool_version"),
        "notes": _notes(run.document.get("notes")),
    }


def read_history(log: Path) -> History:
    """Read a run's log. Raises InputError for what is none."""
    try:
        return read_log(log)
    except ValueError as error:
        raise InputError(
            f"{log} is no log of a training run ({error}); put back the one that `aerial-seg train` wrote"
        ) from error


def _notes(told: object) -> list[str]:
    return [str(note) for note in told] if isinstance(told, list) else []


def _state(run: Run) -> tuple[str, str]:
    """The state, and what it means for whoever asks."""
    if run.state == "finished":
        early = run.iteration < run.iterations
        return "finished", "the run is finished" + (": its patience was over" if early else "")
    held, said = is_held(run.folder / LOCK), run.document.get("state")
    if held is None:
        return (
            "unknown",
            f"the last that it wrote is '{said}'; the file system does not tell whether it goes on",
        )
    if held:
        return "running", "a process is at work on it"
    if run.is_between and run.stage is not None:
        number = run.stage.number
        return (
            "stopped",
            f"stage {number} of {run.stage.of} is finished; {SAME_CALL} to go on with stage {number + 1}",
        )
    how = "" if said == "stopped" else "it ended without a word, as by a kill or a power cut; "
    return "stopped", f"{how}{SAME_CALL} to go on after iteration {run.iteration:,}"


def _earlier(run: Run) -> list[dict[str, Any]]:
    try:
        return [asdict(one) | {"model": str(one.model)} for one in finished_stages(run.folder, run.document)]
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{run.folder / RUN} tells of earlier stages what no run wrote ({type(error).__name__}: {error}); "
            "put back the one that `aerial-seg train` wrote"
        ) from error


def _last_iteration(history: History) -> list[int]:
    return [history.losses[-1][0]] if history.losses else []


def _seconds_per_iteration(run: Run, done: int) -> float | None:
    """Of the process that is or was last at work, its validations included; None where nothing tells it."""
    begun = run.document.get("begun")
    if not isinstance(begun, Mapping):
        return None
    at, first = begun.get("time"), begun.get("iteration")
    log = run.folder / LOG
    if not isinstance(at, int | float) or not isinstance(first, int) or not log.is_file():
        return None
    # The log gets a row with every update.
    spent = min(time.time(), log.stat().st_mtime) - at
    return spent / (done - first) if done > first and spent > 0 else None


def _recent_loss(history: History) -> float | None:
    losses = [loss for _, loss, _ in history.losses[-_RECENT:]]
    return sum(losses) / len(losses) if losses else None


def _best(run: Run) -> dict[str, Any] | None:
    """The best checkpoint so far."""
    scores, iteration = run.document.get("validation"), run.document.get("best_iteration")
    if not isinstance(scores, Mapping) or not isinstance(scores.get("classes"), list):
        return None
    classes = [one for one in scores["classes"] if isinstance(one, Mapping)]
    ious = {str(one.get("name")): _number(one.get("iou")) for one in classes}
    known = iteration if isinstance(iteration, int) else None
    return {"iteration": known, "miou": _number(scores.get("miou")), "ious": ious}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _validation(row: ValidationRow) -> dict[str, Any]:
    ious = {name: or_null(iou) for name, iou in row.ious.items()}
    return {"iteration": row.iteration, "miou": or_null(row.miou), "ious": ious}


def _recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What one wants to be reminded of; all of it is in run.json."""
    wanted = {
        "model": ("architecture", "encoder", "weights"),
        "training": ("batch_size", "crop", "optimizer", "learning_rate"),
    }
    return {
        name: recipe[section][name]
        for section, names in wanted.items()
        for name in names
        if isinstance(recipe.get(section), Mapping) and name in recipe[section]
    }
