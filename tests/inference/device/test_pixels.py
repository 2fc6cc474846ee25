"""Pixels of every dtype travel as torch's numbers and become the float32 that numpy makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, from_dtype
from laws import examples

from aerial_seg.bands import DTYPES
from aerial_seg.inference.device.pixels import as_float32, as_pixels, carrier_type
from aerial_seg.models.device import CpuTransfer


def numbers_of(kind: np.dtype[Any]) -> st.SearchStrategy[Any]:
    """Every bit pattern of the dtype, and its edges.

    Made of bits, because hypothesis draws a narrow float by trial, which it gives up now and then.
    """
    if kind.kind in "iu":
        edges = [0, 1, 2**24 + 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1, 2**63, 2**63 + 2**39 + 1, 2**64 - 1]
        inside = [edge for edge in edges if edge <= np.iinfo(kind).max]
        return from_dtype(kind) | st.sampled_from(inside).map(kind.type)
    one = np.finfo(kind)
    edges = [
        0.0,
        -0.0,
        1.0,
        1 / 3,
        np.inf,
        -np.inf,
        np.nan,
        one.max,
        one.min,
        one.tiny,
        one.smallest_subnormal,
    ]
    bits = st.integers(0, 2 ** (8 * kind.itemsize) - 1)
    patterns = bits.map(lambda number: np.array(number, f"u{kind.itemsize}").view(kind)[()])
    return patterns | st.sampled_from(edges).map(kind.type)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=examples(40), deadline=None)
@given(data=st.data())
def test_every_dtype_becomes_numpys_float32(dtype: str, data: st.DataObject) -> None:
    image = data.draw(arrays(np.dtype(dtype), (2, 3, 4), elements=numbers_of(np.dtype(dtype))))
    carried = CpuTransfer().host_rows(*image.shape, dtype=carrier_type(dtype))
    as_pixels(carried, dtype)[:] = image
    with np.errstate(over="ignore"):
        wanted = image.astype(np.float32)
    made = as_float32(carried, dtype)
    np.testing.assert_array_equal(made.numpy(), wanted)
    made += 1
    np.testing.assert_array_equal(as_pixels(carried, dtype), image)
