"""The vote of the window is the one that counting every window's pixels gives, however the rows come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import cycle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage  # type: ignore[import-untyped]

from aerial_seg.errors import SettingsError
from aerial_seg.polygonize.batch import NONE, Codes
from aerial_seg.polygonize.cleaning.majority import majority


@st.composite
def masks(draw: st.DrawFn) -> Codes:
    """Up to 16 rows and columns of four codes and nodata, in pixels 1 to 4 wide and high."""
    shapes = array_shapes(min_dims=2, max_dims=2, max_side=4)
    coarse = draw(arrays(np.uint16, shapes, elements=st.sampled_from([0, 1, 2, 65534, NONE])))
    mask = np.kron(coarse, np.ones(draw(st.tuples(st.integers(1, 4), st.integers(1, 4))), np.uint16))
    flipped = draw(arrays(np.bool_, mask.shape))
    return np.where(flipped, mask, draw(st.sampled_from([0, 2, NONE]))).astype(np.uint16)


sizes = st.sampled_from([3, 5, 7, 11, 41])
heights = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def cut(mask: Codes, heights: list[int]) -> Iterator[Codes]:
    top = 0
    for height in cycle(heights):
        yield mask[top : top + height]
        top += height
        if top >= len(mask):
            return


def smoothed(mask: Codes, size: int, heights: list[int] | None = None) -> Codes:
    cut_at = heights or [len(mask)]
    chunks = list(majority(cut(mask, cut_at), size))
    assert [len(chunk) for chunk in chunks] == [len(chunk) for chunk in cut(mask, cut_at)]
    return np.concatenate(chunks)


def counted(mask: Codes, size: int) -> Codes:
    reach, result = size // 2, mask.copy()
    for y, x in np.ndindex(*mask.shape):
        window = mask[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        votes = Counter(window[window != NONE].tolist())
        if mask[y, x] != NONE:
            tied = [code for code, count in votes.items() if count == max(votes.values())]
            result[y, x] = mask[y, x] if mask[y, x] in tied else min(tied)
    return result


@given(mask=masks(), size=sizes, heights=heights)
def test_every_pixel_takes_the_commonest_class_of_its_window(
    mask: Codes, size: int, heights: list[int]
) -> None:
    result = smoothed(mask, size, heights)
    assert result.dtype == np.uint16
    assert np.array_equal(result, counted(mask, size))


@given(seed=st.integers(0, 10**6), size=sizes, heights=heights)
def test_the_result_does_not_depend_on_the_stripes(seed: int, size: int, heights: list[int]) -> None:
    fields = np.random.default_rng(seed).normal(size=(5, 60, 50))
    mask = np.stack([ndimage.gaussian_filter(field, 1) for field in fields]).argmax(axis=0).astype(np.uint16)
    mask[mask == 4] = NONE
    assert np.array_equal(smoothed(mask, size, heights), smoothed(mask, size))


@pytest.mark.parametrize(("size", "codes"), [(3, 4), (7, 900), (41, 3)])
def test_wide_rasters_are_no_other(size: int, codes: int) -> None:
    mask = np.random.default_rng(size).integers(0, codes, (5, 700)).astype(np.uint16)
    mask[mask == codes - 1] = NONE
    assert np.array_equal(smoothed(mask, size, [2, 3]), counted(mask, size))


@given(mask=masks(), size=sizes)
def test_nodata_stays_and_none_is_added(mask: Codes, size: int) -> None:
    assert np.array_equal(smoothed(mask, size) == NONE, mask == NONE)


@given(seed=st.integers(0, 10**6))
def test_two_classes_are_smoothed_as_by_a_median(seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 2, (20, 23)).astype(np.uint16)
    inside = np.s_[2:-2, 2:-2]
    assert np.array_equal(smoothed(mask, 5)[inside], ndimage.median_filter(mask, 5)[inside])


def test_a_tie_is_the_pixels_own_or_else_the_lowest_code() -> None:
    own_is_tied = np.array([[7, 7, 2, 2]], np.uint16)
    assert smoothed(own_is_tied, 7).tolist() == [[7, 7, 2, 2]]
    own_is_not = np.array([[7, 7, 9, 2, 2]], np.uint16)
    assert smoothed(own_is_not, 5).tolist() == [[7, 7, 2, 2, 2]]


def test_rows_come_out_as_soon_as_their_windows_are_full() -> None:
    given_out = 0

    def chunks() -> Iterator[Codes]:
        nonlocal given_out
        for _ in range(50):
            given_out += 1
            yield np.zeros((2, 3), np.uint16)

    for k, _ in enumerate(majority(chunks(), 7), 1):
        assert given_out == min(k + 2, 50)


@pytest.mark.parametrize("size", [-3, 0, 1, 4])
def test_other_sizes_are_an_error_before_anything_is_read(size: int) -> None:
    with pytest.raises(SettingsError, match="odd"):
        majority(iter(()), size)


def test_no_rows_stay_no_rows() -> None:
    assert list(majority(iter(()), 3)) == []
