"""What leaves as an Arrow stream is what pyarrow, the format's own library, finds in it; nothing stays lent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.vectors import arrow_stream
from aerial_seg.vectors.arrow_stream import GEOMETRY, RowStream, Stopped
from aerial_seg.vectors.schema import NO_INTEGER, Column, Kind, Rows, Text
from aerial_seg.vectors.wkb import Wkb

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")

COLUMNS = (
    Column("small", Kind.INT32),
    Column("large", Kind.INT64),
    Column("real", Kind.FLOAT64),
    Column("text", Kind.TEXT),
)
int32, int64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
records = st.tuples(int32, int64, st.floats(allow_nan=True), st.none() | st.text(), st.binary(max_size=9))
batches = st.lists(st.lists(records, max_size=20), max_size=4)


def make_rows(found: list[tuple[Any, ...]]) -> Rows:
    small, large, real, text, blobs = ([record[k] for record in found] for k in range(5))
    words = tuple({word for word in text if word is not None})
    codes = np.array([-1 if word is None else words.index(word) for word in text], np.int64)
    wkb = Wkb(np.frombuffer(b"".join(blobs), np.uint8), np.cumsum([0, *map(len, blobs)], dtype=np.int64))
    return Rows(
        wkb,
        {
            "small": np.array(small, np.int32),
            "large": np.array(large, np.int64),
            "real": np.array(real, np.float64),
            "text": Text(codes, words),
        },
    )


def expected(found: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """As they were made: NaN, and of long integers the lowest, are NULL."""
    return [
        (row[0], None if row[1] == NO_INTEGER else row[1], None if np.isnan(row[2]) else row[2], *row[3:])
        for row in found
    ]


def handed(parts: list[Rows]) -> Iterator[Rows | None]:
    yield from parts
    yield None


@given(batches)
def test_pyarrow_reads_what_was_handed_over(found: list[list[tuple[Any, ...]]]) -> None:
    before = set(arrow_stream._LENT)
    take = handed([make_rows(batch) for batch in found]).__next__
    with pyarrow.RecordBatchReader.from_stream(RowStream(COLUMNS, take)) as reader:
        kinds = [str(kind) for kind in reader.schema.types]
        assert kinds == ["int32", "int64", "double", "large_string", "large_binary"]
        assert reader.schema.names == ["small", "large", "real", "text", GEOMETRY]
        read = list(reader)
    assert [batch.num_rows for batch in read] == [len(batch) for batch in found]
    for batch, wanted in zip(read, found, strict=True):
        batch.validate(full=True)
        columns = [column.to_pylist() for column in batch.columns]
        assert list(zip(*columns, strict=True)) == expected(wanted)
        assert [column.null_count for column in batch.columns[2:4]] == [
            sum(row[k] is None for row in expected(wanted)) for k in (2, 3)
        ]
    batch = read = reader = take = None
    assert set(arrow_stream._LENT) == before


def test_columns_outlive_their_batch() -> None:
    """A reader may keep one column and let go of the rest."""
    before = set(arrow_stream._LENT)
    source = handed([make_rows([(1, 2, 3.0, "four", b"five"), (6, 7, 8.0, "nine", b"ten")])])
    column = pyarrow.RecordBatchReader.from_stream(RowStream(COLUMNS, lambda: next(source))).read_all()[
        "text"
    ]
    assert column.to_pylist() == ["four", "nine"]
    del column
    assert set(arrow_stream._LENT) == before


def test_a_stop_is_an_error_on_the_other_side() -> None:
    reader = pyarrow.RecordBatchReader.from_stream(RowStream(COLUMNS, Stopped))
    with pytest.raises(OSError, match="given up"):
        reader.read_next_batch()


@given(batches, st.data())
def test_rows_joined_of_parts_are_the_rows(found: list[list[tuple[Any, ...]]], data: st.DataObject) -> None:
    flat = [record for batch in found for record in batch]
    rows = make_rows(flat)
    cut = data.draw(st.integers(0, len(flat)))
    joined = make_rows(flat[:cut]).joined(rows.part(cut, len(flat)))
    for whole in (rows, joined):
        stream = RowStream(COLUMNS, handed([whole]).__next__)
        table = pyarrow.RecordBatchReader.from_stream(stream).read_all()
        assert list(zip(*(column.to_pylist() for column in table.columns), strict=True)) == expected(flat)
