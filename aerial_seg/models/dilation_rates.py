"""How far convolutions look, kept while the network around them is made to stride differently."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from aerial_seg.errors import SettingsError
from aerial_seg.models.backbone.deformable import DeformableConv
from aerial_seg.models.backbone.dilation import set_rate

_PROBE = 512
"""Side of the image that shows how dense a convolution's input is; more than the largest stride."""


def keep_reach(network: nn.Module, change: Callable[[], None], *, bands: int) -> None:
    """After `change` of the network's strides the rate of each convolution is the old one times its input's density.

    A convolution whose input has become twice as dense looks equally far in pixels. Raises SettingsError for rates
    that would be no whole numbers; all rates are the old ones then.
    """
    before = _input_strides(network, bands)
    change()
    now = _input_strides(network, bands)
    rates: list[tuple[nn.Conv2d, int, float]] = []
    for name, conv in _convolutions(network).items():
        if name not in before or set(conv.kernel_size) == {1}:
            continue
        rate, rest = divmod(int(conv.dilation[0]) * before[name], now[name])
        if rest:
            raise SettingsError(
                f"the network cannot look equally far at that output stride: the rate {conv.dilation[0]} "
                f"of {name} would become {conv.dilation[0] * before[name] / now[name]:g}; use a protocol without "
                "output_stride, or train a model at that stride"
            )
        rates.append((conv, rate, before[name] / now[name]))
    for conv, rate, density in rates:
        set_rate(conv, rate)
        if isinstance(conv, DeformableConv):
            conv.reach *= density


def _convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}


def _input_strides(network: nn.Module, bands: int) -> dict[str, int]:
    """Pixels per input cell of every convolution that a forward calls, by its name."""
    strides: dict[str, int] = {}
    was_training = network.training
    # Shapes alone are wanted: nothing is computed.
    with ExitStack() as hooks, FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for name, conv in _convolutions(network).items():

            def note(_: nn.Module, inputs: tuple[Tensor], name: str = name) -> None:
                strides[name] = round(_PROBE / int(inputs[0].shape[-1]))

            hooks.callback(conv.register_forward_pre_hook(note).remove)
        first = next(network.parameters())
        network.eval()(torch.zeros(1, bands, _PROBE, _PROBE, dtype=first.dtype, device=first.device))
    network.train(was_training)
    return strides
