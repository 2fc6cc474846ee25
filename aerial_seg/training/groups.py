"""Groups of parameters: which of a network's parts learn at another rate than the recipe's, and which decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from aerial_seg.errors import SettingsError
from aerial_seg.models.network import Network, encoder_of
from aerial_seg.recipe.training import TrainingSettings

_AUXILIARY = "auxiliary"
"""What networks call the head that only training has."""


@dataclass(frozen=True, slots=True)
class Group:
    """Hold parameters that learn alike. factor: of the recipe's rate. decays: whether they have its weight decay."""

    factor: float
    decays: bool
    parameters: tuple[nn.Parameter, ...]

    def as_torch(self, settings: TrainingSettings) -> dict[str, Any]:
        """The group as torch's optimisers take it."""
        found = {
            "params": list(self.parameters),
            "lr": settings.learning_rate * self.factor,
            "weight_decay": settings.weight_decay if self.decays else 0.0,
        }
        if settings.head_factors == "gradient":  # Adam: f·m / (f·√v + ε) = m / (√v + ε / f)
            found |= {"lr": settings.learning_rate, "eps": settings.epsilon / self.factor}
        return found


def parameter_groups(network: Network, settings: TrainingSettings) -> tuple[Group, ...]:
    """Every parameter of the network in exactly one group; one group in the network's order where all learn alike.

    Raises SettingsError for a factor of a part that the network does not have.
    """
    factors = _Factors.of(network, settings)
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        owner = network.get_submodule(name.rpartition(".")[0])
        key = factors.factor(name, owner), _decays(name, parameter, owner, settings)
        found.setdefault(key, []).append(parameter)
    return tuple(Group(factor, decays, tuple(some)) for (factor, decays), some in found.items())


def group_notes(network: Network, settings: TrainingSettings) -> tuple[str, ...]:
    """What to tell of the groups; nothing where all parameters learn alike. Raises as parameter_groups does."""
    groups = parameter_groups(network, settings)
    if len(groups) == 1 and groups[0].factor == 1 and groups[0].decays:
        return ()
    sizes: dict[float, int] = {}
    for group in groups:
        sizes[group.factor] = sizes.get(group.factor, 0) + _size(group)
    of = settings.head_factors
    rates = ", ".join(f"{size} at {_times(factor, of)}" for factor, size in sorted(sizes.items()))
    decaying = sum(_size(group) for group in groups if group.decays)
    whole = sum(sizes.values())
    return (f"of {whole} weights {rates}; weight decay is on {decaying} of them",)


@dataclass(frozen=True, slots=True)
class _Factors:
    """What the names of a network's parts begin with (None: they are not told apart), and their factors."""

    encoder: str | None
    auxiliary: str | None
    settings: TrainingSettings

    @classmethod
    def of(cls, network: Network, settings: TrainingSettings) -> _Factors:
        tells_head = settings.head_rate_factor != 1 or settings.head_bias_rate_factor is not None
        encoder = _encoder(network, settings) if tells_head else None
        auxiliary = None
        if settings.auxiliary_rate_factor is not None:
            auxiliary = next(
                (f"{name}." for name, _ in network.named_modules() if name.rpartition(".")[2] == _AUXILIARY),
                None,
            )
            if auxiliary is None:
                raise SettingsError(
                    f"training.auxiliary_rate_factor is {settings.auxiliary_rate_factor:g}, but {network.name} has no "
                    "auxiliary head; leave it out, or use an architecture that has one with model.auxiliary = true"
                )
        return cls(encoder, auxiliary, settings)

    def factor(self, name: str, owner: nn.Module) -> float:
        """Of a parameter's rate."""
        if self.auxiliary is not None and name.startswith(self.auxiliary):
            return float(self.settings.auxiliary_rate_factor or 0)
        if self.encoder is None or name.startswith(self.encoder):
            return 1.0
        of_biases = self.settings.head_bias_rate_factor
        return (
            of_biases if of_biases is not None and _is_bias(name, owner) else self.settings.head_rate_factor
        )


def _encoder(network: Network, settings: TrainingSettings) -> str:
    try:
        before, _ = encoder_of(network)
    except SettingsError as error:
        key = "head_rate_factor" if settings.head_rate_factor != 1 else "head_bias_rate_factor"
        raise SettingsError(
            f"training.{key} is {getattr(settings, key):g}, but {network.name} has no part called encoder, so its head "
            "cannot be told; call it so, or leave the factor out"
        ) from error
    return before


def _is_bias(name: str, owner: nn.Module) -> bool:
    """Whether it is added behind a convolution or a linear map; what a norm adds is none."""
    weight = getattr(owner, "weight", None)
    return name.endswith("bias") and isinstance(weight, Tensor) and weight.dim() > 1


def _decays(name: str, parameter: nn.Parameter, owner: nn.Module, settings: TrainingSettings) -> bool:
    match settings.weight_decay_on:
        case "all":
            return True
        case "weights":
            return parameter.dim() > 1 and not name.endswith("bias")
        case _:
            return isinstance(owner, _ConvNd) and name.endswith("weight")


def _size(group: Group) -> int:
    return sum(parameter.numel() for parameter in group.parameters)


def _times(factor: float, of: str) -> str:
    return f"the {of}" if factor == 1 else f"{factor:g} times the {of}"
