"""What every benchmark dataset offers, however its publishers laid it out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aerial_seg.legend import Legend
from aerial_seg.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class Example:
    """One image of a split. name: the publishers' own id, safe as a file name; label: None where none is published.

    label_size: width and height of the label where its file holds those of many images.
    """

    name: str
    image: Path
    label: Path | None
    label_size: tuple[int, int] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read of it."""
        return (self.image,) if self.label is None else (self.image, self.label)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What lies under a root.

    counts: images per complete split. problems: one line each, with the expected path; beyond 20 of a kind a line
    counts the rest. total: all problems, the unlisted ones too. absent: one line for each split whose own archive was
    not unpacked at all; the others do without it. notes: on how a split is taken.
    """

    root: Path
    counts: dict[str, int]
    problems: tuple[str, ...]
    total: int = 0
    absent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Benchmark(ABC):
    """A dataset in the layout its publishers ship, read where it lies and never converted.

    name: voc, cityscapes, ade20k or coco. title: as papers write it. splits: what `examples` knows, first the
    one to score.
    legend: entry k is channel k of the logits, with the publishers' names and colours; its values are the channels.
    """

    name: str
    title: str
    splits: tuple[str, ...]
    legend: Legend

    def __init__(self, root: Path) -> None:
        """root: the folder that the publishers' archive unpacks to, or the one that holds it."""
        self.root = root

    @property
    def evaluated_as(self) -> str:
        """The name that protocols know it by."""
        return self.name

    def photograph(self, example: Example) -> str:
        """What tells a photograph from all others of the benchmark: equal where two splits have it."""
        return example.name

    def notes(self, split: str) -> tuple[str, ...]:
        """What is to be said of how a split is taken, a line each. Raises as `examples` does."""
        del split
        return ()

    @abstractmethod
    def examples(self, split: str) -> tuple[Example, ...]:
        """The images of a split in the publishers' order.

        Raises SettingsError for an unknown split, InputError for one without images and for a missing list, image or
        label (the first, with the count and the expected path).
        """

    @abstractmethod
    def read_labels(self, example: Example) -> NDArray[np.uint8]:
        """(H,W) channels, 255 = ignored. Raises InputError naming file and value for what the layout does not know."""

    @abstractmethod
    def submission_values(self) -> NDArray[np.uint8]:
        """Look-up table (256,) uint8: channel → the value that the publishers' server expects; unused numbers → 255."""

    @abstractmethod
    def check(self, progress: Progress = silent) -> CheckReport:
        """Layout, counts, label values and sizes, all of it; every missing part is named with the expected path."""
