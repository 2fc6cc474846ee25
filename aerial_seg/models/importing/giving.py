"""Our networks' weights given back to other projects: under their names, and only what their code computes alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from aerial_seg.bands import IMAGENET_BANDS, Band
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.models.file import TrainedModel
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.models.importing.matching import listing
from aerial_seg.models.importing.mmseg import mmseg_names
from aerial_seg.models.importing.sources import import_checkpoint
from aerial_seg.models.importing.torchvision import torchvision_names
from aerial_seg.recipe.model import ModelSettings

_SHAPES_TELL = {"weights", "dropout", "auxiliary", "auxiliary_channels", "head_channels", "options"}
"""Settings that change no logit, or only by the shapes of tensors, which are compared."""
_IMAGE_POOLINGS = {
    "head.project.0.weight": "head.branches.4.conv.weight",
    "head.aspp.project.0.weight": "head.aspp.branches.4.conv.weight",
}
"""By the name of the convolution that fuses DeepLabv3's or DeepLabv3+'s branches, that of the image pooling's."""


@dataclass(frozen=True, slots=True)
class _Taker:
    """A project that takes weights: its names, and what it calls a network.

    bias: of its last layer. pooling_first: whether DeepLabv3's image pooling comes first in what is fused, where ours
    comes last. align: how it has to enlarge logits.
    """

    names: Callable[[ModelSettings], Sequence[tuple[str, str]]]
    arch: Callable[[ModelSettings], str]
    bias: str
    pooling_first: bool
    align: Callable[[ModelSettings], str]


def _torchvisions(settings: ModelSettings) -> str:
    return f"{settings.architecture}_{settings.encoder}"


def _mmsegs(settings: ModelSettings) -> str:
    stem = "" if settings.stem == "deep32" else "b"
    grid = "-mg124" if settings.multi_grid else ""
    aligned = "-769" if settings.align_corners else ""
    head = settings.architecture.replace("+", "plus") + ("-d6" if settings.head_rate == 6 else "")
    depth = settings.encoder.removeprefix("resnet")
    return f"{head}_r{depth}{stem}-d{settings.output_stride}{grid}{aligned}"


_TAKERS: Mapping[str, _Taker] = {
    "torchvision": _Taker(
        torchvision_names,
        _torchvisions,
        "classifier.4.bias",
        pooling_first=False,
        align=lambda _: "as its own forward does",
    ),
    "mmseg": _Taker(
        mmseg_names,
        _mmsegs,
        "decode_head.conv_seg.bias",
        pooling_first=True,
        align=lambda settings: f"with align_corners={settings.align_corners}",
    ),
}
PROJECTS = tuple(_TAKERS)
"""Those that take weights."""


@dataclass(frozen=True, slots=True)
class Given:
    """A state dict under another project's names, what that calls the network, and what its user has to know."""

    tensors: Mapping[str, Tensor]
    arch: str
    notes: tuple[str, ...]


def give(model: TrainedModel, path: Path, project: str) -> Given:
    """The model's weights under the project's names; imported again they are the same network with the same tensors.

    path: of the model, for messages. A calibrated class bias is added to the last layer's.
    Raises SettingsError for a project that takes none, InputError for a network that the project cannot compute.
    """
    taker = _TAKERS.get(project)
    if taker is None:
        raise SettingsError(
            f"there is no project '{project}' to give weights to; known: {', '.join(PROJECTS)}"
        )
    settings, bands = model.card.recipe.model, model.card.bands
    if len(bands) != len(IMAGENET_BANDS):
        raise InputError(
            f"{path} takes {len(bands)} bands, and {project}'s networks take 3; export it as ONNX instead"
        )
    tensors = _renamed(model, path, project, taker)
    arch = taker.arch(settings)
    _require_same(model, path, Checkpoint(path, tensors, model.sha256), project, arch)
    folded = any(model.card.class_bias)
    if folded:
        tensors[taker.bias] = tensors[taker.bias] + torch.tensor(model.card.class_bias).to(
            tensors[taker.bias]
        )
    return Given(
        tensors, arch, (*_notes(bands, project, arch, taker.align(settings)), *_note_on_bias(folded))
    )


def _renamed(model: TrainedModel, path: Path, project: str, taker: _Taker) -> dict[str, Tensor]:
    names, tensors, nameless = taker.names(model.card.recipe.model), dict[str, Tensor](), list[str]()
    for name, tensor in model.network.state_dict().items():
        found = next((pair for pair in names if name.startswith(pair[0])), None)
        if found is None:
            nameless.append(name)
            continue
        ours, theirs = found
        if name in _IMAGE_POOLINGS and taker.pooling_first:
            pooled = len(model.network.state_dict()[_IMAGE_POOLINGS[name]])
            tensor = torch.cat([tensor[:, -pooled:], tensor[:, :-pooled]], dim=1)
        tensors[theirs + name.removeprefix(ours)] = tensor
    if nameless or not tensors:
        settings = model.card.recipe.model
        raise InputError(
            f"{path} holds {settings.architecture} on {settings.encoder} (head {settings.head}), which {project} has "
            f"not: {listing('of its tensors have no name there', nameless)}; export it as ONNX instead"
        )
    return tensors


def _require_same(model: TrainedModel, path: Path, checkpoint: Checkpoint, project: str, arch: str) -> None:
    """Raises InputError unless the project's network, as it is imported, is this one with these tensors."""
    what = f"{path} cannot be given to {project}"
    remedy = "export it as ONNX, which holds every network"
    try:
        imported = import_checkpoint(checkpoint, project, arch)
    except (InputError, SettingsError) as error:
        raise InputError(f"{what}: {error}; {remedy}") from error
    own, its = _told(model.card.recipe.model), _told(imported.settings)
    differing = [f"{name} {own[name]} instead of {its[name]}" for name in own if own[name] != its[name]]
    if differing:
        raise InputError(f"{what}, whose {arch} computes otherwise: {', '.join(differing)}; {remedy}")
    ours, again = model.network.state_dict(), imported.network.state_dict()
    assert ours.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in ours.items())


def _told(settings: ModelSettings) -> dict[str, object]:
    """What decides the logits of equal tensors, defaults written out."""
    told = settings.model_dump(exclude=_SHAPES_TELL)
    told["bn_eps"] = settings.bn_eps or 1e-5
    if settings.architecture.startswith("deeplabv3"):
        told["aspp_rates"] = settings.aspp_rates or (6, 12, 18)
    return told


def _notes(bands: Sequence[Band], project: str, arch: str, align: str) -> tuple[str, ...]:
    means, stds = (
        ", ".join(f"{value:.6g}" for value in one)
        for one in zip(*((b.mean, b.std) for b in bands), strict=True)
    )
    notes = [
        f"{project} calls the network {arch}; it has to enlarge the logits {align}",
        f"it takes {', '.join(band.name for band in bands)} ({bands[0].dtype}) less the mean ({means}), divided by "
        f"({stds})",
    ]
    if project == "torchvision":
        notes.append("torchvision's own transforms divide by 255 first; divide these numbers by 255 for them")
    return tuple(notes)


def _note_on_bias(folded: bool) -> tuple[str, ...]:
    return ("the calibrated threshold was added to the last layer's bias",) if folded else ()
