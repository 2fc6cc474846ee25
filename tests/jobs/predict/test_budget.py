"""Memory is divided before a run begins, the same way each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.geo.raster.covered import BLOCK
from aerial_seg.inference.memory import batch_within, forward_bound
from aerial_seg.jobs.predict.job import forecast_prediction, predict
from aerial_seg.jobs.predict.memory import even_panels
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.models.file import TrainedModel

LIMIT = 4_000_000_000


@given(wanted=st.integers(1, 64), side=st.integers(32, 2048), limit=st.integers(10**8, 10**11))
def test_the_batch_is_the_largest_half_that_leaves_half_of_the_memory(
    wanted: int, side: int, limit: int
) -> None:
    batch = batch_within(wanted, side=side, max_memory=limit)
    halves = [wanted >> k for k in range(wanted.bit_length())]
    fitting = [half for half in halves if forward_bound(half, side) <= limit / 2]
    assert batch == max(fitting, default=1)


@given(width=st.integers(1, 20_000), count=st.integers(1, 40))
def test_panels_hold_every_column_once_and_no_block_twice(width: int, count: int) -> None:
    panels = even_panels(width, count)
    assert [column for panel in panels for column in panel] == list(range(width))
    assert len(panels) <= count
    assert all(panel.start % BLOCK == 0 for panel in panels)


@pytest.fixture
def model(pointwise: Callable[..., TrainedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 512 px, sixteen at once."""
    plain = pointwise(stride=4, origin_step=4)
    prediction = plain.card.recipe.prediction.model_copy(update={"tile_size": 512, "batch_size": 16})
    card = plain.card.model_copy(
        update={"recipe": plain.card.recipe.model_copy(update={"prediction": prediction})}
    )
    monkeypatch.setattr("aerial_seg.jobs.predict.plan.load_model", lambda path: replace(plain, card=card))


@pytest.mark.usefixtures("model")
def test_a_smaller_batch_is_told_and_the_users_own_is_kept(write_raster: Callable, tmp_path: Path) -> None:
    raster = str(write_raster(tmp_path / "in.tif", np.full((2, 600, 600), 9, np.uint8)))

    def notes(**options: int) -> list[str]:
        settings = PredictSettings(overwrite=True, device="cpu", **options)
        (report,) = predict(Path("m"), [raster], tmp_path / "map.tif", settings)
        (foretold,) = forecast_prediction(Path("m"), [raster], tmp_path / "map.tif", settings)
        said = [note for note in report.notes if note.startswith("batch size")]
        assert said == [note for note in foretold.notes if note.startswith("batch size")]
        return said

    (note,) = notes(max_memory=LIMIT)
    assert note.startswith("batch size 4 in place of the model's 16")
    assert notes(max_memory=4 * LIMIT) == []
    assert notes(max_memory=10 * LIMIT, batch_size=8) == []
