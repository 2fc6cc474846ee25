"""Training crops: where to cut, how to change them; the same numbers for image and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from aerial_seg.bands import Band
from aerial_seg.errors import InputError, SettingsError
from aerial_seg.legend import IGNORE
from aerial_seg.recipe.crop_size import height_and_width, problem_of_turns
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.training.samples.batch import Batch, BatchLayout, finished
from aerial_seg.training.samples.chip_reader import ChipReader
from aerial_seg.training.samples.chip_store import ChipStore
from aerial_seg.training.samples.choice import looks_at_labels, place_by_labels
from aerial_seg.training.samples.colour import blurred, coloured, lit, require_colours
from aerial_seg.training.samples.draws import Draw, draw, key_of_places
from aerial_seg.training.samples.order import ChipOrder
from aerial_seg.training.samples.pixels import Pixels, Sample, Samples, Window
from aerial_seg.training.samples.places import Place, place
from aerial_seg.training.samples.repeats import Repeats
from aerial_seg.training.samples.resizing import looked_up, zoomed

__all__ = ["ChipReader", "ChipStore", "CropDataset", "Sample", "Samples", "cut"]

Values = TypeVar("Values", bound=np.generic)


class CropDataset(Dataset[Sample]):
    """Sample i of a training run: its image, place and changes depend on (seed, i) only, not on workers or batches.

    Every image is used once before any is used again, in a new order each time. repeats: those that are used more
    often; then every image is used at least once in each turn. balanced: part of the samples that are placed where they
    hold a pixel of a class that is drawn from their image's. weights: of the classes in that draw, None: all alike.
    crop: side of a square in pixels, or (height, width).

    Raises SettingsError where the augmentation is for images of other bands, or turns crops that are no squares by
    quarters.
    """

    def __init__(
        self,
        store: ChipStore,
        *,
        length: int,
        crop: int | tuple[int, int],
        augmentation: AugmentationSettings,
        seed: int,
        repeats: Repeats | None = None,
        balanced: float = 0.0,
        weights: Sequence[float] | None = None,
    ) -> None:
        require_colours(augmentation, store.bands)
        problem = problem_of_turns(crop, rot90=augmentation.rot90)
        if problem is not None:
            raise SettingsError(problem)
        self._store, self._length, self._crop = store, length, height_and_width(crop)
        self._augmentation, self._seed, self._balanced = augmentation, seed, balanced
        self._weights = weights
        self._looks = looks_at_labels(augmentation, balanced)
        self._order = ChipOrder(len(store), seed, repeats)
        self._are_bytes = all(band.dtype == "uint8" for band in store.bands)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        """image (C,H,W) float32 and labels (H,W) int64, H and W the crop's. Raises IndexError beyond the last."""
        if not 0 <= index < self._length:
            # Else `for sample in dataset` would never end.
            raise IndexError(f"crop {index} of {self._length}")
        layout = self.layout(1)
        flat = torch.empty(layout.size, dtype=torch.uint8)
        batch = layout.split(flat)
        images, labels = finished(batch, all_measured=self.fill(batch, [index]))
        return images[0].contiguous(), labels[0]

    def chip_of(self, index: int) -> str:
        """The name of the image that sample `index` is cut from."""
        return self._store.name(self._order.chip_of(index))

    def layout(self, count: int) -> BatchLayout:
        """How so many of its samples lie in memory."""
        return BatchLayout(count, *self._crop, len(self._store.bands), self._are_bytes)

    def fill(self, batch: Batch, indices: Sequence[int]) -> bool:
        """The batch holds these samples, in this order. Returns whether all their pixels were measured."""
        measured = [self._fill_one(batch, number, index) for number, index in enumerate(indices)]
        return all(measured)

    def _fill_one(self, batch: Batch, number: int, index: int) -> bool:
        bands = self._store.bands
        change = draw(self._seed, index, self._augmentation, bands=len(bands))
        chip = self._order.chip_of(index)
        pixels, there = (self._read_by_labels if self._looks else self._read)(chip, change, index)
        if self._are_bytes and pixels.image.dtype != np.uint8:
            raise InputError(
                f"{self._store.name(chip)} holds {pixels.image.dtype}, but the dataset's bands are uint8; make the "
                "chips again, all from rasters of one dtype"
            )
        batch.light[number].numpy()[...] = _light(change, bands, self._augmentation)
        into = batch.images[number].numpy(), batch.labels[number].numpy(), batch.measured[number].numpy()
        return cut(pixels, there, change, bands, into, self._augmentation)

    def _read(self, chip: int, change: Draw, index: int) -> tuple[Pixels, Place]:
        """The window of a chip that its numbers alone choose; no more of it is read."""
        places: list[Place] = []

        def choose(height: int, width: int) -> Window:
            there = place(change, self._augmentation, height=height, width=width, crop=self._crop)
            places.append(there)
            return there.rows, there.cols

        pixels = self._store.read(chip, choose)
        return pixels, places[-1]

    def _read_by_labels(self, chip: int, change: Draw, index: int) -> tuple[Pixels, Place]:
        """The window of a chip that its labels choose."""
        pixels = self._store.read(chip)
        there = place_by_labels(
            pixels.labels,
            change,
            self._augmentation,
            crop=self._crop,
            balanced=self._balanced,
            key=key_of_places(self._seed, index),
            weights=self._weights,
        )
        return pixels.cut((there.rows, there.cols)), there


def _light(change: Draw, bands: Sequence[Band], settings: AugmentationSettings) -> Sequence[Sequence[float]]:
    """(3,C): the mean, gain / std, and the shift of each band, in units of the training standard deviation."""
    if settings.light_range is not None:  # what was drawn is in the pixels already
        return [band.mean for band in bands], [1 / band.std for band in bands], [0.0] * len(bands)
    factors = [gain / band.std for gain, band in zip(change.gain, bands, strict=True)]
    shift = change.shift
    if settings.contrast_about == "zero":
        # gain · value, in units of the standard deviation and from the mean.
        lifts = ((gain - 1) * band.mean / band.std for gain, band in zip(change.gain, bands, strict=True))
        shift = tuple(own + lift for own, lift in zip(shift, lifts, strict=True))
    return [band.mean for band in bands], factors, shift


def cut(
    pixels: Pixels,
    there: Place,
    change: Draw,
    bands: Sequence[Band],
    into: tuple[NDArray[np.generic], NDArray[np.uint8], NDArray[np.uint8]],
    settings: AugmentationSettings,
) -> bool:
    """`into` holds a window as a crop: image (H,W,C), labels (H,W), and 1 where measured (H,W). Whether it is all that.

    pixels: the window, before it is zoomed. Image bilinear (antialiased), labels and what is measured nearest, with the
    same pixel centres; then come blur and colour, padding, where the labels are ignored, quarter turns and flips.
    """
    size = there.height, there.width
    image, labels, measured = (_turned_back(array, change) for array in into)
    spot = slice(there.top, there.top + size[0]), slice(there.left, there.left + size[1])
    fills = size != labels.shape
    if fills:
        image[...], labels[...], measured[...] = 0, IGNORE, 0
    resized = zoomed(pixels, there, bands, as_bytes=image.dtype == np.uint8)
    if change.more is not None:
        resized = _recoloured(resized, change, bands, settings)
    _as_items(image[spot])[...] = _as_items(resized)
    labels[spot], valid = looked_up(pixels, there)
    measured[spot] = 1 if valid is None else valid
    return not fills and (valid is None or (there.turn is not None and bool(valid.all())))


def _recoloured(
    image: NDArray[np.generic], change: Draw, bands: Sequence[Band], settings: AugmentationSettings
) -> NDArray[np.generic]:
    """The image (H,W,C) with the blur and the colours that were drawn for it."""
    more = change.more
    assert more is not None
    if more.is_blurred:
        image = blurred(image, settings.blur_side)
    if settings.light_range is not None:
        return lit(image, change, bands, settings)
    if more.hue or more.saturation != 1:
        image = coloured(image, bands, hue=more.hue, saturation=more.saturation)
    return image


def _as_items(image: NDArray[np.generic]) -> NDArray[np.void]:
    """The image (H,W,C) as items (H,W) that are whole pixels, which numpy turns in half the time."""
    items: NDArray[np.void] = image.view(np.dtype((np.void, image.dtype.itemsize * image.shape[2])))[..., 0]
    return items


def _turned_back(array: NDArray[Values], change: Draw) -> NDArray[Values]:
    """A view in which what is written upright arrives turned and flipped."""
    for axis, flipped in enumerate(change.flips):
        array = np.flip(array, axis) if flipped else array
    return np.rot90(array, -change.turns)
