"""Optimiser, learning-rate schedule and weight averaging."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from aerial_seg.models.network import Network
from aerial_seg.recipe.training import TrainingSettings


def make_optimizer(network: Network, settings: TrainingSettings) -> Optimizer:
    """SGD with momentum or AdamW over every parameter, the auxiliary head's included; fused: one pass over memory.

    Torch's fused SGD takes parameters whose momentum has begun or such whose has not, never both at once, as there are
    where a frozen part is let go.
    """
    if settings.optimizer == "sgd":
        return SGD(
            network.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=settings.freeze == "none",
        )
    return AdamW(
        network.parameters(),
        lr=settings.learning_rate,
        betas=(settings.momentum, settings.adam_beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )


def learning_rate_factor(iteration: int, settings: TrainingSettings) -> float:
    """Poly: (1 − i/n)^power for the update number i = 0 … n−1, after a linear rise over `warmup` updates.

    The last update still has a positive rate. Source: Chen et al. 2017, section 4.1 (power 0.9).
    """
    poly = (1 - min(iteration, settings.iterations - 1) / settings.iterations) ** settings.power
    rise = min(1.0, (iteration + 1) / (settings.warmup + 1))
    return float(poly * rise)


def make_schedule(optimizer: Optimizer, settings: TrainingSettings) -> LambdaLR:
    """The schedule to step once after every update."""
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
