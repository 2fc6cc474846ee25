"""The commands end to end on small rasters: what an analyst types, and what lies there afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio

RECIPE = """
[model]
architecture = "Unet"
encoder = "tu-test_resnet"
options = { decoder_channels = [16, 16, 8, 8, 8] }
[training]
iterations = 2
batch_size = 2
crop = 32
validate_every = 1
[prediction]
tile_size = 64
"""


def test_from_rasters_and_labels_to_polygons_and_scores(
    run: Callable, raster: Callable, labels: Path, tmp_path: Path
) -> None:
    image = raster("in.tif")
    (tmp_path / "tiny.toml").write_text(RECIPE, encoding="utf-8")
    tile = run(
        "tile",
        image,
        "--labels",
        labels,
        "--classes",
        "1=road,2=water",
        "--chip-size",
        32,
        "--block",
        1,
        "-o",
        "chips",
    )
    assert tile.code == 0, tile.err
    assert [line.split()[0] for line in tile.out.splitlines()[:3]] == ["class", "road", "water"]
    assert "2,400" in tile.out
    assert "train" in tile.out.splitlines()[-1]

    train = run("train", "chips", "--recipe", "tiny.toml", "-o", "run")
    assert train.code == 0, train.err
    assert "mIoU" in train.out
    assert train.out.splitlines()[-1].startswith("run/best.safetensors: iteration ")

    model = "run/best.safetensors"
    predict = run("predict", model, image, "-o", "map.tif", "--vectors", "map.gpkg")
    assert predict.code == 0, predict.err
    assert "map.tif: 80 × 60 px from " in predict.out
    with rasterio.open("map.tif") as mask:
        values = mask.read(1)
    assert set(np.unique(values)) <= {1, 2}

    vectorize = run("vectorize", "map.tif", "map.shp", "--classes", "all")
    assert vectorize.code == 0, vectorize.err
    assert vectorize.out.splitlines()[-1] == "map.shp"
    shapes, table = geopandas.read_file("map.shp"), geopandas.read_file("map.gpkg")
    assert len(shapes) == len(table)
    assert shapes.geometry.area.sum() == pytest.approx(4800, rel=1e-3)

    scores = run("evaluate", "map.tif", labels, "-o", "scores.json")
    assert scores.code == 0, scores.err
    document = json.loads(Path("scores.json").read_text(encoding="utf-8"))
    accuracy = (values == rasterio.open(labels).read(1)).mean()
    assert document["pixel_accuracy"] == pytest.approx(accuracy)
    assert f"pixel accuracy {accuracy:.4f}" in scores.out

    on_raster = run("evaluate", model, labels, "--raster", image, "--json")
    assert json.loads(on_raster.out)["confusion"] == document["confusion"]
    on_chips = run("evaluate", model, "chips", "--split", "test", "--json")
    assert on_chips.code == 0, on_chips.err
    assert sum(map(sum, json.loads(on_chips.out)["confusion"])) > 0

    assert "mIoU" in run("evaluate", model, "chips").out
    for path, kind in ((image, "raster"), ("map.tif", "mask"), (model, "model"), ("chips", "chip dataset")):
        told = run("info", path)
        assert told.code == 0
        assert told.out.splitlines()[0].split(maxsplit=1) == ["kind", kind]


def test_json_on_stdout_is_one_document(
    run: Callable, raster: Callable, labels: Path, models: Callable
) -> None:
    image = raster("in.tif")
    tile = run("tile", image, "--labels", labels, "--chip-size", 32, "--block", 1, "-o", "chips", "--json")
    document = json.loads(tile.out)
    assert document["dataset"] == "chips"
    pixels = [
        sum(split[name] for split in document["class_pixels"].values()) for name in ("class 1", "class 2")
    ]
    assert pixels == [2400, 2400]

    (report,) = json.loads(run("predict", models(), image, "-o", "map.tif", "--json").out)
    assert (report["mask"], report["height"], report["width"]) == ("map.tif", 60, 80)
    assert sum(report["class_pixels"].values()) == 4800

    report = json.loads(run("vectorize", "map.tif", "map.geojson", "--json").out)
    assert report["path"] == "map.geojson"
    assert json.loads(run("info", "chips", "--json").out)["chip_size"] == 32


def test_what_was_done_otherwise_than_asked_is_noted_on_stderr(
    run: Callable, raster: Callable, models: Callable
) -> None:
    image = raster("in.tif", gsd=2.0, size=(20, 30))
    result = run("predict", models(), image, "-o", "map.tif", "--precision", "fp32")
    assert result.code == 0
    grown, engine, resampled = result.err.splitlines()
    assert grown.startswith("note: tiles have 128 px instead of 64: ")
    assert grown.endswith("(--tile-size 64 --halo 0 --overlap 0 takes them as they are)")
    assert engine.startswith("note: engine eager: compiling pays from ")
    assert resampled == "note: resampled to the model's 1 m for the network"
    explicit = run("predict", models(), image, "-o", "b.tif", "--precision", "fp32", "--engine", "eager")
    assert explicit.err.splitlines() == [grown, resampled]


def test_several_rasters_make_a_folder_of_masks(run: Callable, raster: Callable, models: Callable) -> None:
    for name in ("a.tif", "b.tif"):
        raster(name, size=(20, 30))
    result = run("predict", models(), "*.tif", "-o", "masks")
    assert result.code == 0, result.err
    assert sorted(path.name for path in Path("masks").glob("*.tif")) == ["a_mask.tif", "b_mask.tif"]
    assert result.out.count("px from") == 2


def test_a_tile_size_of_the_users_own(run: Callable, raster: Callable, models: Callable) -> None:
    image = raster("in.tif")
    result = run(
        "predict",
        models(),
        image,
        "-o",
        "map.tif",
        "--tile-size",
        48,
        "--halo",
        16,
        "--overlap",
        0,
        "--batch-size",
        5,
    )
    assert result.code == 0, result.err
    # Cores of 16 px over 60 × 80 px.
    assert "20 tiles run, 0 skipped" in result.out


def test_a_dry_run_tells_what_it_would_take_and_writes_nothing(
    run: Callable, raster: Callable, models: Callable, tmp_path: Path
) -> None:
    image = raster("in.tif")
    for extra in ((), ("--json",)):
        result = run("predict", models(), image, "-o", "new/map.tif", "--confidence", "--dry-run", *extra)
        assert result.code == 0, result.err
        assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]
        if extra:
            (told,) = json.loads(result.out)
            made = json.loads(run("predict", models(), image, "-o", "map.tif", "--json").out)[0]
            assert told["tiles"] == made["tiles"] + made["tiles_skipped"]
            assert 10**8 < told["memory"] < 10**11
            assert told["disk"] > 60 * 80
            assert told["seconds"] > 0
        else:
            assert "nothing was written" in result.out
            assert "in.tif" in result.out


def test_confidence_and_probabilities_lie_beside_the_mask(
    run: Callable, raster: Callable, models: Callable
) -> None:
    image = raster("in.tif")
    result = run(
        "predict",
        models(),
        image,
        "-o",
        "map.tif",
        "--confidence",
        "--probabilities",
        "--tta",
        "flips, rot90",
    )
    assert result.code == 0, result.err
    with rasterio.open("map.tif") as mask, rasterio.open("map_confidence.tif") as confidence:
        assert confidence.shape == mask.shape
        np.testing.assert_array_equal(confidence.read(1) == 255, mask.read(1) == 255)
        won = confidence.read(1) * confidence.scales[0]
    with rasterio.open("map_probabilities.tif") as probabilities:
        assert probabilities.descriptions == ("background", "road")
        each = probabilities.read() * probabilities.scales[0]
    measured = won < 1.001
    np.testing.assert_allclose(each.max(axis=0)[measured], won[measured], atol=1e-6)
    np.testing.assert_allclose(each.sum(axis=0)[measured], 1, atol=0.01)


def test_an_interruption_exits_130_and_leaves_nothing(
    run: Callable, raster: Callable, models: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = raster("in.tif")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aerial_seg.inference.predictor.Predictor.submit", interrupt)
    result = run("predict", models(), image, "-o", "map.tif")
    assert result.code == 130
    assert result.err.strip() == "Interrupted."
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]
