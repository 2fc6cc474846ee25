"""Rows of features as an Arrow C stream, which GDAL pulls them from: one opening of a file takes any number of batches.

Source: https://arrow.apache.org/docs/format/CStreamInterface.html and CDataInterface.html. Its three structs are all
that is needed of Arrow here, so pyarrow stays an extra.

Weighed against the libraries for it: nanoarrow 0.9 makes a stream of a list of arrays only, so every feature would have
to be in memory before the first is written, and builds a batch of 4,096 features no faster (0.13 ms of CPU time, both);
pyarrow 26 takes a generator and 0.08 ms, but 170 MB of disk. GDAL needs 13 ms to write such a batch to a GeoPackage.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.vectors.schema import NO_INTEGER, Column, Kind, Rows, Text, Values

GEOMETRY = "geometry"
"""Name of the column that holds the WKB."""

_FORMATS = {Kind.INT32: "i", Kind.INT64: "l", Kind.FLOAT64: "g", Kind.TEXT: "U"}
_WKB_FORMAT, _TABLE_FORMAT = "Z", "+s"
"""Of U and Z offsets have 64 bits: a batch may hold more than 2 GiB."""
_NULLABLE = 2
_FAILED = 5
"""EIO: what get_next answers when the batches will not come."""


class _Schema(ctypes.Structure):
    pass


class _Array(ctypes.Structure):
    pass


class _Stream(ctypes.Structure):
    pass


_Schema._fields_ = [
    ("format", ctypes.c_char_p),
    ("name", ctypes.c_char_p),
    ("metadata", ctypes.c_char_p),
    ("flags", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("children", ctypes.POINTER(ctypes.POINTER(_Schema))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]
_Array._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]
_SchemaPointer = ctypes.POINTER(_Schema)
_ArrayPointer = ctypes.POINTER(_Array)
_StreamPointer = ctypes.POINTER(_Stream)
_GetSchema = ctypes.CFUNCTYPE(ctypes.c_int, _StreamPointer, _SchemaPointer)
_GetNext = ctypes.CFUNCTYPE(ctypes.c_int, _StreamPointer, _ArrayPointer)
_Stream._fields_ = [
    ("get_schema", _GetSchema),
    ("get_next", _GetNext),
    ("get_last_error", ctypes.c_void_p),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]

_WHY = ctypes.create_string_buffer(b"the writing was given up")
_KEYS = count(1)
_LENT: dict[int, object] = {}
"""What the other side may still read, until it calls `release`; the struct's private_data is the key."""


def _lend(owner: Any, *things: object) -> None:
    owner.private_data = next(_KEYS)
    _LENT[owner.private_data] = things


def _release(pointer: Any) -> None:
    struct = pointer.contents
    for k in range(struct.n_children):
        child = struct.children[k]
        if child.contents.release:
            _release(child)
    struct.release = None
    _LENT.pop(struct.private_data, None)


def _address(function: Any) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value


_release_schema = ctypes.CFUNCTYPE(None, _SchemaPointer)(_release)
_release_array = ctypes.CFUNCTYPE(None, _ArrayPointer)(_release)


def _end_stream(pointer: Any) -> None:
    pointer.contents.release = None


def _name_error(_: Any) -> int:
    return ctypes.addressof(_WHY)


_release_stream = ctypes.CFUNCTYPE(None, _StreamPointer)(_end_stream)
_last_error = ctypes.CFUNCTYPE(ctypes.c_void_p, _StreamPointer)(_name_error)


@dataclass(frozen=True, slots=True)
class Stopped:
    """What a stream's source hands out in place of rows when no more will come because something failed."""


class RowStream:
    """An object with `__arrow_c_stream__`, for pyogrio.write_arrow and pyarrow.

    take: returns the next rows, None after the last, or Stopped. Read it once. It is called in the thread that reads
    the stream, and must not raise: an exception cannot pass through C.
    """

    def __init__(self, columns: Sequence[Column], take: Callable[[], Rows | Stopped | None]) -> None:
        self._columns = tuple(columns)
        self._take = take
        self._stream = _Stream(
            get_schema=_GetSchema(self._get_schema),
            get_next=_GetNext(self._get_next),
            get_last_error=_address(_last_error),
            release=_address(_release_stream),
        )

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The capsule of this stream; it lives no longer than this object."""
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return make(ctypes.addressof(self._stream), _CAPSULE, None)

    def _get_schema(self, _: Any, out: Any) -> int:
        fields = [(column.name, _FORMATS[column.kind]) for column in self._columns]
        children = [_field(name, form) for name, form in (*fields, (GEOMETRY, _WKB_FORMAT))]
        _fill(out.contents, _field("", _TABLE_FORMAT, children))
        return 0

    def _get_next(self, _: Any, out: Any) -> int:
        rows = self._take()
        if isinstance(rows, Stopped):
            return _FAILED
        if rows is None:
            out.contents.release = None
            return 0
        columns = [_column(rows.columns[column.name]) for column in self._columns]
        wkb = _array(len(rows), (None, rows.wkb.offsets, rows.wkb.data))
        _fill(out.contents, _array(len(rows), (None,), children=[*columns, wkb]))
        return 0


_CAPSULE = b"arrow_array_stream"


def _fill(target: ctypes.Structure, source: ctypes.Structure) -> None:
    ctypes.memmove(ctypes.addressof(target), ctypes.addressof(source), ctypes.sizeof(source))


def _pointers(kind: Any, structs: Sequence[Any]) -> Any:
    return (ctypes.POINTER(kind) * len(structs))(*(ctypes.pointer(struct) for struct in structs))


def _field(name: str, form: str, children: Sequence[_Schema] = ()) -> _Schema:
    words, below = (form.encode(), name.encode()), _pointers(_Schema, children)
    schema = _Schema(
        format=words[0],
        name=words[1],
        flags=_NULLABLE,
        n_children=len(children),
        children=ctypes.cast(below, ctypes.POINTER(_SchemaPointer)),
        release=_address(_release_schema),
    )
    _lend(schema, words, below, tuple(children))
    return schema


def _array(
    length: int,
    buffers: Sequence[NDArray[Any] | None],
    *,
    nulls: int = 0,
    children: Sequence[_Array] = (),
) -> _Array:
    addresses = (ctypes.c_void_p * len(buffers))(
        *(None if buffer is None else buffer.ctypes.data for buffer in buffers)
    )
    below = _pointers(_Array, children)
    array = _Array(
        length=length,
        null_count=nulls,
        n_buffers=len(buffers),
        n_children=len(children),
        buffers=ctypes.cast(addresses, ctypes.POINTER(ctypes.c_void_p)),
        children=ctypes.cast(below, ctypes.POINTER(_ArrayPointer)),
        release=_address(_release_array),
    )
    _lend(array, addresses, below, tuple(buffers), tuple(children))
    return array


def _present(values: NDArray[Any]) -> NDArray[np.bool_]:
    present = np.ones(len(values), np.bool_)
    if values.dtype.kind == "f":
        np.logical_not(np.isnan(values), out=present)
    elif values.dtype == np.int64:
        np.not_equal(values, NO_INTEGER, out=present)
    return present


def _column(values: Values) -> _Array:
    if isinstance(values, Text):
        present = values.codes >= 0
        buffers: tuple[NDArray[Any], ...] = values.utf8()
    else:
        present = _present(values)
        buffers = (np.ascontiguousarray(values),)
    nulls = int(len(values) - np.count_nonzero(present))
    bitmap = np.packbits(present, bitorder="little") if nulls else None
    return _array(len(values), (bitmap, *buffers), nulls=nulls)
