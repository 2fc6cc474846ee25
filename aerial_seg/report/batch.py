"""A training batch as a picture: what the network is shown, and what it is to say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aerial_seg.bands import Band
from aerial_seg.legend import IGNORE, Legend
from aerial_seg.report.chip_sheet import Column, Pixels, Row, channel_colours, draw_sheet, smaller
from aerial_seg.report.colours import natural_colours

MOST_CROPS = 16
_COLUMNS = 4


def draw_batch(
    images: NDArray[np.float32],
    labels: Pixels,
    path: Path,
    *,
    bands: Sequence[Band],
    legend: Legend,
    title: str,
) -> None:
    """PNG of the batch's first crops after augmentation, each beside its labels.

    images (N,C,H,W) normalised; labels (N,H,W) channels, 255 = unlabelled.
    """
    shown = list(range(min(MOST_CROPS, len(images))))
    deep = -(-len(shown) // _COLUMNS)
    rows = [_row(k, natural_colours(images[k], bands), labels[k], legend) for k in shown]
    columns = [
        Column("", ("image", "labels"), rows[first : first + deep]) for first in range(0, len(rows), deep)
    ]
    channels = {int(k) for k in np.unique(labels[shown])}
    draw_sheet(columns, channels, legend, path, title=title, more=(((255, 255, 255), "unlabelled"),))


def _row(number: int, image: Pixels, labels: Pixels, legend: Legend) -> Row:
    image, labels = smaller(image, labels)
    painted = np.rint(0.45 * image + 0.55 * channel_colours(legend)[labels]).astype(np.uint8)
    unlabelled = labels == IGNORE
    share = unlabelled.mean()
    told = f"crop {number + 1}" + (f", {share:.0%} unlabelled" if share else "")
    return Row(told, (image, np.where(unlabelled[..., None], np.uint8(255), painted)))
