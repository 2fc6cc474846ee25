"""Lengths and areas written with their unit (`1.5px`, `0.8m`, `100px`, `25m2`), and their size in pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.settings import Setting, settings

Unit = Literal["px", "m", "m2"]

_PATTERN = re.compile(r"(?P<number>[0-9.]+(?:e[-+]?[0-9]+)?)\s*(?P<unit>px|m2|m²|m|)")


@settings
@dataclass(frozen=True, slots=True)
class Measure:
    """Hold a number and its unit: `px` (a length, or a count of pixels), `m` or `m2` on the ground."""

    number: Annotated[float, Setting("How many.", low=0)]
    unit: Annotated[Unit, Setting("Of what.")]

    def __str__(self) -> str:
        return f"{self.number:g}{self.unit}"

    def in_pixels(self, gsd: tuple[float, float] | None) -> float:
        """The measure in pixels, an area as a count of them, on a grid of this GSD (down, across) in metres.

        A length on pixels that are not square is divided by the geometric mean of the two GSDs:
        simplification weighs the area of triangles, and this keeps that area right. Raises InputError for
        ground units when `gsd` is None (no CRS).
        """
        if self.unit == "px":
            return self.number
        if gsd is None:
            raise InputError(
                f"{self} needs the size of a pixel on the ground and the raster has no CRS; "
                "give the size in px, or give the raster a CRS"
            )
        pixel_area = gsd[0] * gsd[1]
        return self.number / (pixel_area if self.unit == "m2" else math.sqrt(pixel_area))


def parse_area(text: str) -> Measure:
    """The area written as `25m2` or `100px`; `0` needs no unit. Raises SettingsError for anything else."""
    return _parse(text, units=("px", "m2"), example="25m2 or 100px")


def parse_length(text: str) -> Measure:
    """The length written as `1.5px` or `0.8m`; `0` needs no unit. Raises SettingsError for anything else."""
    return _parse(text, units=("px", "m"), example="1.5px or 0.8m")


def read_area(value: Any) -> Any:
    """The area that a text means; 0 is none at all, and what is no text comes back as it is."""
    return _read(value, parse_area)


def read_length(value: Any) -> Any:
    """The length that a text means; 0 is none at all, and what is no text comes back as it is."""
    return _read(value, parse_length)


def _read(value: Any, parse: Callable[[str], Measure]) -> Any:
    if isinstance(value, str):
        return parse(value)
    return Measure(0, "px") if type(value) in (int, float) and value == 0 else value


def _parse(text: str, *, units: tuple[Unit, ...], example: str) -> Measure:
    wrong = SettingsError(f"'{text}' is not a number with its unit; write it like {example}")
    match = _PATTERN.fullmatch(text.strip().lower())
    if match is None:
        raise wrong
    try:
        number = float(match["number"])
    except ValueError as error:
        raise wrong from error
    named = match["unit"].replace("²", "2") or ("px" if number == 0 else "")
    for unit in units:
        if named == unit:
            return Measure(number, unit)
    raise wrong
