"""Percentiles of pieces are those of the whole: exactly where all values are counted, else within the stated error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.geo.raster.values.percentiles import RankSketch, ValueCounts, percentiles_of

PERCENTS = (0, 1, 2, 5, 25, 50, 75, 95, 98, 99, 100)


@given(
    dtype=st.sampled_from(["uint8", "int8", "uint16", "int16"]),
    seed=st.integers(0, 999),
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=6).filter(any),
)
@settings(max_examples=examples(60), deadline=None)
def test_small_integers_give_what_numpy_gives_of_all_values(dtype: str, seed: int, sizes: list[int]) -> None:
    random, limits = np.random.default_rng(seed), np.iinfo(np.dtype(dtype))
    pieces = [random.integers(limits.min, limits.max, n, dtype=dtype, endpoint=True) for n in sizes]
    counted = percentiles_of(dtype)
    assert isinstance(counted, ValueCounts)
    for piece in pieces:
        counted.add(piece)
    assert counted.rank_error == 0
    assert counted.at(PERCENTS) == np.percentile(np.concatenate(pieces).astype(float), PERCENTS).tolist()


@given(
    seed=st.integers(0, 9999),
    kind=st.sampled_from(["normal", "exponential", "few values", "sorted", "falling", "float32"]),
    sizes=st.lists(st.integers(0, 900), min_size=1, max_size=12).filter(any),
    held=st.sampled_from([8, 32, 200]),
)
@settings(max_examples=examples(120), deadline=None)
def test_a_sketch_is_as_far_off_as_it_says_at_most(seed: int, kind: str, sizes: list[int], held: int) -> None:
    random = np.random.default_rng(seed)
    values = (
        random.exponential(5, sum(sizes)) if kind == "exponential" else random.normal(300, 0.1, sum(sizes))
    )
    if kind == "few values":
        values = random.integers(0, 4, sum(sizes)).astype(float)
    elif kind == "float32":
        values = values.astype(np.float32)
    elif kind in ("sorted", "falling"):
        values = np.sort(values)[:: 1 if kind == "sorted" else -1]
    sketch, start = RankSketch(held), 0
    for size in sizes:
        sketch.add(values[start : start + size])
        start += size
    answers, ordered = sketch.at(PERCENTS), np.sort(values).astype(float)
    if sketch.rank_error == 0:
        assert answers == np.percentile(ordered, PERCENTS).tolist()
        return
    slack = sketch.rank_error * len(values)
    for percent, answer in zip(PERCENTS, answers, strict=True):
        wanted = percent / 100 * (len(values) - 1)
        below = np.searchsorted(ordered, answer, side="left")
        until = np.searchsorted(ordered, answer, side="right") - 1
        assert below - slack <= wanted <= until + slack


def test_the_error_of_many_values_is_small_and_memory_does_not_grow() -> None:
    random, sketch, sizes = np.random.default_rng(0), RankSketch(2048), []
    for _ in range(200):
        sketch.add(random.normal(size=5000).astype(np.float32))
        sizes.append(sum(sketch._sizes))
    assert 0 < sketch.rank_error < 0.005
    assert max(sizes) < 2 * 2048 * 12
    assert sketch.at([50])[0] == pytest.approx(0, abs=0.01)


def test_nothing_counted_has_no_percentile() -> None:
    for empty in (RankSketch(), ValueCounts("uint8")):
        empty.add(np.zeros(0, np.uint8))
        with pytest.raises(ValueError, match="no value"):
            empty.at([50])
