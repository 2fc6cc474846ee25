"""Scale and offset: what a band's stored numbers become in its own units, where its file declares that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SCALED_DTYPE = "float32"
"""Of pixels to which scale and offset are applied; as exact as the network's own numbers."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """Say that a stored number n means n × scale + offset; 1 and 0 where a band declares nothing."""

    scale: float = 1.0
    offset: float = 0.0

    @property
    def says_nothing(self) -> bool:
        """Whether stored numbers mean themselves."""
        return self.scale == 1 and self.offset == 0

    def __str__(self) -> str:
        """As in `scale 0.0001, offset -0.1`."""
        return f"scale {self.scale:.9g}, offset {self.offset:.9g}"

    def of(self, values: NDArray[np.generic]) -> NDArray[np.float64]:
        """What stored values mean; float64."""
        with np.errstate(over="ignore", invalid="ignore"):
            meant: NDArray[np.float64] = np.multiply(values, self.scale, dtype=np.float64)
            meant += self.offset
            return meant


def apply_scalings(
    stored: NDArray[np.generic],
    image: NDArray[np.generic],
    scalings: Sequence[Scaling],
    flags: Sequence[bool],
) -> None:
    """image (C,h,w) float32 holds what stored (C,h,w) means in the bands whose flag is set, the others as they are.

    Computed in float64 and rounded once, so that it does not depend on who computes it.
    """
    with np.errstate(over="ignore"):
        for into, band, scaling, wanted in zip(image, stored, scalings, flags, strict=True):
            into[:] = scaling.of(band) if wanted and not scaling.says_nothing else band
