"""Networks that no recipe builds."""

from __future__ import annotations

from torch import Tensor, nn

from aerial_seg.models.network import Network
from aerial_seg.tiling.geometry import ModelGeometry


class Small(Network):
    """Three convolutions at a quarter of the resolution, dropout between them."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.geometry = ModelGeometry(4, 4, 4)
        self.layers = plain(classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.layers(image)
        return logits


def plain(classes: int = 2) -> nn.Module:
    """The same as a module of torch's."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.1),
        nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1),
    )  # fmt: skip
