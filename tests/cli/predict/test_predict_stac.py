"""`predict --stac` as a user types it, and what programs that read STAC make of the Item."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio

import aerial_seg.jobs.predict.job as predicting
from aerial_seg.errors import OutputError

if TYPE_CHECKING:
    from tests.conftest import Environment

FAST = ("--engine", "eager")
MAY = "2024-05-03T10:00:00Z"


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


@pytest.mark.parametrize(
    ("vectors", "kinds"),
    [
        ("map.gpkg", {"vectors": "application/geopackage+sqlite3"}),
        ("map.shp", {"vectors": "application/vnd.shp", "vectors_dbf": "application/vnd.dbf"}),
    ],
)
def test_the_item_names_the_polygons_when_they_are_there(
    run: Callable, models: Callable, raster: Callable, tmp_path: Path, vectors: str, kinds: dict[str, str]
) -> None:
    raster("a.tif")
    done = run(
        "predict",
        models(),
        "a.tif",
        "-o",
        "map.tif",
        *FAST,
        "--stac",
        "--vectors",
        vectors,
        "--datetime",
        MAY,
    )
    assert done.code == 0, done.err
    assert "STAC item's time" not in done.err
    item = read(tmp_path / "map.json")
    assert item["properties"]["datetime"] == MAY
    assert kinds.items() <= {key: asset["type"] for key, asset in item["assets"].items()}.items()
    assert item["assets"]["mask"]["raster:bands"][0]["nodata"] == 255
    for asset in item["assets"].values():
        assert (tmp_path / asset["href"]).is_file()


def test_polygons_that_could_not_be_made_are_not_named(
    run: Callable, models: Callable, raster: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raster("a.tif")

    def full(*_: object, **__: object) -> None:
        raise OutputError("map.gpkg could not be written")

    monkeypatch.setattr(predicting, "vectorize", full)
    # The mask is kept, so the same command would go on with the polygons.
    assert (
        run("predict", models(), "a.tif", "-o", "map.tif", *FAST, "--stac", "--vectors", "map.gpkg").code == 3
    )
    assert set(read(tmp_path / "map.json")["assets"]) == {"mask"}


def test_where_the_time_is_from_is_said(
    run: Callable, models: Callable, raster: Callable, tmp_path: Path
) -> None:
    os.utime(raster("a.tif"), (1_600_000_000, 1_600_000_000))
    with rasterio.open(raster("b.tif"), "r+") as file:
        file.update_tags(TIFFTAG_DATETIME="2021:07:04 09:30:00")
    for options, name, times, source in (
        (("a.tif",), "one", ["2020-09-13T12:26:40Z"], "when the file a.tif was written, for want of anything better"),
        (("b.tif",), "two", ["2021-07-04T09:30:00Z"], "TIFFTAG_DATETIME of b.tif, which may be when the file was made"),
        (
            ("a.tif", "b.tif", "--mosaic"), "both", ["2020-09-13T12:26:40Z", "2021-07-04T09:30:00Z"],
            "when the file a.tif was written, for want of anything better, to TIFFTAG_DATETIME of b.tif",
        ),
    ):  # fmt: skip
        done = run("predict", models(), *options, "-o", f"{name}.tif", *FAST, "--stac")
        assert done.code == 0, done.err
        told = read(tmp_path / f"{name}.json")["properties"]
        assert told["aerial_seg:datetime_source"].startswith(source)
        assert f"the STAC item's time is {source}" in done.err
        assert "--datetime says when the imagery was taken" in done.err
        if len(times) == 1:
            assert told["datetime"] == times[0]
        else:
            assert [told["datetime"], told["start_datetime"], told["end_datetime"]] == [None, *times]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--datetime", MAY), "is for the STAC item, and none is asked for; add --stac"),
        (("--stac", "--datetime", "2024-05-03"), "'2024-05-03' is no time; wanted 2024-05-03T10:00:00Z"),
        (("--stac", "--datetime", f"{MAY}/2023-01-01T00:00:00Z"), "ends before it begins"),
    ],
)
def test_a_time_that_cannot_be_is_refused_before_anything_is_read(
    refused: Callable, models: Callable, raster: Callable, options: tuple[str, ...], message: str
) -> None:
    raster("a.tif")
    assert message in refused("predict", models(), "a.tif", "-o", "map.tif", *options, code=2)


_CLIENTS = """
import json, os, warnings
warnings.simplefilter("ignore")
import numpy, odc.stac, pystac, stackstac
# As a server gives it: stackstac does not know the fields that pystac makes of an Item it reads.
plain = json.load(open("map.json"))
for asset in plain["assets"].values():
    asset["href"] = os.path.abspath(asset["href"])
told = {}
for name in ("mask", "confidence"):
    told["stackstac " + name] = stackstac.stack([plain], assets=[name]).values[0, 0]
whole = stackstac.stack([plain], assets=["mask"], dtype="uint8", fill_value=numpy.uint8(255), rescale=False)
told["stackstac bytes"] = whole.values[0, 0]
item = pystac.Item.from_file("map.json")
loaded = odc.stac.load([item])
for name, layer in loaded.data_vars.items():
    told["odc " + name] = layer.values[0]
    told["odc facts " + name] = [str(layer.dtype), layer.attrs.get("nodata")]
told["layers"] = sorted(loaded.data_vars)
told["time"] = item.datetime.isoformat()
told = {key: value if isinstance(value, (list, str)) else value.astype(float).tolist() for key, value in told.items()}
json.dump(told, open("told.json", "w"))
"""


@pytest.mark.slow
def test_stackstac_and_odc_stac_read_values_not_bytes(
    environment: Environment, run: Callable, models: Callable, raster: Callable, tmp_path: Path
) -> None:
    python = environment("stackstac==0.5.1", "odc-stac==0.5.3", "pystac==1.15.2")
    pixels = np.random.default_rng(1).integers(1, 200, (3, 60, 80)).astype(np.uint8)
    pixels[:, :12, :30] = 0
    raster("a.tif", pixels=pixels, nodata=0)
    options = ("--stac", "--confidence", "--vectors", "map.gpkg", "--datetime", MAY)
    done = run("predict", models(), "a.tif", "-o", "map.tif", *FAST, *options)
    assert done.code == 0, done.err
    subprocess.run([str(python), "-I", "-c", _CLIENTS], check=True, cwd=tmp_path)
    told = read(tmp_path / "told.json")
    with rasterio.open(tmp_path / "map.tif") as file:
        mask = file.read(1)
    with rasterio.open(tmp_path / "map_confidence.tif") as file:
        confidence = np.where(file.read(1) == 255, np.nan, file.read(1) * 0.004)
    assert (mask == 255).sum() == 12 * 30
    known = np.where(mask == 255, np.nan, mask)
    np.testing.assert_array_equal(np.array(told["stackstac mask"]), known)
    np.testing.assert_array_equal(np.array(told["stackstac bytes"]), mask)
    np.testing.assert_allclose(np.array(told["stackstac confidence"]), confidence)
    assert 0 < np.nanmin(confidence) < np.nanmax(confidence) <= 1
    # odc-stac hands over bytes with their nodata, and leaves the scale to its users.
    assert told["layers"] == ["confidence", "mask"]
    assert told["odc facts mask"] == told["odc facts confidence"] == ["uint8", 255]
    np.testing.assert_array_equal(np.array(told["odc mask"]), mask)
    (band,) = read(tmp_path / "map.json")["assets"]["confidence"]["raster:bands"]
    bytes_ = np.array(told["odc confidence"])
    scaled = np.where(bytes_ == band["nodata"], np.nan, bytes_ * band["scale"] + band["offset"])
    np.testing.assert_allclose(scaled, confidence)
    assert told["time"] == "2024-05-03T10:00:00+00:00"
