"""Optimiser, learning-rate schedule and weight averaging."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from aerial_seg.models.network import Network
from aerial_seg.recipe.training import TrainingSettings
from aerial_seg.training.groups import parameter_groups


def make_optimizer(network: Network, settings: TrainingSettings) -> Optimizer:
    """SGD with momentum, AdamW or Adam over every parameter, the auxiliary head's included, in the recipe's groups.

    Fused: one pass over memory.

    Torch's fused SGD takes parameters whose momentum has begun or such whose has not, never both at once, as there are
    where a frozen part is let go.
    """
    groups = [group.as_torch(settings) for group in parameter_groups(network, settings)]
    if settings.optimizer == "sgd":
        return SGD(
            groups, lr=settings.learning_rate, momentum=settings.momentum, fused=settings.freeze == "none"
        )
    kind = AdamW if settings.optimizer == "adamw" else Adam
    betas = settings.momentum, settings.adam_beta2
    return kind(groups, lr=settings.learning_rate, betas=betas, eps=settings.epsilon, fused=True)


def learning_rate_factor(iteration: int, settings: TrainingSettings) -> float:
    """Of learning_rate in update number i = 0 … n−1: poly, (1 − i/n)^power, down to its end, or steps; and the rise.

    The last update has a rate above poly's end, and above 0. Source: see RateSettings.
    """
    if settings.schedule == "step":
        fallen = math.prod(factor for first, factor in settings.steps if iteration >= first)
        return fallen * _rise(iteration, settings)
    warmup, end = settings.warmup, settings.end_share
    first = warmup if settings.poly_from == "warmup" else 0
    if iteration < first:
        return _rise(iteration, settings)
    # Behind the last update a scheduler asks once more, and all of them may belong to the rise.
    length = max(1, settings.iterations - first)
    passed = min(iteration - first, length - 1) // settings.rate_every * settings.rate_every
    left = (1 - passed / length) ** settings.power
    poly = end + (1 - end) * left
    return float(poly * _rise(iteration, settings))


def _rise(iteration: int, settings: TrainingSettings) -> float:
    """Linear from warmup_factor in update 0 to 1 in update number `warmup`, and from there on."""
    start, warmup = settings.warmup_factor, settings.warmup
    if start is None:
        return min(1.0, (iteration + 1) / (warmup + 1))
    return 1.0 if iteration >= warmup else start + (1 - start) * iteration / warmup


def base_rate(iteration: int, settings: TrainingSettings) -> float:
    """The rate of update number `iteration`, from 0 on, of parameters without a factor: what logs show."""
    return settings.learning_rate * learning_rate_factor(iteration, settings)


def warmup_notes(settings: TrainingSettings) -> tuple[str, ...]:
    """What to tell of a run that ends before its rate has risen; nothing of others."""
    if settings.warmup < settings.iterations:
        return ()
    last = base_rate(settings.iterations - 1, settings)
    return (
        f"training.warmup is {settings.warmup:,} updates, of which there are {settings.iterations:,}: the rate never "
        f"comes to {settings.learning_rate:g}, and is {last:.3g} in the last; set a smaller training.warmup unless "
        "that is meant",
    )


def make_schedule(optimizer: Optimizer, settings: TrainingSettings) -> LambdaLR:
    """The schedule to step once after every update; all groups follow it, each at its own factor."""
    return LambdaLR(optimizer, lambda iteration: learning_rate_factor(iteration, settings))


class WeightAverage:
    """An exponential moving average of all weights and batch-norm statistics.

    The decay rises from 0 as (1 + i)/(10 + i) up to `decay`, so that the first random weights are soon forgotten.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self._decay = decay
        self.updates = 0
        self.state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    def update(self, network: Network) -> None:
        """Take in the network's weights after one update of the optimiser."""
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor.detach(), 1 - decay)
            else:
                self.state[name].copy_(tensor)

    def load(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Go on from an average of so many updates. Raises ValueError where it is of other weights."""
        if state.keys() != self.state.keys():
            raise ValueError("the averaged weights are of another network")
        for name, tensor in self.state.items():
            tensor.copy_(state[name])
        self.updates = int(updates)
