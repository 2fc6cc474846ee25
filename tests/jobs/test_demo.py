"""The demo keeps its promises: everything it names is there, and shape and texture are needed to pass its bar."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from shapely import box
from sklearn.ensemble import HistGradientBoostingClassifier

from aerial_seg.errors import AerialSegError
from aerial_seg.jobs import demo as room
from aerial_seg.jobs.demo import SIDE, TEST_SEED, TRAINING_SEEDS, DemoReport, demo
from aerial_seg.metrics import ConfusionMatrix
from aerial_seg.recipe.document import Recipe
from aerial_seg.recipe.loading import load_recipe
from aerial_seg.synthetic.town import TOWN_LEGEND, make_town

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    """Unlike the tiny networks of this folder's other tests, the demo's gains from every core."""


def short(recipe: Recipe) -> Recipe:
    training = recipe.training.model_copy(
        update={"iterations": 2, "validate_every": 2, "crop": 64, "warmup": 0}
    )
    return recipe.model_copy(update={"training": training})


def check_outputs(folder: Path) -> dict[str, object]:
    with rasterio.open(folder / "map.tif") as mask, rasterio.open(folder / "scenes/test/image.tif") as image:
        assert mask.shape == image.shape
        assert mask.transform == image.transform
        assert mask.crs == image.crs
        assert mask.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert np.array_equal(mask.read(1) == 255, image.dataset_mask() == 0)
    layers = [geopandas.read_file(folder / name) for name in ("map.gpkg", "map.shp")]
    assert len(layers[0]) == len(layers[1])
    assert all(layer.geometry.is_valid.all() for layer in layers)
    assert (folder / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    report: dict[str, object] = json.loads((folder / "report.json").read_text())
    return report


def test_a_shortened_demo_leaves_everything_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SIDE", 512)
    monkeypatch.setattr(room, "TRAINING_SEEDS", (1,))
    report = demo(tmp_path / "out", device="cpu", recipe=short(load_recipe("demo")))
    document = check_outputs(tmp_path / "out")
    assert document["miou"] == pytest.approx(report.miou)
    for path in (report.scenes, report.dataset, report.model, report.curves, report.mask, report.geopackage,
                 report.shapefile, report.picture, report.report):  # fmt: skip
        assert path.exists()
    with pytest.raises(AerialSegError, match="`overwrite=True`"):
        demo(tmp_path / "out")


def test_the_demo_refuses_a_folder_with_other_things(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(AerialSegError, match="not empty"):
        demo(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> DemoReport:
    """The demo as `aerial-seg demo` runs it, in the folder that it takes by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("demo"))
        return replace(demo(Path("aerial-seg-demo"), device="cpu"), folder=Path.cwd() / "aerial-seg-demo")


@pytest.mark.slow
def test_the_demo_reaches_its_bar(finished: DemoReport) -> None:
    document = check_outputs(finished.folder)
    assert finished.miou >= 0.75
    assert document["classes_counted"] == 5


@pytest.mark.slow
def test_the_readmes_python_runs_as_written_on_what_the_demo_left(
    finished: DemoReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.folder.parent)
    (lines,) = re.findall(
        r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    exec(compile(lines, README, "exec"), {"__name__": "__main__"})
    made = geopandas.read_file("polygons.gpkg")
    with rasterio.open(finished.folder / "scenes/test/image.tif") as image:
        assert made.crs == image.crs
        assert box(*image.bounds).buffer(1e-6).contains(box(*made.total_bounds))
    assert made.geometry.is_valid.all()
    # The demo's own polygons are of the same map without its smallest patches.
    demos = geopandas.read_file(finished.folder / "map.gpkg", layer="map").dissolve("class_name").area
    assert made.dissolve("class_name").area.to_dict() == pytest.approx(demos.to_dict(), rel=0.05)


@pytest.mark.slow
def test_colour_alone_stays_below_half_on_the_demos_own_scenes() -> None:
    """Per-pixel gradient boosting on RGB, trained on the demo's training scenes, scored on its test scene."""
    random = np.random.default_rng(0)
    pixels, classes = [], []
    for seed in TRAINING_SEEDS:
        scene = make_town(seed, height=SIDE, width=SIDE)
        known = np.flatnonzero(scene.valid.ravel())
        chosen = random.choice(known, 60_000, replace=False)
        pixels.append(scene.image.reshape(3, -1)[:, chosen].T)
        classes.append(scene.truth.ravel()[chosen])
    model = HistGradientBoostingClassifier(max_iter=150, random_state=0)
    model.fit(np.concatenate(pixels), np.concatenate(classes))
    test = make_town(TEST_SEED, height=SIDE, width=SIDE)
    matrix = ConfusionMatrix(len(TOWN_LEGEND))
    matrix.add(test.truth.ravel(), model.predict(test.image.reshape(3, -1).T))
    assert matrix.scores(TOWN_LEGEND.names).miou <= 0.50
