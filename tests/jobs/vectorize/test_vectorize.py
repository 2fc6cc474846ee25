"""The job end to end: mask files made here, vector files reread."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from laws import examples
from rasterio.features import rasterize

from aerial_seg.errors import AerialSegError, InputError, OutputError, SettingsError
from aerial_seg.geo.measures import Measure
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.legend import Legend, make_legend
from aerial_seg.outputs.mask import LEGEND_TAG
from aerial_seg.vectors.from_mask.settings import (
    CleanSettings,
    LayerSettings,
    ShapeSettings,
    VectorizeSettings,
)

LEGEND = make_legend({0: "background", 1: "building", 2: "road"}, background=[0])
UTM = "EPSG:32645"
NORTH_UP = Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000)
OVER = LayerSettings(overwrite=True)
EXACT = VectorizeSettings(classes=("all",), shape=ShapeSettings(simplify=Measure(0, "px")), layer=OVER)


def sieved(area: Measure) -> VectorizeSettings:
    return VectorizeSettings(clean=CleanSettings(min_area=area))


def town() -> np.ndarray:
    """40 × 60: a road of 4 rows, a house of 10 × 12, a 3-pixel speck, nodata in a corner."""
    mask = np.zeros((40, 60), np.uint8)
    mask[20:24] = 2
    mask[5:15, 10:22] = 1
    mask[30, 30:33] = 1
    mask[-6:, -6:] = 255
    return mask


def save(
    path: Path,
    mask: np.ndarray,
    *,
    legend: Legend | None = LEGEND,
    crs: str | None = UTM,
    transform: Affine = NORTH_UP,
    nodata: float | None = 255,
) -> Path:
    bands = mask if mask.ndim == 3 else mask[None]
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=mask.shape[-2],
        width=mask.shape[-1],
        count=len(bands),
        dtype=mask.dtype,
        crs=crs,
        transform=transform,
        nodata=nodata,
    ) as dataset:
        dataset.write(bands)
        if legend is not None:
            dataset.update_tags(**{LEGEND_TAG: legend.model_dump_json()})
    return path


class CountingBar:
    def __init__(self) -> None:
        self.done = 0

    def update(self, n: int = 1) -> None:
        self.done += n

    def __enter__(self) -> CountingBar:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def test_all_classes_but_the_background(tmp_path: Path) -> None:
    out = tmp_path / "town.gpkg"
    bar = CountingBar()
    steps: list[str] = []

    def progress(label: str, *, total: int, unit: str) -> CountingBar:
        assert (total, unit) == (40, "row")
        steps.append(label)
        return bar

    report = vectorize(save(tmp_path / "town.tif", town()), out, VectorizeSettings(), progress)
    table = gpd.read_file(out)
    assert sorted(table["class_name"]) == ["building", "building", "road"]
    assert table.crs.to_string() == UTM
    assert steps == ["read", "vectorize"]
    assert bar.done == 2 * 40
    assert report.path == out
    assert report.polygons == 3
    assert report.nodata_pixels == 36
    assert report.notes == ()
    assert report.files == (out,)
    for entry in report.classes:
        areas = table.loc[table["class_name"] == entry.name, "area_m2"]
        assert entry.polygons == len(areas)
        assert entry.area_m2 == pytest.approx(areas.sum())
    # 4 rows of 60 pixels of 0.25 m²; the UTM scale there is off by some 0.1 %.
    assert report.classes[1].area_m2 == pytest.approx(60, rel=2e-3)


@given(
    mask=arrays(
        np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 1, 2, 255])
    ),
    transform=st.sampled_from(
        [
            NORTH_UP,
            NORTH_UP * Affine.scale(1, -1),
            NORTH_UP * Affine.rotation(30),
            NORTH_UP * Affine.shear(10),
        ]
    ),
)
@settings(
    max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_rasterised_polygons_are_the_mask(mask: np.ndarray, transform: Affine, tmp_path: Path) -> None:
    path = save(tmp_path / "mask.tif", mask, transform=transform)
    report = vectorize(path, tmp_path / "mask.gpkg", EXACT)
    table = gpd.read_file(tmp_path / "mask.gpkg")
    assert report.polygons == len(table)
    pairs = list(zip(table.geometry, table["class_id"], strict=True))
    burnt = np.full_like(mask, 255)
    if pairs:
        burnt = rasterize(pairs, out_shape=mask.shape, fill=255, dtype="uint8", transform=transform)
    assert np.array_equal(burnt, mask)


@pytest.mark.parametrize("area", [Measure(4, "px"), Measure(0.9, "m2")])
def test_small_patches_go_and_are_counted(area: Measure, tmp_path: Path) -> None:
    path = save(tmp_path / "town.tif", town())
    report = vectorize(path, tmp_path / "a.shp", sieved(area))
    assert report.polygons == 2
    assert report.sieve.min_pixels == 4
    assert (report.sieve.absorbed.patches, report.sieve.absorbed.pixels) == (1, 3)


def test_the_choice_of_classes(tmp_path: Path) -> None:
    path = save(tmp_path / "town.tif", town())

    def names(*classes: str) -> set[str]:
        vectorize(path, tmp_path / "a.gpkg", VectorizeSettings(classes=classes, layer=OVER))
        return set(gpd.read_file(tmp_path / "a.gpkg")["class_name"])

    assert names("all") == set(LEGEND.names)
    assert names("road") == {"road"}
    assert names("background", "road") == {"background", "road"}
    with pytest.raises(
        SettingsError,
        match=r"`classes` names 'raod', which is no class of the mask, it has background, building, road .*mean 'road'",
    ):
        names("raod")


def test_values_without_a_legend(tmp_path: Path) -> None:
    path = save(tmp_path / "town.tif", town(), legend=None)
    report = vectorize(path, tmp_path / "a.gpkg", VectorizeSettings())
    assert [entry.name for entry in report.classes] == ["class 1", "class 2"]


def test_values_that_the_legend_does_not_know(tmp_path: Path) -> None:
    mask = town()
    mask[0, :7] = 9
    with pytest.raises(InputError, match=r"value 9 \(7 px\).*legend \(0, 1, 2\)"):
        vectorize(save(tmp_path / "town.tif", mask), tmp_path / "a.gpkg", VectorizeSettings())


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_other_integers(dtype: str, tmp_path: Path) -> None:
    mask = np.where(town() == 255, 99, town()).astype(dtype)
    vectorize(save(tmp_path / "town.tif", mask, nodata=99), tmp_path / "a.gpkg", EXACT)
    vectorize(save(tmp_path / "byte.tif", town()), tmp_path / "b.gpkg", EXACT)
    one, other = gpd.read_file(tmp_path / "a.gpkg"), gpd.read_file(tmp_path / "b.gpkg")
    assert one.drop(columns="source").equals(other.drop(columns="source"))


@pytest.mark.parametrize(
    ("dtype", "values"), [("int16", (-7, 300)), ("int32", (-(2**31), 70_000)), ("uint16", (0, 65535))]
)
def test_class_numbers_of_any_size(dtype: str, values: tuple[int, int], tmp_path: Path) -> None:
    mask = np.array([[values[0], values[0], values[1]]], dtype)
    vectorize(save(tmp_path / "m.tif", mask, legend=None, nodata=None), tmp_path / "a.gpkg", EXACT)
    table = gpd.read_file(tmp_path / "a.gpkg", layer="a").sort_values("class_id")
    assert table["class_id"].tolist() == list(values)
    assert table["class_name"].tolist() == [f"class {value}" for value in values]
    assert table["n_px"].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("mask", "nodata", "message"),
    [
        (
            np.array([[0, 2**40, 5]], np.int64),
            None,
            r"value 1099511627776 \(1 px\), wanted class numbers of 32 bits",
        ),
        # Not a class, and not declared as nodata: never taken for it in silence.
        (np.array([[0, 255, 255]], np.uint8), None, r"value 255 \(2 px\).*-a_nodata"),
        (np.arange(70_000, dtype=np.int32)[None], None, "more than 65,534 different values"),
        (np.arange(40, dtype=np.int64)[None] + 2**33, None, "and 30 more"),
        (np.zeros((2, 2), np.float32), None, "one of whole numbers"),
        (np.zeros((3, 2, 2), np.uint8), None, r"3 band\(s\)"),
    ],
)
def test_files_that_are_no_mask(mask: np.ndarray, nodata: float | None, message: str, tmp_path: Path) -> None:
    path = save(tmp_path / "odd.tif", mask, nodata=nodata)
    with pytest.raises(InputError, match=message):
        vectorize(path, tmp_path / "a.gpkg", VectorizeSettings())
    assert not (tmp_path / "a.gpkg").exists()


def test_an_internal_mask_is_nodata(tmp_path: Path) -> None:
    path = save(tmp_path / "town.tif", np.where(town() == 255, 0, town()).astype(np.uint8), nodata=None)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_mask(town() != 255)
    report = vectorize(path, tmp_path / "a.gpkg", EXACT)
    assert report.nodata_pixels == 36
    assert gpd.read_file(tmp_path / "a.gpkg", layer="a")["n_px"].sum() == 40 * 60 - 36


def test_a_mask_without_crs(tmp_path: Path) -> None:
    path = save(tmp_path / "town.tif", town(), crs=None)
    report = vectorize(path, tmp_path / "a.gpkg", sieved(Measure(4, "px")))
    assert [entry.area_m2 for entry in report.classes] == [None, None]
    for choice in (
        sieved(Measure(4, "m2")),
        VectorizeSettings(shape=ShapeSettings(simplify=Measure(1, "m"))),
    ):
        with pytest.raises(InputError, match="give the size in px"):
            vectorize(path, tmp_path / "b.gpkg", choice)
    with pytest.raises(InputError, match="RFC 7946"):
        vectorize(path, tmp_path / "b.geojson", VectorizeSettings())


def test_an_existing_output_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "town.tif", town())
    (tmp_path / "a.gpkg").write_bytes(b"mine")
    monkeypatch.setattr("aerial_seg.jobs.vectorize.job.ClassRaster", lambda path: pytest.fail("too late"))
    with pytest.raises(OutputError, match="`overwrite=True`"):
        vectorize(path, tmp_path / "a.gpkg", VectorizeSettings())
    assert (tmp_path / "a.gpkg").read_bytes() == b"mine"


@pytest.mark.parametrize("legend", [LEGEND, None])
def test_nothing_but_nodata_is_an_empty_layer(legend: Legend | None, tmp_path: Path) -> None:
    path = save(tmp_path / "none.tif", np.full((5, 5), 255, np.uint8), legend=legend)
    report = vectorize(path, tmp_path / "a.geojson", VectorizeSettings(classes=("all",)))
    assert report.polygons == 0
    assert report.nodata_pixels == 25
    assert json.loads((tmp_path / "a.geojson").read_text())["features"] == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: CleanSettings(min_area=Measure(1, "m")),
        lambda: CleanSettings(fill_holes=Measure(1, "m")),
        lambda: CleanSettings(smooth_mask=4),
        lambda: ShapeSettings(simplify=Measure(1, "m2")),
        lambda: ShapeSettings(split_grid=3),
        lambda: ShapeSettings(connectivity=8, instances=("building",)),
        lambda: VectorizeSettings(classes=()),
    ],
)
def test_settings_that_cannot_work(wrong: Callable[[], object]) -> None:
    with pytest.raises(
        AerialSegError, match=r"write it like|name at least one|try \d|leave `connectivity=8`"
    ):
        wrong()
