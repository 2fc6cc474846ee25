"""Loops over finished classes do what numpy does."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.tiling.values import count_values, put_values


@settings(max_examples=examples(60), deadline=None)
@given(
    seed=st.integers(0, 999), height=st.integers(0, 9), width=st.integers(1, 30), most=st.sampled_from([1, 2, 256])
)  # fmt: skip
def test_values_are_put_and_counted(seed: int, height: int, width: int, most: int) -> None:
    random = np.random.default_rng(seed)
    channels = random.integers(0, most, (height, width)).astype(np.uint8)
    table = random.permutation(256).astype(np.uint8)
    values = channels.copy()
    put_values(values, table)
    np.testing.assert_array_equal(values, table[channels])
    np.testing.assert_array_equal(count_values(values), np.bincount(values.ravel(), minlength=256))
