"""Labelled images as their files hold them, and as a network takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aerial_seg.bands import Band, normalise

Sample = tuple[Tensor, Tensor]
"""image (C,H,W) float32, normalised, unmeasured pixels at the training mean; labels (H,W)."""

Window = tuple[slice, slice]
"""Rows and columns inside an image."""
Choose = Callable[[int, int], Window]
"""From an image's height and width to the window of it that is wanted."""


class Samples(Protocol):
    """Labelled images by number, from 0 to len − 1, as a network takes them; labels uint8 channels or 255."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True, slots=True)
class Pixels:
    """Hold a labelled image in its file's own dtype.

    image (C,H,W), of most files with a pixel's bands side by side in memory; valid (H,W), True = measured, None where
    all are; labels (H,W) uint8 channels, 255 where nothing is labelled or measured.
    """

    image: NDArray[np.generic]
    valid: NDArray[np.bool_] | None
    labels: NDArray[np.uint8]

    def cut(self, window: Window) -> Pixels:
        """Return a window of it; nothing is copied."""
        valid = None if self.valid is None else self.valid[window]
        return Pixels(self.image[(slice(None), *window)], valid, self.labels[window])

    def sample(self, bands: Sequence[Band]) -> Sample:
        """Return it normalised by the bands' statistics: image (C,H,W) float32 and labels (H,W) uint8."""
        valid = np.ones(self.labels.shape, np.bool_) if self.valid is None else self.valid
        image = np.ascontiguousarray(normalise(self.image, valid, bands))
        return torch.from_numpy(image), torch.from_numpy(self.labels.copy())


class Reader(Protocol):
    """Labelled images by number, read from where they lie each time. Workers get copies, so it can be pickled.

    bands: what images are normalised by.
    """

    @property
    def bands(self) -> tuple[Band, ...]: ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What people call the image."""
        ...

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width, without decoding it."""
        ...

    def read(self, index: int, choose: Choose = ...) -> Pixels:
        """The window of it that is chosen, by default all; no more is decoded than the format asks for."""
        ...


def whole(height: int, width: int) -> Window:
    """Choose all of an image."""
    return slice(0, height), slice(0, width)
