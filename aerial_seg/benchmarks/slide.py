"""Sliding windows: where they lie, and their averaged scores on an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from aerial_seg.benchmarks.protocol import Flip, SlideWindow
from aerial_seg.inference.padded_forward import PaddedForward


def axis_origins(length: int, crop: int, step: int) -> tuple[int, ...]:
    """Where windows of `crop` pixels begin on an axis; on one shorter than that a single window of its length does.

    Every `step` pixels; the last one is shifted inward to end with the axis, and is there once.
    """
    last = max(0, length - crop)
    return (*range(0, last, step), last)


def slide_scores(image: Tensor, net: PaddedForward, window: SlideWindow, *, flip: Flip) -> Tensor:
    """Scores (K,h,w) of image (C,h,w): the average of all windows that see a pixel, logits or probabilities.

    An image smaller than the crop is padded with 0, the mean once it is normalised, and the padding cut off again; or,
    with padding "none", it is seen as it is. Source of that: mmsegmentation 1.2.2, encoder_decoder.py, slide_inference,
    whose windows end with the image.
    flip: "window" averages each window with its mirror image's scores, mirrored back; "window-sum" adds the logits of
    the two before the softmax; others leave windows as they are.
    """
    top, bottom = _padding(image.shape[1], window)
    left, right = _padding(image.shape[2], window)
    padded = pad(image, (left, right, top, bottom)) if top or bottom or left or right else image
    height, width = padded.shape[1:]
    rows = axis_origins(height, window.crop, window.step)
    cols = axis_origins(width, window.crop, window.step)
    total: Tensor | None = None
    for row in rows:
        for col in cols:
            seen = padded[:, row : row + window.crop, col : col + window.crop]
            scores = _window_scores(seen, net, window, flip)
            if total is None:
                total = scores.new_zeros(len(scores), height, width)
            total[:, row : row + window.crop, col : col + window.crop] += scores
    assert total is not None
    down, across = (
        counts(origins, window.crop, side).to(total) for origins, side in ((rows, height), (cols, width))
    )
    total /= down[:, None] * across
    return total[:, top : height - bottom, left : width - right]


def counts(origins: tuple[int, ...], crop: int, length: int) -> Tensor:
    """How many windows see each pixel of an axis, (length,) int64."""
    seen = torch.zeros(length, dtype=torch.int64)
    for origin in origins:
        seen[origin : origin + crop] += 1
    return seen


def _padding(side: int, window: SlideWindow) -> tuple[int, int]:
    """Pixels before and after a side that bring it to the crop."""
    missing = max(0, window.crop - side) if window.padding != "none" else 0
    before = missing // 2 if window.padding == "centre" else 0
    return before, missing - before


def _window_scores(seen: Tensor, net: PaddedForward, window: SlideWindow, flip: Flip) -> Tensor:
    """Scores (K,h,w) of one window (C,h,w)."""
    softmaxed = window.average == "probabilities"
    if flip not in ("window", "window-sum"):
        logits = net.logits(seen[None])[0]
        return logits.softmax(0) if softmaxed else logits
    logits = net.logits(torch.stack([seen, seen.flip(-1)]))
    if flip == "window-sum":
        return (logits[0] + logits[1].flip(-1)).softmax(0)
    scores = logits.softmax(1) if softmaxed else logits
    return (scores[0] + scores[1].flip(-1)) / 2
