"""A mask of another program: class numbers or colours that it does not explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from aerial_seg.labels.coding import Coding, coding_of
from aerial_seg.labels.label_file import LabelFile, open_label_file
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import Legend


@dataclass(frozen=True, slots=True)
class ForeignMask:
    """A mask whose values `classes` or `preset` explain, as they do for label rasters."""

    _file: LabelFile
    _coding: Coding

    @property
    def legend(self) -> Legend:
        """The classes."""
        return self._coding.legend

    @property
    def notes(self) -> tuple[str, ...]:
        """What counts as not predicted, and why."""
        return self._coding.notes

    def read(self, rows: range, cols: range) -> NDArray[np.uint8]:
        """Pixel values (h, w) of the legend, 255 where there is no class."""
        return self._coding.read(self._file, Window(cols.start, rows.start, len(cols), len(rows)))


def open_foreign_masks(paths: Sequence[Path], settings: LabelSettings) -> tuple[ForeignMask, ...]:
    """The masks, which share their classes. Raises InputError for values that are no class."""
    files = [open_label_file(path, None) for path in paths]
    coding = coding_of(files, replace(settings, unlabelled=()), None)
    return tuple(ForeignMask(file, coding) for file in files)
