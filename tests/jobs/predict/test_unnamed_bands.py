"""A raster that names no bands: what a model takes by their place is said, until the user says which is which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from aerial_seg.geo.raster.band_choice import ALL_BANDS, BandChoice
from aerial_seg.jobs.predict.job import predict
from aerial_seg.jobs.predict.settings import PredictSettings
from aerial_seg.mentions import settings_in
from aerial_seg.models.file import TrainedModel


def test_bands_that_are_taken_by_their_place_are_said_until_they_are_named(
    write_raster: Callable[..., Path],
    pointwise: Callable[..., TrainedModel],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    plain = pointwise(stride=4, origin_step=4, gsd=None)
    named = [
        band.model_copy(update={"name": name})
        for band, name in zip(plain.card.bands, ("red", "nir"), strict=True)
    ]
    trained = replace(plain, card=plain.card.model_copy(update={"bands": tuple(named)}))
    monkeypatch.setattr("aerial_seg.jobs.predict.plan.load_model", lambda path: trained)
    pixels = np.random.default_rng(0).integers(1, 256, (2, 70, 90)).astype("uint8")
    path = write_raster(tmp_path / "in.tif", pixels)

    def run(choice: BandChoice) -> tuple[np.ndarray, list[str]]:
        settings = PredictSettings(bands=choice, overwrite=True)
        (report,) = predict(Path("m"), [str(path)], tmp_path / "mask.tif", settings)
        with rasterio.open(tmp_path / "mask.tif") as mask:
            return mask.read(1), [note for note in report.notes if "which band is which" in note]

    classes, (note,) = run(ALL_BANDS)
    assert "band 1 for red, band 2 for nir were taken by their place" in note
    (remedy,) = settings_in(note)
    assert remedy.value.keywords == {"numbers": (1, 2), "names": ("red", "nir")}
    again, notes = run(BandChoice(**remedy.value.keywords))
    assert notes == []
    assert np.array_equal(again, classes)
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("red", "nir")
    assert run(ALL_BANDS)[1] == []
