"""A run on windows of rasters is the run on their chips: the same weights, scores and maps, to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples
from safetensors.numpy import load_file
from shapely import box

from aerial_seg.errors import InputError
from aerial_seg.jobs.evaluate import evaluate_model_on_chips
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.train.job import train
from aerial_seg.jobs.train.settings import TrainSettings
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.recipe.loading import parse_recipe
from aerial_seg.training.manifest import open_manifest
from aerial_seg.training.validation.chip_scenes import chip_scenes

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile

RECIPE = """
[model]
output_stride = 16
head_channels = 8
[training]
iterations = 3
batch_size = 2
crop = 32
validate_every = 3
calibrate = true
[augmentation]
rotation = 20
blur = 0.5
aspect = 0.1
cat_max_ratio = 0.75
[sampling]
balanced_crops = 0.3
repeat_classes = { road = 2 }
[prediction]
tile_size = 64
"""
SIDE = 160


@pytest.fixture
def datasets(raster_file: RasterFile, polygon_file: PolygonFile) -> list[Path]:
    """Of one image, in whose middle is ground that nobody labelled: chips, and an index only."""
    pixels = np.random.default_rng(0).integers(1, 90, (3, SIDE, SIDE), dtype=np.uint8)
    pixels[:, :, ::3] += 100
    pixels[:, 3:9, 5:30] = 0
    image = raster_file("image.tif", pixels, nodata=0)
    cells = [(x, y) for x in range(0, 80, 8) for y in range(0, 80, 8) if not (32 <= x < 48 and 32 <= y < 48)]
    squares = [box(300_000 + x, 3_059_992 - y, 300_008 + x, 3_060_000 - y) for x, y in cells]
    labels = polygon_file("labels.gpkg", squares, {"kind": [("roof", "road")[x // 8 % 2] for x, _ in cells]})
    named = LabelSettings(class_field="kind", outside="unlabelled")
    wanted = TileSettings(chip_size=32, block=1, val="0.2", test="0.2", labels=named)
    made = []
    for name, only in (("chips", False), ("indexed", True)):
        folder = image.parent / name
        tile([str(image)], [str(labels)], folder, replace(wanted, index_only=only))
        made.append(folder)
    return made


def test_a_run_learns_and_scores_the_same(datasets: list[Path]) -> None:
    recipe = parse_recipe(RECIPE, "test")
    runs = [train(folder, recipe, folder.with_name(f"run-{folder.name}")).run for folder in datasets]
    for name in ("best", "last"):
        one, other = (load_file(run / f"{name}.safetensors") for run in runs)
        assert one.keys() == other.keys()
        assert all(one[key].tobytes() == other[key].tobytes() for key in one)
    model = runs[0] / "last.safetensors"
    reports = [evaluate_model_on_chips(model, folder) for folder in datasets]
    assert repr(reports[0].scores) == repr(reports[1].scores)
    assert repr(reports[0].intervals) == repr(reports[1].intervals)


@settings(max_examples=examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_scenes_show_the_same_ground_as_those_of_chips(
    datasets: list[Path], tmp_path: Path, data: st.DataObject
) -> None:
    """Pixels and what is measured: also where no chip was cut, which is not seen though the raster has it."""
    split, side = (
        data.draw(st.sampled_from(["train", "val", "test"])),
        data.draw(st.sampled_from([32, 64, 96])),
    )
    made = [chip_scenes(open_manifest(root), split, tmp_path, side=side) for root in datasets]
    assert made[0][1] == made[1][1]
    (one,), (other,) = made[0][0], made[1][0]
    assert (one.name, one.height, one.width) == (other.name, other.height, other.width)
    assert [part.name for r in one.rectangles for part in r.parts] == [
        part.name for r in other.rectangles for part in r.parts
    ]
    top, left = data.draw(st.integers(0, SIDE - 1)), data.draw(st.integers(0, SIDE - 1))
    size = {
        "height": data.draw(st.integers(1, SIDE - top)),
        "width": data.draw(st.integers(1, SIDE - left)),
    }
    with one.opened() as files, other.opened() as windows:
        for place in (
            {"top": 0, "left": 0, "height": SIDE, "width": SIDE},
            {"top": top, "left": left} | size,
        ):
            for wanted, got in zip(files.read(**place), windows.read(**place), strict=True):
                np.testing.assert_array_equal(got, wanted)
        assert not windows.read(top=64, left=64, height=32, width=32)[1].any()


def test_a_run_on_a_source_that_changed_is_refused(datasets: list[Path]) -> None:
    image = datasets[0].with_name("image.tif")
    recipe = parse_recipe(RECIPE, "test")
    image.write_bytes(image.read_bytes() + b"0")
    for given_to in (TrainSettings(), TrainSettings(overfit=2)):
        with pytest.raises(InputError, match=r"image\.tif, which changed since"):
            train(datasets[1], recipe, datasets[1].with_name("run"), given_to)
    assert not datasets[1].with_name("run").exists()
