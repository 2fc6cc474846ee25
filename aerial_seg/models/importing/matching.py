"""Weights under foreign names put into a network of ours: every one of theirs used, every one of ours set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from aerial_seg.bands import Band
from aerial_seg.errors import InputError
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.meta import build_to_fill
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
class Training:
    """What is known of the training besides the network.

    crop: height and width in pixels; None: not known. threshold: of a single output, above which a pixel is the class.
    has_background: whether channel 0 is the background that a single output leaves unsaid.
    """

    crop: tuple[int, int] | None = None
    threshold: float = 0.5
    has_background: bool = False


@dataclass(frozen=True, slots=True)
class Outputs:
    """Beginnings of names, theirs, of the layers whose outputs are classes.

    logits: of the layers that end the head. auxiliary: of all that is the auxiliary head's; auxiliary_logits: of the
    layer that ends it. Empty: there is none.
    """

    logits: tuple[str, ...] = ()
    auxiliary: str = ""
    auxiliary_logits: str = ""


@dataclass(frozen=True, slots=True)
class ImportedNetwork:
    """A network with imported weights in evaluation mode, what it is, and the bands that it was trained on.

    classes: channels of its logits. notes: what was assumed, changed or left out.
    """

    network: Network
    settings: ModelSettings
    bands: tuple[Band, ...]
    classes: int
    matches: tuple[Match, ...]
    training: Training = Training()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a checkpoint was recognised as, and where its tensors go.

    names: beginnings of names, (ours, theirs); the first that fits one of ours tells its name there. what: how messages
    call the network. reordered: by our name, what has to happen to a tensor of theirs whose input channels come in
    another order. outputs: where the classes are. notes: what was assumed.
    """

    settings: ModelSettings
    bands: tuple[Band, ...]
    classes: int
    names: Sequence[tuple[str, str]]
    what: str
    reordered: Mapping[str, Reorder] = field(default_factory=dict)
    outputs: Outputs = Outputs()
    training: Training = Training()
    notes: tuple[str, ...] = ()


def carry_out(plan: Plan, checkpoint: Checkpoint) -> ImportedNetwork:
    """The planned network with the checkpoint's weights; a single output becomes background and class.

    An auxiliary head with other classes is left out. Raises InputError as fill does.
    """
    if checkpoint.bands:
        plan = replace(plan, bands=checkpoint.bands)
    plan, checkpoint = without_foreign_auxiliary(plan, checkpoint)
    if plan.classes == 1:
        plan, checkpoint = with_background(plan, checkpoint)
    network = build_to_fill(plan.settings, bands=len(plan.bands), classes=plan.classes)
    matches = fill(network, checkpoint, plan)
    return ImportedNetwork(
        network.eval(), plan.settings, plan.bands, plan.classes, matches, plan.training, plan.notes
    )


def without_foreign_auxiliary(plan: Plan, checkpoint: Checkpoint) -> tuple[Plan, Checkpoint]:
    """Only an auxiliary head that has the head's classes is left; it is for training alone."""
    outputs = plan.outputs
    weight = checkpoint.tensors.get(f"{outputs.auxiliary_logits}weight") if outputs.auxiliary_logits else None
    if weight is None or not plan.settings.auxiliary or len(weight) == plan.classes:
        return plan, checkpoint
    return without_auxiliary(
        plan, checkpoint, f"it has {len(weight)} classes, and the head has {plan.classes}"
    )


def without_auxiliary(plan: Plan, checkpoint: Checkpoint, why: str) -> tuple[Plan, Checkpoint]:
    """The plan and the tensors without the auxiliary head, which no prediction uses, and a note that says so."""
    kept = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if not name.startswith(plan.outputs.auxiliary)
    }
    note = f"the auxiliary head ({len(checkpoint.tensors) - len(kept)} tensors) was left out: {why}"
    settings = plan.settings.model_copy(update={"auxiliary": False, "auxiliary_channels": None})
    return replace(plan, settings=settings, notes=(*plan.notes, note)), replace(checkpoint, tensors=kept)


def with_background(plan: Plan, checkpoint: Checkpoint) -> tuple[Plan, Checkpoint]:
    """Two channels in place of a single output z: 0 for the background and z, whose softmax is sigmoid(z).

    Raises InputError for a network whose last layers mix the channels, so that no layer of zeros could say so.
    """
    outputs = plan.outputs
    if not outputs.logits:
        raise InputError(
            f"{checkpoint.path} has one output, and the last layers of {plan.what} mix its channels, so it cannot "
            "become background and class; wanted a network with two outputs or more"
        )
    ends = (*outputs.logits, *filter(None, [outputs.auxiliary_logits]))
    tensors = {
        name: torch.cat([torch.zeros_like(tensor), tensor]) if name.startswith(ends) else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    threshold = plan.training.threshold
    note = (
        "its single output became two channels, background (0) and class (the output): their softmax is its sigmoid, "
        f"and a pixel is the class above {threshold:g}"
    )
    training = replace(plan.training, has_background=True)
    return (
        replace(plan, classes=2, training=training, notes=(*plan.notes, note)),
        replace(checkpoint, tensors=tensors),
    )


def fill(network: Network, checkpoint: Checkpoint, plan: Plan) -> tuple[Match, ...]:
    """Every weight and statistic of the network is the checkpoint's, in the network's dtype.

    A missing count of batch norm's batches is 0; tensors of layers that no logit depends on are passed
    over. Raises InputError that lists the names without a counterpart and the shapes that differ.
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
    idle = {_their_name(name, plan.names) for name in network.unused}
    problems = [
        listing("without a place there", [name for name in held if name not in wanted and name not in idle]),
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
