"""What a result is, whatever the machine that makes it."""

from __future__ import annotations

from dataclasses import dataclass

from aerial_seg.crf.blocks import BlockedCrf


@dataclass(frozen=True, slots=True)
class Definition:
    """Say what the result is, whatever the machine: how tiles are run, weighted and blended, which layers are wanted.

    crf: the field that the network's probabilities go through on the raster's own grid, and its blocks.
    """

    window: str = "linear"
    blend: str = "logits"
    tta: tuple[str, ...] = ()
    confidence: bool = False
    probabilities: bool = False
    crf: BlockedCrf | None = None

    @property
    def softmaxed(self) -> bool:
        """Tell whether cells hold probabilities, not logits."""
        return self.blend == "probabilities"
