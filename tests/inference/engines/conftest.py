"""A small model, made once a file."""

from __future__ import annotations

import pytest
from engine_models import make_model

from aerial_seg.models.file import TrainedModel


@pytest.fixture(scope="module")
def small() -> TrainedModel:
    return make_model()
