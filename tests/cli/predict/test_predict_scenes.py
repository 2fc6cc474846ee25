"""`predict` on several scenes as an analyst types it: lists, areas, one bad scene among good ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely

EAST = 500_000.0
NORTH = 5_200_000.0
FAST = ("--engine", "eager")


@pytest.fixture
def scenes(raster: Callable) -> dict[str, Path]:
    """Three good rasters side by side, 60 × 80 pixels each."""
    return {
        name: raster(f"{name}.tif", corner=(EAST + 80 * k, NORTH)) for k, name in enumerate(("a", "b", "c"))
    }


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def masks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*_mask.tif"))


def written(path: Path) -> tuple[int, int, int]:
    """What tells a file that was written again: not the time of the last look at it."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def test_a_list_file_names_rasters_line_by_line(
    run: Callable, models: Callable, scenes: dict[str, Path], tmp_path: Path
) -> None:
    lines = ["# flown in May", str(scenes["b"]), "", "  a.tif  ", "c.tif", str(scenes["b"])]
    (tmp_path / "scenes.txt").write_text("\n".join(lines), encoding="utf-8")
    result = run("predict", models(), "@scenes.txt", "-o", "masks", *FAST, "--json")
    assert result.code == 0, result.err
    told = json.loads(result.out)
    assert [(Path(one["source"]).name, one["outcome"]) for one in told] == [
        ("b.tif", "done"),
        ("a.tif", "done"),
        ("c.tif", "done"),
    ]
    assert all(one["seconds"] > 0 and one["reason"] is None and one["width"] == 80 for one in told)
    assert masks(tmp_path / "masks") == ["a_mask.tif", "b_mask.tif", "c_mask.tif"]


@pytest.mark.parametrize(
    ("text", "message"), [("# nothing\n\n", "names no raster"), (None, "list gone.txt cannot be read")]
)
def test_a_list_without_rasters_is_refused(
    refused: Callable, models: Callable, tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "gone.txt").write_text(text, encoding="utf-8")
    assert message in refused("predict", models(), "@gone.txt", "-o", "masks")


def test_bad_scenes_do_not_stop_the_good_ones_and_are_named(
    run: Callable, models: Callable, raster: Callable, scenes: dict[str, Path], tmp_path: Path
) -> None:
    raster("bands.tif", bands=4)
    raster("blind.tif", crs=None)
    raster("coarse.tif", gsd=30)
    (tmp_path / "text.tif").write_text("no raster", encoding="utf-8")
    bad = ["gone.tif", "bands.tif", "blind.tif", "coarse.tif", "text.tif"]
    lines = ["a.tif", *bad, "b.tif", "c.tif"]
    (tmp_path / "scenes.txt").write_text("\n".join(lines), encoding="utf-8")
    result = run("predict", models(), "@scenes.txt", "-o", "masks", *FAST)
    assert result.code == 1
    last = result.err.strip().splitlines()[-1]
    assert last.startswith("Error: 5 of 8 scenes have no mask: (1) ")
    for reason in (
        "gone.tif does not exist",
        "bands.tif",
        "blind.tif has no CRS",
        "coarse.tif has a GSD",
        "text.tif is",
    ):
        assert reason in last
    rows = [line.split() for line in result.out.splitlines() if line.endswith(("done", "failed"))]
    assert {row[0].rsplit("/")[-1]: row[-1] for row in rows} == {
        **dict.fromkeys(bad, "failed"),
        **dict.fromkeys(("a.tif", "b.tif", "c.tif"), "done"),
    }
    assert next(row for row in rows if row[0].endswith("a.tif"))[1:3] == ["4,800", "0.0%"]
    assert masks(tmp_path / "masks") == ["a_mask.tif", "b_mask.tif", "c_mask.tif"]
    for name in "abc":
        alone = run("predict", models(), scenes[name], "-o", f"{name}_alone.tif", *FAST)
        assert alone.code == 0, alone.err
        np.testing.assert_array_equal(
            read(tmp_path / "masks" / f"{name}_mask.tif"), read(tmp_path / f"{name}_alone.tif")
        )


def test_after_mending_only_what_is_missing_is_made(
    run: Callable, models: Callable, raster: Callable, scenes: dict[str, Path], tmp_path: Path
) -> None:
    good = scenes["b"].read_bytes()
    scenes["b"].write_bytes(good[: len(good) // 2])
    command = ("predict", models(), *scenes.values(), "-o", "masks", *FAST, "--json")
    result = run(*command)
    assert result.code == 1, result.err
    assert [one["outcome"] for one in json.loads(result.out)] == ["done", "failed", "done"]
    assert "b.tif could not be read at row" in result.err
    assert masks(tmp_path / "masks") == ["a_mask.tif", "c_mask.tif"]
    before = written(tmp_path / "masks" / "a_mask.tif")
    scenes["b"].write_bytes(good)
    raster("c.tif", pixels=np.full((3, 60, 80), 50, np.uint8), corner=(EAST + 160, NORTH))
    result = run(*command)
    assert result.code == 0, result.err
    # The third has other pixels now than those its mask was made of.
    assert [one["outcome"] for one in json.loads(result.out)] == ["kept", "done", "done"]
    assert written(tmp_path / "masks" / "a_mask.tif") == before
    assert masks(tmp_path / "masks") == ["a_mask.tif", "b_mask.tif", "c_mask.tif"]
    assert not list((tmp_path / "masks").glob("*.work"))


def test_leaving_the_bad_scene_out_ends_well_too(
    run: Callable, models: Callable, scenes: dict[str, Path], tmp_path: Path
) -> None:
    scenes["b"].write_bytes(scenes["b"].read_bytes()[:3000])
    assert run("predict", models(), *scenes.values(), "-o", "masks", *FAST).code == 1
    result = run("predict", models(), scenes["a"], scenes["c"], "-o", "masks", *FAST, "--json")
    assert result.code == 0, result.err
    assert [one["outcome"] for one in json.loads(result.out)] == ["kept", "kept"]


def test_when_every_scene_is_bad_nothing_is_written(
    run: Callable, models: Callable, raster: Callable, tmp_path: Path
) -> None:
    names = [raster(f"{k}.tif", bands=1) for k in range(2)]
    result = run("predict", models(), *names, "-o", "masks", *FAST, "--json")
    assert result.code == 1
    assert [one["outcome"] for one in json.loads(result.out)] == ["failed", "failed"]
    assert "2 of 2 scenes have no mask" in result.err
    assert not (tmp_path / "masks").exists()


def test_a_slip_of_the_pen_stops_before_anything_runs(
    refused: Callable, models: Callable, scenes: dict[str, Path]
) -> None:
    assert "gone.tif does not exist" in refused("predict", models(), scenes["a"], "gone.tif", "-o", "masks")


def test_scenes_outside_the_area_are_told_and_are_no_failure(
    run: Callable, models: Callable, scenes: dict[str, Path], tmp_path: Path
) -> None:
    box = shapely.box(EAST + 70, NORTH - 40, EAST + 100, NORTH - 20)
    geopandas.GeoDataFrame(geometry=[box], crs="EPSG:32633").to_crs("EPSG:4326").to_file(tmp_path / "aoi.shp")
    command = ("predict", models(), *scenes.values(), *FAST, "--aoi", "aoi.shp")
    result = run(*command, "-o", "masks", "--json")
    assert result.code == 0, result.err
    told = {Path(one["source"]).name: one for one in json.loads(result.out)}
    assert {name: one["outcome"] for name, one in told.items()} == {
        "a.tif": "done",
        "b.tif": "done",
        "c.tif": "outside",
    }
    assert "holds no pixel of" in told["c.tif"]["reason"]
    assert masks(tmp_path / "masks") == ["a_mask.tif", "b_mask.tif"]
    assert (read(tmp_path / "masks" / "a_mask.tif") != 255).sum() == 10 * 20
    assert (read(tmp_path / "masks" / "b_mask.tif") != 255).sum() == 20 * 20
    # As one map the same pixels are held once.
    result = run(*command, "-o", "map.tif", "--mosaic")
    assert result.code == 0, result.err
    mosaic = read(tmp_path / "map.tif")
    assert mosaic.shape == (60, 240)
    assert (mosaic[20:40, 70:100] != 255).all()
    assert (mosaic != 255).sum() == 30 * 20


def test_an_areas_layer_and_crs_are_typed_and_what_is_mended_is_told(
    run: Callable, refused: Callable, models: Callable, scenes: dict[str, Path], tmp_path: Path
) -> None:
    halves = [shapely.box(EAST + x, NORTH - 40, EAST + x + 30, NORTH - 10) for x in (10, 30)]
    geopandas.GeoDataFrame(geometry=halves[:1]).to_file(tmp_path / "aoi.gpkg", layer="places")
    shapes = [shapely.MultiPolygon(halves), shapely.LineString([(EAST, NORTH), (EAST + 5, NORTH)])]
    geopandas.GeoDataFrame(geometry=shapes).to_file(tmp_path / "aoi.gpkg", layer="fields")
    command = ("predict", models(), scenes["a"], *FAST, "--aoi", "aoi.gpkg")
    assert (
        "2 layers of geometries (places (Polygon), fields (Unknown)), wanted one; name it with --aoi-layer NAME"
        in refused(*command, "-o", "m.tif")
    )
    layer = ("--aoi-layer", "fields")
    assert "pass --aoi-crs EPSG:xxxx" in refused(*command, "-o", "m.tif", *layer)
    result = run(*command, "-o", "m.tif", *layer, "--aoi-crs", "EPSG:32633")
    assert result.code == 0, result.err
    assert "note: aoi.gpkg: left out: 1 × LineString" in result.err
    assert "note: aoi.gpkg: 1 invalid polygons were made valid (feature 1)" in result.err
    assert (read(tmp_path / "m.tif") != 255).sum() == 50 * 30


def test_bounds_are_typed_west_south_east_north(
    run: Callable, refused: Callable, models: Callable, scenes: dict[str, Path], tmp_path: Path
) -> None:
    box = (EAST + 10, NORTH - 30, EAST + 20, NORTH - 10)
    result = run("predict", models(), scenes["a"], "-o", "m.tif", *FAST, "--bounds", *box)
    assert result.code == 0, result.err
    assert (read(tmp_path / "m.tif")[10:30, 10:20] != 255).all()
    assert (read(tmp_path / "m.tif") != 255).sum() == 200
    swapped = ("--bounds", EAST + 20, NORTH - 30, EAST + 10, NORTH - 10)
    assert "W < E" in refused("predict", models(), scenes["a"], "-o", "n.tif", *swapped, code=2)
    elsewhere = ("--bounds", -20, -10, 5, 6)
    assert "holds no pixel" in refused("predict", models(), scenes["a"], "-o", "n.tif", *elsewhere)


def test_a_stac_item_lies_beside_every_mask(
    run: Callable, refused: Callable, models: Callable, scenes: dict[str, Path], tmp_path: Path
) -> None:
    command = ("predict", models(), scenes["a"], scenes["b"], "-o", "masks", *FAST, "--stac", "--confidence")
    assert run(*command).code == 0
    for name in "ab":
        item = json.loads((tmp_path / "masks" / f"{name}_mask.json").read_text(encoding="utf-8"))
        with rasterio.open(tmp_path / "masks" / item["assets"]["mask"]["href"]) as mask:
            assert item["properties"]["proj:shape"] == list(mask.shape)
            assert item["properties"]["proj:transform"] == list(mask.transform)[:6]
        assert [one["name"] for one in item["assets"]["mask"]["classification:classes"]] == [
            "background",
            "road",
            "nodata",
        ]
        assert (tmp_path / "masks" / item["assets"]["confidence"]["href"]).is_file()
    (tmp_path / "masks" / "a_mask.tif").unlink()
    (tmp_path / "masks" / "a_mask_confidence.tif").unlink()
    (tmp_path / "masks" / "b_mask.json").unlink()
    assert "a_mask.json exists already" in refused(
        *command[:2], scenes["a"], "-o", "masks/a_mask.tif", "--stac"
    )


def test_several_models_are_typed_with_commas(
    run: Callable, refused: Callable, models: Callable, scenes: dict[str, Path], tmp_path: Path
) -> None:
    """The probabilities of both are the mean of each model's own, to the rounding of a byte."""
    fcn, pspnet = models("fcn", "resnet18"), models("pspnet", "resnet18")  # far enough apart to tell
    layers = {}
    for name, typed in {"one": fcn, "other": pspnet, "both": f"{fcn},{pspnet}"}.items():
        options = ("--probabilities", "--precision", "fp32", "--tile-size", 96, "--halo", 0, "--overlap", 0)
        result = run("predict", typed, scenes["a"], "-o", f"{name}.tif", *FAST, *options)
        assert result.code == 0, result.err
        with rasterio.open(tmp_path / f"{name}_probabilities.tif") as file:
            layers[name] = file.read().astype(float)
    assert np.abs(layers["one"] - layers["other"]).max() > 20
    # One tile: blending logs of means changes nothing within it but between the lattice's cells.
    middle = np.abs(layers["both"] - (layers["one"] + layers["other"]) / 2)
    assert np.median(middle) <= 1
    absent = refused("predict", f"{fcn},gone.safetensors", scenes["a"], "-o", "x.tif", *FAST)
    assert "gone.safetensors does not exist" in absent


def test_a_scene_mended_after_its_first_rows_is_made_anew(
    run: Callable, models: Callable, scenes: dict[str, Path], raster: Callable, tmp_path: Path
) -> None:
    """Rows of the damaged file were kept; the same command must not end in 'interrupted run of another job'."""
    whole = raster("tall.tif", size=(1400, 64), tiled=True, blockxsize=64, blockysize=64).read_bytes()
    (tmp_path / "tall.tif").write_bytes(whole[: len(whole) * 9 // 10])
    command = ("predict", models(), scenes["a"], tmp_path / "tall.tif", "-o", "masks", *FAST, "--json")
    result = run(*command)
    assert result.code == 1, result.err
    assert (tmp_path / "masks" / "tall_mask.tif.work").exists(), "nothing was kept: the test shows nothing"
    (tmp_path / "tall.tif").write_bytes(whole)
    result = run(*command)
    assert result.code == 0, result.err
    kept, made = json.loads(result.out)
    assert (kept["outcome"], made["outcome"]) == ("kept", "done")
    assert any("made anew" in note for note in made["notes"])
    assert run("predict", models(), tmp_path / "tall.tif", "-o", "alone.tif", *FAST).code == 0
    np.testing.assert_array_equal(read(tmp_path / "masks" / "tall_mask.tif"), read(tmp_path / "alone.tif"))


def test_what_changed_behind_a_kept_mask_is_made_again(
    run: Callable, models: Callable, scenes: dict[str, Path], raster: Callable, tmp_path: Path
) -> None:
    """A VRT's member, a companion that is gone; and --restart knows its own masks."""
    show_as_vrt(scenes["b"], tmp_path / "v.vrt")
    (tmp_path / "l.txt").write_text("a.tif\nv.vrt\ngone.tif\n", encoding="utf-8")
    command = ("predict", models(), "@l.txt", "-o", "masks", *FAST, "--json", "--confidence")
    assert run(*command).code == 1
    (tmp_path / "masks" / "a_mask_confidence.tif").unlink()
    raster("b.tif", pixels=np.full((3, 60, 80), 50, np.uint8), corner=(EAST + 80, NORTH))
    result = run(*command)
    assert [one["outcome"] for one in json.loads(result.out)] == ["failed", "done", "done"], result.err
    assert (tmp_path / "masks" / "a_mask_confidence.tif").exists()
    raster("gone.tif", corner=(EAST, NORTH))
    result = run(*command, "--restart")
    assert result.code == 0, result.err
    assert {one["outcome"] for one in json.loads(result.out)} == {"done"}


def show_as_vrt(raster: Path, vrt: Path) -> None:
    with rasterio.open(raster) as file:
        place = ", ".join(map(str, file.transform.to_gdal()))
        bands = "".join(
            f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource>'
            f'<SourceFilename relativeToVRT="1">{raster.name}'
            f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
            for band in file.indexes
        )
        vrt.write_text(
            f'<VRTDataset rasterXSize="{file.width}" rasterYSize="{file.height}"><SRS>EPSG:32633</SRS>'
            f"<GeoTransform>{place}</GeoTransform>{bands}</VRTDataset>",
            encoding="utf-8",
        )


@pytest.mark.parametrize("what", ["scene", "stack", "companion", "aoi", "model"])
def test_no_result_replaces_what_it_is_made_from(
    refused: Callable, models: Callable, raster: Callable, tmp_path: Path, what: str
) -> None:
    """Not even with --overwrite."""
    model = tmp_path / "model.tif"
    model.write_bytes(models().read_bytes())
    (tmp_path / "out").mkdir()
    raster("out/a_mask.tif")
    names = ("a.tif", "map_confidence.tif", "height.tif")
    a, confidence, height = (raster(name, bands=1 if name == "height.tif" else 3) for name in names)
    area = tmp_path / "area.gpkg"
    geopandas.GeoDataFrame(
        geometry=[shapely.box(EAST, NORTH - 30, EAST + 30, NORTH)], crs="EPSG:32633"
    ).to_file(area)
    command = {
        "scene": (models(), a, tmp_path / "out" / "a_mask.tif", "-o", "out"),
        "stack": (models(), raster("two.tif", bands=2), "--stack", height, "-o", "height.tif"),
        "companion": (models(), confidence, "-o", "map.tif", "--confidence"),
        "aoi": (models(), a, "--aoi", area, "-o", "map.tif", "--vectors", area),
        "model": (model, a, "-o", "model.tif"),
    }[what]
    assert "is one of the files to read" in refused("predict", *command, *FAST, "--overwrite")


def test_a_folder_may_have_a_point_in_its_name(
    run: Callable, models: Callable, scenes: dict[str, Path], tmp_path: Path
) -> None:
    assert run("predict", models(), scenes["a"], scenes["b"], "-o", "maps_v1.2", *FAST).code == 0
    assert masks(tmp_path / "maps_v1.2") == ["a_mask.tif", "b_mask.tif"]


def test_a_list_of_nothing_that_is_there_is_told_with_a_stack_too(
    run: Callable, models: Callable, raster: Callable, tmp_path: Path
) -> None:
    (tmp_path / "l.txt").write_text("x.tif\ny.tif\n", encoding="utf-8")
    result = run("predict", models(), "@l.txt", "--stack", raster("h.tif", bands=1), "-o", "masks", *FAST)
    assert result.code == 1
    assert "2 of 2 scenes have no mask" in result.err
    assert "Traceback" not in result.err
