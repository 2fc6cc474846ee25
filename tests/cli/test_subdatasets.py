"""Rasters inside a file of several are taken wherever a raster is, under the names that the refusal tells."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import torch
from PIL import Image
from rasterio.transform import from_origin

from aerial_seg.bands import Band
from aerial_seg.legend import make_legend
from aerial_seg.models.build import build_network
from aerial_seg.models.file import ModelCard, save_model
from aerial_seg.recipe.document import PredictionSettings, Recipe
from aerial_seg.recipe.model import ModelSettings

from .conftest import Result, listing

Run = Callable[..., Result]
Refused = Callable[..., str]
SIDE = 32
PIXELS = np.random.default_rng(3).integers(1, 200, (2, SIDE, SIDE)).astype(np.uint8)


def tiff(path: Path, pixels: np.ndarray) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", count=len(pixels), height=SIDE, width=SIDE, dtype="uint8", crs="EPSG:32633",
        transform=from_origin(500_000, 5_200_000, 1, 1), photometric="MINISBLACK",
    ) as file:  # fmt: skip
        file.write(pixels)
    return path


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A NetCDF of two variables, as HDF5, a GeoPackage of two rasters and a TIFF of two pages, in `data/`."""
    folder = tmp_path / "data"
    folder.mkdir()
    plain = tiff(tmp_path / "plain.tif", PIXELS)
    rasterio.shutil.copy(plain, folder / "a.nc", driver="netCDF", FORMAT="NC4")
    for table, value in (("one", 40), ("two", 90)):
        with rasterio.open(
            folder / "b.gpkg", "w", driver="GPKG", count=3, height=SIDE, width=SIDE, dtype="uint8", crs="EPSG:32633",
            transform=from_origin(500_000, 5_200_000, 1, 1), RASTER_TABLE=table,
            **({"APPEND_SUBDATASET": "YES"} if table == "two" else {}),
        ) as file:  # fmt: skip
            file.write(np.full((3, SIDE, SIDE), value, np.uint8))
    pages = [Image.fromarray(PIXELS[k]) for k in range(2)]
    pages[0].save(folder / "c.tif", save_all=True, append_images=pages[1:])
    plain.unlink()
    return folder


@pytest.fixture(scope="module")
def grey_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained, of one band."""
    recipe = Recipe(
        model=ModelSettings(architecture="fcn", head_channels=8, output_stride=16, auxiliary=False),
        prediction=PredictionSettings(tile_size=64, batch_size=2),
    )
    card = ModelCard(
        tool_version="test", recipe=recipe, legend=make_legend({0: "background", 1: "road"}, background=[0]),
        bands=(Band(name="grey", dtype="uint8", mean=120, std=60, p2=0, p98=255),), gsd=1.0, class_bias=(0.0, 0.0),
        iteration=1, validation_miou=None, data_fingerprint="none",
    )  # fmt: skip
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("grey") / "grey.safetensors"
    save_model(build_network(recipe.model, bands=1, classes=2).state_dict(), card, path)
    return path


def told(message: str) -> list[str]:
    """The names that the refusal tells, as a shell would read them."""
    return [name.removesuffix(",") for name in shlex.split(message.partition("subdatasets: ")[2])]


def test_the_names_that_the_refusal_tells_are_then_taken(
    run: Run, refused: Refused, files: Path, models: Callable[..., Path]
) -> None:
    for file, band in (("data/a.nc", 1), ("data/b.gpkg", 4)):
        names = told(refused("info", file))
        assert len(names) == 2
        for name in names:
            document = json.loads(run("info", name, "--json").out)
            assert (document["width"], len(document["bands"])) == (SIDE, band)
            # GDAL's drivers are known in either case, and without quotes, which a shell takes away.
            assert json.loads(run("info", name.replace('"', ""), "--json").out)["width"] == SIDE
    assert told(refused("predict", models(), "data/a.nc", "-o", "o.tif")) == [
        'NETCDF:"data/a.nc":Band1', 'NETCDF:"data/a.nc":Band2',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "pixels", "source"),
    [
        ('NETCDF:"data/a.nc":Band2', PIXELS[1], "a.nc:Band2"),
        pytest.param("NETCDF:data/a.nc:Band1", PIXELS[0], "a.nc:Band1", marks=pytest.mark.slow),
        # As it lies in the file.
        pytest.param('HDF5:"data/a.nc"://Band2', PIXELS[1][::-1], "a.nc:Band2", marks=pytest.mark.slow),
        ("GTIFF_DIR:2:data/c.tif", PIXELS[1], "c.tif:2"),
    ],
)
def test_predict_maps_the_raster_that_is_named(
    name: str, pixels: np.ndarray, source: str, run: Run, files: Path, grey_model: Path, tmp_path: Path
) -> None:
    tiff(tmp_path / "same.tif", pixels[None])
    before = listing(files)
    extra = [] if name.startswith("NETCDF") else ["--no-georef"]
    for raster, out in ((name, "a.tif"), ("same.tif", "b.tif")):
        result = run("predict", grey_model, raster, "-o", out, "--bidx", "1", "--confidence", *extra)
        assert result.code == 0, result.err
    with rasterio.open(tmp_path / "a.tif") as got, rasterio.open(tmp_path / "b.tif") as wanted:
        assert np.array_equal(got.read(), wanted.read())
        assert json.loads(got.tags()["AERIAL_SEG_SOURCES"]) == [source]
    with (
        rasterio.open(tmp_path / "a_confidence.tif") as got,
        rasterio.open(tmp_path / "b_confidence.tif") as wanted,
    ):
        assert np.unique(wanted.read()).size > 3
        assert np.array_equal(got.read(), wanted.read())
    assert listing(files) == before
    assert run("vectorize", "a.tif", "a.geojson" if not extra else "a.gpkg").code == 0


def test_two_rasters_of_one_file_have_a_mask_each_and_a_changed_file_is_seen(
    run: Run, files: Path, grey_model: Path, tmp_path: Path
) -> None:
    names = ['NETCDF:"data/a.nc":Band1', "NETCDF:data/a.nc:Band2"]
    (tmp_path / "list.txt").write_text(
        "\n".join([*names, 'NETCDF:"data/gone.nc":Band1', 'NETCDF:"data/a.nc":None'])
    )
    first = run("predict", grey_model, "@list.txt", "-o", "masks", "--json")
    assert first.code == 1
    outcomes = {one["source"]: one for one in json.loads(first.out)}
    assert [outcomes[name]["outcome"] for name in names] == ["done", "done"]
    assert "data/gone.nc" in outcomes['NETCDF:"data/gone.nc":Band1']["reason"]
    assert outcomes['NETCDF:"data/a.nc":None']["outcome"] == "failed"
    assert {f"a_Band{k}_mask.tif" for k in (1, 2)} <= {file.name for file in (tmp_path / "masks").iterdir()}
    # The file behind both tells whether they are as they were.
    again = run("predict", grey_model, "@list.txt", "-o", "masks", "--json")
    assert [one["outcome"] for one in json.loads(again.out)].count("kept") == 2
    os.utime(files / "a.nc", ns=(1, 1))
    later = run("predict", grey_model, "@list.txt", "-o", "masks", "--json", "--overwrite")
    assert [one["outcome"] for one in json.loads(later.out)].count("kept") == 0


def test_two_rasters_whose_masks_would_have_one_name_are_refused(
    refused: Refused, files: Path, grey_model: Path, tmp_path: Path
) -> None:
    tiff(tmp_path / "a_Band1.tif", PIXELS[:1])
    message = refused("predict", grey_model, "NETCDF:data/a.nc:Band1", "a_Band1.tif", "-o", "masks", code=2)
    assert "the same file name" in message


def test_the_file_behind_is_protected(
    refused: Refused, files: Path, grey_model: Path, tmp_path: Path
) -> None:
    shutil.copyfile(files / "c.tif", tmp_path / "pages.tif")
    message = refused(
        "predict", grey_model, "GTIFF_DIR:2:pages.tif", "--no-georef", "-o", "pages.tif", "--overwrite"
    )
    assert "pages.tif is one of the rasters" in message


def test_a_stack_a_mosaic_and_a_dataset_of_them(
    run: Run, files: Path, grey_model: Path, tmp_path: Path
) -> None:
    tiff(tmp_path / "labels.tif", np.array(PIXELS[:1] % 2 + 1))
    stacked = run(
        "predict", grey_model, "NETCDF:data/a.nc:Band1", "--stack", 'NETCDF:"data/a.nc":Band2', "--bidx", "2,1",
        "-o", "s.tif",
    )  # fmt: skip
    assert stacked.code == 1  # two bands for a model of one: it was opened
    assert "2" in stacked.err
    assert "does not exist" not in stacked.err
    made = run(
        "tile", "NETCDF:data/a.nc:Band1", "NETCDF:data/a.nc:Band2", "--labels", "labels.tif", "-o", "chips",
        "--chip-size", "16", "--val", "0", "--test", "0",
    )  # fmt: skip
    assert made.code == 0, made.err
    document = json.loads((tmp_path / "chips" / "dataset.json").read_text())
    assert [one["bytes"] for one in document["sources"]] == [(files / "a.nc").stat().st_size] * 2
    assert json.loads(run("info", "chips", "--json").out)["chips"] == {"train": 8, "val": 0, "test": 0}
    mosaic = run("predict", grey_model, *told_names(files), "--mosaic", "-o", "m.tif")
    assert mosaic.code == 0, mosaic.err


def told_names(files: Path) -> list[str]:
    return [f'NETCDF:"{files.name}/a.nc":Band{k}' for k in (1, 2)]


def test_labels_masks_and_scores_of_them(run: Run, files: Path, tmp_path: Path) -> None:
    mask = np.zeros((1, SIDE, SIDE), np.uint8)
    mask[:, :8, :8] = 1
    tiff(tmp_path / "mask.tif", mask)
    rasterio.shutil.copy(tmp_path / "mask.tif", tmp_path / "m.nc", driver="netCDF")
    with rasterio.open(tmp_path / "mask.tif", "r+") as file:
        legend = make_legend({0: "background", 1: "road"}, background=[0])
        file.update_tags(AERIAL_SEG_LEGEND=legend.model_dump_json())
    name = 'NETCDF:"m.nc":Band1'
    scored = run("evaluate", "mask.tif", name, "--json")
    assert scored.code == 0, scored.err
    assert [one["iou"] for one in json.loads(scored.out)["classes"]] == [1, 1]
    assert run("vectorize", name, "v.gpkg").code == 0
    assert run("vectorize", "mask.tif", "w.gpkg").code == 0
    import geopandas

    got, wanted = (geopandas.read_file(tmp_path / f"{stem}.gpkg", layer=stem) for stem in "vw")
    assert got.geometry.equals(wanted.geometry)
    assert list(got["source"]) == ["m.nc:Band1"]
