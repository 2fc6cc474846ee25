"""A trained network at another output stride: the same weights, every convolution looking as far as in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn

from aerial_seg.errors import SettingsError
from aerial_seg.models.backbone.dilation import set_rate
from aerial_seg.models.file import TrainedModel
from aerial_seg.models.network import OWN, Network, build_network
from aerial_seg.recipe import ModelSettings

_PROBE = 256
"""Side of the image that shows how dense a convolution's input is; more than the largest stride."""


def with_output_stride(model: TrainedModel, output_stride: int) -> TrainedModel:
    """The model with its network rebuilt at this output stride, in evaluation mode; its card stays that of its file.

    Every convolution keeps its reach in pixels, in the backbone and in the head: where its input is twice as dense,
    its rate is twice as large. So at a smaller stride the cells that both lattices share have the old logits, but for
    pooling over the image or its parts; and a cell keeps the place in its pixels that it was trained for (geometry's
    cell_span). The model itself where it already has that stride.

    Raises SettingsError for a network of smp's, whose stride is fixed, and for rates that would be no whole numbers.
    Source: Chen et al. 2017, Rethinking Atrous Convolution, sections 3.1 to 3.3 and 4.2.
    """
    settings = model.card.recipe.model
    if settings.architecture not in OWN:
        stride = model.network.geometry.output_stride
        raise SettingsError(
            f"output stride {output_stride} is asked for, but {settings.architecture} has {stride} and cannot be "
            f"rebuilt at another; use a protocol without output_stride (mmseg), or train one of {', '.join(OWN)}"
        )
    if settings.output_stride == output_stride:
        return model
    wanted = ModelSettings.model_validate(
        settings.model_dump() | {"output_stride": output_stride, "weights": "none"}
    )
    bands = len(model.card.bands)
    network = build_network(wanted, bands=bands, classes=len(model.card.legend))
    network.load_state_dict(model.network.state_dict(), strict=True)
    network.eval()
    _keep_reach(network, model.network, bands)
    trained = model.network.geometry
    network.geometry = replace(network.geometry, cell_span=trained.cell_span or trained.logit_stride)
    return replace(model, network=network)


def _keep_reach(network: Network, trained: Network, bands: int) -> None:
    """The rate of every convolution that the forward calls is the trained one times how much denser its input is."""
    before, now = (_input_strides(one, bands) for one in (trained, network))
    pairs = zip(_convolutions(trained), _convolutions(network), strict=True)
    for (name, old), (_, new) in pairs:
        if name not in before or old.kernel_size == (1, 1):
            continue
        rate, rest = divmod(int(old.dilation[0]) * before[name], now[name])
        if rest:
            raise SettingsError(
                f"the network cannot look equally far at output stride {network.geometry.output_stride}: the rate "
                f"{old.dilation[0]} of {name} would become {old.dilation[0] * before[name] / now[name]:g}; use a "
                "protocol without output_stride, or train a model at that stride"
            )
        set_rate(new, rate)


def _convolutions(network: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    return ((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))


def _input_strides(network: nn.Module, bands: int) -> dict[str, int]:
    """Pixels per input cell of every convolution that a forward calls, by its name."""
    strides: dict[str, int] = {}
    with ExitStack() as hooks, torch.inference_mode():
        for name, conv in _convolutions(network):

            def note(_: nn.Module, inputs: tuple[Tensor], name: str = name) -> None:
                strides[name] = _PROBE // int(inputs[0].shape[-1])

            hooks.callback(conv.register_forward_pre_hook(note).remove)
        first = next(network.parameters())
        network(torch.zeros(1, bands, _PROBE, _PROBE, dtype=first.dtype, device=first.device))
    return strides
