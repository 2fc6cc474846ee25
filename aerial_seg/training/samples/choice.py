"""Places that are chosen by an image's labels: crops that hold a class, and crops that hold more than one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aerial_seg.legend import IGNORE
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.training.samples.draws import Draw
from aerial_seg.training.samples.numbers import uniforms
from aerial_seg.training.samples.places import Place, place
from aerial_seg.training.samples.resizing import nearest

_TRIES = 10
"""Places of a crop that are looked at: mmseg's and ssseg's RandomCrop."""


def looks_at_labels(settings: AugmentationSettings, balanced: float) -> bool:
    """Whether a crop's place depends on the labels of its image."""
    return balanced > 0 or settings.cat_max_ratio < 1


def place_by_labels(
    labels: NDArray[np.uint8],
    change: Draw,
    settings: AugmentationSettings,
    *,
    crop: tuple[int, int],
    balanced: float,
    key: int,
) -> Place:
    """Where a crop of this height and width is cut from the image with these labels (H,W), 255 = ignored.

    In `balanced` of all cases it holds a pixel of a class that is drawn from those of the image, each as likely as any
    other. Where one class has cat_max_ratio or more of a crop's labelled pixels, or there are none, another place is
    looked at; the tenth stays. key: of the numbers that are drawn for it.
    """
    chance, kind, *numbers = uniforms(key, 2 + 3 * _TRIES)
    pixels = _pixels_of_a_class(labels, kind) if chance < balanced else None
    for pixel, down, across in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True):
        held = None
        if pixels is not None:
            row, col = divmod(int(pixels[int(pixel * len(pixels))]), labels.shape[1])
            held = row, col
        there = place(change, settings, height=labels.shape[0], width=labels.shape[1], crop=crop, held=held)
        if settings.cat_max_ratio >= 1 or _is_mixed(
            nearest(labels[there.rows, there.cols], there, IGNORE), settings.cat_max_ratio
        ):
            break
        # The first place is that of a recipe without this: crops that are mixed anyway stay as they are.
        change = replace(change, down=down, across=across)
    return there


def _pixels_of_a_class(labels: NDArray[np.uint8], part: float) -> NDArray[np.intp] | None:
    """Where one of the classes is, in the flat labels; None where nothing is labelled."""
    counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)[:IGNORE]
    there = np.flatnonzero(counts)
    return np.flatnonzero(labels == there[int(part * len(there))]) if len(there) else None


def _is_mixed(labels: NDArray[np.uint8], ratio: float) -> bool:
    """Whether the labelled pixels are of several classes, none of which has that share of them."""
    counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)[:IGNORE]
    return bool(counts.max() < ratio * counts.sum())
