"""What a network promises about where its logits lie."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aerial_seg.errors import SettingsError


@dataclass(frozen=True, slots=True)
class ModelGeometry:
    """Hold the integer facts that tiling needs to know about a network.

    output_stride: how far the backbone is dilated (the papers' number); says nothing about the logits.
    logit_stride: pixels per logit cell, s.
    origin_step: tile origins keep multiples of it (the network's largest internal stride).
    align_corners: False: sides are s·n, cell i is centred at pixel s·i + (s−1)/2.
                   True: sides are s·n + 1, cell i lies at pixel s·i exactly (513, 769, 473, 713).
    cell_span: pixels that a cell stood for in training, t, where the network was rebuilt at another stride since: cell
    i is centred at s·i + (t−1)/2, because its features lie at s·i whatever the stride and it learnt to speak of that
    place beside them. None: t = s. Tiles of such a network are not stitched.
    stretched_side: the side s·n + 1 of the training crops over which n cells, whose features lie at pixel s·i, were
    stretched with align_corners=False (321 px and 41 cells in deeplab-pytorch; 513). In a crop of that side cell i lies
    at pixel (i + 1/2)·side/n − 1/2, up to (s − 1)/2 beside its features; see cell_places. Sides are s·n + 1. None: not.
    """

    output_stride: int
    logit_stride: int
    origin_step: int
    align_corners: bool = False
    cell_span: int | None = None
    stretched_side: int | None = None

    def __post_init__(self) -> None:
        if min(self.output_stride, self.logit_stride, self.origin_step) < 1:
            raise SettingsError(f"strides must be positive integers, got {self}")
        if self.origin_step % self.logit_stride:
            raise SettingsError(
                f"origin step {self.origin_step} is not a multiple of the logit stride {self.logit_stride}"
            )
        side = self.stretched_side
        if side is not None and (self.align_corners or side <= 1 or (side - 1) % self.logit_stride):
            form = f"side {side}, wanted {self.logit_stride}·n + 1, and align_corners=False"
            raise SettingsError(f"cells are stretched over crops of {form}; try {self._form_near(side)}")

    def _form_near(self, side: int) -> int:
        return max(1, round((side - 1) / self.logit_stride)) * self.logit_stride + 1

    @property
    def ends(self) -> int:
        """Pixels of a side beyond whole steps: 1 where the last cell's features lie on its last pixel."""
        return int(self.align_corners or self.stretched_side is not None)

    @property
    def of_tiles(self) -> ModelGeometry:
        """The geometry of the lattice that stitched tiles share: where cells were stretched, they are put at s·i."""
        if self.stretched_side is None:
            return self
        return replace(self, align_corners=True, stretched_side=None)

    def cell_places(self, count: int) -> NDArray[np.float64]:
        """The pixels (count,) that the cells of a tile of count cells speak of, where training stretched them.

        A network learns how far from its features its labels lie by how near the crop's edge is, which it sees by the
        padding: (s − 1)/2 to the inside at either edge, linearly less towards the middle of a training crop. So it is
        here: exact where a tile is as large as the crops were, and else the same distance from each edge, with cells on
        their features between.
        """
        assert self.stretched_side is not None
        stride, cells = self.logit_stride, self.cells(self.stretched_side)
        number = np.arange(count, dtype=np.float64)
        inwards = np.maximum((stride - 1) / 2 * (1 - (2 * number + 1) / cells), 0)
        return stride * number + inwards - inwards[::-1]

    def is_valid_side(self, side: int) -> bool:
        """True when a tile of this side has logits that line up with its neighbours'."""
        steps, rest = divmod(side - self.ends, self.origin_step)
        return steps >= 1 and rest == 0

    def nearest_valid_sides(self, side: int) -> tuple[int, int]:
        """The largest valid side ≤ side and the smallest ≥ side (both the smallest side when side is below it)."""
        step, extra = self.origin_step, self.ends
        below = max(1, (side - extra) // step) * step + extra
        above = max(1, -(-(side - extra) // step)) * step + extra
        return below, above

    def check_side(self, side: int, *, what: str = "tile size") -> None:
        """Raises SettingsError naming the nearest valid sides unless the network can take this side. what: it is of."""
        if not self.is_valid_side(side):
            below, above = self.nearest_valid_sides(side)
            near = f"{below} or {above}" if below != above else f"{below}"
            form = f"{self.origin_step}·n" + (" + 1" if self.ends else "")
            raise SettingsError(f"{what} {side} is not of the form {form} that this model takes; try {near}")

    def check_crop(self, *, height: int, width: int) -> None:
        """Raises SettingsError unless the network can be trained on crops of this size."""
        is_square = height == width
        self.check_side(height, what="training.crop" if is_square else "training.crop's height")
        self.check_side(width, what="training.crop's width")
        side = self.stretched_side
        if side is not None and (height, width) != (side, side):
            remedy = "; give both the same" if is_square else f", squares; set training.crop = {side}"
            raise SettingsError(
                f"training.crop is {height if is_square else f'{height}x{width} (height, width)'}, but "
                f"model.stretched_side says that cells are stretched over crops of {side}{remedy}"
            )

    def cells(self, pixels: int) -> int:
        """Cells that cover this many pixels of one axis."""
        if self.ends:
            return -(-(pixels - 1) // self.logit_stride) + 1
        return -(-pixels // self.logit_stride)
