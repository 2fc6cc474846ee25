"""A model file's header: our document, and which tensors follow; told from other files and damaged ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from aerial_seg.documents import DocumentError, parse_json
from aerial_seg.errors import InputError
from aerial_seg.files.names import check_input

HEADER_KEY = "aerial_seg"

_LARGEST_HEADER = 100_000_000
"""Bytes, as in safetensors itself."""


@dataclass(frozen=True, slots=True)
class Header:
    """A safetensors file's header. document: ours. tensors: type and shape by name."""

    path: Path
    document: str
    tensors: dict[str, tuple[str, tuple[int, ...]]]


def read_header(path: Path) -> Header:
    """Read it. Raises InputError for a missing, truncated or foreign file."""
    _check_kind(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, _LARGEST_HEADER):
            raise InputError(
                f"{path} is not a safetensors file or is cut off; wanted a model that `train` wrote: copy it again"
            )
        try:
            header = parse_json(file.read(length))
        except DocumentError as error:
            raise InputError(
                f"{path} is not a safetensors file (of its header: {error}); wanted a model that `train` wrote"
            ) from error
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    document = metadata.get(HEADER_KEY) if isinstance(metadata, dict) else None
    if not isinstance(document, str):
        raise InputError(
            f"{path} is a safetensors file of another tool (its header holds no '{HEADER_KEY}' document); "
            "wanted a model that `aerial-seg train` wrote"
        )
    try:
        tensors = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
        end = _end_of_weights(header, path) + 8 + length
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"its header is odd at {error}") from error
    if end != size:
        how = "cut off after" if size < end else "longer than it should be:"
        raise damaged(path, f"{how} {size:,} of {end:,} bytes")
    return Header(path, document, tensors)


def _end_of_weights(header: Mapping[str, Any], path: Path) -> int:
    """Where the last weight ends, counted from the header. Raises InputError where weights overlap or leave a gap.

    The library finds that too, but which of two weights it names changes from one reading to the next.
    """
    end = 0
    for (start, stop), name in sorted((tuple(entry["data_offsets"]), name) for name, entry in header.items()):
        if start != end:
            raise damaged(path, f"{name} begins at byte {start:,} of the weights, wanted {end:,}")
        end = stop
    return end


def _check_kind(path: Path) -> None:
    """Raises InputError for what can be told from a model file at a glance."""
    check_input(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; wanted a model file in it, as best.safetensors")
    if not path.is_file():
        raise InputError(f"{path} does not exist or is no file; wanted a model file (.safetensors)")
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise InputError(
            f"{path} is empty: not a safetensors file or is cut off; copy it again or train again"
        )
    if start == b"PK\x03\x04" or start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise InputError(
            f"{path} is a PyTorch checkpoint (zip or pickle), not a safetensors file; "
            "`aerial-seg import-weights` makes model files of those it knows"
        )


def damaged(path: Path, how: str) -> InputError:
    """What to raise of a file that says it is ours and is not whole."""
    return InputError(f"{path} is damaged ({how}); copy it again or train again")


def is_model_file(path: Path) -> bool:
    """Whether a file holds a document of ours."""
    if path.suffix.lower() != ".safetensors":
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return HEADER_KEY in (file.metadata() or {})
    except SafetensorError:
        return False
