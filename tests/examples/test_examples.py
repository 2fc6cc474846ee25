"""The scripts that people copy run as they are written, on imagery that they never saw."""

from __future__ import annotations

import json
import re
import runpy
import sys
from argparse import Namespace
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.windows import Window

import aerial_seg
from aerial_seg.synthetic.town import TownPaths, make_town, write_town

EXAMPLES = Path(__file__).parents[2] / "examples"
RECIPE = """
[model]
architecture = "Unet"
encoder = "mobilenet_v2"
options = { decoder_channels = [16, 16, 8, 8, 8] }
[training]
iterations = 3
batch_size = 2
crop = 64
optimizer = "adamw"
learning_rate = 3e-3
warmup = 0
validate_every = 3
[prediction]
tile_size = 256
"""


def run_script(name: str, *arguments: str | Path, into: StringIO | None = None) -> list[str]:
    """What the script printed, line by line, run with these arguments as `python NAME …` would."""
    before, printed = sys.argv, StringIO() if into is None else into
    sys.argv = [name, *map(str, arguments)]
    try:
        with redirect_stdout(printed):
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    finally:
        sys.argv = before
    return printed.getvalue().splitlines()


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> TownPaths:
    return write_town(make_town(1, height=512, width=512), tmp_path_factory.mktemp("town"))


def test_every_example_is_run_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in sorted(EXAMPLES.glob("*.py")) if f'"{path.name}"' not in source] == []


@pytest.fixture(scope="module")
def trained(town: TownPaths, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder that train_on_own_labels.py leaves behind, and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = folder / "small.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    arguments = (town.image, town.labels, folder / "work", recipe)
    return folder / "work", run_script("train_on_own_labels.py", *arguments)


@pytest.mark.slow
def test_a_sweep_goes_on_and_stops_trials_that_fall_behind(
    trained: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optuna = pytest.importorskip("optuna", reason="NOT PROVED: optuna is not installed")
    chips, recipe, sweep = trained[0] / "chips", tmp_path / "small.toml", tmp_path / "sweep"
    recipe.write_text(RECIPE.replace("validate_every = 3", "validate_every = 1"), encoding="utf-8")
    printed = run_script("sweep.py", chips, recipe, sweep, "2")
    assert re.fullmatch(r"best: trial [01], mIoU 0\.\d{4}", printed[0])
    assert [line.split(" = ")[0].strip() for line in printed[1:]] == [
        "training.learning_rate", "training.weight_decay", "training.dice_weight",
    ]  # fmt: skip
    # The third trial is the same sweep's, and worse than all before.
    monkeypatch.setattr(optuna.pruners.MedianPruner, "prune", lambda self, study, trial: trial.number == 2)
    run_script("sweep.py", chips, recipe, sweep, "3")
    assert {path.name for path in sweep.iterdir()} == {"sweep.log", "trial-0000", "trial-0001", "trial-0002"}
    states = [json.loads((sweep / f"trial-000{k}" / "run.json").read_text()) for k in range(3)]
    assert [run["state"] for run in states] == ["finished", "finished", "stopped"]
    rates = [run["recipe"]["training"]["learning_rate"] for run in states]
    assert len(set(rates)) == 3
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)


def test_train_on_own_labels_scores_the_model_on_ground_of_its_own(trained: tuple[Path, list[str]]) -> None:
    work, printed = trained
    chips = geopandas.read_file(work / "chips" / "chips.gpkg", layer="chips").dissolve("split").geometry
    assert set(chips.index) == {"train", "val", "test"}
    assert chips["train"].intersection(chips["test"]).area == 0
    pattern = r"(\w+) +IoU (\d\.\d{3})  F1 (\d\.\d{3})"
    scores = {found[1]: float(found[2]) for line in printed if (found := re.fullmatch(pattern, line))}
    assert set(scores) == {"background", "labels"}
    assert printed[-1].endswith("the mean of 2 classes")
    assert float(printed[-1].split()[1].rstrip(",")) == pytest.approx(
        np.mean(list(scores.values())), abs=1e-3
    )
    model = aerial_seg.load_model(work / "run" / "best.safetensors")
    assert model.card.legend.names == ("background", "labels")


def test_predict_a_folder_to_shapefiles(
    trained: tuple[Path, list[str]], town: TownPaths, tmp_path: Path
) -> None:
    photos, maps = tmp_path / "photos", tmp_path / "maps"
    photos.mkdir()
    with rasterio.open(town.image) as image:
        for name, column in (("east", 256), ("west", 0)):
            window = Window(column, 0, 256, 256)
            profile = image.profile | {
                "width": 256,
                "height": 256,
                "transform": image.window_transform(window),
            }
            with rasterio.open(photos / f"{name}.tif", "w", **profile) as part:
                part.write(image.read(window=window))
    (photos / "broken.tif").write_bytes(b"no raster")
    model = trained[0] / "run" / "best.safetensors"

    broken, *told = run_script("predict_folder_to_shapefiles.py", model, photos, maps)
    assert broken.startswith("broken.tif: not mapped: ")
    for name, line in zip(("east", "west"), told, strict=True):
        polygons = geopandas.read_file(maps / f"{name}.shp")
        assert line == f"{name}.tif: {len(polygons)} polygons in {maps / name}.shp"
        assert set(polygons.class_name) <= {"labels"}
        assert (polygons.area >= 25).all()
        with rasterio.open(maps / f"{name}.tif") as mask, rasterio.open(photos / f"{name}.tif") as photo:
            assert (mask.shape, mask.transform, mask.crs) == (photo.shape, photo.transform, photo.crs)
            assert polygons.crs == mask.crs
            assert polygons.n_px.sum() <= mask.read(1).size

    before = {path: path.read_bytes() for path in maps.iterdir()}
    again = run_script("predict_folder_to_shapefiles.py", model, photos, maps)
    assert again == [broken, "east.tif: there already", "west.tif: there already"]
    assert {path: path.read_bytes() for path in maps.iterdir()} == before


def test_array_to_polygons(trained: tuple[Path, list[str]], town: TownPaths, tmp_path: Path) -> None:
    model, out = trained[0] / "run" / "best.safetensors", tmp_path / "polygons.gpkg"
    (line,) = run_script("array_to_polygons.py", model, town.image, out)
    polygons = geopandas.read_file(out)
    assert line == f"{len(polygons)} polygons in {out}"
    assert len(polygons) > 0
    assert polygons.geometry.is_valid.all()
    west, south, east, north = polygons.total_bounds
    with rasterio.open(town.image) as image:
        assert (east - west, north - south) <= (image.width, image.height)
        measured = int((image.dataset_mask() > 0).sum())
    # In pixels, and each pixel once at most.
    covered = polygons.union_all().area
    assert covered == pytest.approx(polygons.area.sum())
    assert 0 < covered <= measured


GRID = """
title = "two rates"
source = "ours"
[[table]]
name = "t"
number = "Table 1"
title = "learning rate"
base = "{base}"
protocol = "fcn"
evidence = "memory"
row = [
  {{ name = "slow", label = "0.01", published = {{ miou = 30.0, pixel_accuracy = 60.5 }} }},
  {{ name = "fast", label = "0.1", set = {{ training.learning_rate = 0.1 }}, published = {{ miou = 40.0 }} }},
  {{ name = "slow-again", label = "0.01, whole", protocol = "mmseg", published = {{ miou = 31.0 }}, note = "again" }},
  {{ name = "never", label = "more", published = {{ miou = 50.0 }}, missing = "a thing" }},
  {{ name = "later", label = "weights", set = {{ model.weights = "no.pth" }}, published = {{ miou = 60.0 }} }},
]
"""
ON_VOC = """
[data]
benchmark = "voc"
train = "train"
[model]
architecture = "fcn"
encoder = "resnet18"
output_stride = 32
head_channels = 8
auxiliary = false
[training]
iterations = 30
batch_size = 2
crop = 32
workers = 0
"""


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC 2012 with four images of 40 × 48 pixels, two of them for validation."""
    root = tmp_path_factory.mktemp("voc") / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    for folder in (root / "JPEGImages", root / "SegmentationClass", lists):
        folder.mkdir(parents=True)
    random = np.random.default_rng(3)
    for split, names in {
        "train": ("2007_000001", "2007_000002"),
        "val": ("2007_000003", "2007_000004"),
    }.items():
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        for name in names:
            image = Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8))
            image.save(root / "JPEGImages" / f"{name}.jpg")
            labels = Image.fromarray(random.integers(0, 3, (40, 48), np.uint8))
            labels.putpalette(random.integers(0, 256, 768, np.uint8).tobytes())
            labels.save(root / "SegmentationClass" / f"{name}.png")
    return root


def test_a_grid_is_trained_tested_and_tabulated_once(voc: Path, tmp_path: Path) -> None:
    base, grid, work = tmp_path / "base.toml", tmp_path / "grid.toml", tmp_path / "work"
    base.write_text(ON_VOC, encoding="utf-8")
    grid.write_text(GRID.format(base=base.as_posix()), encoding="utf-8")
    words = [str(grid), str(work), "--root", f"voc={voc}", "--iterations", "1", "--device", "cpu"]
    told = StringIO()
    with pytest.raises(SystemExit, match="1"):  # for the row whose weights are not there
        run_script("ablate.py", *words, into=told)
    printed = told.getvalue()
    assert "refused: the weights no.pth do not exist" in printed
    # The first and the third row share a run; the last one's does not begin, for want of its weights.
    assert printed.count(": training ") == 3
    assert len(list((work / "runs").glob("*/best.safetensors"))) == 2
    assert printed.count(": testing ") == 3
    records = json.loads((work / "table.json").read_text(encoding="utf-8"))
    assert [(one["row"], one["metric"], one["published"]) for one in records] == [
        ("t/slow", "miou", 30.0), ("t/slow", "pixel_accuracy", 60.5), ("t/fast", "miou", 40.0),
        ("t/slow-again", "miou", 31.0), ("t/never", "miou", 50.0), ("t/later", "miou", 60.0),
    ]  # fmt: skip
    tests = sorted((work / "tests").glob("*/benchmark.json"))
    measured = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))["scores"]["miou"] for path in tests
    }
    slow = next(
        value for name, value in measured.items() if name.startswith("t-slow-") and name.endswith("fcn")
    )
    assert records[0]["ours"] == pytest.approx(100 * slow)
    assert records[-1]["ours"] is None
    (line,) = [line for line in printed.splitlines() if line.startswith("  0.01  ")]
    assert [float(cell.strip("?")) for cell in line.split()[2:4]] == [
        30.0,
        pytest.approx(100 * slow - 30, abs=0.006),
    ]
    assert line.endswith("1 of 30 iterations")
    assert "cannot be done here: a thing" in printed
    assert (work / "table.txt").read_text(encoding="utf-8").strip() in printed
    assert len((work / "table.csv").read_text(encoding="utf-8").splitlines()) == 7

    again = "\n".join(run_script("ablate.py", *words, "--only", "t/fast"))
    assert ": training " not in again
    assert ": testing " not in again
    assert [one["row"] for one in json.loads((work / "table.json").read_text(encoding="utf-8"))] == ["t/fast"]
    with pytest.raises(SystemExit, match="has no row or table t/quick; rows: t/slow, t/fast"):
        run_script("ablate.py", *words, "--only", "t/quick")


def test_all_that_is_not_the_papers_is_told_beside_a_row_and_every_stage_is_short() -> None:
    script = runpy.run_path(str(EXAMPLES / "ablate.py"))
    rows = {row.name: row for row in aerial_seg.load_grid("deeplabv3").rows}
    asked = Namespace(iterations=40, changes=["training.crop=257", "prediction.tile_size=257"])
    for name, remark in (
        ("table-6/os16", "40 of 30,000 iterations"),
        ("table-7/deeplabv3", "40+40 of 30,000+30,000 iterations"),
    ):
        recipe = script["recipe_of"](rows[name], asked)
        for stage in recipe.by_stage():
            assert (stage.training.iterations, stage.training.validate_every) == (40, 40)
            assert stage.training.crop == 257
        told = [remark, "with training.crop=257, prediction.tile_size=257"]
        assert script["differences"](rows[name], recipe, asked) == told
    same = Namespace(iterations=None, changes=[])
    row = rows["table-6/os16"]
    assert script["differences"](row, script["recipe_of"](row, same), same) == []


def test_a_shipped_grid_is_printed_without_data(tmp_path: Path) -> None:
    printed = run_script("ablate.py", "deeplabv3", tmp_path / "none", "--only", "table-5")
    assert not (tmp_path / "none").exists()
    (line,) = [line for line in printed if line.startswith("  (1, 2, 4), (6, 12, 18, 24)")]
    assert "76.46?" in line
    assert line.endswith("  model.aspp_rates = [6, 12, 18, 24], model.image_pooling = false")
    assert any(
        one.endswith("output stride 16 (recipe voc/deeplabv3, protocol deeplabv3-os16)") for one in printed
    )


def test_long_remarks_of_a_table_stand_below_it_once(tmp_path: Path) -> None:
    printed = run_script("ablate.py", "pspnet", tmp_path / "none", "--only", "table-3")
    (note,) = [
        line
        for line in printed
        if line.startswith("  [1] the libraries have no ImageNet weights of ResNet-269")
    ]
    assert [line.split()[0] for line in printed if line.endswith("; [1]")] == [
        "PSPNet(269)",
        "PSPNet(269)+MS",
    ]
    assert printed.index(note) > max(k for k, line in enumerate(printed) if line.startswith("  PSPNet"))
    assert not any(line.startswith("  [2]") for line in printed)
