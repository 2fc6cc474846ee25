"""Labelled images that tests of crops, stores and loaders share."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aerial_seg.bands import Band
from aerial_seg.files.shared_bytes import SharedBytes
from aerial_seg.training.samples.chip_store import ChipStore
from aerial_seg.training.samples.pixels import Choose, Pixels, whole


def band(dtype: str, *, mean: float = 0.0, std: float = 1.0) -> Band:
    """A band of that dtype."""
    return Band(name=f"{dtype} {mean} {std}", dtype=dtype, mean=mean, std=std, p2=0, p98=1)


@dataclass
class MadeReader:
    """Images made of their numbers; notes which were read. holes: part of the pixels that were not measured."""

    shapes: list[tuple[int, int]]
    dtype: str = "uint8"
    count: int = 3
    holes: float = 0.0
    mean: float = 100.0
    std: float = 50.0
    read_so_far: list[int] = field(default_factory=list)

    @property
    def bands(self) -> tuple[Band, ...]:
        """All alike."""
        return (band(self.dtype, mean=self.mean, std=self.std),) * self.count

    def __len__(self) -> int:
        return len(self.shapes)

    def name(self, index: int) -> str:
        """Its number."""
        return f"chip {index}"

    def shape(self, index: int) -> tuple[int, int]:
        """As asked for."""
        return self.shapes[index]

    def pixels(self, index: int) -> Pixels:
        """The whole image, without a note."""
        random = np.random.default_rng(index)
        height, width = self.shapes[index]
        image = random.integers(0, 200, (height, width, self.count)).astype(self.dtype).transpose(2, 0, 1)
        labels = random.integers(0, 4, (height, width)).astype(np.uint8)
        if not self.holes:
            return Pixels(image, None, labels)
        valid = random.random((height, width)) >= self.holes
        labels[~valid] = 255
        return Pixels(image, valid, labels)

    def read(self, index: int, choose: Choose = whole) -> Pixels:
        """The chosen window."""
        self.read_so_far.append(index)
        return self.pixels(index).cut(choose(*self.shapes[index]))


class Refusing(MadeReader):
    """Reads in the process that made it alone."""

    def read(self, index: int, *choose: Any) -> Pixels:
        """Fails in any other process."""
        if multiprocessing.parent_process() is not None:
            raise AssertionError(f"{index} was decoded again")
        return super().read(index, *choose)


def look(store: ChipStore, sent: Any, numbers: list[int]) -> None:
    """What a worker does: sends sums of what it reads."""
    sent.put([(int(store.read(k).image.sum()), int(store.read(k).labels.sum())) for k in numbers])


def add_one(shared: SharedBytes) -> None:
    """What a process does that was started with shared bytes."""
    shared.bytes[:] += 1
