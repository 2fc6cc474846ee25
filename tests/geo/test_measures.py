"""Measures: what parses, what is refused, and what a size is in pixels."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.errors import AerialSegError, InputError, SettingsError
from aerial_seg.geo.measures import Measure, parse_area, parse_length

sizes = st.floats(0, 1e9).map(lambda number: float(f"{number:g}"))


@given(number=sizes)
def test_text_of_a_measure_parses_to_itself(number: float) -> None:
    for area in (Measure(number, "px"), Measure(number, "m2")):
        assert parse_area(str(area)) == area
    for length in (Measure(number, "px"), Measure(number, "m")):
        assert parse_length(str(length)) == length


@pytest.mark.parametrize("text", ["25m²", " 25 M2 ", "25.0m2", "2.5e1m2"])
def test_spellings_of_one_area(text: str) -> None:
    assert parse_area(text) == Measure(25, "m2")


def test_zero_needs_no_unit() -> None:
    assert parse_length("0") == parse_area("0.0") == Measure(0, "px")


@pytest.mark.parametrize(
    "text", ["", "25", "m2", "25m", "-1px", "1,5px", "1.2.3px", "25ha", "nanpx", "1e999px"]
)
def test_refused_areas(text: str) -> None:
    with pytest.raises(SettingsError, match=r"like 25m2 or 100px|number is inf, wanted a number from 0 on"):
        parse_area(text)


def test_a_length_is_no_area() -> None:
    with pytest.raises(SettingsError, match=r"like 1\.5px or 0\.8m"):
        parse_length("25m2")


@given(number=sizes, down=st.floats(0.01, 100), across=st.floats(0.01, 100))
def test_ground_sizes_in_pixels(number: float, down: float, across: float) -> None:
    gsd = down, across
    assert Measure(number, "px").in_pixels(gsd) == Measure(number, "px").in_pixels(None) == number
    assert Measure(number, "m2").in_pixels(gsd) * down * across == pytest.approx(number)
    # A square of that side holds the same area either way.
    side = Measure(number, "m").in_pixels(gsd)
    assert side**2 == pytest.approx(Measure(number**2, "m2").in_pixels(gsd))


@pytest.mark.parametrize("unit", ["m", "m2"])
def test_ground_sizes_need_a_crs(unit: str) -> None:
    with pytest.raises(InputError, match="in px, or give the raster a CRS"):
        Measure(1, unit).in_pixels(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("number", "unit"), [(-1, "px"), (math.nan, "m"), (math.inf, "m2"), (1, "ha")])
def test_no_such_measure(number: float, unit: str) -> None:
    with pytest.raises(AerialSegError):
        Measure(number, unit)  # type: ignore[arg-type]
