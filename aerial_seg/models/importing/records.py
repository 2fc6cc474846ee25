"""Pickles that torch.save wrote, with what trainings keep beside the weights: read whole, and no code of them run.

torch.load(weights_only=True) builds tensors and plain values, and refuses every other name. What a pickle names besides
(argparse.Namespace, numpy's scalars, mmengine's HistoryBuffer) is made a Record here: a class of ours that keeps what
it is given and does nothing, whatever the pickle calls, constructs or restores. So there is nothing that could run.
Names by which programs are run, and which no training writes, are refused all the same.
"""

from __future__ import annotations

import pickle
import re
import struct
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

_MOST_NAMES = 1000
_DEEPEST = 8
_RUNS = frozenset({
    "_posixsubprocess", "_pickle", "_winapi", "asyncio", "bdb", "code", "codeop", "commands", "ctypes", "imp",
    "importlib", "marshal", "multiprocessing", "nt", "os", "pdb", "pickle", "pip", "pkgutil", "posix", "pty", "pydoc",
    "runpy", "setuptools", "shutil", "socket", "subprocess", "sys", "timeit", "webbrowser",
    "torch.hub", "torch.package", "torch.utils.cpp_extension", "torch.jit",
})  # fmt: skip
"""Modules by which programs are run, and that nothing beside weights is of."""
_RUNS_OF_PYTHON = frozenset({
    "eval", "exec", "compile", "__import__", "open", "input", "breakpoint", "execfile", "apply", "globals", "setattr",
})  # fmt: skip
"""The like of Python's own names. mmengine writes some that are harmless, as getattr."""
_NUMPY_SCALAR = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_NUMPY_DTYPE = "numpy.dtype"

NOT_READABLE = (
    pickle.UnpicklingError, struct.error, RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError,
    AttributeError, ArithmeticError, AssertionError, ImportError,
)  # fmt: skip
"""What torch's reader lets through when the bytes are not what they claim to be; code is an UnpicklingError."""

_loading = threading.Lock()
"""torch keeps its list of safe names for the whole process."""


class Record:
    """Stands for an object that was not made: `name` is its class's or function's, given and state what it would get
    in its making and afterwards.
    """

    __slots__ = ("given", "state")
    name: ClassVar[str] = ""
    given: tuple[object, ...]
    state: object

    def __new__(cls, *given: object) -> Record:
        """A record of what was given; nothing is called."""
        record = super().__new__(cls)
        record.given, record.state = given, None
        return record

    def __init__(self, *given: object) -> None:
        """Nothing is left to do."""

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__


class Table(Record):
    """Stands for a class of its own of mapping: what was made is a plain OrderedDict."""

    __slots__ = ()

    def __new__(cls, *_given: object) -> Any:
        """An empty mapping, to be filled by the pickle."""
        return OrderedDict()


def load_records(path: Path) -> tuple[object, tuple[str, ...]]:
    """What torch.save wrote, every object that torch does not know as a Record, and the names of these, sorted.

    Raises pickle.UnpicklingError with "GLOBAL name" for a name by which programs are run, and one of NOT_READABLE for
    what is no such file.
    """
    # Of older files than zip archives the names show one by one, as torch comes upon them.
    names = get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
    kinds = {name: _kind(Record, name) for name in names}
    with _loading:
        while True:
            _refuse_programs(kinds)
            try:
                with safe_globals(list(kinds.values())):
                    return torch.load(path, map_location="cpu", weights_only=True), tuple(sorted(kinds))
            except pickle.UnpicklingError as error:
                changed = _met(str(error), kinds)
                if changed is None:
                    raise
                kinds |= changed


def _refuse_programs(names: Collection[str]) -> None:
    if len(names) > _MOST_NAMES:
        raise pickle.UnpicklingError(f"{len(names)} names besides tensors, more than {_MOST_NAMES}")
    for name in names:
        if runs_programs(name):
            raise pickle.UnpicklingError(f"GLOBAL {name} is no name that a training writes")


def _met(error: str, kinds: Mapping[str, type[Record]]) -> dict[str, type[Record]] | None:
    """What else torch has to know after it stopped at this: a name, or that one is a mapping of a class of its own."""
    unknown = re.search(r"Unsupported global: GLOBAL (\S+)", error)
    if unknown is not None:
        name = unknown[1] if "." in unknown[1] else f"builtins.{unknown[1]}"
        return None if name in kinds else {name: _kind(Record, name)}
    mapping = re.search(r"Can only SETITEMS? .* but got <class '(.+)'>", error)
    if mapping is None or mapping[1] not in kinds or issubclass(kinds[mapping[1]], Table):
        return None
    return {mapping[1]: _kind(Table, mapping[1])}


def runs_programs(name: str) -> bool:
    """Whether a pickle that names this wants to run programs, for which no training has a use."""
    module, _, last = name.rpartition(".")
    if module in ("builtins", "__builtin__"):
        return last in _RUNS_OF_PYTHON
    parts = module.split(".")
    return any(".".join(parts[:k]) in _RUNS for k in range(1, len(parts) + 1))


def plain(value: object, depth: int = _DEEPEST) -> object:
    """The value with numpy's numbers as Python's, lists and mappings gone through; other Records stay.

    depth: levels that are gone through, for one that contains itself has no end.
    """
    if isinstance(value, Record):
        return _plain_record(value)
    if depth == 0:
        return value
    if isinstance(value, Mapping):
        return {key: plain(one, depth - 1) for key, one in value.items()}
    if type(value) in (list, tuple):
        assert isinstance(value, list | tuple)
        return type(value)(plain(one, depth - 1) for one in value)
    return value


def named_in(value: object) -> Mapping[str, object]:
    """What an argparse.Namespace (a Record here) or a mapping says by name; nothing for another value."""
    if isinstance(value, Record):
        value = value.state
    if not isinstance(value, Mapping):
        return MappingProxyType({})
    return {str(key): plain(one) for key, one in value.items()}


def _plain_record(record: Record) -> object:
    if record.name in _NUMPY_SCALAR and len(record.given) == 2:
        number = _numpy_number(*record.given)
        return record if number is None else number
    return record


def _numpy_number(dtype: object, data: object) -> object:
    """A numpy number from its type and its bytes; None for what is none."""
    if not isinstance(dtype, Record) or dtype.name != _NUMPY_DTYPE or not dtype.given:
        return None
    kind, raw = dtype.given[0], data.encode("latin-1") if isinstance(data, str) else data
    if (
        not isinstance(kind, str)
        or not re.fullmatch(r"b1|[iu][1248]|f[248]", kind)
        or not isinstance(raw, bytes)
    ):
        return None
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
    wanted = np.dtype(kind).newbyteorder(">" if order == ">" else "<")
    return np.frombuffer(raw, wanted)[0].item() if len(raw) == wanted.itemsize else None


def _kind(base: type[Record], name: str) -> type[Record]:
    """The class, under the name that the pickle has for it, by which torch looks it up."""
    module, _, last = name.rpartition(".")
    facts = {"__slots__": (), "__module__": module, "__qualname__": last, "name": name}
    return type(last, (base,), facts)
