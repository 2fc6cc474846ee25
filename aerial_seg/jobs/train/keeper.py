"""Checkpoints: all that a run needs to go on, then its models, then run.json."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from aerial_seg.errors import AerialSegError, Incomplete, Interrupted, KeptNote
from aerial_seg.files.disk import write_failure
from aerial_seg.files.state_header import read_state
from aerial_seg.geo.raster.unchanged import ChangedError, Unchanged
from aerial_seg.jobs.train.model_files import ModelFiles
from aerial_seg.jobs.train.run_folder import LOG, STATE, RunFolder, Standing
from aerial_seg.mentions import SAME_CALL
from aerial_seg.recipe.document import StageOfRun
from aerial_seg.training.callbacks import Checkpoint
from aerial_seg.training.log import Log
from aerial_seg.training.loop import TrainingError
from aerial_seg.training.state import TrainingState

EVERY = 600.0
"""Seconds between two checkpoints unless one is told otherwise."""


class RunKeeper:
    """Put a run on the disk, so that whatever ends it costs what was done since the last checkpoint, and no more.

    The rename of the state is the checkpoint: log rows beyond it are cut when the run goes on, and models that a kill
    left older are made from it.
    """

    def __init__(
        self, folder: RunFolder, models: ModelFiles, log: Log, still: Unchanged, *, every: float
    ) -> None:
        self._folder, self._models, self._log, self._still, self._every = folder, models, log, still, every
        self._kept = time.monotonic()

    def resume(self, state: TrainingState) -> tuple[str, ...]:
        """Bring state, log and models to where the last checkpoint stands; notes on what could not be."""
        file = self._folder.folder / STATE
        notes: list[str] = []
        self._folder.sweep()
        if self._folder.is_kept:
            # A kill may have come before the models of a run that was there before were gone.
            self._folder.forget_former()
            state.load(file)
            notes += self._models.mend(state)
            if self._folder.is_extended_at(state.iteration):
                state.renew_patience()
        elif self._folder.fact("iteration"):
            notes.append(
                f"{file} is gone, which held the first {self._folder.fact('iteration'):,} iterations; the run begins "
                "again at iteration 0"
            )
        if self._log.begin(state.iteration) < state.iteration:
            notes.append(f"{LOG} does not hold all of the first {state.iteration:,} iterations any more")
        self.tell("running", state)
        return tuple(notes)

    def is_due(self) -> bool:
        """Tell whether so much time has passed that what was done since should not be lost."""
        return time.monotonic() - self._kept >= self._every

    def keep(self, state: TrainingState, checkpoint: Checkpoint) -> None:
        """Put the state and the models on the disk. Raises TrainingError for weights that are no numbers."""
        self._still.check()
        if not state.is_finite():
            raise TrainingError(
                f"weights are no finite numbers any more after iteration {state.iteration:,}; lower "
                "training.learning_rate or lengthen training.warmup"
            )
        self._log.sync()
        state.save(self._folder.folder / STATE, run=self._folder.token)
        self._folder.forget_former()
        self._models.write(checkpoint)
        self.tell("running", state)
        self._kept = time.monotonic()

    def tell(self, standing: Standing, state: TrainingState, **facts: object) -> None:
        """Write into run.json how far the run has come, and what else is to be known of it."""
        best = state.best
        self._folder.write(
            standing,
            iteration=state.iteration,
            best_iteration=None if best is None else best.iteration,
            validation=None if best is None or best.outcome is None else best.outcome.as_json(),
            threshold=None if best is None else best.threshold,
            **facts,
        )

    def stop(self) -> None:
        """Write into run.json that nothing goes on; leave nothing of a run without an update.

        Where nothing is kept of a run that was to replace another one, that one is as it was.
        """
        # Where the disk is full run.json still tells of the last checkpoint.
        with suppress(AerialSegError):
            if self._folder.bring_back_former():
                return
            self._log.sync()
            self._folder.write("stopped")
        self._folder.forget_if_empty()


@contextmanager
def telling_what_is_kept(folder: RunFolder, keeper: RunKeeper) -> Iterator[None]:
    """Say in an error of the block up to where the run is kept, if any of it is, and how to go on.

    What the user can mend is Incomplete then, an interruption Interrupted. A loss or weights that are no numbers come
    again with the same call, and keep their own kind.
    """
    try:
        yield
    except BaseException as error:
        keeper.stop()
        header = read_state(folder.folder / STATE) if folder.is_kept else None
        if header is not None:
            _say_what_is_kept(error, f"the first {header['iteration']:,} iterations are kept", folder.folder)
        if folder.stage is not None and folder.stage.number > 1:
            _say_what_is_kept(error, _stages_kept(folder.stage), folder.folder)
        raise


@contextmanager
def telling_of_stages(folder: Path, stage: StageOfRun) -> Iterator[None]:
    """Say in an error of the block, in which `stage` begins, that those before it are kept in the folder."""
    try:
        yield
    except BaseException as error:
        is_told = isinstance(error, Incomplete | TrainingError)
        if not is_told and not any(isinstance(note, KeptNote) for note in getattr(error, "__notes__", ())):
            _say_what_is_kept(error, _stages_kept(stage), folder)
        raise


def _stages_kept(stage: StageOfRun) -> str:
    before = stage.number - 1
    return (
        f"stage{'s 1 to' if before > 1 else ''} {before} of {stage.of} {'are' if before > 1 else 'is'} kept"
    )


def _say_what_is_kept(error: BaseException, what: str, folder: Path) -> NoReturn:
    """Raises the error, or what it is where something is kept. what: it, and that it is."""
    done = f"{what} in {folder}"
    go_on = f"{SAME_CALL} to go on: {done}"
    if isinstance(error, KeyboardInterrupt):
        raise Interrupted(f"interrupted; {done}; {SAME_CALL} to go on") from error
    if isinstance(error, TrainingError):
        raise TrainingError(f"{error}; {done}") from error
    if isinstance(error, ChangedError) and error.what is not None:
        raise Incomplete(f"{error.what}; put it back as it was, then {go_on}") from error
    if isinstance(error, AerialSegError | OSError) and not isinstance(error, Incomplete):
        raise Incomplete(f"{_told(error, folder)}; {go_on}") from error
    error.add_note(KeptNote(go_on))
    raise error


def _told(error: AerialSegError | OSError, folder: Path) -> AerialSegError:
    if isinstance(error, OSError):
        return write_failure(error, folder, "free space or check the disk")
    return error
