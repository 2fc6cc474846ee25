"""Pixels of every dtype travel as torch's numbers and become the float32 that numpy makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, from_dtype
from laws import examples

from aerial_seg.bands import DTYPES
from aerial_seg.inference.device.pixels import as_float32, as_pixels, carrier_type
from aerial_seg.models.device import CpuTransfer


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=examples(40), deadline=None)
@given(data=st.data())
def test_every_dtype_becomes_numpys_float32(dtype: str, data: st.DataObject) -> None:
    edges = [0, 1, 2**24 + 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1, 2**63, 2**63 + 2**39 + 1, 2**64 - 1]
    kind = np.dtype(dtype)
    numbers = from_dtype(kind)
    if kind.kind in "iu":
        inside = [edge for edge in edges if edge <= np.iinfo(kind).max]
        numbers = numbers | st.sampled_from(inside).map(kind.type)
    image = data.draw(arrays(kind, (2, 3, 4), elements=numbers))
    carried = CpuTransfer().host_rows(*image.shape, dtype=carrier_type(dtype))
    as_pixels(carried, dtype)[:] = image
    with np.errstate(over="ignore"):
        wanted = image.astype(np.float32)
    made = as_float32(carried, dtype)
    np.testing.assert_array_equal(made.numpy(), wanted)
    made += 1
    np.testing.assert_array_equal(as_pixels(carried, dtype), image)
