"""A large COG that is mostly empty, made of the part that is not: GDAL compares every empty pixel with nodata.

GDAL's COG driver writes the part, a rectangle of whole blocks of every size. Its directories and blocks are then those
of the whole raster but for the raster's sides and the lists of where blocks lie, in which all other blocks are absent,
as GDAL leaves out empty ones itself. The file is the one that GDAL would have written, byte for byte.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree as Xml

import numpy as np
from numpy.typing import NDArray

from aerial_seg.geo.raster.covered import BLOCK, Extent, FilledBlocks
from aerial_seg.legend import IGNORE

_FEWEST_BYTES = 2_000_000_000
"""Above it GDAL's IF_SAFER takes BigTIFF, the one layout known here; what is smaller GDAL copies in a second."""
_LARGEST_SHARE = 4
"""The part lies on the disk twice for a while: it is a quarter of the raster at the most."""

_WIDTH, _HEIGHT, _OFFSETS, _SIZES = 256, 257, 324, 325
_SHORT, _LONG, _LONG8 = 3, 4, 16
_BYTES = {_LONG: 4, _LONG8: 8}
_INLINE, _LEADER = 8, 4
"""Bytes of a value that stands in its entry; bytes before each block of a COG."""


def worthwhile(levels: Sequence[FilledBlocks], bands: int) -> bool:
    """Whether so little of a large raster, and of its smaller versions, holds something."""
    whole = bands * sum(level.height * level.width for level in levels)
    part = bands * sum(level.extent().pixels for level in levels)
    return whole > _FEWEST_BYTES and part * _LARGEST_SHARE <= whole


def pixels_of_part(pixels: int, bands: int) -> int:
    """The most pixels that a part of a raster of so many may have; they lie on the disk twice for a while."""
    # With the smaller versions a raster has a third more of them.
    return pixels // _LARGEST_SHARE if bands * pixels * 4 // 3 > _FEWEST_BYTES else 0


def write_part(dressed: Path, part: Path, levels: Sequence[FilledBlocks]) -> None:
    """The VRT `part` shows the rectangle of `dressed` that holds something, and that of each overview.

    dressed: a VRT of sources and overviews. Place and tags stay those of the whole. Files of overviews lie beside
    the overviews. Both VRTs lie in one folder.
    """
    tree = Xml.parse(dressed)
    root = tree.getroot()
    first, *smaller = (level.extent() for level in levels)
    root.set("rasterXSize", str(len(first.cols)))
    root.set("rasterYSize", str(len(first.rows)))
    for box in root.iter("DstRect"):
        box.set("xOff", str(int(box.attrib["xOff"]) - first.cols.start))
        box.set("yOff", str(int(box.attrib["yOff"]) - first.rows.start))
    bands = root.findall("VRTRasterBand")
    for band in bands:
        for name, extent in zip(band.iterfind("Overview/SourceFilename"), smaller, strict=True):
            source = dressed.parent / (name.text or "")
            window = source.with_suffix(".part.vrt")
            _window(source, extent, len(bands)).write(window)
            name.text = f"{window.parent.name}/{window.name}"
    tree.write(part)


def _window(source: Path, extent: Extent, bands: int) -> Xml.ElementTree[Xml.Element[str]]:
    width, height = str(len(extent.cols)), str(len(extent.rows))
    root = Xml.Element("VRTDataset", rasterXSize=width, rasterYSize=height)
    for number in range(1, bands + 1):
        band = Xml.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(number))
        Xml.SubElement(band, "NoDataValue").text = str(IGNORE)
        element = Xml.SubElement(band, "SimpleSource")
        Xml.SubElement(element, "SourceFilename", relativeToVRT="1").text = source.name
        Xml.SubElement(element, "SourceBand").text = str(number)
        for tag, x, y in (("SrcRect", extent.cols.start, extent.rows.start), ("DstRect", 0, 0)):
            Xml.SubElement(element, tag, xOff=str(x), yOff=str(y), xSize=width, ySize=height)
    return Xml.ElementTree(root)


_Directory = dict[int, tuple[int, int, int, int]]
"""Of one size: tag → where its entry lies, type, count, and the value or where it lies."""


def spread(part: Path, whole: Path, levels: Sequence[FilledBlocks]) -> bool:
    """`whole` is the COG of the whole raster, of the blocks of the COG `part`.

    Returns False, and writes nothing, where `part` is not laid out as this GDAL's COGs are known to be. Raises OSError
    when the disk does not take it.
    """
    with part.open("rb") as file:
        try:
            beginning, blocks = _beginning(file, levels)
        except (struct.error, KeyError, ValueError):
            return False
        file.seek(blocks)
        with whole.open("wb") as target:
            target.write(beginning)
            shutil.copyfileobj(file, target, 1 << 20)
    return True


def _beginning(file: BinaryIO, levels: Sequence[FilledBlocks]) -> tuple[bytes, int]:
    """Directories and lists of the whole, and where the blocks begin in the part.

    Raises ValueError, KeyError or struct.error where the part is laid out in another way.
    """
    directories = _directories(file)
    lists = [_Lists.read(file, directory) for directory in directories]
    full = [one.spread(level) for one, level in zip(lists, levels, strict=True)]
    first, end = min(one.first for one in lists), file.seek(0, os.SEEK_END)
    start = min(*_starts(directories), first, end)
    between = b"".join(_outside(lists))
    blocks = start + len(between)
    file.seek(start)
    if file.read(len(between)) != between or not blocks == min(first, end):
        raise ValueError("the lists do not lie between the directories and the blocks")
    further = sum(map(len, _outside(full))) - len(between)
    full = [one.moved(further) for one in full]
    file.seek(0)
    head = bytearray(file.read(start))
    _patch(head, directories, full, levels)
    return b"".join((head, *_outside(full))), blocks


@dataclass(frozen=True, slots=True)
class _Lists:
    """Of one size: where its blocks lie, 0 for absent ones, and their bytes."""

    offsets: NDArray[np.uint64]
    sizes: NDArray[np.uint32]

    @classmethod
    def read(cls, file: BinaryIO, directory: _Directory) -> _Lists:
        """Raises ValueError where a list has another type than GDAL gives it."""
        found = []
        for tag in (_OFFSETS, _SIZES):
            position, kind, count, value = directory[tag]
            if kind != _kind(tag, count):
                raise ValueError(f"{count} numbers of tag {tag} have type {kind}")
            length = count * _BYTES[kind]
            file.seek(position + 12 if length <= _INLINE else value)
            found.append(np.frombuffer(file.read(length), f"<u{_BYTES[kind]}"))
        return cls(found[0], found[1].astype("<u4"))

    @property
    def first(self) -> int:
        """Where the first block's leader begins; beyond every file where there is no block."""
        there = self.offsets[self.offsets > 0]
        return int(there.min()) - _LEADER if len(there) else 1 << 62

    def spread(self, level: FilledBlocks) -> _Lists:
        """The lists of the whole size: the blocks of the part at their places."""
        extent = level.extent()
        down, across = -(-level.height // BLOCK), -(-level.width // BLOCK)
        rows, cols = _blocks(extent.rows), _blocks(extent.cols)
        lists = []
        for values in (self.offsets, self.sizes):
            full = np.zeros((down, across), values.dtype)
            full[rows, cols] = values.reshape(rows.stop - rows.start, cols.stop - cols.start)
            lists.append(full.ravel())
        return _Lists(*lists)

    def moved(self, by: int) -> _Lists:
        """With all blocks so many bytes further on."""
        return _Lists(np.where(self.offsets > 0, self.offsets + np.uint64(by), self.offsets), self.sizes)


def _kind(tag: int, count: int) -> int:
    """The type that libtiff gives a list of so many numbers."""
    return _LONG8 if tag == _OFFSETS or count == 1 else _LONG


def _blocks(span: range) -> slice:
    return slice(span.start // BLOCK, -(-span.stop // BLOCK))


def _outside(lists: Iterable[_Lists]) -> Iterator[bytes]:
    """The lists that do not fit in their entries, in the order in which they lie between directories and blocks."""
    for one in lists:
        for values in (one.offsets, one.sizes):
            if values.nbytes > _INLINE:
                yield values.tobytes()


def _starts(directories: Iterable[_Directory]) -> Iterator[int]:
    """Where lists outside of their entries begin."""
    for directory in directories:
        for tag in (_OFFSETS, _SIZES):
            _, kind, count, value = directory[tag]
            if count * _BYTES[kind] > _INLINE:
                yield value


def _directories(file: BinaryIO) -> list[_Directory]:
    """Raises ValueError for all but little-endian BigTIFFs."""
    file.seek(0)
    order, version, width, _, at = struct.unpack("<2sHHHQ", file.read(16))
    if (order, version, width) != (b"II", 43, 8):
        raise ValueError("no little-endian BigTIFF")
    found: list[_Directory] = []
    while at:
        file.seek(at)
        (count,) = struct.unpack("<Q", file.read(8))
        body = file.read(20 * count)
        (following,) = struct.unpack("<Q", file.read(8))
        entries: _Directory = {}
        for k, (tag, kind, number, value) in enumerate(struct.iter_unpack("<HHQQ", body)):
            entries[tag] = (at + 8 + 20 * k, kind, number, value)
        found.append(entries)
        at = following
    return found


def _patch(
    head: bytearray,
    directories: Sequence[_Directory],
    lists: Sequence[_Lists],
    levels: Sequence[FilledBlocks],
) -> None:
    """The head of the part becomes that of the whole: sides, and the places of the lists behind it."""
    after = len(head)
    for directory, one, level in zip(directories, lists, levels, strict=True):
        for tag, side in ((_WIDTH, level.width), (_HEIGHT, level.height)):
            kind = _SHORT if side < 1 << 16 else _LONG
            struct.pack_into("<HHQQ", head, directory[tag][0], tag, kind, 1, side)
        for tag, values in ((_OFFSETS, one.offsets), (_SIZES, one.sizes)):
            kind = _kind(tag, len(values))
            inline = values.nbytes <= _INLINE
            value = int.from_bytes(values.tobytes(), "little") if inline else after
            struct.pack_into("<HHQQ", head, directory[tag][0], tag, kind, len(values), value)
            after += 0 if inline else values.nbytes
