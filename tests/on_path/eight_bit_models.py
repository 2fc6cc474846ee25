"""A small network of 8 bits in which tensors are summed, pooled, enlarged and joined."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aerial_seg.bands import Band
from aerial_seg.legend import make_legend
from aerial_seg.models.eight_bits.calibrate import calibrate
from aerial_seg.models.file import ModelCard, TrainedModel
from aerial_seg.models.network import Network
from aerial_seg.recipe.document import Recipe
from aerial_seg.tiling.geometry import ModelGeometry

LAYERS = ("first", "second", "down", "last")


class Joined(Network):
    """A residual sum, and a pooled tensor joined to an enlarged one: all that shares ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.geometry = ModelGeometry(2, 2, 4)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second, self.down = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 2, stride=2)
        self.last = nn.Conv2d(16, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        """image (N,C,H,W) → logits (N,K,H/2,W/2)."""
        wide = torch.relu(self.norm(self.first(image)))
        wide = torch.relu(self.second(wide) + wide)
        low = torch.relu(self.down(torch.max_pool2d(wide, 2)))
        low = nn.functional.interpolate(low, scale_factor=2, mode="nearest")
        logits: Tensor = self.last(torch.cat([torch.max_pool2d(wide, 2), low], dim=1))
        return logits


def joined() -> Joined:
    """One whose batch norm is gone."""
    torch.manual_seed(0)
    network = Joined().eval().requires_grad_(False)
    network.norm = nn.Identity()  # type: ignore[assignment]
    return network


def images(count: int = 4) -> list[Tensor]:
    return [torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(k)) for k in range(count)]


def card_of_two() -> ModelCard:
    """For two classes and three bands."""
    return ModelCard(
        tool_version="test", recipe=Recipe(), own_network="Joined", legend=make_legend({0: "no", 1: "yes"}),
        bands=tuple(Band(name=n, dtype="uint8", mean=9, std=2, p2=1, p98=20) for n in "rgb"),
        gsd=None, class_bias=(0.0, 0.0), iteration=3, validation_miou=None, data_fingerprint="f",
    )  # fmt: skip


def rounded_model(network: Network) -> TrainedModel:
    """One with all its layers of 8 bits."""
    made = calibrate(network, images(), tell=lambda: None).rounded(network, LAYERS)
    return TrainedModel(made.network, card_of_two(), "0" * 64, (), made.layers)
