"""The made-up scene is exact where it claims to be, and colour alone does not map it."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.features import rasterize
from rasterio.transform import array_bounds
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from aerial_seg.errors import OutputError, SettingsError
from aerial_seg.geo.grid import Grid
from aerial_seg.legend import IGNORE
from aerial_seg.metrics import ConfusionMatrix
from aerial_seg.synthetic.town import TOWN_LEGEND, Town, make_town, write_town

VALUE = {entry.name: entry.value for entry in TOWN_LEGEND.entries}
SIZES = {
    0: (512, 512),
    1: (512, 700),
    2: (640, 512),
    3: (513, 517),
    4: (768, 512),
    5: (512, 512),
    6: (512, 512),
}


@pytest.fixture(scope="module")
def scenes() -> dict[int, Town]:
    return {seed: make_town(seed, height=h, width=w) for seed, (h, w) in SIZES.items()}


def _burnt(scene: Town, labels: gpd.GeoDataFrame) -> np.ndarray:
    pairs = ((polygon, VALUE[name]) for polygon, name in zip(labels.geometry, labels["class"], strict=True))
    mask = rasterize(
        pairs, scene.grid.shape, transform=scene.grid.transform, dtype="uint8", all_touched=False
    )
    return np.where(scene.valid, mask, IGNORE)


def _outline(grid: Grid) -> shapely.Polygon:
    left, bottom, right, top = array_bounds(*grid.shape, grid.transform)
    return shapely.Polygon([(left, bottom), (right, bottom), (right, top), (left, top)])


def test_truth_is_the_labels_burnt_in_any_order(scenes: dict[int, Town]) -> None:
    for scene in scenes.values():
        np.testing.assert_array_equal(scene.truth, _burnt(scene, scene.labels))
        np.testing.assert_array_equal(scene.truth, _burnt(scene, scene.labels[::-1]))


def test_labels_are_valid_polygons_of_the_legend_inside_the_grid(scenes: dict[int, Town]) -> None:
    for scene in scenes.values():
        assert scene.labels.crs == scene.grid.crs
        assert scene.labels.is_valid.all()
        assert set(scene.labels.geom_type) == {"Polygon"}
        assert set(scene.labels["class"]) == set(TOWN_LEGEND.names) - {"background"}
        assert scene.labels.within(_outline(scene.grid).buffer(1e-6)).all()


def test_classes_do_not_overlap(scenes: dict[int, Town]) -> None:
    for scene in scenes.values():
        union = {name: shapely.union_all(part.geometry) for name, part in scene.labels.groupby("class")}
        for one, other in combinations(union.values(), 2):
            assert one.intersection(other).area < 1e-6


def test_every_class_is_present_in_its_share(scenes: dict[int, Town]) -> None:
    bounds = {
        "building": (0.06, 0.19),
        "road": (0.06, 0.14),
        "vegetation": (0.13, 0.28),
        "water": (0.07, 0.18),
    }
    for seed, scene in scenes.items():
        for name, (low, high) in bounds.items():
            assert low < (scene.truth[scene.valid] == VALUE[name]).mean() < high, (seed, name)


def test_the_collar_is_a_border_and_zero_marks_it(scenes: dict[int, Town]) -> None:
    for scene in scenes.values():
        assert 0.03 <= 1 - scene.valid.mean() <= 0.08
        height, width = scene.grid.shape
        assert scene.valid[height // 8 : -height // 8, width // 8 : -width // 8].all()
        np.testing.assert_array_equal(scene.image.min(axis=0) > 0, scene.valid)
        assert not scene.image[:, ~scene.valid].any()
        np.testing.assert_array_equal(scene.truth == IGNORE, ~scene.valid)


def test_arrays_keep_the_conventions(scenes: dict[int, Town]) -> None:
    for scene in scenes.values():
        assert scene.image.shape == (3, *scene.grid.shape)
        assert scene.truth.shape == scene.valid.shape == scene.grid.shape
        assert scene.image.dtype == scene.truth.dtype == np.dtype(np.uint8)
        assert scene.valid.dtype == np.dtype(np.bool_)


def test_a_seed_repeats_and_another_differs(scenes: dict[int, Town]) -> None:
    again = make_town(0, height=512, width=512)
    first = scenes[0]
    assert again.grid == first.grid
    for name in ("image", "valid", "truth"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    assert again.labels.equals(first.labels)
    assert (scenes[5].truth != first.truth).mean() > 0.2


def test_seeds_lie_apart_and_have_the_wanted_gsd() -> None:
    places = [make_town(seed, height=256, width=256, gsd=0.25).grid for seed in (0, 1, 49, 50, 51)]
    for one, other in combinations(places, 2):
        assert _outline(one).disjoint(_outline(other))
    # UTM's scale factor is between 0.9996 and 1.001 within a zone.
    assert places[0].gsd() == pytest.approx((0.25, 0.25), rel=1e-3)
    assert places[0].crs is not None
    assert places[0].crs.to_epsg() == 32633


def test_written_files_hold_the_scene(scenes: dict[int, Town], tmp_path: Path) -> None:
    scene = scenes[1]
    paths = write_town(scene, tmp_path / "new")
    with rasterio.open(paths.image) as image, rasterio.open(paths.truth) as truth:
        np.testing.assert_array_equal(image.read(), scene.image)
        np.testing.assert_array_equal(image.dataset_mask() > 0, scene.valid)
        np.testing.assert_array_equal(
            image.read_masks() > 0, np.broadcast_to(scene.valid, image.read().shape)
        )
        np.testing.assert_array_equal(truth.read(1), scene.truth)
        np.testing.assert_array_equal(truth.dataset_mask() > 0, scene.valid)
        assert image.transform == truth.transform == scene.grid.transform
        assert image.crs == truth.crs == scene.grid.crs
        assert image.profile["tiled"]
        assert image.profile["compress"] == "deflate"
        assert truth.colormap(1)[VALUE["water"]] == (*TOWN_LEGEND.by_value()[VALUE["water"]].rgb, 255)
    labels = gpd.read_file(paths.labels)
    assert labels.crs == scene.grid.crs
    np.testing.assert_array_equal(_burnt(replace(scene, labels=labels), labels), scene.truth)
    written = {"image.tif", "labels.gpkg", "truth.tif", "truth.qml"}
    assert {path.name for path in (tmp_path / "new").iterdir()} == written
    assert write_town(scene, tmp_path / "new") == paths


def test_refusals_name_the_remedy(scenes: dict[int, Town], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="give 0 or more"):
        make_town(-1, height=512, width=512)
    with pytest.raises(SettingsError, match="at least 256"):
        make_town(1, height=512, width=255)
    with pytest.raises(SettingsError, match="at most 8000"):
        make_town(1, height=8001, width=512)
    with pytest.raises(SettingsError, match=r"for example 0\.5"):
        make_town(1, height=512, width=512, gsd=float("nan"))
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="choose another folder"):
        write_town(scenes[0], tmp_path / "file")


def _boosted_miou(train: Town, test: Town) -> float:
    """mIoU on `test` of gradient-boosted trees that see one pixel's RGB at a time."""
    chosen = np.random.default_rng(0).choice(np.flatnonzero(train.valid), 20_000, replace=False)
    trees = HistGradientBoostingClassifier(max_iter=30, random_state=0)
    # One thread: on a busy machine the trees' threads wait for each other for minutes.
    with threadpool_limits(1):
        trees.fit(train.image.reshape(3, -1).T[chosen], train.truth.ravel()[chosen])
    seen = np.flatnonzero(test.valid)[::5]
    confusion = ConfusionMatrix(len(TOWN_LEGEND))
    with threadpool_limits(1):
        predicted = trees.predict(test.image.reshape(3, -1).T[seen])
    confusion.add(test.truth.ravel()[seen], predicted.astype(np.uint8))
    return confusion.scores(TOWN_LEGEND.names).miou


def test_colour_alone_does_not_solve_it(scenes: dict[int, Town]) -> None:
    assert _boosted_miou(scenes[1], scenes[4]) <= 0.50
    assert _boosted_miou(scenes[2], scenes[3]) <= 0.50
