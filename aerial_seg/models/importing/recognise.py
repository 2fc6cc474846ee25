"""What a state dict tells of its network by names and shapes, and what its name adds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.mentions import setting
from aerial_seg.models.importing.checkpoint import Checkpoint

ENCODERS: Mapping[tuple[int, ...], str] = {
    (3, 4, 6, 3): "resnet50",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
    (3, 30, 48, 8): "resnet269",
}
"""Bottlenecks of the four stages."""


def find_encoder(checkpoint: Checkpoint, pattern: str, *, remedy: str) -> str:
    """The ResNet whose bottlenecks the checkpoint has.

    pattern: of a tensor's name, with the groups (stage, unit). Raises InputError for other numbers of bottlenecks.
    """
    units: dict[int, dict[int, str]] = {}
    for name in checkpoint.tensors:
        if match := re.match(pattern, name):
            stage, unit = map(int, match.groups())
            units.setdefault(stage, {}).setdefault(unit, name)
    blocks = tuple(len(units[stage]) for stage in sorted(units))
    if blocks not in ENCODERS:
        told = ", ".join(map(str, blocks)) if blocks else "none"
        last = ", ".join(units[stage][max(units[stage])] for stage in sorted(units))
        raise InputError(
            f"{checkpoint.path} has bottlenecks ({told}) in its stages, the last of each with {last}; {remedy}"
        )
    return ENCODERS[blocks]


def require_convolutions(checkpoint: Checkpoint, names: Sequence[str], *, remedy: str) -> None:
    """Raises InputError unless every name is there with the four dimensions of a convolution."""
    tensors = checkpoint.tensors
    lacking = [name for name in names if name not in tensors or tensors[name].ndim != 4]
    if lacking:
        raise InputError(
            f"{checkpoint.path} is not recognised, it has no convolution {' nor '.join(lacking)} among {len(tensors)} "
            f"names (first {next(iter(tensors))}); {remedy}"
        )


_STRIDES: Mapping[str, Literal[8, 16]] = {"8": 8, "16": 16}


@dataclass(frozen=True, slots=True)
class Arch:
    """What a model's name in its project tells; None where it is silent or no name was given."""

    head: str | None = None
    depth: str | None = None
    stride: Literal[8, 16] | None = None
    extra: str = ""


def read_arch(arch: str | None, pattern: str, *, wanted: str) -> Arch:
    """The parts of a name: the groups head, depth, stride and extra of the pattern, those that it has.

    wanted: how messages describe such names. Raises SettingsError for a name of another form.
    """
    if arch is None:
        return Arch()
    match = re.fullmatch(pattern, arch)
    if match is None:
        raise SettingsError(
            f"{setting('arch')} is '{arch}', which is no name that is understood here; wanted {wanted}"
        )
    parts = match.groupdict()
    stride = parts.get("stride")
    head, depth, extra = parts.get("head"), parts.get("depth"), parts.get("extra") or ""
    return Arch(head, depth, _STRIDES.get(stride or ""), extra)


def check_arch(arch: Arch, *, head: str, encoder: str, path: object) -> None:
    """Raises SettingsError where the name tells another network than the state dict holds."""
    for what, told, found in (
        ("head", arch.head, head),
        ("encoder", arch.depth and f"resnet{arch.depth}", encoder),
    ):
        if told is not None and told != found:
            raise SettingsError(
                f"{setting('arch')} tells the {what} {told}, but {path} holds {found}; give that network's "
                f"own name, or leave {setting('arch')} out"
            )
