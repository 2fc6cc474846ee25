"""Band statistics are those of all valid pixels at once; a normalised image is 0 where nothing was measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from laws import examples

from aerial_seg.bands import normalise
from aerial_seg.geo.raster.values.accumulator import BandAccumulator, value_counts


@given(
    chips=st.lists(
        st.tuples(arrays(np.uint16, (2, 5, 4)), arrays(np.bool_, (5, 4))), min_size=1, max_size=6
    ).filter(lambda chips: any(valid.any() for _, valid in chips))
)
def test_chip_by_chip_equals_all_at_once(chips: list[tuple[np.ndarray, np.ndarray]]) -> None:
    accumulator = BandAccumulator(("a", "b"), "uint16")
    for image, valid in chips:
        accumulator.add(image, valid)
    pixels = np.concatenate([image[:, valid] for image, valid in chips], axis=1).astype(np.float64)
    assert accumulator.pixels == pixels.shape[1]
    for band, values in zip(accumulator.bands(), pixels, strict=True):
        assert band.mean == pytest.approx(values.mean(), rel=1e-9, abs=1e-9)
        assert band.std == pytest.approx(values.std() or 1.0, rel=1e-6)
        assert (band.p2, band.p98) == pytest.approx(np.percentile(values, [2, 98]), rel=1e-5, abs=1e-2)


@pytest.mark.parametrize("value", [0.1, 1e6 + 0.1, -9999.5, 0.0])
def test_a_constant_band_normalises_to_zero(value: float) -> None:
    image, valid = np.full((1, 70, 71), value, np.float32), np.ones((70, 71), bool)
    accumulator = BandAccumulator(("a",), "float32")
    for rows in (slice(0, 3), slice(3, 50), slice(50, 70)):
        accumulator.add(image[:, rows], valid[rows])
    bands = accumulator.bands()
    assert bands[0].std == 1
    np.testing.assert_allclose(normalise(image, valid, bands), 0, atol=abs(value) * 1e-6)


def test_normalised_training_pixels_have_mean_0_and_deviation_1_and_invalid_ones_are_0() -> None:
    random = np.random.default_rng(0)
    image = random.normal([[[300]], [[4000]]], [[[20]], [[900]]], (2, 60, 60)).astype(np.float32)
    valid = random.random((60, 60)) > 0.2
    image[:, ~valid] = np.nan
    accumulator = BandAccumulator(("a", "b"), "float32")
    accumulator.add(image, valid)
    scaled = normalise(image, valid, accumulator.bands())
    assert scaled.dtype == np.float32
    assert (scaled[:, ~valid] == 0).all()
    np.testing.assert_allclose(scaled[:, valid].mean(1), 0, atol=1e-4)
    np.testing.assert_allclose(scaled[:, valid].std(1), 1, atol=1e-4)


def test_no_pixel_has_no_statistics() -> None:
    accumulator = BandAccumulator(("a",), "uint8")
    accumulator.add(np.zeros((1, 3, 3), np.uint8), np.zeros((3, 3), bool))
    with pytest.raises(ValueError, match="no valid pixel"):
        accumulator.bands()


@settings(max_examples=examples(30), deadline=None)
@given(
    dtype=st.sampled_from(["uint8", "int8"]),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=5),
    share=st.sampled_from([0.5, 1.0]),
)
def test_counted_chips_give_the_same_statistics_in_any_order_to_the_bit(
    dtype: str, seeds: list[int], share: float
) -> None:
    limits = np.iinfo(dtype)
    forth, back = BandAccumulator(("a", "b"), dtype), BandAccumulator(("a", "b"), dtype)
    chips = []
    for seed in seeds:
        random = np.random.default_rng(seed)
        image = random.integers(limits.min, limits.max, (2, 9, 8), dtype=dtype, endpoint=True)
        valid = random.random((9, 8)) < share
        valid[0, 0] = True
        chips.append((image, valid))
    for image, valid in chips:
        forth.add(image, valid)
    for image, valid in reversed(chips):
        counts = value_counts(image, valid)
        assert counts is not None
        assert counts.sum() == 2 * valid.sum()
        back.add_counts(counts)
    assert forth.statistics() == back.statistics()
    pixels = np.concatenate([image[:, valid] for image, valid in chips], axis=1).astype(np.float64)
    told = forth.statistics()
    assert [one.mean for one in told] == pytest.approx(pixels.mean(axis=1), rel=1e-12, abs=1e-12)
    assert [one.std for one in told] == pytest.approx(pixels.std(axis=1), rel=1e-12, abs=1e-12)
    assert [(one.minimum, one.maximum) for one in told] == [(p.min(), p.max()) for p in pixels]


def test_only_what_takes_little_is_kept_of_a_chip() -> None:
    valid = np.ones((3, 3), bool)
    assert value_counts(np.zeros((1, 3, 3), np.uint16), valid) is None
    assert value_counts(np.zeros((1, 3, 3), np.float32), valid) is None
    assert value_counts(np.zeros((200, 3, 3), np.uint8), valid) is None
