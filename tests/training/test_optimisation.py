from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LinearLR, LRScheduler, MultiStepLR, PolynomialLR, SequentialLR

from aerial_seg.errors import SettingsError
from aerial_seg.models.build import build_network
from aerial_seg.recipe.model import ModelSettings
from aerial_seg.recipe.training import TrainingSettings
from aerial_seg.training.optimisation import (
    WeightAverage,
    base_rate,
    learning_rate_factor,
    make_schedule,
    warmup_notes,
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
    chosen = TrainingSettings(iterations=4, learning_rate=1.0, momentum=0.0, weight_decay=0.0, power=1.0)
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=chosen.learning_rate)
    schedule = make_schedule(optimizer, chosen)
    places = []
    for _ in range(4):
        optimizer.zero_grad()
        weight.sum().backward()
        optimizer.step()
        schedule.step()
        places.append(round(-weight.item(), 6))
    assert places == [1.0, 1.75, 2.25, 2.5]


def followed(schedule: LRScheduler, updates: int) -> list[float]:
    """The rates of one of torch's schedules, update by update."""
    rates = []
    for _ in range(updates):
        rates.append(float(schedule.get_last_lr()[0]))
        schedule.optimizer.step()
        schedule.step()
    return rates


def sgd(rate: float) -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=rate)


POWERS, LENGTHS = st.floats(0.3, 3), st.integers(1, 40)


@settings(max_examples=examples(40))
@given(iterations=LENGTHS, power=POWERS, warmup=st.integers(1, 30), start=st.floats(1e-6, 1))
def test_rates_are_those_of_torchs_own_schedules(
    iterations: int, power: float, warmup: int, start: float
) -> None:
    """Poly alone; poly after a rise, as torchvision chains them; poly times a rise, the default's too."""
    plain = TrainingSettings(iterations=iterations, power=power, learning_rate=0.02)
    ours = [base_rate(i, plain) for i in range(iterations)]
    wanted = followed(PolynomialLR(sgd(0.02), total_iters=iterations, power=power), iterations)
    assert ours == pytest.approx(wanted, rel=1e-9)

    whole = iterations + warmup
    after = TrainingSettings(
        iterations=whole,
        power=power,
        warmup=warmup,
        warmup_factor=start,
        poly_from="warmup",
        learning_rate=0.02,
    )
    optimizer = sgd(0.02)
    rise = LinearLR(optimizer, start_factor=start, total_iters=warmup)
    chained = SequentialLR(
        optimizer, [rise, PolynomialLR(optimizer, total_iters=iterations, power=power)], milestones=[warmup]
    )
    assert [base_rate(i, after) for i in range(whole)] == pytest.approx(followed(chained, whole), rel=1e-9)

    for factor in (start, None):
        beside = TrainingSettings(iterations=whole, power=power, warmup=warmup, warmup_factor=factor)
        rising = followed(
            LinearLR(sgd(1.0), start_factor=factor or 1 / (warmup + 1), total_iters=warmup), whole
        )
        falling = followed(PolynomialLR(sgd(1.0), total_iters=whole, power=power), whole)
        wanted = [a * b for a, b in zip(rising, falling, strict=True)]
        assert [learning_rate_factor(i, beside) for i in range(whole)] == pytest.approx(wanted, rel=1e-9)


class EveryTen(LRScheduler):
    """deeplab-pytorch's schedule by its formula: a new rate where the number of updates is a multiple of ten."""

    def get_lr(self) -> list[float | torch.Tensor]:
        if self.last_epoch == 0 or self.last_epoch % 10 != 0:
            return [group["lr"] for group in self.optimizer.param_groups]
        return [rate * (1 - self.last_epoch / 57) ** 0.9 for rate in self.base_lrs]


def test_poly_in_steps_is_that_of_deeplab_pytorch() -> None:
    chosen = TrainingSettings(iterations=57, learning_rate=2.5e-4, rate_every=10)
    rates = [base_rate(i, chosen) for i in range(57)]
    assert rates == pytest.approx(followed(EveryTen(sgd(2.5e-4)), 57), rel=1e-12)
    assert len(set(rates)) == 6


@pytest.mark.parametrize("poly_from", ["first", "warmup"])
@pytest.mark.parametrize(("warmup", "told"), [(3, False), (4, True), (9, True)])
def test_a_run_as_short_as_its_warm_up_rises_to_its_end_and_says_so(
    poly_from: Any, warmup: int, told: bool
) -> None:
    """The scheduler asks for a rate behind the last update, too, where nothing is left for poly to fall over."""
    chosen = TrainingSettings(iterations=4, warmup=warmup, poly_from=poly_from, power=1, learning_rate=0.02)
    optimizer = sgd(0.02)
    rates = followed(make_schedule(optimizer, chosen), 4)
    beside = [1 - i / 4 if poly_from == "first" else 1 for i in range(4)]
    wanted = [0.02 * (i + 1) / (warmup + 1) * poly for i, poly in enumerate(beside)]
    assert rates == pytest.approx(wanted, rel=1e-9)
    notes = warmup_notes(chosen)
    assert bool(notes) == told
    assert not told or f"never comes to 0.02, and is {rates[-1]:.3g} in the last" in notes[0]


@settings(max_examples=examples(40))
@given(data=st.data(), iterations=st.integers(2, 60), gamma=st.floats(0.01, 1), warmup=st.integers(1, 9))
def test_steps_are_those_of_torchs_multi_step_schedule(
    data: st.DataObject, iterations: int, gamma: float, warmup: int
) -> None:
    """Two milestones that are one update fall twice there, as in torch's counter of milestones."""
    numbers = data.draw(
        st.lists(st.integers(1, iterations - 1), min_size=1, max_size=5, unique=True).map(sorted)
    )
    shares = [number / iterations for number in numbers]
    told: dict[str, Any] = {"schedule": "step", "milestones": shares, "learning_rate": 0.02}
    chosen = TrainingSettings(iterations=iterations, step_factor=gamma, **told)
    wanted = followed(MultiStepLR(sgd(0.02), numbers, gamma=gamma), iterations)
    assert [base_rate(i, chosen) for i in range(iterations)] == pytest.approx(wanted, rel=1e-9)

    rising = followed(LinearLR(sgd(1.0), start_factor=1 / (warmup + 1), total_iters=warmup), iterations)
    usual = TrainingSettings(iterations=iterations, warmup=warmup, **told)
    falling = followed(MultiStepLR(sgd(1.0), numbers), iterations)  # of torch's own factor
    wanted = [a * b for a, b in zip(rising, falling, strict=True)]
    assert [learning_rate_factor(i, usual) for i in range(iterations)] == pytest.approx(wanted, rel=1e-9)


def test_each_step_may_have_a_factor_of_its_own_and_a_shorter_run_falls_as_often() -> None:
    """tensorpack's DeepLab: 2.5e-4, then 1e-4, 1e-5 and 8e-6 after epochs 2, 4 and 6 of 10."""
    for epoch in (5640, 10):
        chosen = TrainingSettings(
            iterations=10 * epoch,
            learning_rate=2.5e-4,
            schedule="step",
            milestones=(0.2, 0.4, 0.6),
            step_factor=(0.4, 0.1, 0.8),
        )
        rates = [base_rate(i, chosen) for i in range(10 * epoch)]
        wanted = [2.5e-4] * 2 * epoch + [1e-4] * 2 * epoch + [1e-5] * 2 * epoch + [8e-6] * 4 * epoch
        assert rates == pytest.approx(wanted, rel=1e-9)


@settings(max_examples=examples(40))
@given(iterations=LENGTHS, power=POWERS, end=st.floats(1e-6, 0.01))
def test_an_end_rate_is_mmsegs_least_and_ssegs_share(iterations: int, power: float, end: float) -> None:
    """mmengine goes from one rate to the next: the distance to the least one shrinks by a factor each time."""
    absolute = TrainingSettings(iterations=iterations, power=power, learning_rate=0.01, end_rate=end)
    rate, wanted = 0.01, []
    for i in range(1, iterations + 1):
        wanted.append(rate)
        rate = (rate - end) * (1 - 1 / (iterations - i + 1)) ** power + end
    ours = [base_rate(i, absolute) for i in range(iterations)]
    assert ours == pytest.approx(wanted, rel=1e-9)
    assert all(rate >= end for rate in ours)
    share = TrainingSettings(
        iterations=iterations, power=power, learning_rate=0.01, end_rate_factor=end / 0.01
    )
    assert [base_rate(i, share) for i in range(iterations)] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"end_rate": 1e-4, "end_rate_factor": 0.01}, "both say where the rate ends"),
        ({"end_rate": 0.02}, "end_rate is 0.02, above learning_rate 0.01"),
        ({"warmup_factor": 0.1}, "warmup_factor is 0.1, but warmup is 0 updates"),
        ({"poly_from": "warmup"}, 'poly_from is "warmup", but warmup is 0 updates'),
        ({"schedule": "step"}, 'schedule is "step", wanted milestones with it'),
        ({"schedule": "step", "milestones": [0.5, 0.5]}, "milestones are [0.5, 0.5], wanted each later than"),
        (
            {"schedule": "step", "milestones": [0.5], "step_factor": [0.1, 0.2]},
            "step_factor has 2 factors and milestones are 1; give a factor for each milestone, or one number",
        ),
        (
            {"schedule": "step", "milestones": [0.5, 60000], "iterations": 90000},
            "milestones has 60000, wanted shares of the iterations, between 0 and 1; write 60000 / 90000 = 0.666667",
        ),
    ],
)
def test_rates_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        TrainingSettings(**changes)


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
