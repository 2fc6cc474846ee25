"""Losses that are no sum over pixels: Dice, and the Lovász extension of the IoU's."""

from __future__ import annotations

import torch
from torch import Tensor

from aerial_seg.legend import IGNORE
from aerial_seg.training.processes import gathered, rank, sum_over_processes

_LEAST = 1e-7
"""Below a Dice score's denominator, as smp has it."""


def dice_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """logits (N,K,H,W), labels (N,H,W) → (3·K,): Σ p·t, Σ p and Σ t by class over this process's labelled pixels."""
    known = (labels != IGNORE)[:, None]
    truth = (labels[:, None] == torch.arange(logits.shape[1], device=labels.device)[:, None, None]).to(
        logits.dtype
    )
    probability = logits.softmax(dim=1) * known
    axes = (0, 2, 3)
    return torch.cat([(probability * truth).sum(axes), probability.sum(axes), truth.sum(axes)])


def dice(sums: Tensor) -> Tensor:
    """sums (M, 3·K): Σ p·t, Σ p and Σ t by class → the Dice loss of each of the M outputs."""
    hits, probabilities, truths = sums.chunk(3, dim=1)
    scores = 2 * hits / (probabilities + truths).clamp_min(_LEAST)
    return ((1 - scores) * (truths > 0)).mean(dim=1)


def lovasz_share(logits: Tensor, labels: Tensor) -> Tensor:
    """logits (N,K,H,W), labels (N,H,W) → what this process's pixels add to the Lovász-softmax loss of all processes.

    The loss is that over all labelled pixels of the batch, the mean over the classes that are among the labels; 0
    without any. Each class's errors |t − p| are sorted over all processes, which is where the slopes come from.
    Source: Berman et al. 2018, The Lovász-Softmax loss, equations 6 to 10, classes "present".
    """
    known = labels != IGNORE
    probability = logits.softmax(dim=1)
    truths = sum_over_processes(torch.bincount(labels[known], minlength=logits.shape[1])).tolist()
    total = probability.sum() * 0
    for k, pixels in enumerate(truths):
        if not pixels:
            continue
        hits = labels == k
        errors = torch.where(hits, 1 - probability[:, k], probability[:, k])
        # What is ignored comes behind all others, where it moves none of them.
        slopes = _slopes(torch.where(known, errors.detach(), -1).flatten(), hits.flatten(), pixels)
        total = total + (errors * torch.where(known, slopes.view_as(errors), 0)).sum()
    return total / max(1, sum(map(bool, truths)))


def _slopes(errors: Tensor, hits: Tensor, pixels: int) -> Tensor:
    """How fast the loss grows with each of this process's errors. pixels: of the class, in all processes."""
    everyone, theirs = gathered(errors), gathered(hits)
    order = torch.argsort(everyone, descending=True, stable=True)
    there = theirs[order].long()
    # Whole numbers: differences of fractions of millions of pixels would be lost in float32.
    kept, union = pixels - there.cumsum(0), pixels + (1 - there).cumsum(0)
    loss = 1 - kept.double() / union
    slopes = torch.empty_like(loss)
    slopes[order] = torch.diff(loss, prepend=loss.new_zeros(1))
    return slopes[rank() * len(errors) : (rank() + 1) * len(errors)].to(errors.dtype)
