"""Checkpoint files of other projects: tensors by name, what is told of them, and never any code of a pickle."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from aerial_seg.bands import Band
from aerial_seg.documents import listed
from aerial_seg.errors import InputError, at_work
from aerial_seg.files.names import check_input
from aerial_seg.mentions import setting
from aerial_seg.models.importing.records import NOT_READABLE, Record, load_records, named_in, plain
from aerial_seg.printable import shortened

_INSIDE = ("model", "state_dict", "model_state", "model_state_dict")
"""Where training programs keep the state dict beside their optimiser's."""
_AVERAGED = ("model_ema", "ema_state_dict", "state_dict_ema", "ema")
"""Where they keep the moving average of the weights."""
_TOLD = ("meta", "hyper_parameters", "args", "message_hub")
"""What else of a checkpoint is kept: what its program says of the network."""
_DEEPEST = 8
"""Levels that a state dict may lie below; programs use two. A checkpoint that contains itself has no end."""

_COUNTERS = frozenset({"n_averaged", "steps"})
"""How often an average was updated, which torch and mmengine keep among its weights."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state dict as its project names it, on the CPU.

    sha256: of the whole file. classes, palette: their names and colours, where the program that wrote it wrote them
    beside (mmseg does). told: what else it wrote of the network, by its name in the file. notes: what was chosen or
    taken off on the way. bands: of the images that it was trained on, where the user tells them.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    sha256: str
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    told: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    bands: tuple[Band, ...] = ()


def read_checkpoint(path: Path, *, ema: bool | None = None) -> Checkpoint:
    """The tensors of a safetensors file or of a state dict that torch.save wrote, without running any code of it.

    One that lies under `model`, `state_dict` or `model_state` is taken out. ema: of two sets of weights, the moving
    average or those as trained; None: those that stand first, as their own program evaluates them. `module.` of a
    parallel training and torch.compile's `_orig_mod.` are taken off the names.
    Raises InputError for a pickle that wants to run code, for a damaged or foreign file, for one without tensors, and
    for one without an average where that is asked for.
    """
    check_input(path)
    if not path.is_file():
        raise InputError(
            f"{path} does not exist or is no file; wanted a checkpoint (.pth, .pt or .safetensors)"
        )
    with at_work(path):
        held, notes = _read(path)
        tensors, chosen = _state_dict(held, ema=ema, path=path)
    if not tensors:
        raise InputError(_no_state_dict(path, held))
    tensors, renamed = _unwrapped(tensors)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    classes, palette = _classes(held)
    told = {key: held[key] for key in _TOLD if key in held} if isinstance(held, Mapping) else {}
    return Checkpoint(path, tensors, sha256, classes, palette, told, (*notes, *chosen, *renamed))


def _read(path: Path) -> tuple[object, tuple[str, ...]]:
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path), ()
    held, names = _read_torch(path)
    if not names:
        return held, ()
    told = listed([shortened(name) for name in names], 3)
    return held, (
        f"{path.name} also holds objects of {len(names)} kinds that are no tensors ({told}); they were kept as "
        "records, and no code of theirs ran",
    )


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"{path} is no safetensors file or is damaged ({_reason(error)}); copy it again"
        ) from error


def _read_torch(path: Path) -> tuple[object, tuple[str, ...]]:
    try:
        return load_records(path)
    except NOT_READABLE as error:
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code is not None:
            raise InputError(_refusal(path, f"asks to run or build {code[1]}")) from error
        if "torchscript" in str(error).lower():
            raise InputError(
                f"{path} is a TorchScript program, wanted tensors only; save its weights alone by "
                "torch.save(torch.jit.load(FILE).state_dict(), FILE2)"
            ) from error
        raise InputError(
            f"{path} is no checkpoint of torch.save or is damaged ({_reason(error)}); copy it again"
        ) from error


def _refusal(path: Path, what: str) -> str:
    return (
        f"{path} is refused: its pickle {what}, wanted tensors only; where the checkpoint is trusted, save its weights "
        "alone by torch.save(model.state_dict(), FILE)"
    )


def _no_state_dict(path: Path, held: object) -> str:
    """A network that was saved whole is no state dict: that is told by its class."""
    inside = [held[key] for key in (*_INSIDE, *_AVERAGED) if key in held] if isinstance(held, Mapping) else []
    whole = next((one for one in (held, *inside) if isinstance(one, Record)), None)
    if whole is not None:
        return _refusal(path, f"asks to run or build {shortened(whole.name)}")
    return (
        f"{path} holds no state dict (names with tensors); save one by torch.save(model.state_dict(), FILE)"
    )


def _reason(error: Exception) -> str:
    # Before this, torch advises to load the file with its code.
    lines = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _state_dict(
    held: object, *, ema: bool | None, path: Path
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The names with tensors, here or some levels below, and which were chosen; empty if there are none."""
    notes: tuple[str, ...] = ()
    averaged = False
    for _ in range(_DEEPEST):
        if not isinstance(held, Mapping):
            return {}, ()
        key, note = _inside(held, ema=ema)
        if key is None:
            break
        averaged |= key in _AVERAGED or "moving average" in note
        notes, held = (*notes, *filter(None, [note])), held[key]
    if ema and not averaged:
        raise InputError(
            f"{path} holds no moving average of its weights (under {', '.join(_AVERAGED)}); leave {setting('ema')} out"
        )
    if not isinstance(held, Mapping) or not all(isinstance(value, torch.Tensor) for value in held.values()):
        return {}, ()
    return {str(name): tensor for name, tensor in held.items()}, notes


def _inside(held: Mapping[object, object], *, ema: bool | None) -> tuple[str | None, str]:
    """The key under which the wanted state dict lies, and what to say of the choice."""
    usual = next((key for key in _INSIDE if isinstance(held.get(key), Mapping)), None)
    average = next((key for key in _AVERAGED if isinstance(held.get(key), Mapping)), None)
    if average is None or usual is None:
        key = usual or average
        return key, f"the weights are the moving average, {key}: there are no others" if average else ""
    # mmengine writes the average where the weights are looked for, and the weights in the average's place.
    averaged, trained = (usual, average) if "message_hub" in held else (average, usual)
    takes_average = averaged == usual if ema is None else ema
    chosen, other = (averaged, trained) if takes_average else (trained, averaged)
    what, else_ = "the moving average", "the weights as trained"
    if not takes_average:
        what, else_ = else_, what
    return chosen, (
        f"of two sets of weights {chosen} was taken, {what}; {setting('ema', not takes_average)} takes {other}, {else_}"
    )


def _unwrapped(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The names without what wrappers put before them."""
    named, notes = dict(tensors), []
    for _ in range(_DEEPEST):
        weights = {name: tensor for name, tensor in named.items() if name not in _COUNTERS}
        before = len(weights)
        if before and all(name.startswith("module.") for name in weights):
            named = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
            continue
        compiled = [name for name in named if "_orig_mod." in name]
        if not compiled:
            break
        notes.append(f"'_orig_mod.' of torch.compile was taken out of {len(compiled)} names")
        named = {name.replace("_orig_mod.", ""): tensor for name, tensor in named.items()}
    return named, tuple(notes)


def _classes(held: object) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """What mmsegmentation writes: `meta` with CLASSES and PALETTE, or since version 1 with dataset_meta's; or
    terratorch: class_names among its `hyper_parameters`.
    """
    meta = held.get("meta") if isinstance(held, Mapping) else None
    if not isinstance(meta, Mapping):
        told = named_in(held.get("hyper_parameters")) if isinstance(held, Mapping) else {}
        return _words(told.get("class_names")), ()
    newer = meta.get("dataset_meta")
    names, colours = (
        (newer.get("classes"), newer.get("palette"))
        if isinstance(newer, Mapping)
        else (meta.get("CLASSES"), meta.get("PALETTE"))
    )
    classes = _words(plain(names))
    return classes, _palette(plain(colours), len(classes))


def _words(names: object) -> tuple[str, ...]:
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names)


def _palette(colours: object, count: int) -> tuple[tuple[int, int, int], ...]:
    """A colour of three bytes for every class; nothing where that is not what was written."""
    if not isinstance(colours, list | tuple) or len(colours) != count:
        return ()
    found = [tuple(colour) for colour in colours if isinstance(colour, list | tuple)]
    if len(found) != count or not all(
        len(colour) == 3 and all(isinstance(value, int) and 0 <= value <= 255 for value in colour)
        for colour in found
    ):
        return ()
    return tuple((int(r), int(g), int(b)) for r, g, b in found)
