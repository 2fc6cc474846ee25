"""Networks whose first weights nobody reads: of some only the shapes count, others are filled from a file at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

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


def build_to_fill(settings: ModelSettings, *, bands: int, classes: int) -> Network:
    """A new network in training mode, whose parameters hold whatever lay in memory until a state dict fills them all.

    Drawing them is four fifths of building a network. Buffers are as build_network makes them. Raises SettingsError as
    build_network does.
    """
    with _ParametersNotDrawn():
        return build_network(settings.model_copy(update={"weights": "none"}), bands=bands, classes=classes)


class _ParametersNotDrawn(TorchFunctionMode):
    """What would give a parameter random numbers leaves it as it is, in this thread alone."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        is_init = getattr(func, "__module__", None) == nn.init.__name__
        if is_init or getattr(func, "__name__", None) in ("uniform_", "normal_"):
            drawn = args[0] if args else named.get("tensor")
            if type(drawn) is nn.Parameter:
                return drawn
        return func(*args, **named)
