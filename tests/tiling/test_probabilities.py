"""Probabilities as numbers are those that RowUpsampler writes as bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.tiling import probabilities
from aerial_seg.tiling.geometry import ModelGeometry
from aerial_seg.tiling.probabilities import window_probabilities
from aerial_seg.tiling.upsample import PixelAxis, RowUpsampler, softmax_cells


@settings(max_examples=examples(40), deadline=None)
@given(
    data=st.data(),
    stride=st.sampled_from([1, 4, 8]),
    classes=st.integers(1, 6),
    softmaxed=st.booleans(),
    at_once=st.sampled_from([1, 100, 10**6]),
)
def test_a_window_holds_what_row_upsampler_makes_of_the_same_cells(
    data: st.DataObject, stride: int, classes: int, softmaxed: bool, at_once: int
) -> None:
    geometry = ModelGeometry(stride, stride, stride, align_corners=data.draw(st.booleans()) and stride > 1)
    axes = []
    for _ in range(2):
        run, pixels = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 70))
        first = data.draw(st.integers(0, pixels - 1))
        whole = PixelAxis.of(geometry, run=run, pixels=pixels)
        axes.append(whole.part(first, data.draw(st.integers(first + 1, pixels))))
    rows, cols = axes
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    cells = random.normal(0, 2, (len(rows.cells), len(cols.cells), classes)).astype(np.float32)
    cells = softmax_cells(cells) if softmaxed else cells
    upsampler = RowUpsampler(rows, cols, probabilities=True, softmaxed=softmaxed)
    made = list(upsampler.push(cells))
    with pytest.MonkeyPatch.context() as small:
        small.setattr(probabilities, "_VALUES_AT_ONCE", at_once)
        window = window_probabilities(cells, rows, cols, softmaxed=softmaxed)
    assert window.dtype == np.float32
    assert window.flags.c_contiguous
    stored = np.concatenate([part.probabilities for part in made if part.probabilities is not None], axis=1)
    assert window.shape == stored.shape
    assert np.abs(250 * window - stored).max() <= 0.51
    np.testing.assert_allclose(window.sum(axis=0), 1, atol=1e-5)
    ranked = np.sort(window, axis=0)
    clear = ranked[-1] - ranked[-2] > 1e-5 if classes > 1 else np.ones(window.shape[1:], bool)
    channels = np.concatenate([part.channels for part in made])
    np.testing.assert_array_equal(window.argmax(axis=0)[clear], channels[clear])


def test_cells_of_another_window_are_our_own_bug() -> None:
    axis = PixelAxis.of(ModelGeometry(4, 4, 4), run=8, pixels=8)
    with pytest.raises(ValueError, match="cells"):
        window_probabilities(np.zeros((3, 2, 2), np.float32), axis, axis, softmaxed=False)
