"""What a validation says in the end: scores at the threshold that ships, how sure they are, and of which ground."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aerial_seg.intervals import ChipScore, Intervals, bootstrap_intervals, doubts
from aerial_seg.mentions import setting
from aerial_seg.metrics import Scores
from aerial_seg.training.validation.calibration import Calibration
from aerial_seg.training.validation.monitor import Monitor
from aerial_seg.training.validation.tallies import Tallies


@dataclass(frozen=True, slots=True)
class ValidationGround:
    """Describe the chips that a score comes from.

    names: of the chips. units: of each chip, what a bootstrap draws it with. unit: what that is: "split block", "chip"
    or "image". pieces: of adjacent ground that they lie in; None where that is not known. notes: what is missing.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    unit: str
    pieces: int | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of_images(cls, names: tuple[str, ...]) -> ValidationGround:
        """Images that have nothing to do with each other, as those of a benchmark."""
        return cls(names, names, "image")

    def with_notes(self, notes: tuple[str, ...]) -> ValidationGround:
        """The same ground with more to say of it."""
        return replace(self, notes=(*self.notes, *notes))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Hold a validation's scores, those of each chip, and the 95 % interval of every score.

    monitor: the score that checkpoints are compared by; value: what it is here, None where it has none. threshold: the
    calibrated one, at which all of them are; None where it was not asked for. loss: the mean cross-entropy of labelled
    pixels, where it is monitored. notes: why the threshold stayed 0.5, and what keeps the scores from being believed.
    """

    scores: Scores
    chips: tuple[ChipScore, ...]
    intervals: Intervals
    value: float | None
    threshold: float | None
    loss: float | None
    notes: tuple[str, ...]
    monitor: str = "miou"

    def as_json(self) -> dict[str, Any]:
        """Return a JSON-ready document: the scores, and beside them what tells how sure they are; without chips."""
        return {
            **self.scores.as_json(),
            "monitor": self.monitor,
            "value": self.value,
            "threshold": self.threshold,
            "loss": self.loss,
            "uncertainty": self.intervals.as_json(),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Outcome:
        """Return what `as_json` wrote, without chips. Raises LookupError, TypeError or ValueError for others."""
        return cls(
            scores=Scores.from_json(document),
            chips=(),
            intervals=Intervals.from_json(document["uncertainty"]),
            value=document["value"],
            threshold=document["threshold"],
            loss=document["loss"],
            notes=tuple(map(str, document["notes"])),
            monitor=str(document.get("monitor", "miou")),
        )


def judge(
    tallies: Tallies,
    ground: ValidationGround,
    names: tuple[str, ...],
    *,
    calibrate: bool,
    monitor: Monitor,
) -> Outcome:
    """Calibrate where that is asked for and possible, and score the map that ships. names: of the classes."""
    curve = tallies.curve if calibrate else None
    calibration = Calibration() if curve is None else curve.calibrate(names)
    chips = tallies.scored(calibration.threshold)
    intervals = bootstrap_intervals(chips, ground.units, names, unit=ground.unit)
    more = (
        f"cut more and smaller split blocks with `aerial-seg tile` ({setting('val')}, {setting('block')}), and "
        "evaluate on imagery that is kept aside"
    )
    told = "miou" if monitor.less_is_better else monitor.name
    doubtful = doubts(intervals, told, pieces=ground.pieces, more=more) if ground.unit != "image" else ()
    notes = (*([] if calibration.note is None else [calibration.note]), *doubtful, *ground.notes)
    scores = tallies.matrix(calibration.threshold).scores(names)
    return Outcome(
        scores=scores,
        value=monitor.value(scores, tallies.loss),
        chips=chips,
        intervals=intervals,
        threshold=None if curve is None else calibration.threshold,
        loss=tallies.loss,
        notes=notes,
        monitor=monitor.name,
    )
