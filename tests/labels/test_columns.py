"""A column of labels keeps each different value once, and codes that give the values back."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.labels.vector_file import Column

values = st.one_of(
    st.none(), st.text(max_size=3), st.integers(-5, 5), st.floats(allow_nan=True), st.booleans()
)


@given(batches=st.lists(st.lists(values, max_size=6), max_size=4))
def test_a_columns_codes_give_its_values_back(batches: list[list[Any]]) -> None:
    column = Column("kind")
    seen: list[Any] = []
    codes: list[int] = []
    for batch in batches:
        found: Any = np.empty(len(batch), object)
        found[:] = batch
        codes += column.add(found, "l.gpkg").tolist()
        seen += [None if value is None or value != value else value for value in batch]
    assert [None if code < 0 else column.values[code] for code in codes] == seen
    assert column.nulls == seen.count(None)
    assert column.counts == [codes.count(code) for code in range(len(column.values))]
