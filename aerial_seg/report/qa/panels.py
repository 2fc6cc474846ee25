"""A chip as three pictures: its image, its labels, and the labels' borders over the image."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from aerial_seg.legend import IGNORE, Legend
from aerial_seg.report.chip_sheet import Pixels, channel_colours, smaller

PANEL, _ENLARGED = 320, 160
"""Pixels of the longer side of a panel, and of one whose chip is smaller than that."""
_LIGHTER = 3
"""Parts of the image to one of the class's colour."""
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
    unlabelled = labels == IGNORE
    nothing = ~measured & unlabelled
    silent = measured & unlabelled
    shown = _with(unmeasured_pattern(height, width), ~measured, image)
    colours = np.take(channel_colours(legend), labels, axis=0)
    painted = _with(unlabelled_pattern(height, width), silent, colours)
    painted = _with(unmeasured_pattern(height, width), nothing, painted)
    return shown, painted, _both(shown, colours, silent, labels, legend)


def _with(pattern: Pixels, where: NDArray[np.bool_], picture: Pixels) -> Pixels:
    """The picture with the pattern there."""
    return np.where(where[..., None], pattern, picture) if where.any() else picture


def _both(
    shown: Pixels, colours: Pixels, silent: NDArray[np.bool_], labels: Pixels, legend: Legend
) -> Pixels:
    """The image under the classes, so that a border that does not follow what is seen stands out.

    colours: (H,W,3) of the classes.
    """
    plain = np.ones(256, np.bool_)
    plain[: len(legend)] = [entry.background for entry in legend.entries]
    # Whole numbers, rounded: a quarter of the class's colour.
    mixed = ((_LIGHTER * shown.astype(np.uint16) + colours + (_LIGHTER + 1) // 2) // (_LIGHTER + 1)).astype(
        np.uint8
    )
    both: Pixels = np.where(plain[labels][..., None], shown, mixed)
    inner, rim = _borders(labels, plain)
    both[rim] = np.rint(0.35 * both[rim].astype(np.float32))
    both[inner] = colours[inner]
    if silent.any():
        stripes = silent & _on_stripe(*labels.shape)
        both[stripes] = np.rint(0.4 * both[stripes].astype(np.float32) + 0.6 * 255)
    return both


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
