"""The order of chips is a permutation whatever their number, another one each time, and no place is favoured."""

from __future__ import annotations

import sys
import tracemalloc
from collections import Counter
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from aerial_seg.errors import SettingsError
from aerial_seg.recipe.crops import AugmentationSettings
from aerial_seg.training.samples.draws import draw
from aerial_seg.training.samples.numbers import key_of, mix, uniforms
from aerial_seg.training.samples.order import ChipOrder

SEEDS = st.integers(0, 2**63 - 1)


@given(chips=st.integers(1, 700), seed=SEEDS, turn=st.integers(0, 10**6))
def test_every_turn_takes_every_chip_once(chips: int, seed: int, turn: int) -> None:
    order = ChipOrder(chips, seed)
    assert sorted(order.chip_of(turn * chips + k) for k in range(chips)) == list(range(chips))


@pytest.mark.parametrize("chips", [1, 2, 3, 4, 5, 15, 16, 17, 1023, 1024, 1025, 4096])
def test_powers_of_two_and_their_neighbours_are_permuted_too(chips: int) -> None:
    order = ChipOrder(chips, 7)
    assert sorted(map(order.chip_of, range(chips))) == list(range(chips))
    assert sorted(map(order.chip_of, range(3 * chips, 4 * chips))) == list(range(chips))


@given(chips=st.integers(20, 10**9), seed=SEEDS)
def test_seeds_and_turns_have_orders_of_their_own(chips: int, seed: int) -> None:
    def beginning(seed: int, turn: int) -> list[int]:
        return [ChipOrder(chips, seed).chip_of(turn * chips + k) for k in range(20)]

    orders = [beginning(seed, 0), beginning(seed, 1), beginning(seed ^ 1, 0), beginning(seed ^ 1, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(0 <= chip < chips for order in orders for chip in order)


@pytest.mark.parametrize("chips", [2, 3, 4, 5])
def test_all_orders_of_few_chips_are_equally_frequent(chips: int) -> None:
    tried = 6000
    seen = Counter(
        tuple(ChipOrder(chips, turn % 60).chip_of(turn // 60 * chips + k) for k in range(chips))
        for turn in range(tried)
    )
    expected = tried / len(list(permutations(range(chips))))
    statistic = sum((seen[order] - expected) ** 2 / expected for order in permutations(range(chips)))
    assert statistic < chi2.ppf(0.9999, tried / expected - 1)


@pytest.mark.parametrize("chips", [48, 64, 1000])
def test_no_chip_prefers_a_place_and_no_chip_follows_another(chips: int) -> None:
    turns, parts = 200, 8
    counts = np.zeros((parts, parts), int)
    follows = 0
    for turn in range(turns):
        order = [ChipOrder(chips, 5).chip_of(turn * chips + k) for k in range(chips)]
        places = np.arange(chips) * parts // chips
        np.add.at(counts, (places, np.array(order) * parts // chips), 1)
        follows += int((np.diff(order) == 1).sum())
    expected = turns * chips / parts**2
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert chi2.ppf(1e-6, (parts - 1) ** 2) < statistic < chi2.ppf(0.9999, parts**2)
    assert follows < 2 * turns


def test_a_run_without_chips_is_refused() -> None:
    with pytest.raises(SettingsError, match="0 chips"):
        ChipOrder(0, 0)


def test_mixing_is_a_bijection_that_known_numbers_hold_fast() -> None:
    """The first numbers of SplitMix64 from the seed 1234567, as its author's reference code prints them."""
    wanted = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    step = 0x9E3779B97F4A7C15
    assert [mix((1234567 + k * step) % 2**64) for k in (1, 2, 3)] == wanted
    assert uniforms(1234567, 3) == [number // 2**11 / 2**53 for number in wanted]
    assert len({key_of(*parts) for parts in ((), (0,), (0, 0), (0, 1), (1, 0), (1,))}) == 6


def test_numbers_of_neighbouring_samples_are_uniform_and_have_nothing_to_do_with_each_other() -> None:
    drawn = np.array([uniforms(key_of(3, 2, index), 6) for index in range(4000)])
    assert ((drawn >= 0) & (drawn < 1)).all()
    counts = np.stack([np.histogram(column, 20, (0, 1))[0] for column in drawn.T])
    assert (((counts - 200) ** 2 / 200).sum(axis=1) < chi2.ppf(0.99999, 19)).all()
    beside = np.corrcoef(np.concatenate([drawn[:-1], drawn[1:]], axis=1).T) - np.eye(12)
    assert np.abs(beside).max() < 0.08


def test_a_sample_of_a_billion_chips_is_found_with_the_work_and_the_memory_of_one_of_ten() -> None:
    """Fifty microseconds are the bar, by hand (tests/speed/training_loader.py); here steps and bytes are counted."""

    def work(chips: int) -> tuple[int, int]:
        """Lines and calls that Python runs for 100 samples, and the bytes that they take at most."""
        order, settings, steps = ChipOrder(chips, 1), AugmentationSettings(), [0]

        def count(*_: object) -> Any:
            steps[0] += 1
            return count

        before = sys.gettrace()
        tracemalloc.start()
        sys.settrace(count)
        try:
            for index in range(100):
                order.chip_of(index)
                draw(1, index, settings, bands=3)
        finally:
            sys.settrace(before)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return steps[0], peak

    work(10)  # what is imported or built only once
    few, many = work(10), work(10**9)
    assert many[0] < 3 * few[0]
    assert many[1] < few[1] + 10_000
