"""What `train` tells in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aerial_seg.intervals import Intervals
from aerial_seg.jobs.train.run_folder import BEST, FinishedStage, RunFolder, finished_stages
from aerial_seg.metrics import Scores
from aerial_seg.recipe.document import Recipe, StageOfRun
from aerial_seg.training.state import TrainingState


@dataclass(frozen=True, slots=True)
class TrainReport:
    """Tell what `train` made. threshold is that of the best checkpoint when the recipe asked to calibrate it.

    iterations: that it made; fewer than the recipe's where its patience was over. notes: what it started from, and what
    of that was adapted or left out. intervals: of the scores, at 95 %. doubts: what keeps these from being believed,
    and why a threshold stayed 0.5. Of a run of several stages all of this is of the last one; stage: which that is;
    earlier: what those before it came to.
    """

    run: Path
    model: Path
    iterations: int
    best_iteration: int
    scores: Scores | None
    threshold: float | None
    notes: tuple[str, ...] = ()
    intervals: Intervals | None = None
    doubts: tuple[str, ...] = ()
    stage: StageOfRun | None = None
    earlier: tuple[FinishedStage, ...] = ()


def report_on(folder: RunFolder, state: TrainingState, recipe: Recipe, notes: Sequence[str]) -> TrainReport:
    """Tell what the run made that lies in this folder, at its end."""
    best, iterations = state.best, recipe.training.iterations
    assert best is not None
    if state.iteration < iterations:
        notes = [
            *notes,
            f"stopped at iteration {state.iteration:,} of {iterations:,}: {state.search.since} validations in a row "
            f"brought no better {recipe.training.monitor} than iteration {best.iteration:,}",
        ]
    outcome = best.outcome
    return TrainReport(
        run=folder.folder,
        model=folder.folder / BEST,
        iterations=state.iteration,
        best_iteration=best.iteration,
        scores=best.scores,
        threshold=best.threshold,
        notes=tuple(notes),
        intervals=None if outcome is None else outcome.intervals,
        doubts=() if outcome is None else outcome.notes,
        stage=folder.stage,
        earlier=finished_stages(folder.folder, folder.facts()),
    )
