"""A few updates of a small network whose batch norms normalise in one of the ways that a recipe can ask for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aerial_seg.recipe.batch_norm import BatchNormSettings
from aerial_seg.training.batch_norm.training_norms import training_norms
from aerial_seg.training.fabric import open_fabric
from aerial_seg.training.processes import count, rank, sum_over_processes

WAYS = {
    "averaged": BatchNormSettings(statistics="averaged", decay=0.7),
    "plain": BatchNormSettings(synchronised=False, momentum=0.3),
    "synchronised": BatchNormSettings(momentum=0.3),
}
STEPS, RATE, SHARES = 3, 0.2, 2


def layers() -> nn.Sequential:
    """Convolution, norm, ReLU, norm, convolution in float64; the second norm has statistics, the first has none yet."""
    torch.manual_seed(4)
    made = nn.Sequential(
        nn.Conv2d(2, 3, 3, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.BatchNorm2d(3, eps=1e-3),
        nn.Conv2d(3, 2, 1),
    ).double()
    for norm in (made[1], made[3]):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    made[3].running_mean.fill_(0.25)
    made[3].running_var.fill_(2.0)
    return made


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Images and targets of a whole batch; its halves are of other means and deviations."""
    random = torch.Generator().manual_seed(step)
    image = torch.randn(4, 2, 5, 6, generator=random, dtype=torch.float64)
    image[2:] = image[2:] * 3 + 1
    return image, torch.randn(4, 2, 3, 4, generator=random, dtype=torch.float64)


def trained(ways: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """By way: the state dict after some updates of the processes that there are, and whether the norms are back."""
    found = {}
    fabric = open_fabric(torch.device("cpu"))
    for way in ways:
        network = layers()
        kinds = [type(module) for module in network]
        optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
        with training_norms(network, WAYS[way]):
            model, optimizer = fabric.setup(network, optimizer, move_to_device=False)
            for step in range(STEPS):
                image, target = (one.chunk(count())[rank()] for one in batch(step))
                optimizer.zero_grad()
                loss = (model(image) - target).square().mean()
                fabric.backward(sum_over_processes(loss) / count())
                optimizer.step()
        assert [type(module) for module in network] == kinds
        found[way] = dict(network.state_dict())
    return found
