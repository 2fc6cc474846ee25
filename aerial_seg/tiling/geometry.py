"""What a network promises about where its logits lie."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    output_stride: int
    logit_stride: int
    origin_step: int
    align_corners: bool = False
    cell_span: int | None = None

    def __post_init__(self) -> None:
        if min(self.output_stride, self.logit_stride, self.origin_step) < 1:
            raise SettingsError(f"strides must be positive integers, got {self}")
        if self.origin_step % self.logit_stride:
            raise SettingsError(
                f"origin step {self.origin_step} is not a multiple of the logit stride {self.logit_stride}"
            )

    def is_valid_side(self, side: int) -> bool:
        """True when a tile of this side has logits that line up with its neighbours'."""
        steps, rest = divmod(side - int(self.align_corners), self.origin_step)
        return steps >= 1 and rest == 0

    def nearest_valid_sides(self, side: int) -> tuple[int, int]:
        """The largest valid side ≤ side and the smallest ≥ side (both the smallest side when side is below it)."""
        step, extra = self.origin_step, int(self.align_corners)
        below = max(1, (side - extra) // step) * step + extra
        above = max(1, -(-(side - extra) // step)) * step + extra
        return below, above

    def check_side(self, side: int) -> None:
        """Raises SettingsError naming the nearest valid sides unless the network can take this side."""
        if not self.is_valid_side(side):
            below, above = self.nearest_valid_sides(side)
            near = f"{below} or {above}" if below != above else f"{below}"
            form = f"{self.origin_step}·n" + (" + 1" if self.align_corners else "")
            raise SettingsError(
                f"tile size {side} is not of the form {form} that this model takes; try {near}"
            )

    def cells(self, pixels: int) -> int:
        """Cells that cover this many pixels of one axis."""
        if self.align_corners:
            return -(-(pixels - 1) // self.logit_stride) + 1
        return -(-pixels // self.logit_stride)
