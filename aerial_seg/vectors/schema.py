"""What every feature carries: one list of columns for all formats, named so that a Shapefile can hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_seg.legend import Legend
from aerial_seg.numba_kernels import Bytes, Floats64, Ints, kernel
from aerial_seg.polygonize.batch import PolygonBatch
from aerial_seg.vectors.wkb import Wkb, multipolygons

LONGEST_NAME = 10
"""Characters of a column's name that a DBF keeps."""


NO_INTEGER = -(2**63)
"""In an INT64 column: NULL."""


class Kind(Enum):
    """What a column holds: the numpy type of its values, as GDAL lists it too."""

    INT32 = "int32"
    INT64 = "int64"
    FLOAT64 = "float64"
    TEXT = "object"


@dataclass(frozen=True, slots=True)
class Column:
    """A column's name of at most 10 characters, and what it holds. NaN in a FLOAT64 column means NULL.

    In an INT64 column NO_INTEGER does.
    """

    name: str
    kind: Kind

    def __post_init__(self) -> None:
        assert len(self.name.encode()) <= LONGEST_NAME, self.name


@dataclass(frozen=True, slots=True)
class Text:
    """A column of few different words: row k is words[codes[k]], or NULL where the code is −1. codes (f,) int64."""

    codes: Ints
    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.codes)

    def joined(self, other: Text) -> Text:
        """These rows and then those."""
        words = tuple(dict.fromkeys((*self.words, *other.words)))
        # A last place for −1, which stays what it is.
        places = np.array([*(words.index(word) for word in other.words), -1], np.int64)
        return Text(np.concatenate([self.codes, places[other.codes]]), words)

    def utf8(self) -> tuple[Ints, Bytes]:
        """Offsets (f+1,) and the letters of all rows, one after the other."""
        letters = [np.frombuffer(word.encode(), np.uint8) for word in self.words]
        starts = np.cumsum([0, *map(len, letters)], dtype=np.int64)
        return _spell(self.codes, starts, np.concatenate([*letters, np.zeros(0, np.uint8)]))


Values = NDArray[Any] | Text


@dataclass(frozen=True, slots=True)
class Rows:
    """Features ready for a file: a geometry each, and a value each in every column of the schema, by its name."""

    wkb: Wkb
    columns: Mapping[str, Values]

    def __len__(self) -> int:
        return len(self.wkb)

    def part(self, start: int, stop: int) -> Rows:
        """The rows start … stop − 1, without copies."""
        cut = {name: _part(values, slice(start, stop)) for name, values in self.columns.items()}
        return Rows(self.wkb.part(start, stop), cut)

    def joined(self, other: Rows) -> Rows:
        """These rows and then those, in columns of the same names."""
        columns = {name: _joined(values, other.columns[name]) for name, values in self.columns.items()}
        return Rows(self.wkb.joined(other.wkb), columns)


def _joined(one: Values, other: Values) -> Values:
    if isinstance(one, Text) and isinstance(other, Text):
        return one.joined(other)
    assert isinstance(one, np.ndarray)
    assert isinstance(other, np.ndarray)
    return np.concatenate([one, other])


def _part(values: Values, rows: slice) -> Values:
    return Text(values.codes[rows], values.words) if isinstance(values, Text) else values[rows]


@dataclass(frozen=True, slots=True)
class FeatureSchema:
    """The columns of a layer, and what is the same in all of its features.

    legend: the classes that may occur. confidence: whether conf_mean and conf_min are there. source, model_id: of
    which raster and by which model; None is NULL. extra: further columns after these (reg_status).
    """

    legend: Legend
    source: str | None = None
    model_id: str | None = None
    confidence: bool = False
    extra: tuple[Column, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns, in their order in the file."""
        confidence = (Column("conf_mean", Kind.FLOAT64), Column("conf_min", Kind.FLOAT64))
        return (
            Column("class_id", Kind.INT32),
            Column("class_name", Kind.TEXT),
            *((Column("code", Kind.INT64),) if self.legend.has_codes else ()),
            Column("area_m2", Kind.FLOAT64),
            Column("perim_m", Kind.FLOAT64),
            *(confidence if self.confidence else ()),
            Column("n_px", Kind.INT64),
            Column("source", Kind.TEXT),
            Column("model_id", Kind.TEXT),
            *self.extra,
        )

    @property
    def measured(self) -> tuple[Column, ...]:
        """The columns whose values `rows` must be given."""
        known = ("class_id", "class_name", "code", "n_px", "source", "model_id")
        return tuple(column for column in self.columns if column.name not in known)

    def rows(self, batch: PolygonBatch, measured: Mapping[str, NDArray[Any]]) -> Rows:
        """The features with all columns. measured: (f,) values by the name of each column of `measured`.

        Every value of the batch must be in the legend. Text among the measured comes as an array of str; None is NULL.
        """
        count, values = len(batch.values), batch.values
        known: dict[str, Values] = {
            "class_id": values.astype(np.int32),
            "class_name": Text(self._class_index(values), self.legend.names),
            **({"code": self._codes()[self._class_index(values)]} if self.legend.has_codes else {}),
            "n_px": batch.n_px,
            "source": _same(self.source, count),
            "model_id": _same(self.model_id, count),
        }
        given = {column.name: _typed(measured[column.name], column.kind) for column in self.measured}
        assert set(given) == set(measured), f"columns {sorted(measured)}, wanted {sorted(given)}"
        assert all(len(column) == count for column in (*known.values(), *given.values()))
        columns = known | given
        return Rows(multipolygons(batch), {column.name: columns[column.name] for column in self.columns})

    def _codes(self) -> Ints:
        codes = (entry.code for entry in self.legend.entries)
        return np.array([NO_INTEGER if code is None else code for code in codes], np.int64)

    def _class_index(self, values: Ints) -> Ints:
        classes = np.array(self.legend.values, np.int64)
        order = np.argsort(classes)
        index: Ints = order[np.minimum(np.searchsorted(classes, values, sorter=order), len(classes) - 1)]
        assert np.array_equal(classes[index], values), "a value is not in the legend"
        return index


def confidence_columns(batch: PolygonBatch, *, step: float) -> dict[str, Floats64]:
    """conf_mean and conf_min (f,) of the features, in 0…1. step: what one of the batch's confidence levels means."""
    return {
        "conf_mean": batch.conf_sum / batch.n_px * step,
        "conf_min": batch.conf_min.astype(np.float64) * step,
    }


def _same(word: str | None, count: int) -> Text:
    return Text(np.full(count, -1 if word is None else 0, np.int64), () if word is None else (word,))


def _typed(values: NDArray[Any], kind: Kind) -> Values:
    if kind is not Kind.TEXT:
        return np.ascontiguousarray(values, kind.value)
    words: dict[str, int] = {}
    codes = [-1 if word is None else words.setdefault(str(word), len(words)) for word in values]
    return Text(np.array(codes, np.int64), tuple(words))


@kernel
def _spell(codes: Ints, starts: Ints, letters: Bytes) -> tuple[Ints, Bytes]:
    offsets = np.zeros(codes.size + 1, np.int64)
    for k in range(codes.size):
        code = codes[k]
        offsets[k + 1] = offsets[k] + (starts[code + 1] - starts[code] if code >= 0 else 0)
    data = np.empty(offsets[-1], np.uint8)
    for k in range(codes.size):
        if codes[k] >= 0:
            data[offsets[k] : offsets[k + 1]] = letters[starts[codes[k]] : starts[codes[k] + 1]]
    return offsets, data
