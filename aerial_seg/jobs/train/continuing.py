"""What a call finds in the folder it names: a run to go on with, one to take the place of, or one to leave alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aerial_seg.errors import InputError, OutputError
from aerial_seg.files.journal import as_read_back, describe_changes
from aerial_seg.files.staging import check_folder
from aerial_seg.jobs.train.run_folder import LAST, LOCK, OWN, RUN, STATE, WHOLE, Run, read_run
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.mentions import FORMER_CALL, SAME_CALL, setting
from aerial_seg.recipe.document import STAGE, Recipe, as_meant

_NOT_LEARNING = ("workers",)
"""Settings of a recipe's training that change no bit of what is learnt: a run may go on with others."""


def run_to_continue(folder: Path, settings: TrainSettings) -> Run | None:
    """Return the run that there is to go on with; None where a new one begins.

    Raises OutputError for a finished one unless it is to be extended or replaced, and for a folder that holds other
    things.
    """
    try:
        found = read_run(folder) if (folder / RUN).is_file() else None
    except InputError as error:
        raise OutputError(str(error)) from error
    if found is not None and found.whole is not None:
        raise OutputError(
            f"{folder} is stage {found.stage.number if found.stage else 1} of the run {folder.parent}; name that run, "
            "or choose another output"
        )
    if settings.extend is not None:
        return _to_extend(folder, found, settings.extend)
    if found is None or found.state == "finished":
        if found is not None and not settings.overwrite:
            raise OutputError(
                f"{folder} is a finished run of {found.iteration:,} iterations; pass {setting('extend', ...)} to "
                f"train it on, {setting('overwrite', True)} to train anew in its place, or choose another output"
            )
        if not _is_empty(folder):
            check_folder(folder, overwrite=settings.overwrite, marker=RUN, own=OWN)
        return None
    if settings.restart:
        check_folder(folder, overwrite=True, marker=RUN, own=OWN)
        return None
    return found


def _to_extend(folder: Path, found: Run | None, by: int) -> Run:
    if found is None:
        raise OutputError(
            f"{folder} is no run, so there is nothing to train on; leave {setting('extend')} out"
        )
    if found.state != "finished":
        if found.document.get("extended") != by:
            raise OutputError(
                f"{folder} is an unfinished run ({found.reached}); leave "
                f"{setting('extend')} out to finish it first"
            )
        return found
    if not found.token or not (folder / STATE).is_file():
        raise OutputError(
            f"{folder} holds no {STATE}, from which a run goes on; older versions wrote none. Begin another run from "
            f'its weights, model.weights = "{folder / LAST}" in the recipe'
        )
    return found


def require_as_before(folder: Path, before: Run | None, settings: TrainSettings) -> None:
    """Raise OutputError where another run changed the folder between the first look at it and its lock."""
    now = run_to_continue(folder, settings)
    if (now and now.document) != (before and before.document):
        raise OutputError(f"{folder} was changed by another run just now; {SAME_CALL}")


def require_same(before: Run, job: Mapping[str, Any]) -> None:
    """Raise OutputError, saying what changed, unless the unfinished run is of this very job.

    job: what it is of; what is left out is not asked about, as the data of a stage that is finished.
    """
    then: dict[str, Any] = copy.deepcopy({key: before.document.get(key) for key in job})
    now = as_read_back(job)
    for document in (then, now):
        for name in ("recipe", WHOLE):
            if document.get(name) is not None:
                document[name] = _as_compared(document[name])
    if "data" in job and then["data"]["bytes"] != now["data"]["bytes"]:
        for document in (then, now):
            # Of no use to who reads what changed, where the number of files or bytes tells it.
            document["data"].pop("sizes", None)
    if then == now:
        return
    whole_then, whole_now = (_whole(document) for document in (then, now))
    if len(whole_then[STAGE]) != len(whole_now[STAGE]):
        changes = f"the recipe's stages were {1 + len(whole_then[STAGE])}, are {1 + len(whole_now[STAGE])}"
    elif whole_then != whole_now:
        changes = describe_changes({"recipe": whole_then}, {"recipe": whole_now})
    else:
        changes = describe_changes({**then, WHOLE: None}, {**now, WHOLE: None})
    raise OutputError(
        f"{before.folder} holds an unfinished run of another job ({changes}); {FORMER_CALL} to "
        f"finish it, or pass {setting('restart', True)} to begin anew"
    )


def _as_compared(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as run.json tells it, without what changes no bit; an older version knew fewer keys."""
    try:
        document: dict[str, Any] = Recipe.model_validate(as_meant(recipe)).model_dump(mode="json")
    except ValidationError:  # of a newer version: it is compared as it is
        document = copy.deepcopy(dict(recipe))
    for table in (document, *document.get(STAGE, ())):
        for name in _NOT_LEARNING:
            table.get("training", {}).pop(name, None)
    return document


def _whole(document: Mapping[str, Any]) -> dict[str, Any]:
    """The whole recipe that a run's document tells, its further stages by their place."""
    recipe: Mapping[str, Any] = document.get(WHOLE) or document.get("recipe") or {}
    return {**recipe, STAGE: {str(k): stage for k, stage in enumerate(recipe.get(STAGE, ()))}}


def require_same_weights(before: Run, file: str, sha256: str | None) -> None:
    """Raise OutputError where a run without a checkpoint would begin again from other weights than it began from."""
    then = before.document.get("weights_sha256")
    if then not in (None, sha256):
        raise OutputError(
            f"{before.folder} holds an unfinished run that has no checkpoint and began from another {file} (sha256 was "
            f"{str(then)[:12]}…, is {str(sha256)[:12]}…); put that file back, or pass {setting('restart', True)} to "
            "begin anew from this one"
        )


def _is_empty(folder: Path) -> bool:
    """Whether nothing lies there but a lock, which a run has that is about to begin, or that was killed then."""
    return folder.is_dir() and {entry.name for entry in folder.iterdir()} <= {LOCK}
