"""A plan is made before anything runs: it starts no engine, writes nothing, and knows what became of every scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy as copy_raster

from aerial_seg.errors import OutputError
from aerial_seg.geo.raster.band_choice import BandChoice
from aerial_seg.inference.ensemble import Ensemble
from aerial_seg.jobs.predict.job import predict, predict_scenes
from aerial_seg.jobs.predict.many_scenes import ScenesFailedError
from aerial_seg.jobs.predict.plan import PredictRequest, make_plan
from aerial_seg.jobs.predict.settings import PredictSettings

MODEL = Path("model.safetensors")


def image(bands: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 255, (bands, 20, 30), dtype=np.uint8)


def test_a_plan_starts_no_engine_and_writes_nothing(
    tmp_path: Path,
    write_raster: Callable,
    pointwise: Callable,
    use: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(pointwise())
    good, other = (str(write_raster(tmp_path / name, image())) for name in ("good.tif", "other.tif"))
    wrong = str(write_raster(tmp_path / "wrong.tif", image(5)))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("an engine was started")

    monkeypatch.setattr(Ensemble, "predictor", never)
    before = sorted(tmp_path.rglob("*"))
    asked = PredictRequest.of(MODEL, [good, wrong, other], tmp_path / "masks", PredictSettings())
    plan = make_plan(asked, tmp_path)
    assert [scene.name for scene in plan.scenes] == [good, other]
    assert [(one.source, one.outcome) for one in plan.refused] == [(wrong, "failed")]
    assert plan.many_scenes
    assert (
        plan.tiles
        == 2 * make_plan(PredictRequest.of(MODEL, [good], tmp_path / "a.tif", asked.settings), tmp_path).tiles
    )
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(FrozenInstanceError):
        plan.tiles = 0  # type: ignore[misc]


def test_scenes_that_fail_are_told_and_only_predict_raises(
    tmp_path: Path, write_raster: Callable, pointwise: Callable, use: Callable
) -> None:
    use(pointwise())
    wrong = [str(write_raster(tmp_path / f"{name}.tif", image(5))) for name in "ab"]
    good = str(write_raster(tmp_path / "good.tif", image()))
    none = predict_scenes(MODEL, wrong, tmp_path / "none", PredictSettings())
    assert [(one.source, one.outcome) for one in none] == [(path, "failed") for path in wrong]
    assert not (tmp_path / "none").exists()
    settings = PredictSettings(engine="eager", precision="fp32")
    some = predict_scenes(MODEL, [*wrong, good], tmp_path / "some", settings)
    assert [one.outcome for one in some] == ["failed", "failed", "done"]
    # The journal stays although nothing was raised: what is there is not made again.
    assert (tmp_path / "some" / "predict.work" / "journal.jsonl").exists()
    with pytest.raises(ScenesFailedError, match="2 of 3 scenes have no mask") as told:
        predict(MODEL, [*wrong, good], tmp_path / "some", settings)
    assert [one.outcome for one in told.value.outcomes] == ["failed", "failed", "kept"]
    (report,) = predict(MODEL, [good, good], tmp_path / "alone.tif", settings)
    assert report.mask == tmp_path / "alone.tif"
    assert [one.outcome for one in predict_scenes(MODEL, [good], tmp_path / "some.tif", settings)] == ["done"]


def test_the_files_behind_what_is_stacked_are_never_replaced(
    tmp_path: Path, write_raster: Callable, pointwise: Callable, use: Callable
) -> None:
    use(pointwise())
    below = str(write_raster(tmp_path / "below.tif", image(1)))
    member = write_raster(tmp_path / "member.tif", image(1))
    copy_raster(str(member), str(tmp_path / "stacked.vrt"), driver="VRT")
    settings = PredictSettings(bands=BandChoice(stack=(str(tmp_path / "stacked.vrt"),)), overwrite=True)
    with pytest.raises(OutputError, match=r"member\.tif would be written, but is one of the files to read"):
        predict(MODEL, [below], member, settings)
    with rasterio.open(member) as file:
        np.testing.assert_array_equal(file.read(), image(1))
