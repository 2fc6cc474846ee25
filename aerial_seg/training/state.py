"""All that a run needs to go on as if it had never stopped, in one file: one rename is the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from aerial_seg.errors import OutputError
from aerial_seg.files.disk import usual_mode
from aerial_seg.files.durable import settled_file
from aerial_seg.files.state_header import HEADER_KEY
from aerial_seg.mentions import setting
from aerial_seg.metrics import Scores
from aerial_seg.models.device import random_states, set_random_states
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import Recipe
from aerial_seg.training.callbacks import Checkpoint
from aerial_seg.training.optimisation import WeightAverage, make_optimizer, make_schedule
from aerial_seg.training.validation.monitor import BestSoFar, Monitor
from aerial_seg.training.validation.outcome import Outcome
from aerial_seg.training.validation.validator import Tell, Validator

_NETWORK, _AVERAGE, _OPTIMIZER, _RANDOM = "network.", "average.", "optimizer.", "random."
Packed = tuple[dict[str, Any], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Scored:
    """Tell how good the weights after `iteration` updates are; outcome: None without validation."""

    iteration: int
    outcome: Outcome | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Scored:
        """Return what is remembered of a checkpoint besides its weights."""
        return cls(checkpoint.iteration, checkpoint.outcome)

    @property
    def scores(self) -> Scores | None:
        """Scores at the threshold that ships."""
        return None if self.outcome is None else self.outcome.scores

    @property
    def threshold(self) -> float | None:
        """The decision threshold that ships, where the recipe asks to calibrate one and the classes are two."""
        return None if self.outcome is None else self.outcome.threshold

    def as_json(self) -> dict[str, Any]:
        """Return a JSON-ready document."""
        outcome = None if self.outcome is None else self.outcome.as_json()
        return {"iteration": self.iteration, "outcome": outcome}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Scored:
        """Return what `as_json` wrote, without single chips. Raises LookupError, TypeError or ValueError for others."""
        outcome = document["outcome"]
        return cls(int(document["iteration"]), None if outcome is None else Outcome.from_json(outcome))


@dataclass(slots=True)
class TrainingState:
    """Hold what one update changes, and what is remembered between updates.

    iteration: updates that are made; kept: of which the last checkpoint tells. validated, best: the last validation
    and the best checkpoint so far. scaling: of losses in fp16, as its scaler keeps it.
    search: how good the best one is, and how many validations since brought no better one.
    """

    network: Network
    optimizer: Optimizer
    schedule: LRScheduler
    average: WeightAverage | None
    iteration: int = 0
    kept: int = 0
    validated: Scored | None = None
    best: Scored | None = None
    own: dict[str, Tensor] | None = None
    scaling: dict[str, float] | None = None
    search: BestSoFar = field(default_factory=BestSoFar)

    @classmethod
    def begin(cls, network: Network, recipe: Recipe) -> TrainingState:
        """Return the state before the first update. network: where it is to be trained, with its first weights."""
        settings = recipe.training
        optimizer = make_optimizer(network, settings)
        average = WeightAverage(network, settings.ema_decay) if settings.ema_decay else None
        return cls(network, optimizer, make_schedule(optimizer, settings), average)

    def take_note(self, checkpoint: Checkpoint, monitor: Monitor) -> Checkpoint:
        """Remember how good the present weights are. Returns the checkpoint, which then knows whether it is the best.

        Weights of which nothing is known are the best as long as nothing is known of any.
        """
        value = None if checkpoint.outcome is None else checkpoint.outcome.value
        self.search = self.search.after(checkpoint.iteration, value, monitor)
        checkpoint = replace(checkpoint, is_best=self.search.iteration == checkpoint.iteration)
        if checkpoint.is_best:
            self.best = Scored.of(checkpoint)
        return checkpoint

    def forget_best(self) -> None:
        """The best is chosen among what follows."""
        self.best, self.search = None, BestSoFar()

    def renew_patience(self) -> None:
        """What follows has as many validations to bring a better one as a run that begins."""
        self.search = replace(self.search, since=0)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights that are validated and kept, the averaged ones where there are any: copies, on the CPU."""
        source = self.network.state_dict() if self.average is None else self.average.state
        return {name: tensor.detach().cpu().clone() for name, tensor in source.items()}

    def lend(self, weights: Mapping[str, Tensor]) -> None:
        """Let the network have other weights until `give_back`."""
        self.own = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        self.network.load_state_dict(weights)

    def give_back(self) -> None:
        """Let the network have its own weights again, and learn; whatever came in between, and however often."""
        if self.own is not None:
            self.network.load_state_dict(self.own)
            self.own = None
        self.network.train()

    def is_finite(self) -> bool:
        """Tell whether every weight is a number."""
        states = [self.network.state_dict(), *([self.average.state] if self.average is not None else [])]
        return all(
            bool(torch.isfinite(tensor).all())
            for state in states
            for tensor in state.values()
            if tensor.is_floating_point()
        )

    def save(self, path: Path, *, run: str) -> None:
        """Put all of it on the disk as one safetensors file, its other facts as JSON in the header; no pickle.

        run: what tells this run from others. Raises OutputError where the disk does not take it.
        """
        document, tensors = self._document(), self._tensors()
        document["run"] = run
        remedy = "free disk space or check the folder"
        with settled_file(path, errors=(SafetensorError, OSError), remedy=remedy) as partial:
            save_file(tensors, partial, metadata={HEADER_KEY: json.dumps(document)})
            partial.chmod(usual_mode(path.absolute().parent))

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote: a state of the same recipe takes all of it.

        Raises OutputError for a file that is damaged, or of another network.
        """
        try:
            with safe_open(path, framework="pt") as file:
                document = json.loads(file.metadata()[HEADER_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            self._take(document, tensors)
        except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise OutputError(
                f"{path} is damaged or was written by another version ({_first_line(error)}); "
                f"pass {setting('restart', True)} to begin anew"
            ) from error

    def packed(self) -> Packed:
        """Return all of it, to be sent to other processes."""
        return self._document(), self._tensors()

    def unpack(self, packed: Packed) -> None:
        """Stand where the state stands that was packed, of the same recipe."""
        self._take(*packed)

    def _document(self) -> dict[str, Any]:
        optimizer, schedule = self.optimizer.state_dict(), self.schedule.state_dict()
        return {
            "iteration": self.iteration,
            **{
                key: None if scored is None else scored.as_json()
                for key, scored in (("validated", self.validated), ("best", self.best))
            },
            "search": self.search.as_json(),
            "groups": [
                {k: v for k, v in group.items() if k != "params"} for group in optimizer["param_groups"]
            ],
            "schedule": {key: value for key, value in schedule.items() if key != "lr_lambdas"},
            "scaling": self.scaling,
            "averaged": None if self.average is None else self.average.updates,
        }

    def _tensors(self) -> dict[str, Tensor]:
        parts: dict[str, Mapping[str, Tensor]] = {
            _NETWORK: self.network.state_dict(),
            _RANDOM: random_states(),
            _OPTIMIZER: dict(_flat(self.optimizer.state_dict()["state"])),
        }
        if self.average is not None:
            parts[_AVERAGE] = self.average.state
        return {
            prefix + name: tensor.detach().cpu().contiguous()
            for prefix, part in parts.items()
            for name, tensor in part.items()
        }

    def _take(self, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(_part(tensors, _NETWORK))
        if (document["averaged"] is None) != (self.average is None):
            raise ValueError("averaged weights are there or not")
        if self.average is not None:
            self.average.load(_part(tensors, _AVERAGE), document["averaged"])
        self._load_optimizer(document["groups"], _part(tensors, _OPTIMIZER))
        self.schedule.load_state_dict({**self.schedule.state_dict(), **document["schedule"]})
        validated, best = document["validated"], document["best"]
        self.validated = None if validated is None else Scored.from_json(validated)
        self.best = None if best is None else Scored.from_json(best)
        self.scaling = document.get("scaling")
        self.iteration = self.kept = int(document["iteration"])
        self._renew_rates()
        self.search = BestSoFar.of_json(document["search"])
        set_random_states(_part(tensors, _RANDOM))

    def _renew_rates(self) -> None:
        """The rates are those of the schedule, which a longer run has another one of."""
        if not isinstance(self.schedule, LambdaLR):
            return
        step = self.schedule.last_epoch
        rates = [
            base * rate(step)
            for base, rate in zip(self.schedule.base_lrs, self.schedule.lr_lambdas, strict=True)
        ]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.schedule._last_lr = rates

    def _load_optimizer(self, groups: list[dict[str, Any]], tensors: Mapping[str, Tensor]) -> None:
        own = self.optimizer.state_dict()["param_groups"]
        if len(own) != len(groups):
            raise ValueError(
                f"its optimiser had {len(groups)} groups of parameters, this recipe makes {len(own)}"
            )
        parameters = [one for group in self.optimizer.param_groups for one in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, _, key = name.partition(".")
            parameter = parameters[int(number)]
            if tensor.shape == parameter.shape:
                # Fused updates walk through parameter and moments in the order of memory: both channels-last.
                tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
            state.setdefault(int(number), {})[key] = tensor
        merged = [
            {
                key: tuple(now[key]) if isinstance(value, tuple) else now.get(key, value)
                for key, value in before.items()
            }
            for before, now in zip(own, groups, strict=True)
        ]
        self.optimizer.load_state_dict({"state": state, "param_groups": merged})


def _flat(state: Mapping[int, Mapping[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    for number, values in state.items():
        for key, value in values.items():
            if value is None:  # SGD without momentum
                continue
            if not isinstance(value, Tensor):
                raise TypeError(f"the optimiser keeps {key} as {type(value).__name__}, wanted a tensor")
            yield f"{number}.{key}", value


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _first_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class Keeper(Protocol):
    """Who puts a run on the disk while the loop goes on."""

    def is_due(self) -> bool:
        """Whether so much time has passed that what was done since should not be lost."""

    def keep(self, state: TrainingState, checkpoint: Checkpoint) -> None:
        """The state is on the disk, from where it goes on, and the checkpoint as a model."""


class NothingKept:
    """Keep nothing of a run: it is only timed, or another process writes."""

    def is_due(self) -> bool:
        """Never."""
        return False

    def keep(self, state: TrainingState, checkpoint: Checkpoint) -> None:
        """Nothing."""


def unscored(state: TrainingState, names: tuple[str, ...], *, validates: bool) -> Checkpoint:
    """The checkpoint of now between two validations; in a run without any the last weights are the best."""
    checkpoint = Checkpoint(state.iteration, state.weights(), None)
    return checkpoint if validates else state.take_note(checkpoint, Monitor("miou", names))


def validated(state: TrainingState, validator: Validator, device: torch.device, tell: Tell) -> Checkpoint:
    """The checkpoint of now: the averaged weights where there are any, scored; training goes on as it was.

    tell: is told how far the validation is.
    """
    weights = state.weights()
    try:
        state.lend(weights)
        outcome = validator(state.network, device, tell)
    finally:
        state.give_back()
    return Checkpoint(state.iteration, weights, outcome.scores, chips=outcome.chips, outcome=outcome)
