"""What the name of a band says: which colour of light, or nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SAYS_NOTHING = re.compile(
    r"(gr[ae]y|undefined|palette|unknown|(band|layer|channel)?[\s_#-]*\d*)", re.IGNORECASE
)
_SYNONYMS = {
    "r": "red", "g": "green", "b": "blue", "near infrared": "nir", "near-infrared": "nir", "near_infrared": "nir",
    "red edge": "rededge", "red-edge": "rededge", "red_edge": "rededge",
}  # fmt: skip
RGB = ("red", "green", "blue")
"""The order in which a photograph's bands lie, and in which those of imagery that names none are taken to lie."""


def role(name: str) -> str | None:
    """The name in the form that two names are compared in; None for one that says nothing: `gray`, `band 3`."""
    plain = name.strip().lower()
    return None if _SAYS_NOTHING.fullmatch(plain) else _SYNONYMS.get(plain, plain)


def out_of_order(names: Sequence[str]) -> bool:
    """Whether the names have red, green and blue, and not in that order: blue, green, red as Caffe's models want."""
    roles = [role(name) for name in names]
    places = [roles.index(colour) for colour in RGB if colour in roles]
    return len(places) == len(RGB) and places != sorted(places)
