"""Putting other modules where a network has these."""

from __future__ import annotations

from timm.layers.norm_act import BatchNormAct2d
from torch import nn


def replace_modules(network: nn.Module, new: dict[nn.Module, nn.Module]) -> dict[nn.Module, nn.Module]:
    """The network calls the new modules wherever it called the old ones; returns the way back."""
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if module in new:
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, new[module])
    return {there: here for here, there in new.items()}


def rest_of_norm(norm: nn.Module) -> nn.Module:
    """What a batch norm does besides normalising: timm's carries its activation along."""
    if isinstance(norm, BatchNormAct2d):
        return nn.Sequential(norm.drop, norm.act)
    return nn.Identity()
