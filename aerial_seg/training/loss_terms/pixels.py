"""Losses that are a sum over labelled pixels, each with its class's weight."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from aerial_seg.legend import IGNORE
from aerial_seg.training.loss_terms.hard_pixels import hard_pixels
from aerial_seg.training.loss_terms.terms import Terms


def pixel_sums(logits: Tensor, labels: Tensor, weights: Tensor, terms: Terms) -> Tensor:
    """The sum of the losses of this process's pixels; for hard pixels also the sum of the weights of those kept.

    logits (N,K,H,W), labels (N,H,W), weights (K,) of logits' type → (1,) or (2,).
    """
    if terms.pixel == "focal":
        return _focal(logits, labels, weights, terms.focal_gamma)[None]
    if terms.pixel == "ohem":
        return _ohem(logits, labels, weights, terms)
    return cross_entropy(
        logits,
        labels,
        weight=weights,
        ignore_index=IGNORE,
        reduction="sum",
        label_smoothing=terms.label_smoothing,
    )[None]


def _focal(logits: Tensor, labels: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """Σ w·(1 − p)^γ·(−log p), p the softmax's probability of the label. Source: Lin et al. 2017, equation 5.

    Between two classes this is the paper's sigmoid form. The sigmoid of each class against all others, which mmseg and
    smp have for more classes, would train other probabilities than those that the product tells.
    """
    known = labels != IGNORE
    safe = torch.where(known, labels, 0)
    log = logits.log_softmax(dim=1).gather(1, safe[:, None])[:, 0]
    # Where p is 1, a γ below 1 has an endless slope.
    missed = (-torch.expm1(log)).clamp_min(torch.finfo(log.dtype).tiny ** 0.5)
    losses = -weights[safe] * missed.pow(gamma) * log
    return torch.where(known, losses, 0.0).sum()


def _ohem(logits: Tensor, labels: Tensor, weights: Tensor, terms: Terms) -> Tensor:
    known = labels != IGNORE
    safe = torch.where(known, labels, 0)
    with torch.no_grad():
        probability = logits.softmax(dim=1).gather(1, safe[:, None])[:, 0]
        kept = hard_pixels(probability, known, below=terms.ohem_threshold, least=terms.ohem_min_kept)
    losses = cross_entropy(
        logits,
        labels,
        weight=weights,
        ignore_index=IGNORE,
        reduction="none",
        label_smoothing=terms.label_smoothing,
    )
    return torch.stack([torch.where(kept, losses, 0.0).sum(), torch.where(kept, weights[safe], 0.0).sum()])
