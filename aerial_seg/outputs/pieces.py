"""A part of a raster in a file of its own, whose compressed blocks are those of the finished file.

GDAL compresses them, once: whoever assembles the finished raster copies them as they are. Each is read back and
compared when it is written, and its checksum is kept, so that what is copied is what was compared.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import BLOCK
from aerial_seg.legend import IGNORE
from aerial_seg.outputs import tiff
from aerial_seg.outputs.packing import Bytes, empty_tiff, in_threads, packed, unpacked

_DEFLATE = 8
RECENT_BYTES = 24_000_000
"""Three pieces of 8,000 columns of a class map and its confidence."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Where the blocks of a file lie, (down, across): size 0 where all is nodata. checksums: CRC-32 of each."""

    offsets: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    checksums: NDArray[np.uint32]

    @property
    def filled(self) -> NDArray[np.bool_]:
        """Which hold something."""
        filled: NDArray[np.bool_] = self.sizes > 0
        return filled

    def read(self, file: BinaryIO, down: int, across: int) -> bytes:
        """A block as it lies in the file. Raises OSError unless it is the one that was compared."""
        data = _read(file, int(self.offsets[down, across]), int(self.sizes[down, across]))
        if zlib.crc32(data) != self.checksums[down, across]:
            raise OSError(f"{file.name} reads back other than it was written")
        return data


def is_remembered(size: int) -> bool:
    """Tell whether the pixels of a piece of so many bytes are: two of them must have room."""
    return 2 * size <= RECENT_BYTES


class Recent:
    """Pixels (n, w, bands) of the pieces that were written last, as far as few bytes hold them.

    What is made of them soon afterwards need not unpack them again.
    """

    def __init__(self) -> None:
        self._pixels: dict[Path, Bytes] = {}
        self._bytes = 0

    def add(self, path: Path, values: Bytes) -> None:
        """values (bands, n, w) of a piece are remembered, older ones perhaps no more."""
        self.forget(path)
        if not is_remembered(values.nbytes):
            return
        self._pixels[path] = np.array(np.moveaxis(values, 0, -1), order="C")
        self._bytes += values.nbytes
        while self._bytes > RECENT_BYTES:
            self.forget(next(iter(self._pixels)))

    def forget(self, path: Path) -> None:
        """It is there no more."""
        gone = self._pixels.pop(path, None)
        self._bytes -= 0 if gone is None else gone.nbytes

    def get(self, path: Path) -> Bytes | None:
        """The pixels; None where they are not remembered."""
        return self._pixels.get(path)


class PieceList:
    """Pieces of one raster, found by their rows."""

    def __init__(self) -> None:
        self._by_row: dict[int, list[Piece]] = {}

    def add(self, piece: Piece) -> None:
        """It is one of them."""
        for row in range(piece.rows.start // BLOCK, -(-piece.rows.stop // BLOCK)):
            self._by_row.setdefault(row, []).append(piece)

    def overlapping(self, rows: range, cols: range) -> list[Piece]:
        """Those that hold any of these pixels, west to east, each once."""
        found = {
            id(piece): piece
            for row in range(rows.start // BLOCK, -(-rows.stop // BLOCK))
            for piece in self._by_row.get(row, ())
            if piece.overlaps(rows, cols)
        }
        return sorted(found.values(), key=lambda piece: (piece.cols.start, piece.rows.start))


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows and columns of a raster, in whole blocks or up to its end, in a file; blocks None: all of it is nodata."""

    path: Path
    rows: range
    cols: range
    blocks: Blocks | None

    def overlaps(self, rows: range, cols: range) -> bool:
        """Whether any of these pixels are in it."""
        return (
            self.rows.start < rows.stop
            and rows.start < self.rows.stop
            and self.cols.start < cols.stop
            and cols.start < self.cols.stop
        )


def write_tiff(path: Path, values: Bytes, place: Grid, *, threads: int = 1) -> Blocks | None:
    """values (bands, n, w) lie in a GeoTIFF at `path`. Returns its blocks, None unless they read back as the values.

    Raises OSError where the disk does not take them.
    """
    head = empty_tiff(place, len(values))
    form, directories = tiff.read_directories(BytesIO(head))
    image = _image_of(values)
    start = len(tiff.with_lists(head, form, directories, [image]))
    with path.open("wb") as file:
        # Where the blocks lie is known when they are all packed, and not all of them need be in memory at once.
        file.seek(start)
        _write(file, image, values, threads=threads)
        file.seek(0)
        file.write(tiff.with_lists(head, form, directories, [image]))
    return blocks_of(path, values.shape, values=values, threads=threads)


def write_blocks(path: Path, values: Bytes) -> Blocks | None:
    """The compressed blocks of values (bands, n, w) lie in a file at `path`, and nothing else; else as write_tiff."""
    image = _image_of(values)
    with path.open("wb") as file:
        _write(file, image, values)
    return _checked(path, image.offsets, image.sizes, len(values), values=values)


def _image_of(values: Bytes) -> tiff.Image:
    _, height, width = values.shape
    return tiff.Image(height, width, np.zeros((-(-height // BLOCK), -(-width // BLOCK)), np.uint64))


def _write(file: BinaryIO, image: tiff.Image, values: Bytes, *, threads: int = 1) -> None:
    """Compressed blocks follow one another in the file, and the image knows where."""
    for left, rows in packed(values, threads=threads):
        for cell in np.ndindex(len(rows), len(rows[0])):
            block = rows[cell[0]][cell[1]]
            if block:
                at = cell[0], left + cell[1]
                image.offsets[at], image.sizes[at] = file.tell(), len(block)
                file.write(block)


def blocks_of(
    path: Path, shape: tuple[int, ...], *, values: Bytes | None = None, threads: int = 1
) -> Blocks | None:
    """The blocks of a file of this shape (bands, h, w), all of them whole; None for every other file.

    values: what it is to hold. Raises OSError where it cannot be read.
    """
    try:
        with path.open("rb") as file:
            offsets, sizes = _table(file, shape)
    except (struct.error, LookupError, ValueError):
        return None
    return _checked(path, offsets, sizes, shape[0], values=values, threads=threads)


def _checked(
    path: Path,
    offsets: NDArray[np.uint64],
    sizes: NDArray[np.uint64],
    bands: int,
    *,
    values: Bytes | None,
    threads: int = 1,
) -> Blocks | None:
    """The blocks with their checksums; None unless all are whole, and hold the values if any are given."""
    check = _Check(path, Blocks(offsets, sizes, np.zeros(sizes.shape, np.uint32)), bands, values)
    across = sizes.shape[1]
    step = -(-across // threads)
    try:
        right = in_threads(threads, check, [range(x, min(x + step, across)) for x in range(0, across, step)])
    except (ValueError, zlib.error):
        return None
    return check.blocks if all(right) else None


def _table(file: BinaryIO, shape: tuple[int, ...]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Offsets and sizes (down, across). Raises ValueError, LookupError or struct.error unless it is such a file."""
    form, (directory, *further) = tiff.read_directories(file)
    bands, height, width = shape
    # Tag → what it says, and what a file without it means.
    wanted = {
        tiff.WIDTH: (width, 0), tiff.HEIGHT: (height, 0), tiff.BITS: (8, 1), tiff.SAMPLES: (bands, 1),
        tiff.COMPRESSION: (_DEFLATE, 1), tiff.PLANAR: (1, 1), tiff.PREDICTOR: (1, 1),
        tiff.BLOCK_WIDTH: (BLOCK, 0), tiff.BLOCK_HEIGHT: (BLOCK, 0),
    }  # fmt: skip
    for tag, (value, usual) in wanted.items():
        if tiff.read_number(file, form, directory, tag, usual) != value:
            raise ValueError(f"tag {tag} is not {value}")
    if further:
        raise ValueError("more than one directory")
    grid = -(-height // BLOCK), -(-width // BLOCK)
    offsets, sizes = (
        tiff.read_numbers(file, form, directory[tag]).reshape(grid) for tag in (tiff.OFFSETS, tiff.SIZES)
    )
    return offsets, sizes


@dataclass(frozen=True, slots=True)
class _Check:
    """Whether columns of blocks are whole, and hold `values` (bands, h, w) if any are given; notes their checksums."""

    path: Path
    blocks: Blocks
    bands: int
    values: Bytes | None

    def __call__(self, across: range) -> bool:
        with self.path.open("rb") as file:
            return all(self._one(file, y, x) for y in range(len(self.blocks.offsets)) for x in across)

    def _one(self, file: BinaryIO, down: int, across: int) -> bool:
        values = None
        if self.values is not None:
            y, x = down * BLOCK, across * BLOCK
            values = np.moveaxis(self.values[:, y : y + BLOCK, x : x + BLOCK], 0, -1)
        if not self.blocks.filled[down, across]:
            return values is None or bool((values == IGNORE).all())
        data = _read(file, int(self.blocks.offsets[down, across]), int(self.blocks.sizes[down, across]))
        self.blocks.checksums[down, across] = zlib.crc32(data)
        pixels = unpacked(data, self.bands)
        return values is None or np.array_equal(pixels[: values.shape[0], : values.shape[1]], values)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def read_pieces(
    pieces: Iterable[Piece], bands: int, rows: range, cols: range, *, recent: Recent | None = None
) -> Bytes:
    """Pixels (n, w, bands) of these rows and columns, 255 where no piece holds anything.

    recent: where some of them may be remembered.

    Raises OSError where a block is not the one that was compared when it was written.
    """
    values = np.full((len(rows), len(cols), bands), IGNORE, np.uint8)
    for piece in pieces:
        if piece.blocks is None or not piece.overlaps(rows, cols):
            continue
        known = None if recent is None else recent.get(piece.path)
        if known is not None:
            (from_y, to_y), (from_x, to_x) = _common(piece.rows, rows), _common(piece.cols, cols)
            values[to_y, to_x] = known[from_y, from_x]
            continue
        with piece.path.open("rb") as file:
            for top, left in product(_tops(piece.rows, rows), _tops(piece.cols, cols)):
                cell = (top - piece.rows.start) // BLOCK, (left - piece.cols.start) // BLOCK
                if not piece.blocks.filled[cell]:
                    continue
                block = unpacked(piece.blocks.read(file, *cell), bands)
                (from_y, to_y), (from_x, to_x) = (
                    _common(range(top, min(top + BLOCK, piece.rows.stop)), rows),
                    _common(range(left, min(left + BLOCK, piece.cols.stop)), cols),
                )
                values[to_y, to_x] = block[from_y, from_x]
    return values


def _common(span: range, wanted: range) -> tuple[slice, slice]:
    """The pixels that both hold: within the span, and within those wanted."""
    first, last = max(span.start, wanted.start), min(span.stop, wanted.stop)
    return slice(first - span.start, last - span.start), slice(first - wanted.start, last - wanted.start)


def _tops(span: range, wanted: range) -> range:
    """Where the blocks of a span begin that hold any of the pixels that are wanted."""
    first = max(0, wanted.start - span.start) // BLOCK * BLOCK
    return range(span.start + first, min(span.stop, wanted.stop), BLOCK)
