"""No ground is in two splits, every split that was asked for is filled, and a seed gives one answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from laws import examples
from shapely import box

from aerial_seg.errors import SettingsError
from aerial_seg.jobs.tile.shares import Share, named_splits, parse_share
from aerial_seg.jobs.tile.splits.ground import overlapping
from aerial_seg.jobs.tile.splits.spread import Units, choose_folds, choose_parts
from aerial_seg.training.validation.ground import touching

NONE = Share()
RANKS = {"train": 0, "val": 1, "test": 2}


def grid(rows: int, cols: int) -> tuple[list[tuple[int, int]], list[Any]]:
    """Blocks side by side, and their outlines."""
    cells = [(row, col) for row in range(rows) for col in range(cols)]
    return cells, [box(col, -row - 1, col + 1, -row) for row, col in cells]


def gathered(units: Sequence[Any], places: Sequence[Any] | None = None, counts: Any = None) -> Units:
    places = [box(k, 0, k + 1, 1) for k in range(len(units))] if places is None else places
    counts = np.ones((len(units), 2), np.int64) if counts is None else counts
    return Units.of(units, counts, places, touching(places))


def choose(units: Units, *, val: float = 0.2, test: float = 0.2, seed: int = 0) -> dict[Any, str]:
    return choose_parts(units, {"val": val, "test": test}, seed=seed)


@given(
    units=st.lists(st.integers(0, 12), min_size=3, max_size=60),
    val=st.floats(0.01, 0.6),
    test=st.floats(0.01, 0.39),
    seed=st.integers(0, 9),
)
def test_every_split_gets_a_unit(units: list[int], val: float, test: float, seed: int) -> None:
    assume(len(set(units)) >= 3)
    chosen = choose(gathered(units), val=val, test=test, seed=seed)
    assert set(chosen.values()) == {"val", "test"}
    assert set(chosen) < set(units)


@given(count=st.integers(20, 80), val=st.floats(0.1, 0.3), test=st.floats(0.1, 0.3))
def test_fractions_are_met_within_a_unit(count: int, val: float, test: float) -> None:
    found = list(choose(gathered(range(count)), val=val, test=test).values())
    assert found.count("val") == pytest.approx(val * count, abs=1)
    assert found.count("test") == pytest.approx(test * count, abs=1)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=4, max_size=20),
    share=st.floats(0.05, 0.5),
    seed=st.integers(0, 9),
)
def test_no_unit_takes_a_split_further_from_its_fraction(sizes: list[int], share: float, seed: int) -> None:
    """Of 10 chips in units of 4, 4, 1 and 1 a validation of 15 % was 40 %, whenever a unit of 4 came first."""
    units = [unit for unit, size in enumerate(sizes) for _ in range(size)]
    chosen = choose_parts(gathered(units), {"val": share}, seed=seed)
    got, goal = sum(sizes[unit] for unit in chosen), share * len(units)
    left = [size for unit, size in enumerate(sizes) if unit not in chosen]
    assert len(left) == 1 or all(abs(got + size - goal) >= abs(got - goal) - 1e-9 for size in left)
    assert got == min(sizes) or got - goal <= max(sizes[unit] for unit in chosen) / 2


def test_the_share_is_that_of_the_smallest_unit_where_all_are_too_large() -> None:
    units = gathered([0] * 4 + [1] * 4 + [2, 3])
    for seed in range(20):
        chosen = choose_parts(units, {"val": 0.15}, seed=seed)
        assert sum({0: 4, 1: 4}.get(unit, 1) for unit in chosen) in (1, 2), seed


def test_few_units_go_to_training_first() -> None:
    assert choose(gathered(["only"] * 4)) == {}
    assert choose(gathered(["a", "a", "b"])) == {"b": "val"}


def test_another_seed_is_another_split_of_like_size() -> None:
    splits = {tuple(sorted(choose(gathered(range(30)), seed=seed).items())) for seed in range(5)}
    assert len(splits) > 1
    assert {[split for _, split in one].count("val") for one in splits} == {6}


def test_a_rare_class_reaches_every_split_when_it_can() -> None:
    counts = np.zeros((30, 2), np.int64)
    counts[:, 0], counts[::6, 1] = 100, 20
    chosen = choose(gathered(range(30), counts=counts))
    assert {chosen.get(i, "train") for i in range(0, 30, 6)} == {"train", "val", "test"}


@settings(max_examples=examples(40))
@given(
    order=st.permutations(range(35)),
    seed=st.integers(0, 99),
    shares=st.lists(st.integers(0, 40), min_size=35, max_size=35),
)
def test_the_order_of_the_chips_changes_nothing(order: list[int], seed: int, shares: list[int]) -> None:
    cells, places = grid(5, 7)
    units = [(row // 2, col // 2) for row, col in cells]
    counts = np.column_stack([np.full(35, 50), shares]).astype(np.int64)
    made = [
        gathered([units[i] for i in this], [places[i] for i in this], counts[list(this)])
        for this in (range(35), order)
    ]
    assert choose(made[0], seed=seed) == choose(made[1], seed=seed)
    assert choose_folds(made[0], 4, seed=seed) == choose_folds(made[1], 4, seed=seed)


def test_of_equally_balanced_orders_the_most_scattered_is_taken() -> None:
    """Ground of 6 × 6 equal blocks: validation and test touch themselves nowhere, whatever the seed."""
    cells, places = grid(6, 6)
    units = gathered(cells, places)
    for seed in range(10):
        chosen = choose(units, val=4 / 36, test=4 / 36, seed=seed)
        found = list(chosen.values())
        assert found.count("val") == found.count("test") == 4
        together = [
            (cells[a], cells[b])
            for a, b in touching(places)
            if chosen.get(cells[a]) == chosen.get(cells[b]) is not None
        ]
        assert not together, seed


def farthest(chosen: Sequence[tuple[int, int]], cells: Sequence[tuple[int, int]]) -> float:
    """From any block to the next chosen one, in blocks: the mean over the ground."""
    ways = np.array(cells)[:, None] - np.array(chosen)[None]
    return float(np.hypot(*np.moveaxis(ways, -1, 0)).min(axis=1).mean())


def test_a_split_lies_all_over_the_ground() -> None:
    """16 × 16 blocks whose class goes from west to east: 26 of them have its share, and are near to every place."""
    cells, places = grid(16, 16)
    rich = np.array([[100 - 5 * col, 5 * col] for _, col in cells], np.int64)
    units = gathered(cells, places, rich)
    random = np.random.default_rng(0)
    for seed in range(5):
        chosen = choose(units, val=0.1, test=0.1, seed=seed)
        for split in ("val", "test"):
            own = [cell for cell, its in chosen.items() if its == split]
            assert len(own) == pytest.approx(25.6, abs=1)
            quarters = {(row // 8, col // 8) for row, col in own}
            assert len(quarters) == 4
            by_chance = [
                farthest([cells[k] for k in random.permutation(256)[: len(own)]], cells) for _ in range(20)
            ]
            assert farthest(own, cells) < np.mean(by_chance)
            share = np.mean([5 * col for _, col in own]) / 100
            assert share == pytest.approx(rich[:, 1].mean() / 100, abs=0.05)


@given(
    sizes=st.lists(st.integers(1, 4), min_size=6, max_size=40),
    folds=st.integers(2, 6),
    seed=st.integers(0, 9),
)
def test_folds_are_of_like_size_and_take_all(sizes: list[int], folds: int, seed: int) -> None:
    units = [unit for unit, size in enumerate(sizes) for _ in range(size)]
    chosen = choose_folds(gathered(units), folds, seed=seed)
    assert set(chosen) == set(units)
    assert set(chosen.values()) == set(range(1, folds + 1))
    filled = [sum(sizes[unit] for unit, its in chosen.items() if its == fold) for fold in range(1, folds + 1)]
    assert max(filled) - min(filled) <= 2 * max(sizes)


def test_globs_take_whole_sources_and_leave_the_rest() -> None:
    shares = {"val": Share(fraction=0.2), "test": Share(pattern="east_*")}
    assert named_splits(["east_1.tif", "west.tif", "east_2.tif"], shares) == ["test", None, "test"]


@pytest.mark.parametrize(
    ("val", "test", "message"),
    [
        (
            Share(pattern="north*"),
            NONE,
            r"`val` 'north\*' matches none of the 2 sources \(first: a.tif\); .* against file names",
        ),
        (Share(pattern="a*"), Share(pattern="*.tif"), "both match a.tif; give each of the sources to one"),
        (NONE, Share(pattern="*"), "leave at least one for training"),
        (Share(fraction=0.5), Share(fraction=0.5), "`val=0.5` and `test=0.5` leave nothing for training"),
    ],
)
def test_shares_that_cannot_work_are_refused_before_any_chip_is_cut(
    val: Share, test: Share, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        named_splits(["a.tif", "b.tif"], {"val": val, "test": test})


def test_shares_are_fractions_percents_or_globs() -> None:
    assert (
        parse_share("0.15", setting_name="val")
        == parse_share("15%", setting_name="val")
        == Share(fraction=0.15)
    )
    assert parse_share("*_north.tif", setting_name="val") == Share(pattern="*_north.tif")
    assert parse_share("0", setting_name="val") == NONE
    for text in ("1", "150%", "-0.1", "nan", "inf"):
        with pytest.raises(SettingsError, match=f"`val` {text} is not a fraction"):
            parse_share(text, setting_name="val")


@given(
    boxes=st.lists(
        st.tuples(
            st.integers(0, 40),
            st.integers(0, 40),
            st.integers(4, 12),
            st.sampled_from(["train", "val", "test", ""]),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_no_ground_is_in_two_splits_and_the_test_set_never_gives_way(
    boxes: list[tuple[int, int, int, str]],
) -> None:
    footprints = [box(x, y, x + side, y + side) for x, y, side, _ in boxes]
    splits = [split for *_, split in boxes]
    left_out = overlapping(footprints, splits, RANKS)
    assert all(splits[i] in ("train", "val") for i in left_out)
    kept = {
        name: [f for i, f in enumerate(footprints) if splits[i] == name and i not in left_out]
        for name in RANKS
    }
    ground = {name: shapely.union_all(own) for name, own in kept.items()}
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert shapely.area(shapely.intersection(ground[a], ground[b])) == pytest.approx(0, abs=1e-9)
    for i in left_out:  # each for a chip that stays
        above = [other for name, own in kept.items() if RANKS[name] > RANKS[splits[i]] for other in own]
        assert shapely.area(shapely.intersection(footprints[i], above)).max() > 0


def test_neighbours_that_only_touch_both_stay() -> None:
    chips = [box(0, 0, 1, 1), box(1, 0, 2, 1), box(2 - 1e-6, 0, 3, 1)]
    assert overlapping(chips, ["train", "val", "test"], RANKS) == []
    assert overlapping([box(0, 0, 512, 512), box(496, 496, 1008, 1008)], ["train", "val"], RANKS) == [0]
