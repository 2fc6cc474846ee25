"""Several scenes, a mask each: what cannot be made does not stop the others, and what was made is not made again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from aerial_seg.errors import InputError, Interrupted, OutputError, SettingsError
from aerial_seg.files.journal import NAME, Journal, damaged_records, locked_work, noting_what_is_kept
from aerial_seg.files.names import shown
from aerial_seg.geo.areas.area import OutsideError
from aerial_seg.geo.map_tiles.drafts import MOSAIC
from aerial_seg.geo.raster.unchanged import InputState, files_of, state_of
from aerial_seg.jobs.predict.one_scene import map_scene, report_from
from aerial_seg.jobs.predict.scenes import PredictContext, Scene
from aerial_seg.jobs.predict.settings import PredictReport, PredictSettings
from aerial_seg.mentions import SAME_CALL

BATCH = "predict"
"""Several masks in one folder keep their common journal in `predict.work/`."""

Outcome = Literal["done", "kept", "outside", "failed"]


@dataclass(frozen=True, slots=True)
class SceneOutcome:
    """Tell what became of one scene.

    outcome: done; kept: an interrupted run had made it; outside: it shares no pixel with the area that was asked for,
    so there is no mask; failed, with the reason. seconds: that it took now. report: of its mask, if there is one.
    """

    source: str
    outcome: Outcome
    seconds: float
    reason: str | None = None
    report: PredictReport | None = None

    @property
    def told(self) -> str:
        """The reason, with the scene's name."""
        reason = self.reason or self.outcome
        return reason if shown(Path(self.source).name) in reason else f"{shown(self.source)}: {reason}"

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON: the report's entries with the outcome beside them."""
        made = {} if self.report is None else asdict(self.report)
        own = {"source": self.source, "outcome": self.outcome, "seconds": self.seconds, "reason": self.reason}
        return {**made, **own}


class ScenesFailedError(InputError):
    """Tell that some of several scenes have no mask; `outcomes` is of all, and those that have one are complete."""

    def __init__(self, outcomes: Sequence[SceneOutcome]) -> None:
        self.outcomes = tuple(outcomes)
        failed = [one for one in self.outcomes if one.outcome == "failed"] or list(self.outcomes)
        reasons = "; ".join(f"({number}) {one.told}" for number, one in enumerate(failed, start=1))
        made = sum(one.report is not None for one in self.outcomes)
        super().__init__(
            f"{len(failed)} of {len(self.outcomes)} scenes have no mask: {reasons}"
            + (f"; the other {made} are complete: mend these and {SAME_CALL}" if made else "")
        )


def refused_outcome(source: str, error: Exception, seconds: float = 0.0) -> SceneOutcome:
    """Return the outcome of a scene that this error kept from being predicted."""
    outside = isinstance(error, OutsideError)
    return SceneOutcome(
        shown(source), "outside" if outside else "failed", seconds, " ".join(str(error).split())
    )


def all_or_raise(outcomes: Sequence[SceneOutcome]) -> tuple[SceneOutcome, ...]:
    """Return the outcomes, unless a scene failed or none has a mask: then raise ScenesFailedError."""
    if not is_complete(outcomes):
        raise ScenesFailedError(outcomes)
    return tuple(outcomes)


def is_complete(outcomes: Sequence[SceneOutcome]) -> bool:
    """Tell whether no scene failed and at least one has a mask."""
    return not any(one.outcome == "failed" for one in outcomes) and any(one.report for one in outcomes)


def map_many_scenes(
    scenes: Sequence[Scene], refused: Sequence[SceneOutcome], context: PredictContext, out: Path
) -> tuple[SceneOutcome, ...]:
    """Make a mask of each scene in the folder `out`, and tell what became of it; those of a former run are kept.

    refused: of the scenes that are not even begun, told first. Where one failed, the journal stays, so that the same
    command makes only what is missing. Raises OutputError at once where nothing more can be written.
    """
    outcomes = list(refused)
    settings = context.settings
    job = {
        "model_sha256": context.model.sha256,
        "area": None if context.area is None else context.area.identity,
        "settings": _told(settings),
    }
    with locked_work(
        out / BATCH, restart=settings.restart, unfinished=lambda: not is_complete(outcomes)
    ) as folder:
        journal = Journal.open(folder / NAME, job)
        with damaged_records(journal.path):
            earlier = _by_mask(journal.records)
        with noting_what_is_kept(folder, "masks"):
            outcomes += [
                _outcome(scene, context, journal, earlier.get(str(scene.target), [])) for scene in scenes
            ]
    return tuple(outcomes)


def _told(settings: PredictSettings) -> dict[str, Any]:
    """What masks depend on; what runs of before it could be said knew nothing of is left out where it says nothing."""
    told = asdict(replace(settings, overwrite=False, restart=False))
    if settings.map_tiles == "auto":
        del told["map_tiles"]
    return told


def _by_mask(records: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The batch's records by the mask that they tell of, so that no scene has to look at those of all others."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        found.setdefault(record["report"]["mask"], []).append(record)
    return found


def _outcome(
    scene: Scene, context: PredictContext, journal: Journal, earlier: Sequence[dict[str, Any]]
) -> SceneOutcome:
    """earlier: what the journal tells of this scene's mask, oldest first."""
    start = time.perf_counter()
    state = _state(scene) if earlier else {}
    for record in reversed(earlier):
        with damaged_records(journal.path):
            report = record["report"]
            if record.get("input") == state and all(Path(file).exists() for file in report["files"]):
                return SceneOutcome(scene.name, "kept", 0.0, report=report_from(report))

    def placed(report: PredictReport, state: InputState) -> None:
        journal.add({"report": asdict(report), "input": state})

    try:
        made = map_scene(scene, context, placed=placed)
    except (InputError, OutputError, SettingsError) as error:
        # A disk that is full or a lock that is held would stop the next scene as well.
        if isinstance(error, Interrupted) or not _about_input(error):
            raise
        return refused_outcome(scene.name, error, time.perf_counter() - start)
    return SceneOutcome(scene.name, "done", time.perf_counter() - start, report=made)


def _about_input(error: Exception) -> bool:
    """Whether the scene's own data are to blame, also where an error says besides that finished rows are kept.

    Or a setting that does not go with it, as too little memory for its width.
    """
    own = (InputError, SettingsError)
    return isinstance(error, own) or isinstance(error.__cause__, own)


def _state(scene: Scene) -> InputState:
    """The scene's files as they are now; a changed one is predicted anew."""
    return state_of(scene.paths, files_of(scene.paths), without=MOSAIC)
