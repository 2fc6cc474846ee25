"""Each raster is opened once for its facts, before any tile runs, and once to be read; whatever is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from aerial_seg.geo.raster.band_choice import BandChoice
from aerial_seg.jobs.predict.job import forecast_prediction, predict
from aerial_seg.jobs.predict.settings import PredictSettings

SIDE = 16
MODEL = Path("model.safetensors")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often rasterio opened files, by name."""
    counted: Counter[str] = Counter()
    plain = rasterio.open

    def counting(name: Any, *args: Any, **named: Any) -> Any:
        counted[Path(str(name)).name] += 1
        return plain(name, *args, **named)

    monkeypatch.setattr(rasterio, "open", counting)
    return counted


@pytest.fixture
def rasters(tmp_path: Path, write_raster: Callable[..., Path]) -> Callable[[int, int], list[str]]:
    """`rasters(count, bands)`: raster0.tif, raster1.tif, … side by side."""

    def write(count: int, bands: int) -> list[str]:
        image = np.random.default_rng(0).integers(1, 255, (bands, SIDE, SIDE), dtype=np.uint8)
        return [
            str(write_raster(tmp_path / f"raster{k}.tif", image, corner=(5e5 + SIDE * k, 5.2e6)))
            for k in range(count)
        ]

    return write


@pytest.mark.parametrize(
    ("count", "asked"),
    [
        (1, {}),
        (1, {"bands": BandChoice(numbers=(2, 1))}),
        (1, {"bands": BandChoice(numbers=(1, 2), names=("band 2", "band 1"))}),
        (1, {"stac": True}),
        (1, {"bounds": (5e5, 5.2e6 - 8, 5e5 + 8, 5.2e6)}),
        (1, {"nodata": 3.0}),
        (2, {"mosaic": True}),
        (2, {"mosaic": True, "stac": True}),
        (2, {"mosaic": True, "bands": BandChoice(numbers=(2, 1))}),
    ],
)
def test_a_raster_is_opened_once_for_its_facts_and_once_to_be_read(
    count: int,
    asked: dict[str, Any],
    tmp_path: Path,
    rasters: Callable,
    pointwise: Callable,
    use: Callable,
    opened: Counter[str],
) -> None:
    use(pointwise())
    paths = rasters(count, 2)
    opened.clear()
    predict(MODEL, paths, tmp_path / "out.tif", PredictSettings(engine="eager", precision="fp32", **asked))
    assert {Path(path).name: opened[Path(path).name] for path in paths} == {
        Path(path).name: 2 for path in paths
    }


def test_what_is_stacked_is_opened_as_often(
    tmp_path: Path,
    rasters: Callable,
    pointwise: Callable,
    use: Callable,
    opened: Counter[str],
) -> None:
    use(pointwise())
    (path,) = rasters(1, 1)
    above = Path(path).rename(tmp_path / "above.tif")
    (path,) = rasters(1, 1)
    opened.clear()
    settings = PredictSettings(engine="eager", precision="fp32", bands=BandChoice(stack=(str(above),)))
    predict(MODEL, [path], tmp_path / "out.tif", settings)
    assert (opened["raster0.tif"], opened["above.tif"]) == (2, 2)


def test_a_dry_run_opens_no_more(
    tmp_path: Path, rasters: Callable, pointwise: Callable, use: Callable, opened: Counter[str]
) -> None:
    use(pointwise())
    paths = rasters(1, 2)
    opened.clear()
    settings = PredictSettings(engine="eager", precision="fp32", bands=BandChoice(numbers=(2, 1)))
    forecast_prediction(MODEL, paths, tmp_path / "out.tif", settings)
    assert opened["raster0.tif"] == 2
