"""What no weight of a network can be."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from aerial_seg.printable import shortened


def problem_of_weights(weights: Mapping[str, torch.Tensor]) -> str | None:
    """The first thing that is wrong with the numbers of these weights, with its name; None where nothing is."""
    for name, weight in weights.items():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            return f"NaN or infinite numbers in {shortened(name)}"
        # Batch normalisation divides by its root.
        if name.endswith("running_var") and bool((weight < 0).any()):
            return f"a negative variance in {shortened(name)}"
    return None
