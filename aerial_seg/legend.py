"""The classes of a mask: which pixel value means what, and in which colour it is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from aerial_seg.documents import problem_of
from aerial_seg.errors import SettingsError
from aerial_seg.printable import name_problem, shortened

IGNORE = 255
"""Label value of an unlabelled pixel (the field's ignore index), and mask value of a pixel not predicted."""

_WELL_KNOWN = {
    "background": "#d9d2c5", "building": "#c0392b", "road": "#6c7a89", "water": "#2e86c1", "vegetation": "#2e8b57",
    "tree": "#145a32", "bare": "#c8a165", "car": "#f1c40f", "agriculture": "#d4b106", "grass": "#8bc34a",
}  # fmt: skip
_CYCLE = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#8c6bb1", "#7f7f7f")


class LegendEntry(BaseModel):
    """Name one class: `value` is its pixel value in labels and masks, `colour` is #rrggbb.

    code: the class's number elsewhere, as 311 of CORINE, where classes have such numbers at all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Annotated[int, Field(ge=0, lt=IGNORE)]
    name: Annotated[str, Field(min_length=1)]
    colour: Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]
    background: bool = False
    code: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None

    @model_serializer(mode="wrap")
    def _without_a_code_that_is_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Classes without codes are written as they were before there were any, for older versions to read."""
        written: dict[str, Any] = handler(self)
        if self.code is None:
            written.pop("code", None)
        return written

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        problem = name_problem(name)
        if problem is not None:
            raise ValueError(f"class name '{shortened(name)}' cannot be one: {problem}")
        return name

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour as three integers 0–255."""
        number = int(self.colour[1:], 16)
        return number >> 16, number >> 8 & 255, number & 255


class Legend(BaseModel):
    """List all classes in the order of a model's channels: entry k is channel k of the logits.

    Labels and masks hold `value`s, networks count `channel`s; the two look-up tables go between.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    entries: Annotated[tuple[LegendEntry, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _values_and_names_are_unique(self) -> Legend:
        for what, seen in (("value", self.values), ("name", self.names)):
            twice = {item for item in seen if list(seen).count(item) > 1}
            if twice:
                raise ValueError(f"class {what} {sorted(map(str, twice))} is used more than once")
        return self

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def values(self) -> tuple[int, ...]:
        """Pixel values in channel order."""
        return tuple(entry.value for entry in self.entries)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in channel order."""
        return tuple(entry.name for entry in self.entries)

    @property
    def has_codes(self) -> bool:
        """Whether a class has a number elsewhere that is not its pixel value."""
        return any(entry.code is not None for entry in self.entries)

    def by_value(self) -> dict[int, LegendEntry]:
        """Pixel value → entry."""
        return {entry.value: entry for entry in self.entries}

    def channel_table(self) -> NDArray[np.uint8]:
        """Look-up table (256,) uint8: pixel value → channel; every other value → 255."""
        table = np.full(256, IGNORE, np.uint8)
        table[list(self.values)] = np.arange(len(self), dtype=np.uint8)
        return table

    def value_table(self) -> NDArray[np.uint8]:
        """Look-up table (256,) uint8: channel → pixel value; every other number → 255."""
        table = np.full(256, IGNORE, np.uint8)
        table[: len(self)] = self.values
        return table

    def colours(self) -> NDArray[np.uint8]:
        """Look-up table (256, 3) uint8: pixel value → RGB; values that are no class are black."""
        table = np.zeros((256, 3), np.uint8)
        for entry in self.entries:
            table[entry.value] = entry.rgb
        return table

    def palette(self) -> dict[int, tuple[int, int, int, int]]:
        """Every pixel value → RGBA for a GeoTIFF colour table; only 255, which is no class, is transparent."""
        opaque = {value: (int(r), int(g), int(b), 255) for value, (r, g, b) in enumerate(self.colours())}
        return {**opaque, IGNORE: (0, 0, 0, 0)}


def make_legend(
    names: Mapping[int, str],
    *,
    background: Iterable[int] = (),
    colours: Mapping[int, str] | None = None,
    codes: Mapping[int, int] | None = None,
) -> Legend:
    """Make a legend with a colour for every class: the given one, else its name's usual one, else a distinct one.

    names: pixel value to name. codes: pixel value to the class's number elsewhere.
    Raises SettingsError for what is no such mapping, and for names, values and colours
    that no legend can have.
    """
    if not isinstance(names, Mapping) or not all(isinstance(name, str) for name in names.values()):
        raise SettingsError(
            f"names is {shortened(repr(names))}, wanted a mapping of pixel values to names, as {{1: 'building'}}"
        )
    given = dict(colours or {})
    backgrounds = set(background)
    taken = {colour.lower() for colour in given.values()}
    entries: list[dict[str, Any]] = []
    for value, name in sorted(names.items()):
        colour = given.get(value) or _usual_colour(name, taken) or _next_colour(taken)
        taken.add(colour)
        entries.append(
            {
                "value": value,
                "name": name,
                "colour": colour.lower(),
                "background": value in backgrounds,
                "code": (codes or {}).get(value),
            }
        )
    try:
        return Legend.model_validate({"entries": entries})
    except ValidationError as error:
        raise SettingsError(
            f"these classes make no legend ({problem_of(error)}); give every class a value from 0 to {IGNORE - 1}, a "
            "name of its own and a colour like #c0392b"
        ) from error


def legend_from_colormap(names: Sequence[str], colormap: Mapping[int, Sequence[int]]) -> Legend:
    """A legend whose class k has the k-th name and palette colour; one called `background` is marked so."""
    colours = {k: "#{:02x}{:02x}{:02x}".format(*rgba[:3]) for k, rgba in colormap.items() if k < len(names)}
    background = [k for k, name in enumerate(names) if name.lower() == "background"]
    return make_legend(dict(enumerate(names)), background=background, colours=colours)


def _usual_colour(name: str, taken: set[str]) -> str | None:
    word = name.lower().strip()
    colour = _WELL_KNOWN.get(word) or _WELL_KNOWN.get(word.removesuffix("s"))
    return colour if colour not in taken else None


def _next_colour(taken: set[str]) -> str:
    for colour in _CYCLE:
        if colour not in taken:
            return colour
    # Past the table: the golden ratio walks the 24-bit colours without repeating soon.
    number = len(taken)
    while (colour := f"#{int((number * 0.618033988749895 % 1) * 0xFFFFFF):06x}") in taken:
        number += 1
    return colour
