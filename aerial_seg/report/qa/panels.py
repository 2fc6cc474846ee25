"""A chip as three pictures: its image, its labels, and the labels' borders over the image."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from aerial_seg.legend import IGNORE, Legend
from aerial_seg.report.chip_sheet import Pixels, channel_colours, smaller

PANEL, _ENLARGED = 320, 160
"""Pixels of the longer side of a panel, and of one whose chip is smaller than that."""
_TINT = 0.25
_CHECK, _STRIPE = 8, 5


@cache
def unmeasured_pattern(height: int, width: int) -> Pixels:
    """(H,W,3): the chequers by which image editors show that there is nothing."""
    row, column = np.indices((height, width)) // _CHECK
    return _grey(np.where((row + column) % 2 == 0, 255, 205))


@cache
def unlabelled_pattern(height: int, width: int) -> Pixels:
    """(H,W,3): slanting stripes, where the image is measured and nothing is said of it."""
    return _grey(np.where(_on_stripe(height, width), 110, 255))


@cache
def _on_stripe(height: int, width: int) -> NDArray[np.bool_]:
    row, column = np.indices((height, width))
    stripe: NDArray[np.bool_] = (row + column) // _STRIPE % 2 == 0
    return stripe


def _grey(levels: NDArray[np.int64]) -> Pixels:
    return np.repeat(levels.astype(np.uint8)[..., None], 3, axis=2)


def chip_panels(
    image: Pixels, valid: NDArray[np.bool_], channels: Pixels, legend: Legend
) -> tuple[Pixels, Pixels, Pixels]:
    """Image, labels, and both, each (h,w,3) at most PANEL long; chips below half of that are enlarged.

    image (H,W,3), valid (H,W) True = measured, channels (H,W), 255 = unlabelled. In "both" classes other than
    background are tinted and have their borders drawn; unmeasured pixels are chequered, unlabelled ones striped.
    """
    reduced = smaller(image, valid.astype(np.uint8), channels, side=PANEL)
    times = max(1, _ENLARGED // max(channels.shape))
    image, mask, labels = (_enlarged(one, times) for one in reduced)
    height, width = labels.shape
    measured = mask > 0
    nothing = ~measured & (labels == IGNORE)
    silent = measured & (labels == IGNORE)
    shown = np.where(measured[..., None], image, unmeasured_pattern(height, width))
    painted = channel_colours(legend)[labels]
    painted = np.where(silent[..., None], unlabelled_pattern(height, width), painted)
    painted = np.where(nothing[..., None], unmeasured_pattern(height, width), painted)
    return shown, painted, _both(shown, silent, labels, legend)


def _both(shown: Pixels, silent: NDArray[np.bool_], labels: Pixels, legend: Legend) -> Pixels:
    """The image under the classes, so that a border that does not follow what is seen stands out."""
    colours = channel_colours(legend).astype(np.float32)
    plain = np.ones(256, np.bool_)
    plain[: len(legend)] = [entry.background for entry in legend.entries]
    tinted = ~plain[labels]
    both = shown.astype(np.float32)
    both[tinted] = (1 - _TINT) * both[tinted] + _TINT * colours[labels[tinted]]
    inner, rim = _borders(labels, plain)
    both[rim] = 0.35 * both[rim]
    both[inner] = colours[labels[inner]]
    stripes = silent & _on_stripe(*labels.shape)
    both[stripes] = 0.4 * both[stripes] + 0.6 * 255
    picture: Pixels = np.rint(both).astype(np.uint8)
    return picture


def _borders(labels: Pixels, plain: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where a class's own border is drawn, and the dark rim around it, which shows it on any ground."""
    differs = np.zeros(labels.shape, np.bool_)
    for own, other in (
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        unlike = labels[own] != labels[other]
        differs[own] |= unlike
        differs[other] |= unlike
    return differs & ~plain[labels], differs & plain[labels]


def _enlarged(pixels: Pixels, times: int) -> Pixels:
    return pixels if times == 1 else pixels.repeat(times, axis=0).repeat(times, axis=1)
