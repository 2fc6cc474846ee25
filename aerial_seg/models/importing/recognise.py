"""What a state dict tells of its network by names and shapes, and what its name adds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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
BASIC_ENCODERS: Mapping[tuple[int, ...], str] = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet34"}
"""Blocks of two 3×3 convolutions of the four stages."""


def find_encoder(
    checkpoint: Checkpoint,
    pattern: str,
    *,
    remedy: str,
    encoders: Mapping[tuple[int, ...], str] = ENCODERS,
) -> str:
    """The ResNet whose blocks the checkpoint has, bottlenecks unless encoders are others.

    pattern: of a tensor's name, with the groups (stage, unit). Raises InputError for other numbers of blocks.
    """
    units: dict[int, dict[int, str]] = {}
    for name in checkpoint.tensors:
        if match := re.match(pattern, name):
            stage, unit = map(int, match.groups())
            units.setdefault(stage, {}).setdefault(unit, name)
    blocks = tuple(len(units[stage]) for stage in sorted(units))
    if blocks not in encoders:
        told = ", ".join(map(str, blocks)) if blocks else "none"
        last = ", ".join(units[stage][max(units[stage])] for stage in sorted(units))
        raise InputError(
            f"{checkpoint.path} has bottlenecks ({told}) in its stages, the last of each with {last}; {remedy}"
        )
    return encoders[blocks]


def require_convolutions(checkpoint: Checkpoint, names: Sequence[str], *, remedy: str) -> None:
    """Raises InputError unless every name is there with the four dimensions of a convolution."""
    tensors = checkpoint.tensors
    lacking = [name for name in names if name not in tensors or tensors[name].ndim != 4]
    if lacking:
        raise InputError(
            f"{checkpoint.path} is not recognised, it has no convolution {' nor '.join(lacking)} among {len(tensors)} "
            f"names (first {next(iter(tensors))}); {remedy}"
        )


_STRIDES: Mapping[str, Literal[8, 16, 32]] = {"8": 8, "16": 16, "32": 32}


@dataclass(frozen=True, slots=True)
class Arch:
    """What a model's name in its project tells; None where it is silent or no name was given."""

    head: str | None = None
    depth: str | None = None
    stride: Literal[8, 16, 32] | None = None
    extra: str = ""
    note: str = ""


def read_arch(arch: str | None, pattern: str, *, wanted: str, path: Path | None = None) -> Arch:
    """The parts of a name: the groups head, depth, stride and extra of the pattern, those that it has.

    wanted: how messages describe such names. path: of the checkpoint, whose own name is read where it is one of these
    and none was given; then `note` says so. Raises SettingsError for a name of another form.
    """
    note = ""
    if arch is None:
        if path is None or re.fullmatch(pattern, path.stem) is None:
            return Arch()
        arch, note = path.stem, f"the network was read from the file's name: {setting('arch', path.stem)}"
    match = re.fullmatch(pattern, arch.removesuffix(".py").removesuffix(".pth"))
    if match is None:
        raise SettingsError(
            f"{setting('arch')} is '{arch}', which is no name that is understood here; wanted {wanted}"
        )
    parts = match.groupdict()
    stride = parts.get("stride")
    head, depth, extra = parts.get("head"), parts.get("depth"), parts.get("extra") or ""
    return Arch(head, depth, _STRIDES.get(stride or ""), extra, note)


def check_arch(arch: Arch, *, head: str, encoder: str, path: object) -> None:
    """Raises SettingsError where the name tells another network than the state dict holds."""
    for what, told, found in (
        ("head", arch.head, head),
        ("encoder", arch.depth and f"resnet{arch.depth}", encoder),
    ):
        if told is not None and told != found:
            who = "the file's name" if arch.note else setting("arch")
            raise SettingsError(
                f"{who} tells the {what} {told}, but {path} holds {found}; give that network's "
                f"own name as {setting('arch')}, or none in either place"
            )


def ask(checkpoint: Checkpoint, choices: Mapping[str, str], *, what: str) -> SettingsError:
    """The error for a checkpoint that several published networks of other maps have the tensors of.

    choices: by the name that tells them apart, what it stands for. what: how messages call the network.
    """
    told = ", ".join(f"{setting('arch', name)} ({meaning})" for name, meaning in choices.items())
    return SettingsError(
        f"{checkpoint.path} holds {what}, of which {len(choices)} are published whose tensors are the same and whose "
        f"maps are not; say which it is: {told}"
    )
