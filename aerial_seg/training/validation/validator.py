"""What the loop asks now and then: how good is the network by now?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from aerial_seg.models.file import ModelCard
from aerial_seg.models.network import Network
from aerial_seg.training.crops import Samples
from aerial_seg.training.validation.chips import validate
from aerial_seg.training.validation.monitor import LOSS, Monitor
from aerial_seg.training.validation.outcome import Outcome, ValidationGround, judge
from aerial_seg.training.validation.scenes import Scene, validate_scenes
from aerial_seg.training.validation.tallies import Count

Tell = Callable[[int, int, str], object]
"""Is told now and then how many chips or images are done, how many there are, and which of both they are."""


def untold(done: int, total: int, unit: str) -> None:
    """Nobody listens."""
    del done, total, unit


class Validator(Protocol):
    """Scores a network on ground that it does not learn from."""

    @property
    def monitor(self) -> Monitor:
        """What checkpoints are compared by."""
        ...

    def __call__(self, network: Network, device: torch.device, tell: Tell = untold) -> Outcome:
        """Score the network, which is left as it came."""
        ...


@dataclass(frozen=True, slots=True)
class ChipValidator:
    """Run each chip whole. names: of the classes."""

    store: Samples
    ground: ValidationGround
    names: tuple[str, ...]
    monitor: Monitor
    calibrate: bool

    def __call__(self, network: Network, device: torch.device, tell: Tell = untold) -> Outcome:
        """Score the network on the chips."""
        tallies = validate(
            network,
            self.store,
            classes=len(self.names),
            device=device,
            names=self.ground.names,
            with_loss=self.monitor.name == LOSS,
            tell=_of(self.ground, tell),
        )
        return judge(tallies, self.ground, self.names, calibrate=self.calibrate, monitor=self.monitor)


@dataclass(frozen=True, slots=True)
class SceneValidator:
    """Map scenes as `predict` does. card: of the model to be, without a class bias. ground: of the scenes' parts."""

    scenes: Sequence[Scene]
    ground: ValidationGround
    card: ModelCard
    monitor: Monitor
    calibrate: bool

    def __call__(self, network: Network, device: torch.device, tell: Tell = untold) -> Outcome:
        """Score the map of the scenes."""
        tallies = validate_scenes(network, self.scenes, self.card, device=device, tell=_of(self.ground, tell))
        names, tallies = self.card.legend.names, tallies.ordered(self.ground.names)
        return judge(tallies, self.ground, names, calibrate=self.calibrate, monitor=self.monitor)


def _of(ground: ValidationGround, tell: Tell) -> Count:
    unit = "image" if ground.unit == "image" else "chip"
    return lambda done, total: tell(done, total, unit)
