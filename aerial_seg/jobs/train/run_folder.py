"""A run is a folder: run.json tells what it is and how far it has come, and one process at a time writes to it."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from aerial_seg.documents import DocumentError, parse_json, read_text
from aerial_seg.errors import AerialSegError, InputError, SettingsError
from aerial_seg.files import operating_system
from aerial_seg.files.durable import settled_file
from aerial_seg.files.lock import held, is_held
from aerial_seg.files.made import LIST
from aerial_seg.files.state_header import read_state
from aerial_seg.files.work import missing_parents, remove_empty
from aerial_seg.paths import StrPath, as_path
from aerial_seg.recipe.document import STAGE, StageOfRun, stage_folder

BEST, LAST = "best.safetensors", "last.safetensors"
LOG, RUN, STATE, LOCK = "log.csv", "run.json", "training.safetensors", ".lock"
FORMER_LOG = "log.former.csv"
"""The log of the run that is replaced, until something of the new one is kept."""
CURVES, SAMPLES, EVENTS = "curves.png", "samples.png", "tensorboard"
DRAFTS = ("*.partial", ".tmp??????")
"""Files that a kill left half written: ours, and those that safetensors writes to before it renames them."""
MADE = (BEST, LAST, LOG, CURVES, SAMPLES, f"{EVENTS}/events.out.tfevents.*")
"""What a stage makes that lies in its own folder when the next one begins, as patterns of names."""
OWN = (
    *MADE,
    FORMER_LOG,
    RUN,
    STATE,
    LOCK,
    LIST,
    *DRAFTS,
    *(f"{before}{STAGE}-[1-9]*/{name}" for before in ("", ".") for name in (*MADE, RUN, *DRAFTS)),
)
"""All that a run puts into its folder, as patterns of names: what it may replace or forget."""

Standing = Literal["running", "stopped", "finished"]
STAGE_ENDED, EARLIER, PART_OF = "stage_ended", "earlier_stages", "part_of"
"""In run.json: that the stage is finished; what the stages before came to; in a finished stage's own, whose it is."""
WHOLE = "recipe_of_all_stages"
"""The recipe as it was asked for, of a run of several stages, in run.json; `recipe` is that of the stage there."""


@dataclass(frozen=True, slots=True)
class Run:
    """Tell what run.json holds. iteration: of the last checkpoint. iterations: how many there are to be.

    state: running only while a process holds the folder's lock. document: all of run.json. stage: that the run is at,
    which the iterations are of; None for a run of one.
    """

    folder: Path
    state: Standing
    iteration: int
    iterations: int
    document: Mapping[str, Any]
    stage: StageOfRun | None = None

    @property
    def token(self) -> str:
        """What tells this run from one that was there before; empty for a run of an older version."""
        return str(self.document.get("run", ""))

    @property
    def is_kept(self) -> bool:
        """Whether there is a checkpoint of it to go on from."""
        return _is_kept(self.folder, self.document)

    @property
    def is_between(self) -> bool:
        """Whether the stage is finished, and another one follows."""
        return bool(self.document.get(STAGE_ENDED)) and self.stage is not None and not self.stage.is_last

    @property
    def reached(self) -> str:
        """How far it has come, in words."""
        within = f" of {self.stage}" if self.stage else ""
        return f"iteration {self.iteration:,} of {self.iterations:,}{within}"

    @property
    def whole(self) -> str | None:
        """The token of the run that it is a finished stage of; None for one that can be gone on with."""
        return self.document.get(PART_OF)

    @property
    def former(self) -> Mapping[str, Any] | None:
        """The finished run that it is to replace as soon as something of it is kept: run_json, and names of files."""
        return self.document.get("former")

    @property
    def own_files(self) -> frozenset[str]:
        """Names of what lies in the folder and is this run's."""
        former = self.former
        return _names(self.folder) - (frozenset() if former is None or self.is_kept else {*former["files"]})


def written(document: Mapping[str, Any]) -> str:
    """Return the text of a run.json."""
    return json.dumps(document, indent=2, default=str) + "\n"


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


def _of_stages(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name for name in names if name.lstrip(".").startswith(f"{STAGE}-"))


def _folders_of_stages(folder: Path) -> list[Path]:
    """Those of finished stages, innermost first."""
    stages = [inner for pattern in (f"{STAGE}-[1-9]*", f".{STAGE}-[1-9]*") for inner in folder.glob(pattern)]
    return [inner for stage in stages for inner in (stage / EVENTS, stage)]


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
        stage = None if document.get(STAGE) is None else StageOfRun(**document[STAGE])
        if (
            state not in get_args(Standing)
            or not isinstance(iteration, int)
            or not isinstance(iterations, int)
        ):
            raise DocumentError(f"its state is {state!r}, {iteration!r} of {iterations!r} iterations")
    except (DocumentError, LookupError, SettingsError, TypeError) as error:
        raise InputError(
            f"{file} cannot be read ({error}); wanted what `aerial-seg train` wrote: name another folder"
        ) from error
    if state == "running" and is_held(folder / LOCK) is False:
        state = "stopped"  # by what left it no time to say so
    return Run(folder, state, iteration, iterations, document, stage)


@dataclass(frozen=True, slots=True)
class FinishedStage:
    """Tell what a stage came to. model: its best; miou: that one's, None without validation."""

    number: int
    name: str
    model: Path
    iterations: int
    best_iteration: int | None
    miou: float | None


def finished_stages(folder: Path, document: Mapping[str, Any]) -> tuple[FinishedStage, ...]:
    """What run.json tells of the stages before the one that the run is at."""
    return tuple(
        FinishedStage(
            number=int(one["number"]),
            name=str(one["name"]),
            model=folder / stage_folder(int(one["number"])) / BEST,
            iterations=int(one["iterations"]),
            best_iteration=one["best_iteration"],
            miou=one["miou"],
        )
        for one in document.get(EARLIER, ())
    )


class RunFolder:
    """Write a run's folder while its lock is held."""

    def __init__(
        self, folder: Path, before: Run | None, job: Mapping[str, Any], stage: StageOfRun | None = None
    ) -> None:
        """job: what a new run is of, as recipe and data. stage: of a run of several; each begins as a run does."""
        self.folder, self.goes_on, self.stage = folder, before is not None, stage
        self._document: dict[str, Any] = dict(before.document) if before is not None else {}
        if before is None:
            of_stages = {} if stage is None else {STAGE: stage.model_dump()}
            self._document = {"run": secrets.token_hex(8), **of_stages, **job}

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
            # A run that was stopped so early replaced nothing. Of a stage it was the one before.
            return {**there.former, "files": sorted({*there.former["files"], *_of_stages(self._names())})}
        leftover = frozenset() if there.former is None else frozenset(there.former["files"])
        for name in (leftover - {STATE}) | {FORMER_LOG}:
            (self.folder / name).unlink(missing_ok=True)
        self._copy(LOG, FORMER_LOG)
        text = (self.folder / RUN).read_bytes().decode("utf-8")
        return {"run_json": text, "files": sorted(self._names() - {RUN, LOCK, LOG, FORMER_LOG, LIST})}

    def forget_former(self) -> None:
        """Delete what is left of the run that this one replaces: something of this one is kept now."""
        former = self._document.pop("former", None)
        if former is not None:
            for name in {*former["files"], FORMER_LOG} - {STATE}:
                (self.folder / name).unlink(missing_ok=True)
            remove_empty(_folders_of_stages(self.folder))

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

    def write(self, state: Standing, **facts: object) -> None:
        """Renew run.json. Raises OutputError where the disk does not take it."""
        self._document |= {"state": state, **facts}
        with settled_file(self.folder / RUN) as partial:
            partial.write_text(written(self._document), encoding="utf-8", newline="\n")

    def fact(self, name: str) -> Any:
        """Return what run.json tells under this name; None where it tells nothing."""
        return self._document.get(name)

    def facts(self) -> Mapping[str, Any]:
        """Return all that run.json tells."""
        return dict(self._document)

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
        for name in self._names() - {*keep}:
            (self.folder / name).unlink(missing_ok=True)
        remove_empty([self.folder / EVENTS, *_folders_of_stages(self.folder)])

    def _names(self) -> frozenset[str]:
        """What lies in the folder and is no finished stage of this very run."""
        earlier = range(1, 1 if self.stage is None else self.stage.number)
        kept = tuple(f"{stage_folder(number)}/" for number in earlier)
        return frozenset(name for name in _names(self.folder) if not name.startswith(kept))


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


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0
