"""Batch norms that stand for a network's own ones in training, and normalise by something else than their own batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aerial_seg.training.processes import count, from_the_first, rank, sum_over_processes


class Twin(nn.Module):
    """Hold the tensors of a batch norm under their names, so a state dict does not tell which of the two there is.

    In evaluation it does what the norm does. Statistics are in float32 at least, the result in the input's type.
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
            normalised = self._by_running(values)
        if self.weight is not None:
            normalised = normalised * _per_channel(self.weight, values)
        if self.bias is not None:
            normalised = normalised + _per_channel(self.bias, values)
        result = normalised.to(features.dtype)
        for child in self.children():
            result = child(result)
        return result

    def _by_batch(self, values: Tensor) -> Tensor:
        raise NotImplementedError

    def _by_running(self, values: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        scale = torch.rsqrt(self.running_var + self.eps)
        return (values - _per_channel(self.running_mean, values)) * _per_channel(scale, values)

    def _remember(self, mean: Tensor, variance: Tensor, *, whole: bool = False) -> None:
        """Take a batch's mean and unbiased variance into the running ones; whole: in place of them."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, now in ((self.running_mean, mean), (self.running_var, variance)):
            running.lerp_(now.to(running.dtype), 1.0 if whole else share)


class SyncBatchNorm(Twin):
    """Normalise by mean and variance of the pixels of all processes. torch's own raises an error on a CPU.

    Processes may hold batches of different sizes.
    Source: Ioffe and Szegedy 2015; running statistics as torch has them: the variance unbiased, over all processes.
    """

    def _by_batch(self, values: Tensor) -> Tensor:
        axes = [axis for axis in range(values.dim()) if axis != 1]
        if not self.training:
            # Without running statistics: one process validates, and the others would not answer.
            variance, mean = torch.var_mean(values, axes, correction=0)
            return (values - _per_channel(mean, values)) * _per_channel(
                torch.rsqrt(variance + self.eps), values
            )
        _require_variance(values, count())
        own = values.new_full((1,), values.numel() / values.shape[1])
        # The mean first and deviations from it afterwards: sums of squares would lose the digits that matter.
        sums = sum_over_processes(torch.cat([values.sum(axes), own]))
        pixels = sums[-1].detach()
        mean = sums[:-1] / pixels
        centred = values - _per_channel(mean, values)
        variance = sum_over_processes(centred.square().sum(axes)) / pixels
        self._remember(mean.detach(), variance.detach() * (pixels / (pixels - 1)))
        return centred * _per_channel(torch.rsqrt(variance + self.eps), values)


class AveragedBatchNorm(Twin):
    """Normalise by the running mean and variance in training, too, as constants that no gradient passes through.

    Each forward takes the first process's batch into them beforehand, and all processes have them from there. Where
    they are as they were made (mean 0, variance 1), the first batch takes their place whole: they tell nothing yet.
    Source: see BatchNormSettings. The variance is unbiased, as torch's running one is.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm)
        self._begins = not has_statistics(self)

    def _by_batch(self, values: Tensor) -> Tensor:
        _require_variance(values, 1)
        if rank() == 0:
            axes = [axis for axis in range(values.dim()) if axis != 1]
            variance, mean = torch.var_mean(values.detach(), axes)
            self._remember(mean, variance, whole=self._begins)
        elif self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        self._begins = False
        for running in (self.running_mean, self.running_var):
            assert running is not None
            from_the_first(running)
        return self._by_running(values)


def has_statistics(norm: nn.Module) -> bool:
    """Whether anything was measured for a batch norm: its running mean and variance are not as they are made."""
    mean, variance = norm.running_mean, norm.running_var
    if not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
        return False
    return bool((mean != 0).any() or (variance != 1).any())


def _require_variance(values: Tensor, processes: int) -> None:
    if values.numel() // values.shape[1] * processes < 2:
        # As torch says it; with one value the variance has no unbiased estimate.
        raise ValueError(f"Expected more than 1 value per channel when training, got {list(values.shape)}")


def _per_channel(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.view(1, -1, *(1,) * (like.dim() - 2))
