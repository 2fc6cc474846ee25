"""How a raster is cut for a field that would join all of it: blocks from the origin on, each with a halo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil

from aerial_seg.crf.settings import DenseCrf

HALO_SHARE = 0.001
"""Blocks of another size give another class to at most this share of the measured pixels.

Measured with DeepLabv2's parameters on 10 million pixels of drone imagery with 2 classes: blocks of 512, 768 and 1024
pixels differ from each other in 0.016 to 0.051 %, and from the field of a whole image, which changes 4.1 % of the
network's classes, in 0.021 to 0.046 %.
"""
_CORE = 1024
"""A larger one costs memory, a smaller one time: 1.6 times the pixels are computed, with 512 it is 2.3 times."""
_REACH = 2.0
"""Halo in standard deviations of the wider kernel: 134 px as a rule. Around blocks of 1024 pixels 64 leave 0.077 % of
the pixels other than the whole image's, 134 leave 0.021 %, 192 leave 0.005 % and cost a fifth more."""


@dataclass(frozen=True, slots=True)
class Span:
    """Pixels of one axis: those that a block is computed on, and those of them that are kept."""

    seen: range
    kept: range


@dataclass(frozen=True, slots=True)
class BlockedCrf:
    """A field that is computed block by block, which with the field's parameters is all that its result depends on.

    core: side of the blocks in pixels; they begin at multiples of it, counted from the raster's origin. halo: pixels
    around a core that are computed with it and dropped.
    """

    field: DenseCrf
    core: int
    halo: int

    @classmethod
    def of(cls, field: DenseCrf) -> BlockedCrf:
        """Blocks with a halo that follows from how far the field's kernels reach."""
        widest = max(field.pos_xy_std if field.pos_w else 0.0, field.bi_xy_std if field.bi_w else 0.0)
        return cls(field, core=_CORE, halo=ceil(_REACH * widest))

    def spans(self, wanted: range, length: int) -> Iterator[Span]:
        """The blocks of an axis of `length` pixels that the `wanted` ones lie in, in order; only those are kept."""
        for start in range(wanted.start // self.core * self.core, wanted.stop, self.core):
            stop = start + self.core
            yield Span(
                seen=range(max(0, start - self.halo), min(stop + self.halo, length)),
                kept=range(max(start, wanted.start), min(stop, wanted.stop)),
            )

    def reach(self, wanted: range, length: int) -> range:
        """All pixels of the axis that the blocks of the `wanted` ones are computed on."""
        spans = list(self.spans(wanted, length))
        return range(spans[0].seen.start, spans[-1].seen.stop)

    def pixels(self, rows: range, cols: range, *, height: int, width: int) -> int:
        """How many pixels are computed for these, halos and what several blocks see counted each time."""
        spans = product(self.spans(rows, height), self.spans(cols, width))
        return sum(len(down.seen) * len(across.seen) for down, across in spans)
