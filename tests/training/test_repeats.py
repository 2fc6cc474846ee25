"""Chips of rare classes come more often, by seed and number alone, and no chip is forgotten."""

from __future__ import annotations

import math
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.errors import SettingsError
from aerial_seg.recipe.crops import SamplingSettings
from aerial_seg.training.samples.order import ChipOrder
from aerial_seg.training.samples.repeats import Repeats, repeat_factors, repeat_notes, repeats_of

FACTORS = st.lists(st.floats(1, 6), min_size=1, max_size=40)
SEEDS = st.integers(0, 2**63 - 1)


def taken(order: ChipOrder, turn: int) -> Counter[int]:
    return Counter(order.chip_of(turn * order.turn + k) for k in range(order.turn))


@given(factors=FACTORS, seed=SEEDS, turn=st.integers(0, 10**6))
def test_each_turn_takes_every_chip_its_number_of_times_rounded_down_or_up(
    factors: list[float], seed: int, turn: int
) -> None:
    order = ChipOrder(len(factors), seed, Repeats.of(factors))
    assert order.turn == math.ceil(sum(factors)) == taken(order, turn).total()
    for chip, factor in enumerate(factors):
        wanted = factor * order.turn / sum(factors)
        assert math.floor(wanted + 1e-9) <= taken(order, turn)[chip] <= math.ceil(wanted - 1e-9)


def test_on_average_a_chip_comes_as_often_as_it_should() -> None:
    factors = [1.0, 1.3, 2.5, 1.0, 3.9, 1.1]
    order = ChipOrder(6, 5, Repeats.of(factors))
    turns = 600
    seen = sum((taken(order, turn) for turn in range(turns)), Counter[int]())
    for chip, factor in enumerate(factors):
        wanted = factor * order.turn / sum(factors)
        assert seen[chip] / turns == pytest.approx(wanted, abs=4 * 0.5 / math.sqrt(turns))


@given(chips=st.integers(1, 300), seed=SEEDS, index=st.integers(0, 10**9))
def test_chips_that_all_come_once_have_the_order_that_they_had(chips: int, seed: int, index: int) -> None:
    plain, repeated = ChipOrder(chips, seed), ChipOrder(chips, seed, Repeats.of([1.0] * chips))
    assert repeated.turn == chips
    assert repeated.chip_of(index) == plain.chip_of(index)


@settings(max_examples=examples(40))
@given(factors=FACTORS, seed=SEEDS, indices=st.lists(st.integers(0, 10**12), min_size=2, max_size=9))
def test_a_sample_follows_from_seed_and_number_alone(
    factors: list[float], seed: int, indices: list[int]
) -> None:
    order = ChipOrder(len(factors), seed, Repeats.of(factors))
    once = {index: order.chip_of(index) for index in indices}
    elsewhere = pickle.loads(pickle.dumps(order))
    assert {index: elsewhere.chip_of(index) for index in reversed(indices)} == once


@given(factors=FACTORS, start=st.floats(0, 1, exclude_max=True))
@example(factors=[2.0], start=1 - 2**-53)
def test_a_chip_is_found_without_seeking(factors: list[float], start: float) -> None:
    repeats = Repeats.of(factors)
    for place in range(repeats.turn):
        chip = repeats.chip_at(place, start)
        wanted = np.searchsorted(repeats.ends, place + start, side="right")
        assert chip == min(wanted, len(factors) - 1)  # a sum may be rounded to the end
        assert chip - repeats.first[place] <= 2


@given(
    pixels=st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=12),
    threshold=st.floats(0, 1),
)
def test_factors_are_those_of_lvis(pixels: list[list[int]], threshold: float) -> None:
    wanted = []
    for chip in pixels:
        of_classes = [1.0]
        for k, own in enumerate(chip):
            share = sum(other[k] > 0 for other in pixels) / len(pixels)
            if own:
                of_classes.append(max(1.0, math.sqrt(threshold / share)))
        wanted.append(max(of_classes))
    np.testing.assert_allclose(repeat_factors(np.array(pixels), threshold), wanted)


def test_what_is_told_of_turns_is_so() -> None:
    pixels = np.array([[9, 0, 0]] * 15 + [[5, 4, 0]])
    names, threshold = ("ground", "well", "pond"), SamplingSettings(repeat_threshold=0.25)
    assert repeat_notes(threshold, names, pixels, crops=60, what="chips") == (
        "training chips that hold well (6.25 % of them) 2 times as often as others: 16 chips make 17 samples a turn, "
        "and the recipe's 60 crops are 3.53 turns",
    )
    assert repeats_of(threshold, names, pixels).turn == 17
    (said,) = repeat_notes(SamplingSettings(repeat_threshold=0.06), names, pixels, crops=60, what="chips")
    assert "all are taken equally often" in said


def test_images_of_hard_classes_come_so_many_times_and_are_counted() -> None:
    """DeepLabv3's bootstrapping: two of four images hold a hard class, one of them two; each is there twice."""
    names, pixels = (
        ("sky", "sofa", "table", "kite"),
        np.array([[9, 1, 0, 0], [9, 0, 0, 0], [0, 2, 3, 0], [5, 0, 0, 0]]),
    )
    twice = SamplingSettings(repeat_classes={"sofa": 2, "table": 2, "kite": 2})
    order = ChipOrder(4, 8, repeats_of(twice, names, pixels))
    for turn in range(20):
        assert taken(order, turn) == {0: 2, 1: 1, 2: 2, 3: 1}
    assert repeat_notes(twice, names, pixels, crops=60, what="images") == (
        "training images that hold sofa (2) 2 times, table (1) 2 times as often as others, by sampling.repeat_classes: "
        "2 of 4 images make 6 samples a turn, and the recipe's 60 crops are 10 turns",
        "no training image holds kite of sampling.repeat_classes: nothing is repeated for it",
    )
    largest = SamplingSettings(repeat_classes={"sofa": 2, "table": 5}, repeat_threshold=0.5)
    assert repeats_of(largest, names, pixels).turn == 2 + 1 + 5 + 1
    with pytest.raises(
        SettingsError, match=r"names 'sofas', which .* did you mean 'sofa'\?; known: sky, sofa"
    ):
        repeats_of(SamplingSettings(repeat_classes={"sofas": 2}), names, pixels)
    with pytest.raises(SettingsError, match=r"repeat_classes.sofa' is 0.5"):
        SamplingSettings(repeat_classes={"sofa": 0.5})


def test_what_would_forget_a_chip_is_refused() -> None:
    for factors in ([], [1.0, 0.5], [1.0, math.nan], [math.inf]):
        with pytest.raises(SettingsError, match="factors from 1 on"):
            Repeats.of(factors)
    with pytest.raises(SettingsError, match="2 chips are repeated, but there are 3"):
        ChipOrder(3, 0, Repeats.of([1.0, 2.0]))
