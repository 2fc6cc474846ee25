"""Checkpoint files of other projects: tensors by name, and never any code that a pickle might hold."""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from aerial_seg.errors import InputError, at_work
from aerial_seg.files.names import check_input

_INSIDE = ("model", "model_ema", "state_dict")
"""Where training programs keep the state dict beside their optimiser's."""
_DEEPEST = 8
"""Levels that a state dict may lie below; programs use two. A checkpoint that contains itself has no end."""

_PARALLEL = "module."
"""What DataParallel puts before every name."""

# What torch's reader lets through when the bytes are not what they claim to be; code is an UnpicklingError.
_NOT_READABLE = (
    pickle.UnpicklingError, struct.error, RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError,
    AttributeError, ArithmeticError, AssertionError, ImportError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state dict as its project names it, on the CPU.

    sha256: of the whole file. classes: their names, where the program that wrote it wrote them beside (mmseg does).
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    sha256: str
    classes: tuple[str, ...] = ()


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a safetensors file or of a state dict that torch.save wrote, without running any code of it.

    One that lies under `model` or `state_dict` is taken out, and the `module.` of a parallel training before its names.
    Raises InputError for a pickle that wants to run code, for a damaged or foreign file, and for one without tensors.
    """
    check_input(path)
    if not path.is_file():
        raise InputError(
            f"{path} does not exist or is no file; wanted a checkpoint (.pth, .pt or .safetensors)"
        )
    with at_work(path):
        held = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_torch(path)
        tensors = _state_dict(held)
    if not tensors:
        raise InputError(
            f"{path} holds no state dict (names with tensors); save one by torch.save(model.state_dict(), FILE)"
        )
    if all(name.startswith(_PARALLEL) for name in tensors):
        tensors = {name.removeprefix(_PARALLEL): tensor for name, tensor in tensors.items()}
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Checkpoint(path, tensors, sha256, _class_names(held))


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"{path} is no safetensors file or is damaged ({_reason(error)}); copy it again"
        ) from error


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _NOT_READABLE as error:
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code is not None:
            raise InputError(
                f"{path} is refused: its pickle asks to run or build {code[1]}, wanted tensors only; where the "
                "checkpoint is trusted, save its weights alone by torch.save(model.state_dict(), FILE)"
            ) from error
        raise InputError(
            f"{path} is no checkpoint of torch.save or is damaged ({_reason(error)}); copy it again"
        ) from error


def _reason(error: Exception) -> str:
    # Before this, torch advises to load the file with its code.
    lines = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _state_dict(held: object) -> dict[str, torch.Tensor]:
    """The names with tensors, here or some levels below; empty if there are none."""
    for _ in range(_DEEPEST):
        if not isinstance(held, Mapping):
            return {}
        inside = next((held[key] for key in _INSIDE if isinstance(held.get(key), Mapping)), None)
        if inside is None:
            break
        held = inside
    if not isinstance(held, Mapping) or not all(isinstance(value, torch.Tensor) for value in held.values()):
        return {}
    return {str(name): tensor for name, tensor in held.items()}


def _class_names(held: object) -> tuple[str, ...]:
    """What mmsegmentation writes: `meta` with CLASSES, or since version 1 with dataset_meta's classes."""
    meta = held.get("meta") if isinstance(held, Mapping) else None
    if not isinstance(meta, Mapping):
        return ()
    newer = meta.get("dataset_meta")
    names = newer.get("classes") if isinstance(newer, Mapping) else meta.get("CLASSES")
    is_list = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(names) if is_list and names else ()
