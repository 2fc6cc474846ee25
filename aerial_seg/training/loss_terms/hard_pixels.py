"""The hardest pixels of a batch, wherever its images are."""

from __future__ import annotations

import torch
from torch import Tensor

from aerial_seg.training.processes import count, sum_over_processes

_DIGIT = 16
"""Bits of a probability that are looked at together: a count of each of their values is half a megabyte."""


def hard_pixels(probability: Tensor, known: Tensor, *, below: float, least: int) -> Tensor:
    """(N,H,W) bool: the known pixels whose probability of the label is below, and the least such in any case.

    probability (N,H,W): of the label, by softmax. least: pixels per image of the batch; of as many images as all
    processes have, the hardest of all of them are kept, and with them those that are as hard as the last one. Fewer
    where fewer are known. Source: mmseg's OHEMPixelSampler, which leaves out the last one and those that are as hard.
    """
    bits = _in_order(probability)
    last = _smallest(bits[known], least * len(probability) * count(), digits=probability.element_size() * 8)
    # A number that is none is neither: it is kept, so that the loss tells of it.
    return known & ~((probability >= below) & (bits > last))


def _in_order(numbers: Tensor) -> Tensor:
    """int64 that are in the order of these numbers, none of which is negative: their bits."""
    return numbers.view(torch.int32).long() if numbers.dtype == torch.float32 else numbers.view(torch.int64)


def _smallest(bits: Tensor, rank: int, *, digits: int) -> Tensor:
    """The rank-th smallest of the bits of all processes, the largest of fewer: found digit by digit from the top.

    Each digit costs a sum over processes, however many pixels there are.
    """
    prefix = torch.zeros((), dtype=torch.int64, device=bits.device)
    left: Tensor | None = None
    for shift in range(digits - _DIGIT, -1, -_DIGIT):
        digit = (bits >> shift) & ((1 << _DIGIT) - 1)
        counts = sum_over_processes(torch.bincount(digit, minlength=1 << _DIGIT))
        up_to = counts.cumsum(0)
        if left is None:
            left = up_to[-1].clamp(max=rank)
        found = torch.searchsorted(up_to, left)
        left = left - (up_to[found] - counts[found])
        prefix = (prefix << _DIGIT) | found
        bits = bits[digit == found]
    return prefix
