"""Training crops: where to cut, how to change them; the same numbers for image and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from aerial_seg.bands import Band
from aerial_seg.errors import InputError
from aerial_seg.legend import IGNORE
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.training.samples.batch import Batch, BatchLayout, finished
from aerial_seg.training.samples.chip_reader import ChipReader
from aerial_seg.training.samples.chip_store import ChipStore
from aerial_seg.training.samples.draws import Draw, Place, draw, place
from aerial_seg.training.samples.order import ChipOrder
from aerial_seg.training.samples.pixels import Pixels, Sample, Samples, Window
from aerial_seg.training.samples.repeats import Repeats

__all__ = ["ChipReader", "ChipStore", "CropDataset", "Sample", "Samples", "cut"]

_FAST_BANDS = 4
"""More than so many bands of bytes at once leave torch's vectorised way of resizing them."""

Values = TypeVar("Values", bound=np.generic)


class CropDataset(Dataset[Sample]):
    """Sample i of a training run: its image, place and changes depend on (seed, i) only, not on workers or batches.

    Every image is used once before any is used again, in a new order each time. repeats: those that are used more
    often; then every image is used at least once in each turn.
    """

    def __init__(
        self,
        store: ChipStore,
        *,
        length: int,
        crop: int,
        augmentation: AugmentationSettings,
        seed: int,
        repeats: Repeats | None = None,
    ) -> None:
        self._store, self._length, self._crop = store, length, crop
        self._augmentation, self._seed = augmentation, seed
        self._order = ChipOrder(len(store), seed, repeats)
        self._are_bytes = all(band.dtype == "uint8" for band in store.bands)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        """image (C,crop,crop) float32 and labels (crop,crop) int64. Raises IndexError beyond the last."""
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
        return BatchLayout(count, self._crop, len(self._store.bands), self._are_bytes)

    def fill(self, batch: Batch, indices: Sequence[int]) -> bool:
        """The batch holds these samples, in this order. Returns whether all their pixels were measured."""
        measured = [self._fill_one(batch, number, index) for number, index in enumerate(indices)]
        return all(measured)

    def _fill_one(self, batch: Batch, number: int, index: int) -> bool:
        bands = self._store.bands
        change = draw(self._seed, index, self._augmentation, bands=len(bands))
        places: list[Place] = []

        def choose(height: int, width: int) -> Window:
            there = place(
                change,
                height=height,
                width=width,
                crop=self._crop,
                scale=self._augmentation.scale,
                stay_inside=self._augmentation.stay_inside,
            )
            places.append(there)
            return there.rows, there.cols

        chip = self._order.chip_of(index)
        pixels = self._store.read(chip, choose)
        if self._are_bytes and pixels.image.dtype != np.uint8:
            raise InputError(
                f"{self._store.name(chip)} holds {pixels.image.dtype}, but the dataset's bands are uint8; make the "
                "chips again, all from rasters of one dtype"
            )
        batch.light[number] = _light(change, bands)
        into = batch.images[number].numpy(), batch.labels[number].numpy(), batch.measured[number].numpy()
        return cut(pixels, places[-1], change, bands, into)


def _light(change: Draw, bands: Sequence[Band]) -> Tensor:
    """(3,C): the mean, gain / std, and the shift of each band, in units of the training standard deviation."""
    factors = [gain / band.std for gain, band in zip(change.gain, bands, strict=True)]
    return torch.tensor([[band.mean for band in bands], factors, change.shift], dtype=torch.float32)


def cut(
    pixels: Pixels,
    there: Place,
    change: Draw,
    bands: Sequence[Band],
    into: tuple[NDArray[np.generic], NDArray[np.uint8], NDArray[np.uint8]],
) -> bool:
    """`into` holds a window as a crop: image (S,S,C), labels (S,S), and 1 where measured (S,S). Whether it is all that.

    pixels: the window, before it is zoomed. Image bilinear (antialiased), labels and what is measured nearest, with the
    same pixel centres; then come padding, where the labels are ignored, quarter turns and flips.
    """
    size = there.height, there.width
    image, labels, measured = (_turned_back(array, change) for array in into)
    spot = slice(there.top, there.top + size[0]), slice(there.left, there.left + size[1])
    fills = size != labels.shape
    if fills:
        image[...], labels[...], measured[...] = 0, IGNORE, 0
    rows, cols = (_nearest(old, new) for old, new in zip(pixels.labels.shape, size, strict=True))
    resized = _resized(_without_gaps(pixels, bands), size, as_bytes=image.dtype == np.uint8)
    _as_items(image[spot])[...] = _as_items(resized)
    labels[spot] = pixels.labels[rows][:, cols]
    measured[spot] = 1 if pixels.valid is None else pixels.valid[rows][:, cols]
    return not fills and pixels.valid is None


def _as_items(image: NDArray[np.generic]) -> NDArray[np.void]:
    """The image (H,W,C) as items (H,W) that are whole pixels, which numpy turns in half the time."""
    items: NDArray[np.void] = image.view(np.dtype((np.void, image.dtype.itemsize * image.shape[2])))[..., 0]
    return items


def _turned_back(array: NDArray[Values], change: Draw) -> NDArray[Values]:
    """A view in which what is written upright arrives turned and flipped."""
    for axis, flipped in enumerate(change.flips):
        array = np.flip(array, axis) if flipped else array
    return np.rot90(array, -change.turns)


def _nearest(old: int, new: int) -> NDArray[np.intp]:
    """For each of `new` pixels along a side the one of `old` that its centre lies in."""
    return (np.arange(new, dtype=np.intp) * 2 + 1) * old // (2 * new)


def _without_gaps(pixels: Pixels, bands: Sequence[Band]) -> NDArray[np.generic]:
    """The image (C,h,w) with the training mean where nothing was measured: it may hold anything there."""
    if pixels.valid is None:
        return pixels.image
    mean = np.array([band.mean for band in bands])[:, None, None]
    if pixels.image.dtype.kind in "iu":
        mean = mean.round()
    return np.where(pixels.valid, pixels.image, mean.astype(pixels.image.dtype))


def _resized(image: NDArray[np.generic], size: tuple[int, int], *, as_bytes: bool) -> NDArray[np.generic]:
    """The image (C,h,w) as (height, width, C), float32 unless as_bytes, which is four times as fast."""
    rows = image.transpose(1, 2, 0)[None].astype(np.uint8 if as_bytes else np.float32, order="C", copy=True)
    if image.shape[1:] == size:
        return np.asarray(rows[0])
    at_once = _FAST_BANDS if as_bytes else len(image)
    resized = [
        # Taken for channels-last, and given back so, thanks to the stride of the one image.
        interpolate(torch.from_numpy(part).permute(0, 3, 1, 2), size, mode="bilinear", antialias=True)
        for k in range(0, len(image), at_once)
        for part in (np.ascontiguousarray(rows[..., k : k + at_once]),)
    ]
    parts = [part[0].permute(1, 2, 0).numpy() for part in resized]
    return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2))
