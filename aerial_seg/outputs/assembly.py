"""A COG put together of compressed blocks that exist: copied, not packed again.

What the file says of itself comes from GDAL, as a COG of the same tags in which every size has one block, absent. Its
directories are those of the whole raster but for the raster's sides and the lists of where blocks lie. The file is the
one that GDAL's COG driver would have written of the same pixels, byte for byte.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import rasterio

from aerial_seg.errors import OutputError
from aerial_seg.geo.raster.covered import BLOCK
from aerial_seg.outputs import tiff
from aerial_seg.outputs.overviews import Version
from aerial_seg.outputs.pieces import Piece

_MOST_BYTES = 2_000_000_000
"""Of pixels, not compressed; above it GDAL's IF_SAFER takes BigTIFF."""

_LAYOUT = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\n"
)
_AROUND = 4
"""Bytes before a block, its size, and after it, its last ones again: who reads a COG through a network trusts them."""
_READ_AT_ONCE = 1 << 20


class UnknownLayoutError(OutputError):
    """Tell that this GDAL lays out its COGs in another way than is known here."""


def needs_bigtiff(versions: Sequence[Version], bands: int) -> bool:
    """Whether GDAL would take BigTIFF, which it decides before it knows how small the blocks become."""
    (height, width), *smaller = (version.shape for version in versions)
    # As GDAL counts: blocks at the edges of the largest size whole, of the others as far as they go.
    pixels = -(-height // BLOCK) * -(-width // BLOCK) * BLOCK * BLOCK
    return bands * (pixels + sum(down * across for down, across in smaller)) > _MOST_BYTES


def assemble(skeleton: Path, final: Path, versions: Sequence[Version]) -> int:
    """`final` is the COG of these versions of a raster, the largest first. Returns the checksum of its bytes.

    skeleton: a COG of as many sizes with one block each, all absent, BigTIFF where the whole is. Raises
    UnknownLayoutError where it is none, and OSError when the disk does not take the file, or where a block is not the
    one that was compared.
    """
    with skeleton.open("rb") as file:
        head = _head(file, list(map(_image_of, versions)))
    with final.open("wb") as target:
        checksum = 0
        for part in chain((head,), _blocks(versions)):
            target.write(part)
            checksum = zlib.crc32(part, checksum)
    return checksum


def checksum_of(path: Path) -> int:
    """CRC-32 of the bytes of a file."""
    checksum = 0
    with path.open("rb") as file:
        while part := file.read(_READ_AT_ONCE):
            checksum = zlib.crc32(part, checksum)
    return checksum


def _image_of(version: Version) -> tiff.Image:
    height, width = version.shape
    sizes = np.zeros((-(-height // BLOCK), -(-width // BLOCK)), np.uint64)
    for piece in version.pieces.overlapping(range(height), range(width)):
        if piece.blocks is not None:
            top, left = piece.rows.start // BLOCK, piece.cols.start // BLOCK
            down, across = piece.blocks.sizes.shape
            sizes[top : top + down, left : left + across] = piece.blocks.sizes
    return tiff.Image(height, width, sizes)


def _head(file: BinaryIO, images: Sequence[tiff.Image]) -> bytes:
    """All that comes before the blocks. Raises UnknownLayoutError."""
    try:
        form, directories = tiff.read_directories(file)
        file.seek(0)
        head = file.read()
        if len(directories) != len(images) or _LAYOUT not in head:
            raise ValueError(f"{len(directories)} sizes, wanted {len(images)}")
        for directory in directories:
            if any(directory[tag].count != 1 for tag in (tiff.OFFSETS, tiff.SIZES)):
                raise ValueError("a size of several blocks")
            if tiff.read_number(file, form, directory, tiff.OFFSETS, 0):
                raise ValueError("a block that is not absent")
    except (struct.error, KeyError, ValueError) as error:
        raise UnknownLayoutError(
            f"this GDAL lays out a COG in a way that is not known here (GDAL {rasterio.__gdal_version__}: {error}); "
            "install another release of rasterio, which brings a GDAL of its own, and run again"
        ) from error
    return tiff.with_blocks(head, form, directories, images, around=_AROUND)


def _blocks(versions: Sequence[Version]) -> Iterator[bytes]:
    """All blocks with what is around them: the smallest size first, each from north-west to south-east."""
    for version in reversed(versions):
        height, width = version.shape
        for top in range(0, height, BLOCK):
            for piece in version.pieces.overlapping(range(top, min(top + BLOCK, height)), range(width)):
                yield from _row_of(piece, (top - piece.rows.start) // BLOCK)


def _row_of(piece: Piece, down: int) -> Iterator[bytes]:
    if piece.blocks is None or not piece.blocks.filled[down].any():
        return
    with piece.path.open("rb") as file:
        for across in np.flatnonzero(piece.blocks.filled[down]).tolist():
            data = piece.blocks.read(file, down, across)
            yield b"".join((len(data).to_bytes(_AROUND, "little"), data, data[-_AROUND:]))
