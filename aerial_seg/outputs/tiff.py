"""How a TIFF says where its blocks lie: directories of numbered entries, classic and BigTIFF, little-endian."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class Image:
    """What a directory is to say: sides, and bytes and place of each block, (down, across); 0 where it is absent."""

    height: int
    width: int
    sizes: NDArray[np.uint64]
    offsets: NDArray[np.uint64] = field(init=False)

    def __post_init__(self) -> None:
        self.offsets = np.zeros_like(self.sizes)

    def place(self, start: int, *, around: int = 0) -> int:
        """Blocks follow one another from `start`, so many bytes before and after each; returns where that ends."""
        flat = self.sizes.ravel()
        there = flat > 0
        ends = start + np.cumsum(flat[there] + np.uint64(2 * around))
        offsets = np.zeros_like(flat)
        offsets[there] = ends - flat[there] - np.uint64(around)
        self.offsets = offsets.reshape(self.sizes.shape)
        return int(ends[-1]) if len(ends) else start

    def lists(self, form: Form) -> tuple[bytes, bytes]:
        """Offsets and sizes as they lie in a file: libtiff gives sizes of several blocks four bytes."""
        wide = form is BIG
        offsets, sizes = self.offsets.ravel(), self.sizes.ravel()
        return (
            offsets.astype("<u8" if wide else "<u4").tobytes(),
            sizes.astype("<u8" if wide and len(sizes) == 1 else "<u4").tobytes(),
        )


def with_blocks(
    head: bytes, form: Form, directories: Sequence[Directory], images: Sequence[Image], *, around: int = 0
) -> bytes:
    """A file without blocks becomes what goes before these blocks, which follow it; the images know their places.

    Blocks lie as in a COG: of the last image first, of each from north-west to south-east. around: bytes before and
    after each.
    """
    start = len(with_lists(head, form, directories, images))
    for one in reversed(images):
        start = one.place(start, around=around)
    return with_lists(head, form, directories, images)


def with_lists(head: bytes, form: Form, directories: Sequence[Directory], images: Sequence[Image]) -> bytes:
    """A file without blocks becomes one that says where these are; its length depends on their number alone."""
    made, after, at = bytearray(head), list[bytes](), len(head)
    for directory, one in zip(directories, images, strict=True):
        for tag, side in ((WIDTH, one.width), (HEIGHT, one.height)):
            kind = SHORT if side < 1 << 16 else LONG
            struct.pack_into(form.entry, made, directory[tag].position, tag, kind, 1, side)
        for tag, data in zip((OFFSETS, SIZES), one.lists(form), strict=True):
            kind = LONG8 if len(data) == 8 * one.sizes.size else LONG
            inline = len(data) <= form.inline
            value = int.from_bytes(data, "little") if inline else at
            struct.pack_into(form.entry, made, directory[tag].position, tag, kind, one.sizes.size, value)
            if not inline:
                after.append(data)
                at += len(data)
    return b"".join((made, *after))
