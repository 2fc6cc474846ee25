"""Cells that training stretched over its crops, put where a lattice that many tiles share has its cells."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from aerial_seg.models.network import Network
from aerial_seg.recipe.model import ModelSettings


class PlacedNetwork(Network):
    """Run a network whose cells were stretched over its crops, and read its logits at pixels 0, s, 2s, …

    Cell i of a tile lies where ModelGeometry.cell_places says, which depends on how far the tile's edges are; between
    two cells logits are linear, outside the outermost they stay. So neighbouring tiles speak of the same pixels.
    """

    def __init__(self, base: Network) -> None:
        super().__init__()
        self.base = base
        self.geometry = base.geometry.of_tiles

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W), sides s·n + 1 → logits (N,K,h,w) float32, cell i at pixel s·i."""
        logits: Tensor = self.base(image).float()
        for axis in (2, 3):
            low, high, share = (one.to(logits.device) for one in self._between(logits.shape[axis]))
            share = share.reshape((-1, 1) if axis == 2 else (-1,))
            logits = logits.index_select(axis, low) * (1 - share) + logits.index_select(axis, high) * share
        return logits

    def _between(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of every cell of the tiles' lattice the two of the network around it, and its share of the second."""
        pixels = self.geometry.logit_stride * np.arange(count)
        at = np.interp(pixels, self.base.geometry.cell_places(count), np.arange(count))
        low = np.floor(at).astype(np.int64)
        high = np.minimum(low + 1, count - 1)
        return torch.from_numpy(low), torch.from_numpy(high), torch.from_numpy((at - low).astype(np.float32))

    @property
    def runs_whole(self) -> bool:
        """As the network that it runs."""
        return self.base.runs_whole

    @property
    def run_once(self) -> nn.Module:
        """As the network's that it runs."""
        return self.base.run_once

    @property
    def name(self) -> str:
        """As the network's that it runs."""
        return self.base.name

    def drop_training_parts(self) -> None:
        """The auxiliary head is gone."""
        self.base.drop_training_parts()


def for_tiles(network: Network) -> Network:
    """The network as its tiles are stitched: itself, or placed where its training stretched its cells."""
    return network if network.geometry.stretched_side is None else PlacedNetwork(network)


def untold_stretching(name: str, settings: ModelSettings, data: str) -> tuple[str, ...]:
    """Note of a model called `name` that an older version imported without saying where its cells lie.

    data: its card's data_fingerprint.
    """
    if settings.stretched_side is not None or not data.startswith("imported from deeplab-pytorch"):
        return ()
    return (
        f"{name} was imported by a version that did not know how deeplab-pytorch stretches cells over its crops, so "
        "its maps lie up to 4 px off; import the checkpoint again",
    )
