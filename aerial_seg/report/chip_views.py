"""Validation chips as people look at them: colours, labels and the network's map."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from aerial_seg.bands import Band
from aerial_seg.legend import Legend
from aerial_seg.report.colours import natural_colours
from aerial_seg.training.callbacks import Checkpoint
from aerial_seg.training.crops import Samples

Pixels = NDArray[np.uint8]
Maps = Callable[[Checkpoint, Sequence[int]], list[Pixels]]


class ChipViews:
    """The validation chips of a run, by number. names: of all chips. maps: see report.chip_maps."""

    def __init__(
        self, samples: Samples, names: Sequence[str], bands: Sequence[Band], legend: Legend, maps: Maps
    ) -> None:
        self._samples, self._bands, self._maps = samples, bands, maps
        self.names, self.legend = tuple(names), legend

    def __len__(self) -> int:
        return len(self._samples)

    def picture(self, number: int) -> tuple[Pixels, Pixels]:
        """The image (H,W,3) in red, green and blue, and the labels (H,W) as channels, 255 = unlabelled."""
        image, labels = self._samples[number]
        return natural_colours(image.numpy(), self._bands), labels.numpy().astype(np.uint8)

    def maps(self, checkpoint: Checkpoint, numbers: Sequence[int]) -> list[Pixels]:
        """What the checkpoint's network makes of these chips: (H,W) channels."""
        return self._maps(checkpoint, numbers)
