"""Networks of which only the shapes are known: for counting and checking, without a weight being allocated."""

from __future__ import annotations

import torch

from aerial_seg.models.build import build_network
from aerial_seg.models.network import Network
from aerial_seg.recipe.model import ModelSettings


def build_on_meta(settings: ModelSettings, *, bands: int, classes: int) -> Network:
    """A new network on torch's meta device, in evaluation mode. Raises SettingsError as build_network does."""
    bare = settings.model_copy(update={"weights": "none"})
    try:
        with torch.device("meta"):
            network = build_network(bare, bands=bands, classes=classes)
    except RuntimeError:
        # Some encoders compute with values while they are built, as the rates of stochastic depth.
        network = build_network(bare, bands=bands, classes=classes).to("meta")
    return network.eval()
