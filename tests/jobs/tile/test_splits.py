"""No ground is in two splits, every split that was asked for is filled, and a seed gives one answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st
from shapely import box

from aerial_seg.errors import SettingsError
from aerial_seg.jobs.tile.splits import Share, assign_splits, match_sources, overlapping, parse_share

FIFTH = Share(fraction=0.2)
NONE = Share()


def assign(
    units: list[Any],
    *,
    val: Share = FIFTH,
    test: Share = FIFTH,
    seed: int = 0,
    sources: list[str] | None = None,
) -> list[str]:
    counts = np.ones((len(units), 2), np.int64)
    return assign_splits(units, sources or ["a.tif"] * len(units), counts, val=val, test=test, seed=seed)


@given(
    units=st.lists(st.integers(0, 12), min_size=3, max_size=60),
    val=st.floats(0.01, 0.6),
    test=st.floats(0.01, 0.39),
    seed=st.integers(0, 9),
)
def test_units_stay_whole_and_every_split_gets_one(
    units: list[int], val: float, test: float, seed: int
) -> None:
    assume(len(set(units)) >= 3)
    splits = assign(units, val=Share(fraction=val), test=Share(fraction=test), seed=seed)
    assert set(splits) == {"train", "val", "test"}
    assert all(len({s for s, u in zip(splits, units, strict=True) if u == unit}) == 1 for unit in set(units))
    assert splits == assign(units, val=Share(fraction=val), test=Share(fraction=test), seed=seed)


@given(count=st.integers(20, 80), val=st.floats(0.1, 0.3), test=st.floats(0.1, 0.3))
def test_fractions_are_met_within_a_unit(count: int, val: float, test: float) -> None:
    splits = assign(list(range(count)), val=Share(fraction=val), test=Share(fraction=test))
    assert splits.count("val") == pytest.approx(val * count, abs=1)
    assert splits.count("test") == pytest.approx(test * count, abs=1)


def test_few_units_go_to_training_first() -> None:
    assert assign(["only"] * 4) == ["train"] * 4
    assert sorted(set(assign(["a", "a", "b"]))) == ["train", "val"]


def test_nothing_is_taken_that_was_not_asked_for() -> None:
    assert set(assign(list(range(9)), val=NONE, test=NONE)) == {"train"}
    assert set(assign(list(range(9)), test=NONE)) == {"train", "val"}


def test_another_seed_is_another_split_of_like_size() -> None:
    splits = {tuple(assign(list(range(30)), seed=seed)) for seed in range(5)}
    assert len(splits) > 1
    assert {s.count("val") for s in splits} == {6}


def test_a_rare_class_reaches_every_split_when_it_can() -> None:
    counts = np.zeros((30, 2), np.int64)
    counts[:, 0], counts[::6, 1] = 100, 20
    splits = assign_splits(list(range(30)), ["a.tif"] * 30, counts, val=FIFTH, test=FIFTH, seed=0)
    assert {splits[i] for i in range(0, 30, 6)} == {"train", "val", "test"}


def test_globs_take_whole_sources_and_fractions_share_the_rest() -> None:
    sources = ["east_1.tif", "east_2.tif", *["west.tif"] * 10]
    splits = assign(list(range(12)), sources=sources, test=Share(pattern="east_*"))
    assert splits[:2] == ["test", "test"]
    assert set(splits[2:]) == {"train", "val"}


@pytest.mark.parametrize(
    ("val", "test", "message"),
    [
        (Share(pattern="north*"), NONE, r"`val` 'north\*' matches none of the 2 sources \(first: a.tif\)"),
        (Share(pattern="a*"), Share(pattern="*.tif"), "both match a.tif"),
        (NONE, Share(pattern="*"), "leave at least one for training"),
        (Share(fraction=0.5), Share(fraction=0.5), "leave nothing for training"),
    ],
)
def test_shares_that_cannot_work_are_refused_before_any_chip_is_cut(
    val: Share, test: Share, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        match_sources(["a.tif", "b.tif"], val=val, test=test)


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
            st.sampled_from(["train", "val", "test"]),
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
    left_out = overlapping(footprints, splits)
    assert all(splits[i] != "test" for i in left_out)
    ground = {
        name: shapely.union_all(
            [f for i, f in enumerate(footprints) if splits[i] == name and i not in left_out]
        )
        for name in ("train", "val", "test")
    }
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert shapely.area(shapely.intersection(ground[a], ground[b])) == pytest.approx(0, abs=1e-9)


def test_neighbours_that_only_touch_both_stay() -> None:
    assert (
        overlapping([box(0, 0, 1, 1), box(1, 0, 2, 1), box(2 - 1e-6, 0, 3, 1)], ["train", "val", "test"])
        == []
    )


def test_of_equally_balanced_orders_the_most_scattered_is_taken() -> None:
    """Ground of 6 × 6 equal blocks: validation and test touch themselves nowhere, whatever the seed."""
    cells = [(row, col) for row in range(6) for col in range(6)]
    touching = [
        (a, b)
        for a, one in enumerate(cells)
        for b, other in enumerate(cells)
        if a != b and max(abs(one[0] - other[0]), abs(one[1] - other[1])) == 1
    ]
    share = Share(fraction=4 / 36)
    for seed in range(10):
        splits = assign_splits(
            cells,
            ["a.tif"] * 36,
            np.ones((36, 2), np.int64),
            val=share,
            test=share,
            seed=seed,
            touching=touching,
        )
        assert splits.count("val") == splits.count("test") == 4
        together = [(a, b) for a, b in touching if splits[a] == splits[b] != "train"]
        assert not together, seed  # without looking, seed 5 put eight pairs side by side
