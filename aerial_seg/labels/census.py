"""Which different values a column or raster holds, how often, and how they are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.labels.class_value import Key, key_of


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
