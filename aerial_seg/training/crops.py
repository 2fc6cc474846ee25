"""Training crops: where to cut, how to change them; the same numbers for image and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode, functional

from aerial_seg.bands import Band, normalise
from aerial_seg.labels.chip_file import read_chip
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.recipe import AugmentationSettings
from aerial_seg.training.manifest import Chip

Sample = tuple[Tensor, Tensor]


class Samples(Protocol):
    """Labelled images by number, from 0 to len − 1.

    image (C,H,W) float32, normalised, unmeasured pixels at the training mean; labels (H,W) uint8 channels or 255.
    DataLoader workers get copies, so what holds them can be pickled.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True, slots=True)
class ChipReader:
    """The samples of these chips, read from disk every time."""

    chips: tuple[Chip, ...]
    bands: tuple[Band, ...]
    legend: Legend

    def __len__(self) -> int:
        return len(self.chips)

    def __getitem__(self, index: int) -> Sample:
        """image (C,H,W) and labels (H,W) of chip `index`."""
        chip = self.chips[index]
        image, valid, values = read_chip(chip.image, chip.labels)
        labels = self.legend.channel_table()[values]
        labels[~valid] = IGNORE
        return torch.from_numpy(normalise(image, valid, self.bands)), torch.from_numpy(labels)


class ChipStore:
    """The samples of a reader; kept in memory while they fit into `budget` bytes, read again beyond that."""

    def __init__(self, reader: Samples, *, budget: int = 2**30) -> None:
        self._reader = reader
        self._room = budget
        self._kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> Sample:
        """image and labels number `index`, as the reader gives them."""
        if index in self._kept:
            return self._kept[index]
        sample = self._reader[index]
        size = sum(tensor.numel() * tensor.element_size() for tensor in sample)
        if size <= self._room:
            self._room -= size
            self._kept[index] = sample
        return sample


class CropDataset(Dataset[Sample]):
    """Sample i of a training run: its image, place and changes depend on (seed, i) only, not on workers or batches.

    Every image is used once before any is used again, in a new order each time.
    """

    def __init__(
        self, store: Samples, *, length: int, crop: int, augmentation: AugmentationSettings, seed: int
    ) -> None:
        self._store, self._length, self._crop = store, length, crop
        self._augmentation, self._seed = augmentation, seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        """image (C,crop,crop) float32 and labels (crop,crop) int64. Raises IndexError beyond the last."""
        if not 0 <= index < self._length:
            # Else `for sample in dataset` would never end.
            raise IndexError(f"crop {index} of {self._length}")
        image, labels = self._store[self.chip_of(index)]
        random = np.random.default_rng((self._seed, 1, index))
        image, labels = cut(image, labels, crop=self._crop, scale=self._augmentation.scale, random=random)
        image, labels = turn_and_flip(image, labels, self._augmentation, random)
        return change_light(image, self._augmentation, random), labels.long()

    def chip_of(self, index: int) -> int:
        """Return the number of the chip that sample `index` is cut from."""
        turn, place = divmod(index, len(self._store))
        order = np.random.default_rng((self._seed, turn)).permutation(len(self._store))
        return int(order[place])


def cut(
    image: Tensor, labels: Tensor, *, crop: int, scale: tuple[float, float], random: np.random.Generator
) -> Sample:
    """A random window, zoomed by a random factor (log-uniform in `scale`), as crop × crop pixels.

    Image bilinear (antialiased), labels nearest with the same pixel centres. Where the window leaves the image
    its pixels are 0 (the training mean) and the labels are ignored.
    """
    factor = float(np.exp(random.uniform(np.log(scale[0]), np.log(scale[1]))))
    side = max(1, round(crop / factor))
    height, width = labels.shape
    top, left = (_offset(length, side, random) for length in (height, width))
    rows = slice(max(0, top), min(height, top + side))
    cols = slice(max(0, left), min(width, left + side))
    image, labels = image[:, rows, cols], labels[rows, cols]
    before = max(0, -left), max(0, -top)
    padding = [*before, side - before[0] - labels.shape[1], side - before[1] - labels.shape[0]]
    if any(padding):
        image = functional.pad(image, padding, fill=0.0)
        labels = functional.pad(labels[None], padding, fill=IGNORE)[0]
    if side != crop:
        size = [crop, crop]
        image = functional.resize(tv_tensors.Image(image), size, InterpolationMode.BILINEAR, antialias=True)
        labels = functional.resize(tv_tensors.Mask(labels[None]), size, InterpolationMode.NEAREST_EXACT)[0]
    return image.as_subclass(Tensor), labels.as_subclass(Tensor)


def _offset(length: int, side: int, random: np.random.Generator) -> int:
    """Anywhere inside; a window larger than the image slides over it instead."""
    low, high = sorted((0, length - side))
    return int(random.integers(low, high + 1))


def turn_and_flip(
    image: Tensor, labels: Tensor, settings: AugmentationSettings, random: np.random.Generator
) -> Sample:
    """One of the 8 symmetries of a square (or those that the settings allow), the same for both.

    image (C,H,W), labels (H,W). `flips = "horizontal"` mirrors left and right only: rows stay where they are.
    """
    turns = int(random.integers(4)) if settings.rot90 else 0
    image, labels = torch.rot90(image, turns, (1, 2)), torch.rot90(labels, turns, (0, 1))
    axes = (2,) if settings.flips == "horizontal" else (1, 2) if settings.flips else ()
    for axis in axes:
        if random.random() < 0.5:
            image, labels = image.flip(axis), labels.flip(axis - 1)
    return image.contiguous(), labels.contiguous()


def change_light(image: Tensor, settings: AugmentationSettings, random: np.random.Generator) -> Tensor:
    """Contrast and brightness changed for all bands alike, and a little for each band; any number of bands.

    Works on the normalised image, so the settings are in units of the training standard deviation. Pixels at exactly
    0 in all bands are unmeasured and stay there.
    """
    gain = 1 + settings.contrast * _wobble(settings, len(image), random)
    shift = settings.brightness * _wobble(settings, len(image), random)
    changed = image * _column(gain) + _column(shift)
    return torch.where((image == 0).all(dim=0), image, changed)


def _wobble(settings: AugmentationSettings, bands: int, random: np.random.Generator) -> NDArray[np.float64]:
    """A number in ±1 for all bands plus one in ±band_noise for each."""
    noise = settings.band_noise
    return random.uniform(-1, 1) + random.uniform(-noise, noise, bands)


def _column(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None, None]
