"""Test-time augmentation and turned rasters for tiles on a device: as aerial_seg.inference.tta has it on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from aerial_seg.inference.device.upsample import softmax_cells
from aerial_seg.inference.tta import Symmetry, sizes, symmetries
from aerial_seg.inference.tta_scales import ScaledTile
from aerial_seg.tiling.geometry import ModelGeometry

Run = Callable[[Tensor], Tensor]
"""Tiles (n,P,s,s) float32 → logits (n,K,h,w) float32, on their device."""


def seen_as(run: Run, orientation: Symmetry) -> Run:
    """Return one that shows the network every tile in this orientation; its logits lie on the tile as it came."""
    return lambda tiles: _undo(orientation, run(_apply(orientation, tiles)))


def averaged(run: Run, kinds: Sequence[str], *, geometry: ModelGeometry, side: int) -> Run:
    """Return `run`, or one that runs tiles in all orientations and sizes and averages their probabilities.

    It gives the logarithm of the mean; members are added in the order of aerial_seg.inference.tta.averaged.
    """
    orientations = symmetries(kinds)
    members = tuple(product((None, *sizes(kinds, geometry, side)), orientations))
    if len(members) == 1:
        return run

    @torch.inference_mode()
    def run_all(tiles: Tensor) -> Tensor:
        total: Tensor | None = None
        for size, orientation in members:
            resized = tiles if size is None else _resized(tiles, size, size.run_side)
            logits = _undo(orientation, run(_apply(orientation, resized)))
            if size is not None:
                logits = _resized(logits, size, geometry.cells(side))
            probabilities = softmax_cells(logits)
            total = probabilities if total is None else total.add_(probabilities)
        assert total is not None
        return log_of_mean(total, len(members))

    return run_all


def log_of_mean(total: Tensor, count: int) -> Tensor:
    """Return the logarithm of the mean of `count` probabilities whose sum this is; the sum is changed."""
    return total.div_(count).clamp_(min=torch.finfo(torch.float32).tiny).log_()


def _apply(orientation: Symmetry, tiles: Tensor) -> Tensor:
    turned = torch.rot90(tiles, orientation.turns, (2, 3))
    return turned.flip(3) if orientation.mirrored else turned


def _undo(orientation: Symmetry, logits: Tensor) -> Tensor:
    unmirrored = logits.flip(3) if orientation.mirrored else logits
    return torch.rot90(unmirrored, -orientation.turns, (2, 3))


def _resized(planes: Tensor, size: ScaledTile, side: int) -> Tensor:
    return interpolate(
        planes.contiguous(), size=(side, side), mode="bilinear", align_corners=size.geometry.align_corners
    )
