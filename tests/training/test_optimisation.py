from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from aerial_seg.errors import SettingsError
from aerial_seg.models.build import build_network
from aerial_seg.recipe import ModelSettings, TrainingSettings
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.training.optimisation import (
    SegmentationLoss,
    WeightAverage,
    class_weight_tensor,
    learning_rate_factor,
    make_optimizer,
    make_schedule,
)

STRIDE8 = ModelGeometry(8, 8, 8)


def criterion(weight: float = 0.4, classes: int = 3) -> SegmentationLoss:
    return SegmentationLoss(STRIDE8, auxiliary_weight=weight, class_weights=torch.ones(classes))


def by_hand(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean of −log softmax over labelled pixels, in numpy, on logits upsampled to the labels."""
    full = (
        interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False).numpy().astype(float)
    )
    log = full - np.log(np.exp(full).sum(axis=1, keepdims=True))
    terms = [
        -log[n, labels[n, y, x], y, x] for n, y, x in np.ndindex(*labels.shape) if labels[n, y, x] != 255
    ]
    return float(np.mean(terms))


def test_the_loss_is_over_labelled_pixels_of_upsampled_logits() -> None:
    torch.manual_seed(0)
    logits, side = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 4, 4)
    labels = torch.randint(0, 3, (2, 16, 16))
    labels[:, :5] = 255
    expected = by_hand(logits, labels) + 0.4 * by_hand(side, labels)
    assert criterion()(logits, side, labels).item() == pytest.approx(expected, rel=1e-5)
    assert criterion()(logits, None, labels).item() == pytest.approx(by_hand(logits, labels), rel=1e-5)


def test_the_dice_share_is_one_minus_the_mean_f1_of_soft_decisions() -> None:
    torch.manual_seed(1)
    logits, labels = torch.randn(2, 3, 16, 16), torch.randint(0, 3, (2, 16, 16))
    labels[:, :5] = 255
    both = SegmentationLoss(
        ModelGeometry(1, 1, 1), auxiliary_weight=0, class_weights=torch.ones(3), dice_weight=0.5
    )
    known = labels != 255
    scores = []
    for k in range(3):
        p, t = logits.softmax(1)[:, k][known], (labels == k)[known].float()
        scores.append(2 * (p * t).sum() / (p.sum() + t.sum()))
    expected = by_hand(logits, labels) + 0.5 * (1 - torch.stack(scores).mean().item())
    assert both(logits, None, labels).item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_labels_has_loss_zero_and_a_gradient() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = criterion()(logits, None, torch.full((1, 16, 16), 255))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_class_weights_go_by_name() -> None:
    assert class_weight_tensor({"b": 3.0}, ["a", "b"]).tolist() == [1, 3]
    with pytest.raises(SettingsError, match="did you mean 'road'"):
        class_weight_tensor({"raod": 2.0}, ["road"])


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
