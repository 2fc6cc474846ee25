"""Pixels into compressed blocks and back: GDAL compresses, in memory, so that whoever writes them hears of a full disk.

GDAL's own threads report no failed write; these are ours, and nothing is written in them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS as RasterioCRS
from rasterio.io import MemoryFile

from aerial_seg.files.operating_system import usable_cores
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.covered import BLOCK
from aerial_seg.legend import IGNORE
from aerial_seg.outputs import tiff

LEVEL = 6
"""Of DEFLATE, which every GIS program reads, unlike ZSTD. Level 5 is a sixth larger, 9 takes 5 to 15 times as long."""

_BYTES_AT_WORK = 64_000_000
"""Blocks that threads hold at the same time, not compressed; one thread holds one of all bands, however large."""
_PART_BYTES = 16_000_000
"""Pixels that are packed at once, into memory."""
_NOWHERE = Affine.translation(1, 1)
"""Of a file that is in memory only; of one at the origin rasterio would warn."""

Bytes = NDArray[np.uint8]
Packed = list[list[bytes]]
"""Compressed blocks, row by row from the north; empty ones are nodata."""
P = TypeVar("P")
R = TypeVar("R")


def workers(bands: int) -> int:
    """How many threads may each hold a block of all bands, packed and not."""
    return threads_within(2 * bands * BLOCK * BLOCK)


def threads_within(each: int) -> int:
    """How many threads may be at work that hold so many bytes each: at least one, and no more than there are cores."""
    return max(1, min(usable_cores(), _BYTES_AT_WORK // each))


def packing_bytes(bands: int, width: int, *, classes: bool) -> int:
    """Return more than what packing a row of blocks of so many columns takes beside its own pixels.

    Of the parts that threads are at, GDAL holds the pixels, twice, and what they are packed into, which we take from it
    and unpack again to compare it; of the others that wait for them it is there once. Of classes that is little, of
    confidence about as much as the pixels.
    """
    threads, part = workers(bands), max(_PART_BYTES, bands * BLOCK * BLOCK)
    held = min(bands * BLOCK * width, 2 * threads * part)
    halves = threads > 1 and width > 2 * threads * BLOCK
    at_work = min(-(-held // 2) if halves else held, threads * part)
    return 2 * at_work if classes else 5 * at_work + held


def in_threads(threads: int, work: Callable[[P], R], parts: Sequence[P]) -> list[R]:
    """What `work` makes of each part, in their order."""
    if threads == 1 or len(parts) == 1:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(min(threads, len(parts))) as pool:
        return list(pool.map(work, parts))


def block_profile(place: Grid, bands: int) -> dict[str, Any]:
    """How rasterio opens a file of uint8 whose blocks are those of a COG; blocks of nodata take no space."""
    return {
        "driver": "GTiff",
        "height": place.height,
        "width": place.width,
        "count": bands,
        "dtype": "uint8",
        "nodata": IGNORE,
        "crs": RasterioCRS.from_wkt(place.crs.to_wkt()) if place.crs is not None else None,
        "transform": place.transform,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "interleave": "pixel",
        "photometric": "MINISBLACK",
        "compress": "DEFLATE",
        "zlevel": LEVEL,
        "BIGTIFF": "IF_SAFER",
        "SPARSE_OK": True,
    }


def packed(values: Bytes, *, threads: int = 1) -> Iterator[tuple[int, Packed]]:
    """The blocks of values (bands, n, w), in parts from west to east: the part's first column of blocks, and its rows.

    Few parts are held at a time: of many bands, a piece may be as large as the machine's memory.
    """
    bands, height, width = values.shape
    across = -(-width // BLOCK)
    # Two parts for each thread, because some are packed faster; few, because each costs GDAL a file.
    fitting = max(1, _PART_BYTES // (bands * height * BLOCK))
    step = BLOCK * min(fitting, max(1, across // (2 * threads)) if threads > 1 else across)
    parts = [range(x, min(x + step, width)) for x in range(0, width, step)]
    for first in range(0, len(parts), 2 * threads):
        some = parts[first : first + 2 * threads]
        made = in_threads(threads, partial(_packed, values), some)
        yield from zip((part.start // BLOCK for part in some), made, strict=True)


def _packed(values: Bytes, cols: range) -> Packed:
    bands, height, _ = values.shape
    place = Grid(crs=None, transform=_NOWHERE, height=height, width=len(cols))
    with MemoryFile() as memory:
        with memory.open(**block_profile(place, bands)) as dataset:
            dataset.write(values[:, :, cols.start : cols.stop])
        data = bytes(memory.getbuffer())
    form, (directory, *_) = tiff.read_directories(BytesIO(data))
    offsets, sizes = (
        tiff.read_numbers(BytesIO(data), form, directory[tag]) for tag in (tiff.OFFSETS, tiff.SIZES)
    )
    blocks = [data[at : at + size] for at, size in zip(offsets.tolist(), sizes.tolist(), strict=True)]
    across = -(-len(cols) // BLOCK)
    return [blocks[first : first + across] for first in range(0, len(blocks), across)]


def unpacked(data: bytes, bands: int) -> Bytes:
    """The pixels (BLOCK, BLOCK, bands) of a block. Raises ValueError or zlib.error for what is none."""
    size = BLOCK * BLOCK * bands
    return np.frombuffer(zlib.decompress(data, bufsize=size), np.uint8).reshape(BLOCK, BLOCK, bands)


def empty_tiff(place: Grid, bands: int) -> bytes:
    """A TIFF at this place whose blocks are all absent."""
    with MemoryFile() as memory:
        with memory.open(**block_profile(place, bands)):
            pass
        return bytes(memory.getbuffer())
