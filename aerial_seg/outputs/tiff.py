"""How a TIFF says where its blocks lie: directories of numbered entries, classic and BigTIFF, little-endian."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, BITS, COMPRESSION, SAMPLES, PLANAR = 256, 257, 258, 259, 277, 284
PREDICTOR, BLOCK_WIDTH, BLOCK_HEIGHT, OFFSETS, SIZES = 317, 322, 323, 324, 325

SHORT, LONG, LONG8 = 3, 4, 16
_NUMBERS = {SHORT: "<u2", LONG: "<u4", LONG8: "<u8"}


@dataclass(frozen=True, slots=True)
class Form:
    """What differs between a classic TIFF and a BigTIFF. inline: bytes of a value that stands in its entry."""

    version: int
    begin: str
    count: str
    entry: str
    pointer: str

    @property
    def inline(self) -> int:
        """Bytes of a value that stands in its entry."""
        return struct.calcsize(self.pointer)


CLASSIC = Form(42, "<2sHI", "<H", "<HHII", "<I")
BIG = Form(43, "<2sHHHQ", "<Q", "<HHQQ", "<Q")


@dataclass(frozen=True, slots=True)
class Entry:
    """One of a directory: where it lies in the file, its tag, and `count` numbers of a type, or where they lie."""

    position: int
    tag: int
    kind: int
    count: int
    value: int


Directory = Mapping[int, Entry]


def read_directories(file: BinaryIO) -> tuple[Form, list[Directory]]:
    """The form of a file, and its directories in their order. Raises ValueError or struct.error for what is no TIFF."""
    file.seek(0)
    begin = file.read(struct.calcsize(BIG.begin))
    form = next((one for one in (CLASSIC, BIG) if begin[:4] == struct.pack("<2sH", b"II", one.version)), None)
    if form is None:
        raise ValueError("no little-endian TIFF")
    at = struct.unpack_from(form.begin, begin)[-1]
    found: list[Directory] = []
    seen = set()
    while at and at not in seen:
        seen.add(at)
        file.seek(at)
        (count,) = struct.unpack(form.count, file.read(struct.calcsize(form.count)))
        size, first = struct.calcsize(form.entry), at + struct.calcsize(form.count)
        body = file.read(size * count)
        (at,) = struct.unpack(form.pointer, file.read(form.inline))
        entries = (
            Entry(first + size * k, *numbers)
            for k, numbers in enumerate(struct.iter_unpack(form.entry, body))
        )
        found.append({entry.tag: entry for entry in entries})
    return form, found


def read_numbers(file: BinaryIO, form: Form, entry: Entry) -> NDArray[np.uint64]:
    """The numbers of an entry. Raises ValueError where the file does not hold them, or where they are no integers."""
    if entry.kind not in _NUMBERS:
        raise ValueError(f"tag {entry.tag} has numbers of type {entry.kind}")
    kind = np.dtype(_NUMBERS[entry.kind])
    size = entry.count * kind.itemsize
    file.seek(
        entry.position + struct.calcsize(form.entry) - form.inline if size <= form.inline else entry.value
    )
    return np.frombuffer(file.read(size), kind, entry.count).astype(np.uint64)


def read_number(file: BinaryIO, form: Form, directory: Directory, tag: int, usual: int) -> int:
    """The first number of a tag; `usual` where the directory has none."""
    return int(read_numbers(file, form, directory[tag])[0]) if tag in directory else usual
