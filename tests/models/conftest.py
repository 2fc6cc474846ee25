"""What all tests of networks share: building one costs little."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from drawn_weights import weights_from_tables


@pytest.fixture(autouse=True, scope="module")
def _built_fast() -> Iterator[None]:
    with weights_from_tables():
        yield
