"""Where a loss compares logits with labels: logits brought to the labels' size, or labels taken at the cells."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from aerial_seg.tiling.geometry import ModelGeometry


def to_label_size(logits: Tensor, geometry: ModelGeometry, height: int, width: int) -> Tensor:
    """Logits upsampled bilinearly to the labels' size."""
    if logits.shape[2:] == (height, width):
        return logits
    return interpolate(logits, size=(height, width), mode="bilinear", align_corners=geometry.align_corners)


def labels_at_cells(labels: Tensor, height: int, width: int, *, align_corners: bool) -> Tensor:
    """labels (N,H,W) → (N,height,width): of each cell the label of the nearest pixel, by one of two conventions.

    align_corners False: Pillow's NEAREST, the pixel in which the cell's centre lies, (i + ½)·H/height. True: that of a
    grid whose corners are the labels' corners, i·(H−1)/(height−1), halves rounded up. Sources: deeplab-pytorch's
    resize_labels, which warns of torch's and OpenCV's nearest; TensorFlow DeepLab's train_utils, upsample_logits=False.
    """
    if labels.shape[1:] == (height, width):
        return labels
    rows, cols = (
        torch.from_numpy(_pixels_of_cells(pixels, cells, align_corners)).to(labels.device)
        for pixels, cells in zip(labels.shape[1:], (height, width), strict=True)
    )
    return labels[:, rows][:, :, cols]


@lru_cache(maxsize=256)
def _pixels_of_cells(
    pixels: int, cells: int, align_corners: bool
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    if align_corners:
        steps = max(1, cells - 1)
        return (2 * np.arange(cells) * (pixels - 1) + steps) // (2 * steps)
    # Pillow adds up steps of the scale; a product would round some halves to the other side.
    steps_along = np.full(cells, pixels / cells)
    steps_along[0] /= 2
    return np.minimum(np.cumsum(steps_along).astype(np.int64), pixels - 1)
