"""A map across 180° agrees with its own polygons, whichever way their format cuts the world."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS

from aerial_seg.geo.grid import Grid
from aerial_seg.geo.measures import Measure
from aerial_seg.jobs.evaluate import evaluate_mask
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE, make_legend
from aerial_seg.outputs.maps import write_mask
from aerial_seg.vectors.from_mask.settings import ShapeSettings, VectorizeSettings

LEGEND = make_legend({0: "background", 1: "house", 2: "road"}, background=[0])
EXACT = VectorizeSettings(classes=("all",), shape=ShapeSettings(simplify=Measure(0, "px")))
LABELS = LabelSettings(class_field="class_name", outside="unlabelled")
SCENES = {
    "degrees": (4326, Affine(0.01, 0, 179.8, 0, -0.01, 0.2)),
    "degrees below -180": (4326, Affine(0.01, 0, -180.2, 0, -0.01, 0.2)),
    "Mercator": (3857, Affine(1000, 0, 20037508.34 - 20_000, 0, -1000, 20_000)),
    "UTM": (32660, Affine(1000, 0, 814_000, 0, -1000, 20_000)),
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("name", ["map.geojson", "map.gpkg", "map.parquet"])
def test_a_mask_agrees_with_its_own_polygons(tmp_path: Path, scene: str, name: str) -> None:
    if name.endswith(".parquet") and find_spec("pyarrow") is None:
        pytest.skip("pyarrow is not installed")
    code, transform = SCENES[scene]
    rough = np.random.default_rng(5).choice([0, 1, 2, IGNORE], (8, 8))
    values = np.kron(rough, np.ones((5, 5), int)).astype(np.uint8)
    grid = Grid(crs=CRS(code), transform=transform, height=40, width=40)
    mask = tmp_path / "map.tif"
    write_mask(mask, values, grid=grid, legend=LEGEND)
    vectorize(mask, tmp_path / name, EXACT)
    report = evaluate_mask(mask, [str(tmp_path / name)], LABELS)
    # Each pixel of the mask is labelled, but centres on the cut, which lie on the edges of two halves.
    assert np.sum(report.scores.confusion) >= (values != IGNORE).sum() - 40
    assert report.scores.miou == pytest.approx(1, abs=0.02)
    if name != "map.geojson":
        assert report.scores.miou == 1
        assert np.sum(report.scores.confusion) == (values != IGNORE).sum()
