"""Which checkpoint is the best, by what, and when to stop looking for a better one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from aerial_seg.errors import SettingsError, did_you_mean
from aerial_seg.mentions import setting
from aerial_seg.metrics import Scores
from aerial_seg.recipe.training import TrainingSettings

LOSS = "loss"
_OF_ALL: Mapping[str, Callable[[Scores], float]] = MappingProxyType({
    "miou": lambda scores: scores.miou,
    "pixel_accuracy": lambda scores: scores.pixel_accuracy,
    "mean_accuracy": lambda scores: scores.mean_accuracy,
    "frequency_weighted_iou": lambda scores: scores.frequency_weighted_iou,
})  # fmt: skip
_OF_A_CLASS = ("iou", "f1", "precision", "recall")


def monitor_names(classes: Sequence[str]) -> tuple[str, ...]:
    """List all that a checkpoint of these classes can be chosen by."""
    return (*_OF_ALL, *(f"{score}_{name}" for score in _OF_A_CLASS for name in classes), LOSS)


@dataclass(frozen=True, slots=True)
class Monitor:
    """Tell how good a validation was by one number.

    name: `miou`, `iou_CLASS`, `f1_CLASS`, … as `monitor_names` lists them; `loss`: the mean cross-entropy of the
    labelled validation pixels, where less is better.
    """

    name: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        known = monitor_names(self.classes)
        if self.name not in known:
            raise SettingsError(
                f"training.monitor is '{self.name}', which validation does not tell"
                f"{did_you_mean(self.name, known) or did_you_mean(self.name.lower(), known)}; "
                f"known: {', '.join(known)}"
            )

    @property
    def less_is_better(self) -> bool:
        """Whether the smallest value is the best."""
        return self.name == LOSS

    @property
    def of_class(self) -> str | None:
        """The class that it looks at, if it is one's own score."""
        if self.name in _OF_ALL or self.name == LOSS:
            return None
        return self.name.partition("_")[2]

    def value(self, scores: Scores, loss: float | None) -> float | None:
        """Return the validation's value, None where it has none: an absent class has no IoU."""
        if self.name == LOSS:
            value = math.nan if loss is None else loss
        elif self.of_class is None:
            value = _OF_ALL[self.name](scores)
        else:
            score = self.name.partition("_")[0]
            of_class = next(one for one in scores.classes if one.name == self.of_class)
            value = float(getattr(of_class, score))
        return None if math.isnan(value) else value


@dataclass(frozen=True, slots=True)
class BestSoFar:
    """Remember the best checkpoint's value and how many validations since then were no better.

    value: None as long as no checkpoint had one (no validation chips, or none of the monitored class): then the latest
    checkpoint is the best. iteration: of the best checkpoint; None before the first.
    """

    value: float | None = None
    iteration: int | None = None
    since: int = 0

    def after(self, iteration: int, value: float | None, monitor: Monitor) -> BestSoFar:
        """Return what is known after the checkpoint of this iteration; `iteration` is then its own if it is the best.

        Of equal values the first stays the best.
        """
        if value is None:
            # Later weights have learnt more, unless something measured says otherwise.
            is_best = self.value is None
        else:
            sign = -1 if monitor.less_is_better else 1
            is_best = self.value is None or sign * value > sign * self.value
        return (
            BestSoFar(value, iteration) if is_best else BestSoFar(self.value, self.iteration, self.since + 1)
        )

    def is_patience_over(self, patience: int | None) -> bool:
        """Tell whether so many validations in a row were no better than the best, so that the run may stop."""
        return patience is not None and self.value is not None and self.since >= patience

    def as_json(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"value": self.value, "iteration": self.iteration, "since": self.since}

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> BestSoFar:
        """The same again."""
        return cls(document["value"], document["iteration"], document["since"])


def require_validation(*, monitor: str, patience: int | None, validate_on: str) -> None:
    """Raises SettingsError for settings of a recipe that need validation ground: called where a run has none."""
    usual = TrainingSettings()
    given = {
        "training.monitor": monitor if monitor != usual.monitor else None,
        "training.patience": patience,
        "training.validate_on": validate_on if validate_on != usual.validate_on else None,
    }
    for key, value in given.items():
        if value is not None:
            raise SettingsError(
                f"{key} is {value}, but the dataset has no validation chips to tell a better checkpoint by; "
                f"cut some with `aerial-seg tile` ({setting('val', 0.15)}), or leave {key} out"
            )
