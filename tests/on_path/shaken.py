"""Networks whose batch norms do something: fresh ones scale by 1 and add 0, and a mistake with them is not seen."""

from __future__ import annotations

from torch import nn


def shake_norms(network: nn.Module) -> None:
    """The batch norms have random gamma, beta, mean and variance, from torch's generator, and have counted batches."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.3, 0.9)
            module.bias.data.normal_(std=0.3)
            assert module.running_mean is not None
            assert module.running_var is not None
            assert module.num_batches_tracked is not None
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2.0)
            module.num_batches_tracked.fill_(7)
