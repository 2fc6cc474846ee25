"""Weights under foreign names put into a network of ours: every one of theirs used, every one of ours set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from aerial_seg.bands import Band
from aerial_seg.errors import InputError
from aerial_seg.models.build import build_network
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.network import Network
from aerial_seg.recipe.model import ModelSettings

_COUNTER = "num_batches_tracked"
"""Batch norm's count of batches, which checkpoints before torch 0.4.1 lack and no forward of ours reads."""

_LISTED = 20

Reorder = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Match:
    """One tensor: its name in the checkpoint (None where its value is implied), its name here, its shape."""

    theirs: str | None
    ours: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ImportedNetwork:
    """A network with imported weights in evaluation mode, what it is, and the bands that it was trained on."""

    network: Network
    settings: ModelSettings
    bands: tuple[Band, ...]
    classes: int
    matches: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a checkpoint was recognised as, and where its tensors go.

    names: beginnings of names, (ours, theirs); the first that fits one of ours tells its name there. what: how messages
    call the network. reordered: by our name, what has to happen to a tensor of theirs whose input channels come in
    another order.
    """

    settings: ModelSettings
    bands: tuple[Band, ...]
    classes: int
    names: Sequence[tuple[str, str]]
    what: str
    reordered: Mapping[str, Reorder] = field(default_factory=dict)


def carry_out(plan: Plan, checkpoint: Checkpoint) -> ImportedNetwork:
    """The planned network with the checkpoint's weights. Raises InputError as fill does."""
    network = build_network(plan.settings, bands=len(plan.bands), classes=plan.classes)
    matches = fill(network, checkpoint, plan)
    return ImportedNetwork(network.eval(), plan.settings, plan.bands, plan.classes, matches)


def fill(network: Network, checkpoint: Checkpoint, plan: Plan) -> tuple[Match, ...]:
    """Every weight and statistic of the network is the checkpoint's, in the network's dtype.

    A missing count of batch norm's batches is 0. Raises InputError that lists the names without a counterpart and the
    shapes that differ.
    """
    ours = network.state_dict()
    wanted = {_their_name(name, plan.names): name for name in ours}
    held, what = checkpoint.tensors, f"{plan.what} with {plan.classes} classes"
    missing = [theirs for theirs in wanted if theirs not in held]
    counters = {theirs for theirs in missing if theirs.endswith(_COUNTER)}
    shapes = [
        f"{theirs} {tuple(held[theirs].shape)} instead of {tuple(ours[name].shape)}"
        for theirs, name in wanted.items()
        if theirs in held and held[theirs].shape != ours[name].shape
    ]
    problems = [
        listing("without a place there", [name for name in held if name not in wanted]),
        listing("missing", [theirs for theirs in missing if theirs not in counters]),
        listing("of another shape", shapes),
    ]
    if any(problems):
        raise InputError(
            f"{checkpoint.path} does not fit {what}: {'; '.join(filter(None, problems))}; "
            "wanted a state dict with exactly that network's names and shapes"
        )
    weights = {
        name: torch.zeros_like(ours[name])
        if theirs in counters
        else plan.reordered.get(name, _as_it_is)(held[theirs])
        for theirs, name in wanted.items()
    }
    odd = [theirs for theirs, name in wanted.items() if not bool(torch.isfinite(weights[name]).all())]
    if odd:
        raise InputError(
            f"{checkpoint.path} cannot be used: {listing('with NaN or infinite numbers', odd)}; "
            "wanted a checkpoint from before its training diverged"
        )
    network.load_state_dict(weights, strict=True)
    return tuple(
        Match(None if theirs in counters else theirs, name, tuple(ours[name].shape))
        for theirs, name in wanted.items()
    )


def first_block_last(channels: int) -> Reorder:
    """Moves the first `channels` input channels of a fusing convolution behind the others.

    For a concatenation that begins with what ours ends with, as mmseg's ASPP begins with the image pooling.
    """

    def reorder(weight: Tensor) -> Tensor:
        return torch.cat([weight[:, channels:], weight[:, :channels]], dim=1)

    return reorder


def _as_it_is(weight: Tensor) -> Tensor:
    return weight


def _their_name(name: str, names: Sequence[tuple[str, str]]) -> str:
    for ours, theirs in names:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise AssertionError(f"no foreign name is known for {name}")


def listing(kind: str, names: Collection[str]) -> str:
    """ "3 missing (a, b, c)", at most twenty by name; nothing for none."""
    if not names:
        return ""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} {kind} ({', '.join(list(names)[:_LISTED])}{more})"
