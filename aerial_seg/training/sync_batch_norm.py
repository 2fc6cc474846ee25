"""Batch normalisation over the batches of all processes. torch's own raises an error on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aerial_seg.errors import SettingsError
from aerial_seg.models.replace import replace_modules
from aerial_seg.training.processes import count, sum_over_processes

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class SyncBatchNorm(nn.Module):
    """Normalise by mean and variance of the pixels of all processes; else what the batch norm does that it stands for.

    It holds the same tensors under the same names, so a state dict does not tell which of the two a network had.
    Processes may hold batches of different sizes. Statistics are in float32 at least, the result in the input's type.
    Source: Ioffe and Szegedy 2015; running statistics as torch has them: the variance unbiased, over all processes.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.eps, self.momentum = norm.eps, norm.momentum
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(norm, name))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        # timm's norms bring dropout and activation along, run in this order.
        for name, child in norm.named_children():
            self.add_module(name, child)
        self.train(norm.training)

    def forward(self, features: Tensor) -> Tensor:
        """features (N,C,…) → the same shape and type."""
        values = features.float() if features.dtype in (torch.bfloat16, torch.float16) else features
        if self.training or self.running_mean is None or self.running_var is None:
            normalised = self._by_batch(values)
        else:
            scale = torch.rsqrt(self.running_var + self.eps)
            normalised = (values - _per_channel(self.running_mean, values)) * _per_channel(scale, values)
        if self.weight is not None:
            normalised = normalised * _per_channel(self.weight, values)
        if self.bias is not None:
            normalised = normalised + _per_channel(self.bias, values)
        result = normalised.to(features.dtype)
        for child in self.children():
            result = child(result)
        return result

    def _by_batch(self, values: Tensor) -> Tensor:
        axes = [axis for axis in range(values.dim()) if axis != 1]
        if self.training and values.numel() // values.shape[1] * count() < 2:
            # As torch says it; with one value the variance has no unbiased estimate.
            raise ValueError(
                f"Expected more than 1 value per channel when training, got {list(values.shape)}"
            )
        own = values.new_full((1,), values.numel() / values.shape[1])
        # The mean first and deviations from it afterwards: sums of squares would lose the digits that matter.
        sums = sum_over_processes(torch.cat([values.sum(axes), own]))
        pixels = sums[-1].detach()
        mean = sums[:-1] / pixels
        centred = values - _per_channel(mean, values)
        variance = sum_over_processes(centred.square().sum(axes)) / pixels
        if self.training:
            self._remember(mean.detach(), variance.detach(), pixels)
        return centred * _per_channel(torch.rsqrt(variance + self.eps), values)

    def _remember(self, mean: Tensor, variance: Tensor, pixels: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * (pixels / (pixels - 1))
        for running, now in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.lerp_(now.to(running.dtype), share)


def _per_channel(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.view(1, -1, *(1,) * (like.dim() - 2))


@contextmanager
def synchronised(network: nn.Module) -> Iterator[None]:
    """Inside, every batch norm of the network normalises over all processes; afterwards it has its own ones back.

    One process alone keeps its own, which are faster.

    Raises SettingsError for a kind of batch norm that is not known here.
    """
    if count() == 1:
        yield
        return
    norms: dict[nn.Module, nn.Module] = {}
    for name, module in network.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        if type(module) not in (*_PLAIN, BatchNormAct2d):
            raise SettingsError(
                f"{name} is a {type(module).__name__}, which several processes cannot share; train in one process, or "
                "use torch's BatchNorm2d or GroupNorm"
            )
        norms[module] = SyncBatchNorm(module)
    back = replace_modules(network, norms)
    try:
        yield
    finally:
        for ours, theirs in back.items():
            theirs.train(ours.training)
        replace_modules(network, back)
