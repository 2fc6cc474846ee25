"""Bad input ends with one line that says got, wanted and remedy, the right exit code, and nothing left behind."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from shapely import box

Refused = Callable[..., str]
WEST, NORTH = 500_000.0, 5_200_000.0


def polygons(
    path: Path, *, crs: str | None = "EPSG:32633", west: float = WEST, **fields: list[object]
) -> Path:
    """Two squares side by side."""
    shapes = [box(west + left, NORTH - 60, west + left + 30, NORTH - 20) for left in (10, 50)]
    geopandas.GeoDataFrame(fields or {"type": ["road", "water"]}, geometry=shapes, crs=crs).to_file(path)
    return path


# Files that are not there, or not what they are called


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "gone.tif"),
        ("tile", "gone.tif", "--labels", "l.gpkg", "-o", "chips"),
        ("tile", "gone/*.tif", "--labels", "l.gpkg", "-o", "chips"),
        ("train", "gone", "--recipe", "fcn", "-o", "run"),
        ("predict", "m.safetensors", "gone.tif", "-o", "map.tif"),
        ("vectorize", "gone.tif", "map.gpkg"),
        ("evaluate", "gone.tif", "labels.tif"),
        ("evaluate", "gone.safetensors", "labels.tif", "--raster", "gone.tif"),
    ],
)
def test_a_missing_file(refused: Refused, arguments: tuple[str, ...]) -> None:
    assert "gone" in refused(*arguments)


def test_missing_labels_and_a_missing_model(refused: Refused, raster: Callable) -> None:
    image = raster("in.tif")
    assert "gone.gpkg does not exist" in refused("tile", image, "--labels", "gone.gpkg", "-o", "chips")
    assert "gone.safetensors does not exist" in refused("predict", "gone.safetensors", image, "-o", "map.tif")


def test_a_text_file_called_tif(refused: Refused, models: Callable, labels: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.tif"
    text.write_text("no raster at all", encoding="utf-8")
    for arguments in (
        ("info", text),
        ("tile", text, "--labels", labels, "-o", "chips"),
        ("predict", models(), text, "-o", "map.tif"),
        ("vectorize", text, "map.gpkg"),
        ("evaluate", text, labels),
    ):
        line = refused(*arguments)
        assert "text.tif is not a raster that GDAL can read" in line
        assert "wanted a GeoTIFF" in line


def test_model_files_that_are_none(
    refused: Refused, models: Callable, raster: Callable, tmp_path: Path
) -> None:
    image, good = raster("in.tif"), models().read_bytes()
    length = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + length])
    header["__metadata__"] = {"format": "pt"}
    foreign = json.dumps(header).encode()
    files = {
        "text": (b"only text, much longer than eight bytes", "not a safetensors file"),
        "empty": (b"", "not a safetensors file or is cut off"),
        "short": (good[: 8 + length // 2], "not a safetensors file or is cut off"),
        "cut": (good[: len(good) // 2], "damaged"),
        "foreign": (struct.pack("<Q", len(foreign)) + foreign + good[8 + length :], "another tool"),
    }
    for name, (content, wanted) in files.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        for arguments in (("predict", path, image, "-o", "map.tif"), ("info", path)):
            line = refused(*arguments)
            assert wanted in line
            assert f"{name}.safetensors" in line
        path.unlink()


def test_a_corrupt_block_leaves_no_mask_and_no_work_folder(
    refused: Refused, models: Callable, raster: Callable
) -> None:
    image = raster("in.tif", size=(300, 300), tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    content = bytearray(image.read_bytes())
    # Several whole blocks, so that their compressed streams lose their first bytes.
    middle = len(content) // 2
    content[middle : middle + 40_000] = bytes(40_000)
    image.write_bytes(content)
    line = refused("predict", models(), image, "-o", "out/map.tif", "--vectors", "map.gpkg")
    assert "in.tif could not be read at row" in line
    assert "copy it again" in line


# Georeference


def test_a_raster_without_crs_works_only_with_no_georef(
    run: Callable, refused: Refused, models: Callable, raster: Callable
) -> None:
    image = raster("in.tif", crs=None)
    halves = np.repeat(np.array([[[0, 1]]], np.uint8), 40, axis=2).repeat(60, axis=1)
    truth = raster("truth.tif", pixels=halves, crs=None)
    predict = ("predict", models(), image, "-o", "map.tif")
    tile = ("tile", image, "--labels", truth, "--chip-size", 32, "--block", 1, "-o", "chips")
    evaluate = ("evaluate", models(), truth, "--raster", image)
    for command in (predict, tile, evaluate):
        line = refused(*command)
        assert "in.tif has no CRS" in line
        assert "--no-georef" in line
        result = run(*command, "--no-georef")
        assert result.code == 0, result.err
        assert "Warning" not in result.err


def test_labels_without_crs(run: Callable, refused: Refused, raster: Callable, tmp_path: Path) -> None:
    image, truth = raster("in.tif"), polygons(tmp_path / "labels.shp", crs=None)
    tile = (
        "tile",
        image,
        "--labels",
        truth,
        "--class-field",
        "type",
        "--chip-size",
        64,
        "--block",
        1,
        "-o",
        "chips",
    )
    line = refused(*tile)
    assert "labels.shp has no CRS" in line
    assert "--labels-crs EPSG" in line
    assert run(*tile, "--labels-crs", "EPSG:32633").code == 0


def test_a_label_raster_without_crs(refused: Refused, raster: Callable) -> None:
    truth = raster("truth.tif", pixels=np.ones((1, 60, 80), np.uint8), crs=None)
    assert "truth.tif has no CRS" in refused("tile", raster("in.tif"), "--labels", truth, "-o", "chips")


def test_labels_that_lie_elsewhere_print_both_extents(
    refused: Refused, raster: Callable, tmp_path: Path
) -> None:
    truth = polygons(tmp_path / "labels.gpkg", west=WEST + 50_000)
    line = refused("tile", raster("in.tif"), "--labels", truth, "-o", "chips")
    assert "do not overlap" in line
    assert line.count(" lon ") == line.count(" lat ") == 2
    assert "labels lon 15.6" in line
    assert "imagery lon 15.0" in line


def test_a_pixel_size_far_off_is_refused_unless_forced(
    run: Callable, refused: Refused, models: Callable, raster: Callable
) -> None:
    predict = ("predict", models(), raster("in.tif", gsd=5.0, size=(24, 30)), "-o", "map.tif")
    line = refused(*predict)
    assert "GSD of 5 m" in line
    assert "trained at 1 m" in line
    assert "--force-gsd" in line
    assert run(*predict, "--force-gsd").code == 0


# Labels and classes


def test_an_unknown_class_value_lists_the_values_with_counts(refused: Refused, raster: Callable) -> None:
    pixels = np.ones((1, 60, 80), np.uint8)
    pixels[0, 0, :7] = 9
    image, truth = raster("in.tif"), raster("truth.tif", pixels=pixels)
    line = refused("tile", image, "--labels", truth, "--classes", "1=road,2=water", "-o", "chips")
    assert "9 (7 times)" in line
    assert "1=road, 2=water" in line
    assert "--unlabelled" in line


def test_an_unknown_class_name_names_the_nearest(refused: Refused, raster: Callable, tmp_path: Path) -> None:
    image, truth = raster("in.tif"), polygons(tmp_path / "labels.gpkg", type=["raod", "water"])
    line = refused(
        "tile", image, "--labels", truth, "--class-field", "type", "--classes", "road,water", "-o", "chips"
    )
    assert "raod" in line
    assert "did you mean 'road'?" in line


def test_an_absent_class_field_lists_the_fields(refused: Refused, raster: Callable, tmp_path: Path) -> None:
    truth = polygons(tmp_path / "labels.gpkg", kind=["road", "water"], year=[2020, 2021])
    line = refused("tile", raster("in.tif"), "--labels", truth, "--class-field", "knd", "-o", "chips")
    assert "no field 'knd'" in line
    assert "kind, year" in line
    assert "did you mean 'kind'?" in line


def test_a_mask_against_labels_of_another_class(
    run: Callable, refused: Refused, models: Callable, raster: Callable, labels: Path
) -> None:
    assert run("predict", models(), raster("in.tif"), "-o", "map.tif").code == 0
    line = refused("evaluate", "map.tif", labels, "-o", "scores.json")
    assert "2 (2400 times)" in line
    assert "0=background, 1=road" in line


def test_a_mask_without_class_names_is_not_evaluated(refused: Refused, labels: Path) -> None:
    assert "tells no class names" in refused("evaluate", labels, labels)


# Datasets and recipes


def test_a_folder_that_is_no_dataset_and_an_empty_dataset(
    run: Callable, refused: Refused, raster: Callable, labels: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    for command in (("train", "folder", "--recipe", "fcn", "-o", "run"), ("info", "folder")):
        assert "folder is not a chip dataset" in refused(*command)
    tile = ("tile", raster("in.tif"), "--labels", labels, "--chip-size", 32, "--block", 1, "-o", "chips")
    assert run(*tile).code == 0
    index = geopandas.read_file(tmp_path / "chips" / "chips.gpkg")
    index.iloc[:0].to_file(tmp_path / "chips" / "chips.gpkg", layer="chips")
    line = refused("train", "chips", "--recipe", "fcn", "-o", "run")
    assert "chips holds no chip" in line
    assert "aerial-seg tile" in line


def test_imagery_without_any_label_makes_no_dataset(refused: Refused, raster: Callable) -> None:
    truth = raster("truth.tif", pixels=np.zeros((1, 60, 80), np.uint8))
    line = refused("tile", raster("in.tif"), "--labels", truth, "--unlabelled", 0, "-o", "chips")
    assert "no labelled pixel" in line


def test_recipes_that_cannot_be(refused: Refused, tmp_path: Path) -> None:
    train = ("train", "chips", "-o", "run", "--recipe")
    assert "did you mean 'deeplabv3'?" in refused(*train, "deeplab3", code=2)
    assert "own.toml does not exist" in refused(*train, "own.toml", code=2)
    for text, wanted in (
        ("[training]\niteration = 3", "did you mean 'iterations'?"),
        ("[training]\niterations = -3", "greater than 0"),
        ("[training\niterations = 3", "not TOML"),
    ):
        (tmp_path / "own.toml").write_text(text, encoding="utf-8")
        assert wanted in refused(*train, "own.toml", code=2)


def test_a_crop_that_the_network_cannot_take(
    run: Callable, refused: Refused, raster: Callable, labels: Path, tmp_path: Path
) -> None:
    tile = ("tile", raster("in.tif"), "--labels", labels, "--chip-size", 32, "--block", 1, "-o", "chips")
    assert run(*tile).code == 0
    (tmp_path / "own.toml").write_text("[training]\ncrop = 100", encoding="utf-8")
    assert "try 96 or 104" in refused("train", "chips", "--recipe", "own.toml", "-o", "run", code=2)


# Model and raster


def test_bands_and_dtypes_that_differ_name_both_sides(
    refused: Refused, models: Callable, raster: Callable
) -> None:
    line = refused("predict", models(), raster("four.tif", bands=4), "-o", "map.tif")
    assert "four.tif has 4 bands" in line
    assert "trained on 3 (red uint8, green uint8, blue uint8)" in line
    line = refused("predict", models(), raster("wide.tif", dtype="uint16"), "-o", "map.tif")
    assert "holds uint16" in line
    assert "trained on uint8" in line


def test_a_raster_smaller_than_a_tile_is_padded(run: Callable, models: Callable, raster: Callable) -> None:
    for name, size in (("small.tif", (20, 33)), ("one.tif", (1, 1))):
        assert run("predict", models(), raster(name, size=size), "-o", f"map_{name}").code == 0
        with rasterio.open(f"map_{name}") as mask:
            assert mask.shape == size


@pytest.mark.parametrize(("architecture", "near"), [("fcn", "96 or 112"), ("Unet", "96 or 128")])
def test_a_tile_side_that_the_model_cannot_take_names_the_nearest(
    refused: Refused, models: Callable, raster: Callable, architecture: str, near: str
) -> None:
    line = refused(
        "predict", models(architecture), raster("in.tif"), "-o", "map.tif", "--tile-size", 100, code=2
    )
    assert "tile size 100" in line
    assert f"try {near}" in line


def test_a_halo_that_leaves_no_core(refused: Refused, models: Callable, raster: Callable) -> None:
    line = refused("predict", models(), raster("in.tif"), "-o", "map.tif", "--halo", 32, code=2)
    assert "use a tile of at least 80 px" in line


# Outputs


def test_an_output_that_exists_is_kept_unless_overwritten(
    run: Callable, refused: Refused, models: Callable, raster: Callable, labels: Path
) -> None:
    image = raster("in.tif")
    commands = (
        ("tile", image, "--labels", labels, "--chip-size", 32, "--block", 1, "-o", "chips"),
        ("predict", models(), image, "-o", "map.tif", "--vectors", "map.gpkg"),
        ("vectorize", "map.tif", "map.shp"),
        ("evaluate", models(), labels, "--raster", image, "--unlabelled", 2, "-o", "scores.json"),
    )
    for command in commands:
        result = run(*command)
        assert result.code == 0, result.err
        assert "pass --overwrite" in refused(*command)
        assert run(*command, "--overwrite").code == 0


def test_vectors_are_checked_before_the_prediction(
    refused: Refused, models: Callable, raster: Callable
) -> None:
    image = raster("in.tif")
    predict = ("predict", models(), image, "-o", "map.tif", "--vectors")
    assert "wanted .gpkg" in refused(*predict, "map.gpx")
    assert "write map.gpkg and make it of that" in refused(*predict, "map.dxf")
    raster("taken.gpkg")
    assert "pass --overwrite" in refused(*predict, "taken.gpkg")


def test_several_rasters_are_one_map_only_with_mosaic(
    run: Callable, refused: Refused, models: Callable, raster: Callable
) -> None:
    predict = (
        "predict", models(), raster("a.tif"), raster("b.tif", corner=(WEST + 80, NORTH)), "-o"
    )  # fmt: skip
    line = refused(*predict, "map.tif", code=2)
    assert "2 rasters but one output map.tif" in line
    assert "--mosaic" in line
    assert "--mosaic" in refused(*predict, "maps", "--vectors", "map.gpkg", code=2)
    assert run(*predict, "map.tif", "--mosaic").code == 0


def test_a_mask_is_a_tif_and_never_the_raster_itself(
    refused: Refused, models: Callable, raster: Callable
) -> None:
    image = raster("in.tif")
    assert "ends in .tif" in refused("predict", models(), image, "-o", "map.png")
    assert "one of the rasters" in refused("predict", models(), image, "-o", image, "--overwrite")


# Wrong use


def test_wrong_use_is_exit_code_2(refused: Refused, models: Callable, raster: Callable, labels: Path) -> None:
    for command, wanted in (
        (("predict",), "Missing argument 'MODEL[,MODEL...]'"),
        (("info",), "Missing argument 'PATH'"),
        (("predict", "m", "r.tif"), "Missing option '-o'"),
        (
            ("tile", "in.tif", "--labels", "l", "-o", "c", "--chip-size", "huge"),
            "'huge' is not a whole number from 16 to 65536",
        ),
        (("tile", "in.tif", "--labels", "l", "-o", "c", "--split-by", "colour"), "'colour' is not one of"),
        (("predict", "m", "r.tif", "-o", "x.tif", "--tile", "5"), "--tile-size"),
        (("vectorize", "m.tif", "o.gpkg", "--min-area", "25furlongs"), "25m2"),
        (("evaluate", models(), labels), "pass --raster"),
        (("evaluate", "map.tif", labels, "--raster", "in.tif"), "leave it out"),
        (
            ("evaluate", "map.tif", labels, "--split", "test"),
            "--split would change nothing: a mask is compared",
        ),
        (("evaluate", "map.tif", labels, "--on", "scenes"), "--on would change nothing: a mask"),
        (("evaluate", "map.tif", labels, "--nodata", 0), "--nodata would change nothing: a mask"),
        (
            ("evaluate", models(), labels, "--raster", "in.tif", "--on", "chips"),
            "--on would change nothing: with",
        ),
        (("evaluate", models(), "chips", "--nodata", 0), "--nodata would change nothing: without --raster"),
        (("predict", models(), raster("in.tif"), "-o", "x.tif", "--device", "tpu"), "auto, cpu, cuda"),
    ):
        assert wanted in refused(*command, code=2)


def test_an_amount_of_memory_that_is_none(refused: Callable, raster: Callable, models: Callable) -> None:
    image = raster("in.tif")
    for amount in ("4", "lots", "1..5GB", "GB", "4 parsecs"):
        said = refused("predict", models(), image, "-o", "map.tif", "--max-memory", amount, code=2)
        assert f"'{amount}' is no amount of memory; wanted a number with a unit, as 2GB" in said
