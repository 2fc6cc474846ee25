"""The guide: which bands, and on which scale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.bands import Band
from aerial_seg.crf.guide import guide_bands, guide_image


def band(name: str, dtype: str = "uint8", p2: float = 0, p98: float = 255) -> Band:
    return Band(name=name, dtype=dtype, mean=1, std=1, p2=p2, p98=p98)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("red", "green", "blue"), (0, 1, 2)),
        (("Blue", " green", "RED", "nir"), (2, 1, 0)),
        (("nir", "red", "green"), (0, 1, 2)),
        (("band 1", "band 2", "band 3", "band 4"), (0, 1, 2)),
        (("red", "red", "green", "blue"), (0, 1, 2)),
        (("height",), (0,)),
        (("a", "b"), (0, 1)),
    ],
)
def test_colours_by_their_names_else_the_first_three(names: tuple[str, ...], wanted: tuple[int, ...]) -> None:
    bands = [band(name) for name in names]
    assert guide_bands(bands) == wanted
    image = np.arange(len(names), dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(5, 2)
    guide = guide_image(image, bands)
    assert guide.dtype == np.float32
    np.testing.assert_array_equal(guide[:, 0, 0], wanted)


@given(st.integers(0, 255))
def test_bytes_are_grey_levels_already(value: int) -> None:
    image = np.full((1, 2, 2), value, np.uint8)
    np.testing.assert_array_equal(guide_image(image, [band("a", p2=50, p98=60)]), image)


@given(st.floats(-1000, 1000), st.floats(1, 5000), st.floats(-2, 3))
def test_other_numbers_are_stretched_between_the_percentiles_and_cut_off(
    low: float, wide: float, share: float
) -> None:
    values = np.full((1, 1, 1), low + share * wide, np.float32)
    guide = guide_image(values, [band("a", "float32", p2=low, p98=low + wide)])
    assert guide[0, 0, 0] == pytest.approx(255 * min(max(share, 0), 1), abs=0.1)


def test_percentiles_stretch_uint16_as_written() -> None:
    image = np.array([[[300, 1000, 2000, 65535]]], np.uint16)
    guide = guide_image(image, [band("a", "uint16", p2=1000, p98=3000)])
    np.testing.assert_allclose(guide, [[[0, 0, 127.5, 255]]])


def test_a_band_without_contrast_shows_none() -> None:
    image = np.array([[[1.0, np.nan, 9.0]]], np.float32)
    np.testing.assert_array_equal(guide_image(image, [band("a", "float32", p2=5, p98=5)]), 0)
