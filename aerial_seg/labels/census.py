"""What labels hold as a class, spelled in one way, and which different values a column or raster holds, how often."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

Key = int | str
"""A value of labels as classes are looked up by it: 1 for 1, 1.0 and '1'; 'road' for 'road' and 'road '."""

_WHOLE = re.compile(r"([+-]?[0-9]{1,18})(?:\.0*)?")


def key_of(value: object) -> Key | None:
    """The key of a value as it stands in a column, a pixel or a table; None for NULL, NaN, infinity, blank text.

    Text is taken without the blanks around it, and text that is a whole number is that number. True and False stay
    words. Dates become ISO text.
    """
    if isinstance(value, str):
        text = value.strip()
        whole = _WHOLE.fullmatch(text)
        return int(whole[1]) if whole else text or None
    kind = type(value).__name__
    if isinstance(value, bool) or kind in ("bool", "bool_"):
        return str(bool(value))
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        # numpy writes a float32 with its own few digits.
        return None if not math.isfinite(number) else int(number) if number.is_integer() else str(value)
    # pandas has values of its own for what is missing, one of which calls itself a datetime.
    if value is None or kind in ("NAType", "NaTType"):
        return None
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    return _key_of_another(value)


def _key_of_another(value: object) -> Key | None:
    """numpy's moments count in units of their own, and write themselves with all of these."""
    text = str(value)
    if type(value).__name__ == "datetime64":
        return None if text == "NaT" else key_of(datetime.fromisoformat(text[:26]))
    return key_of(text)


@dataclass(slots=True)
class Census:
    """The different values of a column or raster, with how often each comes and what was read otherwise than written.

    missing: NULL and NaN; blank: text without a letter. trimmed: text with blanks around it, numerals: numbers that
    are written otherwise than Python writes them, as '01'; both by their spelling. texts: how many numbers were text.
    """

    counts: Counter[Key] = field(default_factory=Counter)
    missing: int = 0
    blank: int = 0
    trimmed: Counter[str] = field(default_factory=Counter)
    numerals: Counter[str] = field(default_factory=Counter)
    texts: int = 0

    @classmethod
    def of_counts(cls, counts: Mapping[int, int]) -> Census:
        """Of a raster: pixels by value."""
        return cls(Counter({int(value): int(count) for value, count in counts.items()}))

    @classmethod
    def of_column(cls, values: NDArray[Any]) -> Census:
        """Of the values (n,) of one field, of whatever type."""
        census = cls()
        for value, count in _distinct(values):
            census.add(value, count)
        return census

    def add(self, value: object, count: int = 1) -> None:
        """Count a value as it is written."""
        key = key_of(value)
        if key is None:
            if isinstance(value, str):
                self.blank += count
            else:
                self.missing += count
            return
        self.counts[key] += count
        if not isinstance(value, str):
            return
        bare = value.strip()
        if value != bare:
            self.trimmed[value] += count
        if isinstance(key, int):
            self.texts += count
            if bare != str(key):
                self.numerals[bare] += count


def keys_of(values: NDArray[Any]) -> tuple[list[Key | None], NDArray[np.int64]]:
    """The different keys of the values (n,), and for each value (n,) which of them it has."""
    codes, distinct = _factorised(values)
    return [key_of(value) for value in distinct], codes


def _distinct(values: NDArray[Any]) -> Iterable[tuple[object, int]]:
    codes, distinct = _factorised(values)
    return zip(distinct, np.bincount(codes, minlength=len(distinct)).tolist(), strict=True)


def _factorised(values: NDArray[Any]) -> tuple[NDArray[np.int64], list[object]]:
    """codes (n,) into the list of different values. 1 and True are different here, and so are 1 and '1'."""
    if values.dtype.kind != "O":
        found, codes = np.unique(values, return_inverse=True, equal_nan=True)
        return codes.reshape(-1).astype(np.int64), list(found)
    places: dict[tuple[type, object], int] = {}
    distinct: list[object] = []
    out = np.empty(len(values), np.int64)
    for row, value in enumerate(values):
        spelled = (type(value), None if value is None or value != value else value)
        place = places.setdefault(spelled, len(places))
        if place == len(distinct):
            distinct.append(value)
        out[row] = place
    return out, distinct
