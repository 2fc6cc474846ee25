"""Decoded chips, kept once for all processes of a run as the bytes of their files."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from multiprocessing import context

import numpy as np
from numpy.typing import NDArray

from aerial_seg.bands import Band
from aerial_seg.files.operating_system import available_memory
from aerial_seg.files.shared_bytes import SharedBytes
from aerial_seg.training.processes import told_count_here
from aerial_seg.training.samples.pixels import Choose, Pixels, Reader, Sample, whole

_SHARE = 0.25
"""Of the memory that is free: what is kept may never be what the network then lacks."""
_LOOKED_AT = 16
"""Images whose size tells how large the places are; chips have all one, photographs nearly."""
_HEAD = 8
"""Numbers in front of each image: checksum, bands, height, width, dtype, whether all is measured."""
_KINDS = (
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "float32",
    "float64",
)


@dataclass(frozen=True, slots=True)
class _Head:
    bands: int
    height: int
    width: int
    kind: int
    is_masked: bool

    def sizes(self) -> tuple[int, int, int]:
        """Bytes of image, labels and what is measured."""
        pixels = self.height * self.width
        return pixels * self.bands * np.dtype(_KINDS[self.kind]).itemsize, pixels, pixels * self.is_masked


class ChipStore:
    """The images of a reader; those that `budget` bytes have room for are decoded once, the others every time.

    All processes of a run share what is kept: an image that one of them decoded none decodes again. Images have places
    by their numbers, so nobody asks whose turn it is: two that decode the same one at once write the same bytes, and a
    checksum tells a reader what is not whole yet.
    """

    def __init__(self, reader: Reader, *, budget: int | None = None) -> None:
        """budget: None = a quarter of the memory that is free now, over all processes of a training on this machine; it
        is taken only as images come. Several stores at once: see `stores`.
        """
        self._reader = reader
        budget = _budget() if budget is None else budget
        self._place = _HEAD * 8 + _image_bytes(reader)
        self._kept = min(len(reader), budget // self._place)
        try:
            self._memory: SharedBytes | None = SharedBytes(self._kept * self._place)
        except OSError:  # a system that has no such memory to give: every image is decoded each time
            self._memory, self._kept = None, 0
        self._is_whole = bytearray(self._kept)

    @property
    def room(self) -> int:
        """Bytes of the budget that its images may take."""
        return self._kept * self._place

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> Sample:
        """image (C,H,W) float32, normalised, and labels (H,W) uint8 of image `index`."""
        return self.read(index).sample(self.bands)

    def __getstate__(self) -> dict[str, object]:
        # A copy that nobody starts a process with has memory of its own, where nothing is yet.
        apart = context.get_spawning_popen() is None
        return self.__dict__ | ({"_is_whole": bytearray(self._kept)} if apart else {})

    @property
    def bands(self) -> tuple[Band, ...]:
        """What images are normalised by."""
        return self._reader.bands

    def name(self, index: int) -> str:
        """What people call image `index`."""
        return self._reader.name(index)

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of image `index`."""
        return self._reader.shape(index)

    def read(self, index: int, choose: Choose = whole) -> Pixels:
        """The chosen window of image `index`; not to be written to."""
        kept = self._find(index)
        if kept is None:
            if index >= self._kept:
                return self._reader.read(index, choose)
            kept = self._reader.read(index)
            self._keep(index, kept)
        return kept.cut(choose(*kept.labels.shape))

    def _find(self, index: int) -> Pixels | None:
        if index >= self._kept:
            return None
        place = self._bytes_of(index)
        numbers = place[: _HEAD * 8].view(np.int64)
        if not numbers[2]:
            return None
        bands, height, width, kind, masked = numbers[1:6].tolist()
        head = _Head(bands, height, width, kind, bool(masked))
        if not self._is_whole[index]:
            if not _is_possible(head, len(place) - _HEAD * 8) or numbers[0] != _checksum(place, head):
                return None
            self._is_whole[index] = 1
        return _pixels(place[_HEAD * 8 :], head)

    def _keep(self, index: int, pixels: Pixels) -> None:
        bands, height, width = pixels.image.shape
        masked = pixels.valid is not None
        head = _Head(bands, height, width, _KINDS.index(pixels.image.dtype.name), masked)
        place = self._bytes_of(index)
        if sum(head.sizes()) > len(place) - _HEAD * 8:
            return  # larger than those that were looked at
        own = _pixels(place[_HEAD * 8 :], head, writeable=True)
        np.copyto(own.image, pixels.image)
        np.copyto(own.labels, pixels.labels)
        if own.valid is not None and pixels.valid is not None:
            np.copyto(own.valid, pixels.valid)
        numbers = place[: _HEAD * 8].view(np.int64)
        numbers[1:6] = bands, height, width, head.kind, masked
        numbers[0] = _checksum(place, head)
        self._is_whole[index] = 1

    def _bytes_of(self, index: int) -> NDArray[np.uint8]:
        assert self._memory is not None
        return self._memory.bytes[index * self._place : (index + 1) * self._place]


def stores(*readers: Reader) -> tuple[ChipStore, ...]:
    """Return a store of each, which together keep what one alone would: what the first leaves is for the next."""
    made: list[ChipStore] = []
    budget = _budget()
    for reader in readers:
        made.append(ChipStore(reader, budget=budget))
        budget -= made[-1].room
    return tuple(made)


def _budget() -> int:
    return int(available_memory() * _SHARE) // told_count_here()


def _image_bytes(reader: Reader) -> int:
    """Enough for the largest of the images that are looked at, wherever its mask is, in whole groups of 64."""
    step = max(1, len(reader) // _LOOKED_AT)
    pixels = max(height * width for height, width in map(reader.shape, range(0, len(reader), step)))
    each = sum(np.dtype(band.dtype).itemsize for band in reader.bands) + 2
    return -(-pixels * each // 64) * 64


def _is_possible(head: _Head, room: int) -> bool:
    """Whether these can be the numbers of an image at all: they may have been read while they were written."""
    known = 0 <= head.kind < len(_KINDS)
    return known and min(head.bands, head.height, head.width) > 0 and sum(head.sizes()) <= room


def _checksum(place: NDArray[np.uint8], head: _Head) -> int:
    """Of an image's numbers but the first, and its bytes."""
    return zlib.crc32(place[8 : _HEAD * 8 + sum(head.sizes())].data)


def _pixels(room: NDArray[np.uint8], head: _Head, *, writeable: bool = False) -> Pixels:
    image_bytes, label_bytes, mask_bytes = head.sizes()
    shape = head.height, head.width
    flat = room[: image_bytes + label_bytes + mask_bytes]
    if not writeable:
        flat = flat.view()
        flat.flags.writeable = False
    image = flat[:image_bytes].view(_KINDS[head.kind]).reshape(*shape, head.bands).transpose(2, 0, 1)
    labels = flat[image_bytes:][:label_bytes].reshape(shape)
    valid = flat[image_bytes + label_bytes :].reshape(shape).view(np.bool_) if mask_bytes else None
    return Pixels(image, valid, labels)
