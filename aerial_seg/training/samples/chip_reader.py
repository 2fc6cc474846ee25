"""The chips of a dataset, read from their files or from the rasters that they are windows of."""

from __future__ import annotations

from dataclasses import dataclass

from aerial_seg.bands import Band
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.geo.windows.source import SourceWindow
from aerial_seg.labels.chip_file import label_channels, read_chip
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.training.manifest import Chip
from aerial_seg.training.samples.pixels import Choose, Pixels, Sample, whole


@dataclass(frozen=True, slots=True)
class ChipReader:
    """These chips by number, read from disk every time."""

    chips: tuple[Chip, ...]
    bands: tuple[Band, ...]
    legend: Legend

    def __len__(self) -> int:
        return len(self.chips)

    def __getitem__(self, index: int) -> Sample:
        """image (C,H,W) float32, normalised, and labels (H,W) uint8 of chip `index`."""
        return self.read(index).sample(self.bands)

    def name(self, index: int) -> str:
        """The chip's name in the index."""
        return self.chips[index].name

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of chip `index`; of a file only the header is read."""
        image = self.chips[index].image
        if isinstance(image, SourceWindow):
            return image.shape
        with Raster(image, georeferenced=False) as raster:
            return raster.grid.height, raster.grid.width

    def read(self, index: int, choose: Choose = whole) -> Pixels:
        """The chosen window of chip `index`; only its blocks are decoded."""
        chip = self.chips[index]
        image, valid, values = read_chip(chip.image, chip.labels, choose)
        labels = label_channels(values, self.legend, chip.labels)
        if valid.all():
            return Pixels(image, None, labels)
        labels[~valid] = IGNORE
        return Pixels(image, valid, labels)
