"""Cutting chips out of rasters, with the labels burnt onto the same pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.files.operating_system import ignores_case
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.raster.remote import output_stem
from aerial_seg.geo.raster.values.fill import FillerTally
from aerial_seg.inference.match_bands import filler_notes, nodata_notes
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.tile.tile_sources import TileSource
from aerial_seg.labels.chip_file import ChipWindow, chip_windows, write_image, write_labels
from aerial_seg.labels.labels import Labels
from aerial_seg.legend import IGNORE
from aerial_seg.mentions import setting
from aerial_seg.training.manifest import chip_paths


@dataclass(frozen=True, slots=True)
class ChipRecord:
    """Describe one written chip. `place` is its outline in its source's CRS, `counts` its pixels per class."""

    name: str
    source: int
    window: ChipWindow
    place: Any
    valid: int
    counts: NDArray[np.int64]


class ChipCutter:
    """Cut chips, source by source, and keep their records and what was left out."""

    def __init__(
        self, root: Path, labels: Labels, settings: TileSettings, scaled: Sequence[bool] = ()
    ) -> None:
        """scaled: of each band whether chips hold what its numbers mean; see Raster.scale."""
        self.root, self.labels, self.settings, self.scaled = root, labels, settings, tuple(scaled)
        self.records: list[ChipRecord] = []
        self.unmeasured = 0
        self.unlabelled = 0
        self.too_few_valid = 0
        self.too_few_labelled = 0
        self.partly: list[str] = []
        self.collars: list[str] = []
        self.fillers: list[str] = []
        self.shapes: dict[int, tuple[int, int]] = {}
        """Rows and columns of the grid that each source was cut on."""
        self._stems: dict[str, int] = {}
        self._ignores_case = ignores_case(root)

    def cut(self, index: int, source: TileSource, grid: Grid) -> Iterator[ChipWindow]:
        """Yield each window of one source after its chip, if any, is written."""
        size, georeferenced = self.settings.chip_size, self.settings.georeferenced
        stride = self.settings.stride
        stem = self._unused_stem(output_stem(source.opened_as))
        nodata, choice, info = source.nodata, self.settings.bands, source.info
        with Raster(source.opened_as, nodata=nodata, georeferenced=georeferenced, choice=choice) as raster:
            doubts = nodata_notes(raster)
            self.partly.extend(doubts.partly)
            self.collars.extend(doubts.collars)
            raster.resample(grid)
            raster.scale(self.scaled)
            as_stored = grid.shape == raster.info.grid.shape and not raster.scaled
            tally = FillerTally(raster.declared)
            # Footprints, labels and chips lie where QGIS shows the raster.
            grid = grid.for_polygons()
            self.shapes[index] = grid.shape
            for window in chip_windows(height=grid.height, width=grid.width, size=size, stride=stride):
                box = grid.window(top=window.top, left=window.left, height=size, width=size)
                image, valid = raster.read(top=window.top, left=window.left, height=size, width=size)
                if as_stored:
                    tally.add(image, valid)
                labels = self._labels(box, valid)
                if labels is not None:
                    name = f"{stem}_{window.row:04d}_{window.col:04d}"
                    image_path, label_path = chip_paths(self.root, name)
                    write_image(image_path, image, valid, box, info.names)
                    write_labels(label_path, labels, box, self.labels.legend)
                    place = _inside(grid, window, size).footprint()
                    counts = self._count(labels)
                    self.records.append(ChipRecord(name, index, window, place, int(valid.sum()), counts))
                yield window
            # Counted in every pixel where these come as they are stored, else in the windows that were looked at.
            self.fillers.extend(filler_notes(tally, raster) if as_stored else doubts.fillers)

    def left_out(self) -> Iterator[str]:
        """How many chips are not there, and why."""
        settings = self.settings
        for count, why in (
            (self.unmeasured, "no measured pixel"),
            (
                self.too_few_valid,
                f"less than {setting('min_valid', settings.min_valid)} of their pixels measured",
            ),
            (self.unlabelled, "no labelled pixel"),
            (
                self.too_few_labelled,
                f"less than {setting('min_labelled', settings.min_labelled)} of their pixels labelled",
            ),
        ):
            if count:
                yield f"{count} chips with {why} were left out"

    def _labels(self, box: Grid, valid: NDArray[np.bool_]) -> NDArray[np.uint8] | None:
        """The labels of a chip's measured pixels; None, counted, for a chip that teaches nothing."""
        if not valid.any():
            self.unmeasured += 1
            return None
        if valid.mean() < self.settings.min_valid:
            self.too_few_valid += 1
            return None
        labels = self.labels.burn(box, valid)
        labels[~valid] = IGNORE
        if (labels == IGNORE).all():
            self.unlabelled += 1
            return None
        if (labels != IGNORE).mean() < self.settings.min_labelled:
            self.too_few_labelled += 1
            return None
        return labels

    def _count(self, labels: NDArray[np.uint8]) -> NDArray[np.int64]:
        channels = self.labels.legend.channel_table()[labels]
        return np.bincount(channels.ravel(), minlength=256)[: len(self.labels.legend)]

    def _unused_stem(self, stem: str) -> str:
        """Names differ also when two folders hold rasters of one name."""
        unused, number = stem, self._stems.get(self._as_told_apart(stem), 1)
        while self._as_told_apart(unused) in self._stems:
            number += 1
            unused = f"{stem}-{number}"
        # Where to go on, should the name come a thousand times.
        self._stems[self._as_told_apart(stem)] = number
        self._stems.setdefault(self._as_told_apart(unused), 1)
        return unused

    def _as_told_apart(self, name: str) -> str:
        """Names that are one to the disk are equal."""
        return name.casefold() if self._ignores_case else name


def _inside(grid: Grid, window: ChipWindow, size: int) -> Grid:
    height, width = min(size, grid.height - window.top), min(size, grid.width - window.left)
    return grid.window(top=window.top, left=window.left, height=height, width=width)
