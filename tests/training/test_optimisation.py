from __future__ import annotations

import pytest
import torch
from torch import nn

from aerial_seg.models.build import build_network
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.recipe.training import TrainingSettings
from aerial_seg.training.optimisation import (
    WeightAverage,
    learning_rate_factor,
    make_optimizer,
    make_schedule,
)


def test_poly_starts_at_one_ends_above_zero_and_warms_up() -> None:
    plain = TrainingSettings(iterations=100, power=0.9)
    factors = [learning_rate_factor(i, plain) for i in range(100)]
    assert factors[0] == 1
    assert factors[50] == pytest.approx(0.5**0.9)
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(0.01**0.9)
    warm = TrainingSettings(iterations=100, warmup=9)
    assert learning_rate_factor(0, warm) == pytest.approx(0.1)
    assert learning_rate_factor(9, warm) == pytest.approx(0.91**0.9)


def test_the_first_update_uses_the_first_rate() -> None:
    """The off-by-one of the field: the rate of update i is lr·(1 − i/n)^power with i from 0."""
    settings = TrainingSettings(iterations=4, learning_rate=1.0, momentum=0.0, weight_decay=0.0, power=1.0)
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=settings.learning_rate)
    schedule = make_schedule(optimizer, settings)
    places = []
    for _ in range(4):
        optimizer.zero_grad()
        weight.sum().backward()
        optimizer.step()
        schedule.step()
        places.append(round(-weight.item(), 6))
    assert places == [1.0, 1.75, 2.25, 2.5]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_optimiser_holds_every_parameter_once(name: str) -> None:
    network = build_network(ModelSettings(head_channels=8), bands=3, classes=2)
    optimizer = make_optimizer(network, TrainingSettings(optimizer=name))
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in network.parameters())


def test_the_average_follows_the_weights_and_their_statistics() -> None:
    network = build_network(ModelSettings(head_channels=8, output_stride=32), bands=3, classes=2)
    average = WeightAverage(network, 0.5)
    name = next(iter(network.state_dict()))
    start = network.state_dict()[name].clone()
    with torch.no_grad():
        network.state_dict()[name].add_(1)
    average.update(network)  # decay (1 + 0)/(10 + 0)
    torch.testing.assert_close(average.state[name], start + 0.9)
    for _ in range(200):
        average.update(network)
    torch.testing.assert_close(average.state[name], start + 1)
