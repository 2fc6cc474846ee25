"""Tiles at other sizes: resized for the network, and its logits brought back to the tile's own lattice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from aerial_seg.errors import SettingsError
from aerial_seg.mentions import setting
from aerial_seg.tiling.geometry import ModelGeometry

Image = NDArray[np.float32]

RANGE = (0.1, 4.0)
"""Scales beyond these leave nothing to see, or no memory."""


def parse_scales(text: str) -> tuple[float, ...]:
    """Read `0.5:0.75:1.25`: the scales beside 1, rising.

    Raises SettingsError for what is no number, lies beyond RANGE or is named twice.
    """
    example = "wanted numbers between colons, as scales=0.5:0.75:1.25"
    try:
        named = [float(number) for number in text.split(":")]
    except ValueError as error:
        raise SettingsError(f"test-time augmentation 'scales={text}' cannot be read; {example}") from error
    low, high = RANGE
    for scale in named:
        if not low <= scale <= high:
            raise SettingsError(
                f"test-time augmentation at scale {scale:g}, wanted {low:g} to {high:g}; {example}"
            )
    if len(set(named)) < len(named):
        raise SettingsError(f"'scales={text}' names a scale twice; name each once")
    return tuple(sorted(set(named) - {1.0}))


@dataclass(frozen=True, slots=True)
class ScaledTile:
    """Resize a tile of `side` pixels to the `run_side` pixels that it goes through the network with.

    Bilinear, both ways, without antialiasing. Of a network with align_corners, the centres of the corner pixels lie on
    each other, else the tile's edges do: so the cells of both sizes span the same ground, and values that are linear
    on the ground come back as they were, but for those beyond the centres of the outermost cells, which repeat these.
    """

    geometry: ModelGeometry
    side: int
    run_side: int

    @property
    def ratio(self) -> float:
        """How many pixels one becomes, along a side."""
        extra = int(self.geometry.align_corners)
        return (self.run_side - extra) / (self.side - extra)

    def apply(self, image: Image) -> Image:
        """Resize image (C, side, side) to (C, run_side, run_side) float32."""
        return self._resized(torch.from_numpy(np.ascontiguousarray(image)), self.run_side).numpy()

    def undo(self, logits: Image) -> Image:
        """Bring logits (h', w', K) of the resized image to the tile's lattice (h, w, K) float32."""
        planes = torch.from_numpy(np.ascontiguousarray(logits.transpose(2, 0, 1)))
        return self._resized(planes, self.geometry.cells(self.side)).numpy().transpose(1, 2, 0)

    def _resized(self, planes: Tensor, side: int) -> Tensor:
        return interpolate(
            planes[None], size=(side, side), mode="bilinear", align_corners=self.geometry.align_corners
        )[0]


def scaled_tile(geometry: ModelGeometry, side: int, scale: float) -> ScaledTile:
    """Return the tile at the side that the network takes nearest to the scale's, the smaller one of two."""
    extra = int(geometry.align_corners)
    wanted = scale * (side - extra) + extra
    sides = geometry.nearest_valid_sides(round(wanted))
    return ScaledTile(geometry, side, min(sides, key=lambda one: abs(one - wanted)))


def scaled_tiles(geometry: ModelGeometry, side: int, scales: tuple[float, ...]) -> tuple[ScaledTile, ...]:
    """Return a tile for each scale, all of different sizes and none of the tile's own.

    Raises SettingsError for a tile so small that two scales need the same side.
    """
    tiles = tuple(scaled_tile(geometry, side, scale) for scale in scales)
    seen = {side: 1.0}
    for tile, scale in zip(tiles, scales, strict=True):
        if tile.run_side in seen:
            raise SettingsError(
                f"test-time augmentation: scales {seen[tile.run_side]:g} and {scale:g} of a tile of {side} px are both "
                f"{tile.run_side} px, because this model takes steps of {geometry.origin_step} px; use a larger "
                f"{setting('tile_size')} or other scales"
            )
        seen[tile.run_side] = scale
    return tiles
