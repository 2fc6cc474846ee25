"""A run is a folder: run.json tells what it is and how far it has come, and one process at a time writes to it."""

from __future__ import annotations

import copy
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from aerial_seg.documents import DocumentError, parse_json, read_text
from aerial_seg.errors import AerialSegError, InputError, OutputError
from aerial_seg.files import operating_system
from aerial_seg.files.durable import settled_file
from aerial_seg.files.journal import as_read_back, describe_changes
from aerial_seg.files.lock import held, is_held
from aerial_seg.files.made import LIST
from aerial_seg.files.staging import check_folder
from aerial_seg.files.state_header import read_state
from aerial_seg.files.work import missing_parents, remove_empty
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.mentions import FORMER_CALL, SAME_CALL, setting
from aerial_seg.paths import StrPath, as_path
from aerial_seg.recipe.document import Recipe, as_meant

BEST, LAST = "best.safetensors", "last.safetensors"
LOG, RUN, STATE, LOCK = "log.csv", "run.json", "training.safetensors", ".lock"
FORMER_LOG = "log.former.csv"
"""The log of the run that is replaced, until something of the new one is kept."""
CURVES, SAMPLES, EVENTS = "curves.png", "samples.png", "tensorboard"
DRAFTS = ("*.partial", ".tmp??????")
"""Files that a kill left half written: ours, and those that safetensors writes to before it renames them."""
OWN = (
    BEST,
    LAST,
    LOG,
    FORMER_LOG,
    CURVES,
    SAMPLES,
    f"{EVENTS}/events.out.tfevents.*",
    RUN,
    STATE,
    LOCK,
    LIST,
    *DRAFTS,
)
"""All that a run puts into its folder, as patterns of names: what it may replace or forget."""

Stage = Literal["running", "stopped", "finished"]
_NOT_LEARNING = ("workers",)
"""Settings of a recipe's training that change no bit of what is learnt: a run may go on with others."""


@dataclass(frozen=True, slots=True)
class Run:
    """Tell what run.json holds. iteration: of the last checkpoint. iterations: how many there are to be.

    state: running only while a process holds the folder's lock. document: all of run.json.
    """

    folder: Path
    state: Stage
    iteration: int
    iterations: int
    document: Mapping[str, Any]

    @property
    def token(self) -> str:
        """What tells this run from one that was there before; empty for a run of an older version."""
        return str(self.document.get("run", ""))

    @property
    def is_kept(self) -> bool:
        """Whether there is a checkpoint of it to go on from."""
        return _is_kept(self.folder, self.document)

    @property
    def former(self) -> Mapping[str, Any] | None:
        """The finished run that it is to replace as soon as something of it is kept: run_json, and names of files."""
        return self.document.get("former")

    @property
    def own_files(self) -> frozenset[str]:
        """Names of what lies in the folder and is this run's."""
        former = self.former
        return _names(self.folder) - (frozenset() if former is None or self.is_kept else {*former["files"]})


def _is_kept(folder: Path, document: Mapping[str, Any]) -> bool:
    """Whether a checkpoint of the run that run.json tells of lies in the folder.

    One of another token is of the run that was there before, as is one that cannot be read while that run's files lie
    there; else it counts.
    """
    header = read_state(folder / STATE)
    if header is None:
        return (folder / STATE).exists() and "former" not in document
    return bool(header.get("run") == document.get("run"))


def _names(folder: Path) -> frozenset[str]:
    """What runs have put into the folder, by relative names."""
    return frozenset(file.relative_to(folder).as_posix() for pattern in OWN for file in folder.glob(pattern))


def read_run(path: StrPath) -> Run:
    """Read where the run in the folder `path` stands, also while it goes on.

    Raises InputError where there is no run.
    """
    folder = as_path(path, "path")
    file = folder / RUN
    if not file.is_file():
        raise InputError(
            f"{folder} holds no {RUN}, so it is no run; name the folder that `aerial-seg train` wrote"
        )
    try:
        document = parse_json(read_text(file))
        if not isinstance(document, dict) or not isinstance(document.get("recipe"), dict):
            raise DocumentError("it is not of a training run")
        planned = document["recipe"]["training"]["iterations"]
        # Older versions left finished runs only.
        state, iterations = document.get("state", "finished"), document.get("iterations", planned)
        iteration = document.get("iteration", iterations)
        if state not in get_args(Stage) or not isinstance(iteration, int) or not isinstance(iterations, int):
            raise DocumentError(f"its state is {state!r}, {iteration!r} of {iterations!r} iterations")
    except (DocumentError, LookupError, TypeError) as error:
        raise InputError(
            f"{file} cannot be read ({error}); wanted what `aerial-seg train` wrote: name another folder"
        ) from error
    if state == "running" and is_held(folder / LOCK) is False:
        state = "stopped"  # by what left it no time to say so
    return Run(folder, state, iteration, iterations, document)


def run_to_continue(folder: Path, settings: TrainSettings) -> Run | None:
    """Return the run that there is to go on with; None where a new one begins.

    Raises OutputError for a finished one unless it is to be extended or replaced, and for a folder that holds other
    things.
    """
    try:
        found = read_run(folder) if (folder / RUN).is_file() else None
    except InputError as error:
        raise OutputError(str(error)) from error
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
                f"{folder} is an unfinished run (iteration {found.iteration:,} of {found.iterations:,}); leave "
                f"{setting('extend')} out to finish it first"
            )
        return found
    if not found.token or not (folder / STATE).is_file():
        raise OutputError(
            f"{folder} holds no {STATE}, from which a run goes on; older versions wrote none. Begin another run from "
            f'its weights, model.weights = "{folder / LAST}" in the recipe'
        )
    return found


class RunFolder:
    """Write a run's folder while its lock is held."""

    def __init__(self, folder: Path, before: Run | None, job: Mapping[str, Any]) -> None:
        """job: what a new run is of, as recipe and data."""
        self.folder, self.goes_on = folder, before is not None
        self._document: dict[str, Any] = dict(before.document) if before is not None else {}
        if before is None:
            self._document = {"run": secrets.token_hex(8), **job}

    @property
    def token(self) -> str:
        """What tells this run from one that was there before."""
        return str(self._document["run"])

    @property
    def is_kept(self) -> bool:
        """Whether there is a checkpoint of this run to go on from."""
        return _is_kept(self.folder, self._document)

    @property
    def iterations(self) -> int:
        """How many iterations there are to be in all."""
        return int(self._document["iterations"])

    def extend(self, by: int | None) -> None:
        """Let a finished run have so many more iterations than it made; they may be fewer than it was to make."""
        if by is not None and self._document["state"] == "finished":
            reached = int(self.fact("iteration"))
            self.write("running", iterations=reached + by, extended=by, extended_at=reached)

    def is_extended_at(self, iteration: int) -> bool:
        """Tell whether the run was finished after so many iterations and is to go on."""
        return bool(self.fact("extended_at") == iteration)

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Write run.json, the mark that the folder is a run's; what an older run left stays until the first checkpoint.

        facts: what is known of the run besides its job.
        """
        former = self._set_aside()
        if former is None:
            self.write("running", **facts)
            self._clear(keep=(RUN, LOCK))
            return
        self.write("running", **facts, former=former)
        (self.folder / LIST).unlink(missing_ok=True)  # which does not know the new run's files

    def _set_aside(self) -> Mapping[str, Any] | None:
        """The run that lies there, as one write of run.json can tell it, with its log copied; None where none does."""
        if not (self.folder / RUN).is_file():
            return None
        there = read_run(self.folder)
        if there.former is not None and not there.is_kept:
            return there.former  # a run that was stopped so early replaced nothing
        leftover = frozenset() if there.former is None else frozenset(there.former["files"])
        for name in (leftover - {STATE}) | {FORMER_LOG}:
            (self.folder / name).unlink(missing_ok=True)
        self._copy(LOG, FORMER_LOG)
        text = (self.folder / RUN).read_bytes().decode("utf-8")
        return {"run_json": text, "files": sorted(_names(self.folder) - {RUN, LOCK, LOG, FORMER_LOG, LIST})}

    def forget_former(self) -> None:
        """Delete what is left of the run that this one replaces: something of this one is kept now."""
        former = self._document.pop("former", None)
        if former is not None:
            for name in {*former["files"], FORMER_LOG} - {STATE}:
                (self.folder / name).unlink(missing_ok=True)

    def bring_back_former(self) -> bool:
        """Make the folder that of the run before again, where nothing of this one is kept; tell whether there was one.

        Its run.json comes last but for the copies: a kill on the way leaves what this very call finishes.
        """
        former = self._document.get("former")
        if former is None or self.is_kept:
            return False
        self._clear(keep=(*former["files"], RUN, LOCK, LOG, FORMER_LOG))
        self._copy(FORMER_LOG, LOG)
        with settled_file(self.folder / RUN) as partial:
            partial.write_bytes(former["run_json"].encode("utf-8"))
        (self.folder / FORMER_LOG).unlink(missing_ok=True)
        del self._document["former"]  # once: what lies there now is that run again
        return True

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Leave the folder, on any error of the block, as it was before the run where nothing of the run is kept."""
        try:
            yield
        except BaseException:
            with suppress(AerialSegError, OSError):  # of a full disk: the next call brings it back
                if not self.bring_back_former():
                    self.forget_if_empty()
            raise

    def _copy(self, source: str, target: str) -> None:
        """Make one file as the other is, or as little there."""
        if not (self.folder / source).is_file():
            (self.folder / target).unlink(missing_ok=True)
            return
        with settled_file(self.folder / target) as partial:
            shutil.copyfile(self.folder / source, partial)

    def write(self, state: Stage, **facts: object) -> None:
        """Renew run.json. Raises OutputError where the disk does not take it."""
        self._document |= {"state": state, **facts}
        with settled_file(self.folder / RUN) as partial:
            text = json.dumps(self._document, indent=2, default=str)
            partial.write_text(text + "\n", encoding="utf-8", newline="\n")

    def fact(self, name: str) -> Any:
        """Return what run.json tells under this name; None where it tells nothing."""
        return self._document.get(name)

    def sweep(self) -> None:
        """Delete what a kill left half written."""
        for pattern in DRAFTS:
            for file in self.folder.glob(pattern):
                file.unlink(missing_ok=True)

    def forget_if_empty(self) -> None:
        """Leave nothing of a run that has not made one update; models say that it has, though its state is gone."""
        made = any((self.folder / name).exists() for name in (STATE, LAST, BEST))
        if not made and _lines(self.folder / LOG) <= 1:
            self._clear(keep=(LOCK,))

    def _clear(self, *, keep: tuple[str, ...]) -> None:
        for name in _names(self.folder) - {*keep}:
            (self.folder / name).unlink(missing_ok=True)
        remove_empty([self.folder / EVENTS])


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process alone. Raises OutputError when another run holds it."""
    missing = missing_parents(folder)
    new = [folder, *missing] if not folder.exists() else missing
    try:
        with held(folder / LOCK, folder):
            try:
                yield
            finally:
                # While it is held: another run may come at any moment. Windows deletes nothing that is open.
                if not operating_system.WINDOWS:
                    (folder / LOCK).unlink(missing_ok=True)
        if operating_system.WINDOWS:
            with suppress(OSError):  # another run has it
                (folder / LOCK).unlink()
    finally:
        remove_empty(new)


def require_as_before(folder: Path, before: Run | None, settings: TrainSettings) -> None:
    """Raise OutputError where another run changed the folder between the first look at it and its lock."""
    now = run_to_continue(folder, settings)
    if (now and now.document) != (before and before.document):
        raise OutputError(f"{folder} was changed by another run just now; {SAME_CALL}")


def require_same(before: Run, job: Mapping[str, Any]) -> None:
    """Raise OutputError, saying what changed, unless the unfinished run is of this very job."""
    then: dict[str, Any] = copy.deepcopy({key: before.document.get(key) for key in job})
    now = as_read_back(job)
    # An older version knew fewer tables and keys of a recipe, and did what their defaults say.
    said, defaults = as_meant(then["recipe"]), Recipe().model_dump(mode="json")
    then["recipe"] = said | {key: table | said.get(key, {}) for key, table in defaults.items()}
    for document in (then, now):
        training = document["recipe"]["training"]
        for name in _NOT_LEARNING:
            training.pop(name, None)
    for document in (then, now):
        # Of no use to who reads what changed, where the number of files or bytes tells it.
        data = document["data"]
        if then["data"]["bytes"] != now["data"]["bytes"]:
            data.pop("sizes", None)
    if then != now:
        raise OutputError(
            f"{before.folder} holds an unfinished run of another job ({describe_changes(then, now)}); {FORMER_CALL} to "
            f"finish it, or pass {setting('restart', True)} to begin anew"
        )


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


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0
