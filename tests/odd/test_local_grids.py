"""A site's own grid has no place on earth: it is mapped, vectorised, cut and scored in its own coordinates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from pyproj import CRS
from rasterio.features import geometry_mask

from aerial_seg.cli.main import main
from aerial_seg.geo.systems import is_local, same_local
from aerial_seg.legend import make_legend

SITE = 'LOCAL_CS["Site grid",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
FEET = 'LOCAL_CS["Yard",UNIT["US survey foot",0.304800609601219],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
UNKNOWN = 'LOCAL_CS["Odd",UNIT["unknown",0.37],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
GEOCENTRIC = "EPSG:4978"
CORNER = Affine(0.5, 0, 1000, 0, -0.5, 2000)
FOOT = 0.304800609601219

Command = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`run(command, …)` → exit code, its JSON and what stderr holds."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = 0
        try:
            main([*map(str, arguments), "--json"])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, json.loads(out) if out else None, err.strip()

    return command


def blotches(height: int = 120, width: int = 160) -> np.ndarray:
    coarse = np.random.default_rng(6).integers(1, 255, (3, height // 20, width // 20), dtype=np.uint8)
    return np.kron(coarse, np.ones((1, 20, 20), np.uint8))


def as_two_classes(pixels: np.ndarray) -> np.ndarray:
    return np.where(pixels[:1] > 127, np.uint8(7), np.uint8(0))


def predict(run: Command, model: Path, *arguments: object) -> tuple[int, Any, str]:
    return run("predict", model, *arguments, "--engine", "eager", "--precision", "fp32")


def test_the_map_lies_on_the_sites_grid_and_its_polygons_too(
    run: Command, model_file: Callable, save: Callable, tmp_path: Path
) -> None:
    source = save("in.tif", blotches(), SITE, CORNER)
    model = model_file(3, gsd=0.5)
    code, (report,), err = predict(run, model, source, "-o", "map.tif", "--vectors", "map.gpkg", "--stac")
    assert code == 0, err
    assert report["resampled_to"] is None
    assert any(
        "is a local grid, 'Site grid', which has no place on earth" in note for note in report["notes"]
    )
    with rasterio.open(source) as given, rasterio.open(tmp_path / "map.tif") as made:
        assert (made.crs, made.transform, made.shape) == (given.crs, given.transform, given.shape)
        classes = made.read(1)
    layer = geopandas.read_file(tmp_path / "map.gpkg", layer="map")
    assert same_local(layer.crs, CRS(SITE))
    burnt = ~geometry_mask(layer.geometry, classes.shape, CORNER)
    assert (burnt != (classes == 7)).mean() < 0.02, "polygons lie where the class is"
    # Oracle: shapely in the plane, whose unit is the metre.
    np.testing.assert_allclose(layer["area_m2"], layer.area, rtol=1e-9)
    np.testing.assert_allclose(layer["perim_m"], layer.length, rtol=1e-9)
    item = json.loads((tmp_path / "map.json").read_text(encoding="utf-8"))
    assert item["geometry"] is None
    assert "Site grid" in item["properties"]["proj:wkt2"]


def test_the_units_of_a_site_become_metres(
    run: Command, model_file: Callable, save: Callable, tmp_path: Path
) -> None:
    """A model of 0.3 m sees pixels of 2 feet halved; areas are square metres, not square feet."""
    source = save("in.tif", blotches(), FEET, Affine(2, 0, 1000, 0, -2, 2000))
    code, (report,), err = predict(run, model_file(3, gsd=FOOT), source, "-o", "map.tif")
    assert code == 0, err
    assert report["resampled_to"] == pytest.approx(FOOT)
    code, facts, _ = run("info", source)
    assert facts["gsd_m"]["down"] == pytest.approx(2 * FOOT)
    assert (facts["extent"], "problem" in facts) == (None, False)
    assert "units of 0.304801 m" in facts["note"]
    save("classes.tif", as_two_classes(blotches()), FEET, Affine(2, 0, 1000, 0, -2, 2000))
    code, told, err = run("vectorize", "classes.tif", "out.gpkg", "--simplify", "0", "--min-area", "10m2")
    assert code == 0, err
    layer = geopandas.read_file(tmp_path / "out.gpkg")
    np.testing.assert_allclose(layer["area_m2"], layer.area * FOOT**2, rtol=1e-9)
    pixels = int((as_two_classes(blotches()) == 7).sum())
    assert layer["area_m2"].sum() == pytest.approx(pixels * (2 * FOOT) ** 2)
    assert "local grid" in json.dumps(told)


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".fgb", ".csv", ".parquet"])
def test_every_format_that_can_name_the_site_names_it(
    run: Command, save: Callable, tmp_path: Path, suffix: str
) -> None:
    save("classes.tif", as_two_classes(blotches()), SITE, CORNER)
    code, _, err = run("vectorize", "classes.tif", f"out{suffix}", "--simplify", "0")
    assert code == 0, err
    if suffix == ".csv":
        assert "Site grid" in (tmp_path / "out.prj").read_text(encoding="utf-8")
        return
    path = tmp_path / f"out{suffix}"
    layer = geopandas.read_parquet(path) if suffix == ".parquet" else geopandas.read_file(path)
    assert is_local(layer.crs)
    assert CRS(layer.crs).name == "Site grid"
    assert layer.area.sum() == pytest.approx(0.25 * (as_two_classes(blotches()) == 7).sum())
    if suffix in (".gpkg", ".shp"):
        assert run("vectorize", "classes.tif", f"out{suffix}", "--append")[0] == 0


def test_what_needs_a_place_on_earth_is_refused_with_the_reason(
    run: Command, model_file: Callable, save: Callable, tmp_path: Path
) -> None:
    source = save("in.tif", blotches(), SITE, CORNER)
    save("classes.tif", as_two_classes(blotches()), SITE, CORNER)
    for arguments in (
        ("vectorize", "classes.tif", "out.geojson"),
        ("vectorize", "classes.tif", "out.gpkg", "--dst-crs", "EPSG:32633"),
        ("predict", model_file(3), source, "-o", "map.tif", "--vectors", "map.geojson"),
    ):
        code, _, err = run(*arguments)
        assert code == 1, err
        assert "in the local grid 'Site grid', which has no place on earth" in err
        assert not list(tmp_path.glob("map*"))
        assert not list(tmp_path.glob("out*"))


def test_an_area_in_the_sites_own_grid_holds_and_another_is_refused(
    run: Command, model_file: Callable, save: Callable, polygon_file: Callable, tmp_path: Path
) -> None:
    source, model = save("in.tif", blotches(), SITE, CORNER), model_file(3)
    box = shapely.box(1010, 1960, 1030, 1990)
    polygon_file("site.gpkg", [box], crs=SITE)
    code, _, err = predict(run, model, source, "-o", "aoi.tif", "--aoi", "site.gpkg")
    assert code == 0, err
    code, _, err = predict(run, model, source, "-o", "box.tif", "--bounds", *box.bounds)
    assert code == 0, err
    masks = []
    for name in ("aoi.tif", "box.tif"):
        with rasterio.open(tmp_path / name) as made:
            masks.append(made.read(1))
    inside = ~geometry_mask([box], masks[0].shape, CORNER)
    for mask in masks:
        np.testing.assert_array_equal(mask != 255, inside)
    for name, crs in (("utm.gpkg", "EPSG:32633"), ("yard.gpkg", FEET)):
        polygon_file(name, [box], crs=crs)
        code, _, err = predict(run, model, source, "-o", "no.tif", "--aoi", name)
        assert code == 1
        assert name in err
        assert "a local grid has no place in any other CRS" in err
    utm = save("utm.tif", blotches(), "EPSG:32633", CORNER)
    code, _, err = predict(run, model, utm, "-o", "no.tif", "--aoi", "site.gpkg")
    assert (code, "a local grid has no place in any other CRS" in err) == (1, True)
    polygon_file("far.gpkg", [shapely.box(0, 0, 1, 1)], crs=SITE)
    code, _, err = predict(run, model, source, "-o", "no.tif", "--aoi", "far.gpkg")
    assert (code, "in the local grid 'Site grid'" in err) == (1, True)


@pytest.mark.parametrize("kind", ["raster", "finer raster", "polygons"])
def test_labels_in_the_sites_own_grid_are_cut_and_scored(
    run: Command, save: Callable, polygon_file: Callable, tmp_path: Path, kind: str
) -> None:
    source = save("in.tif", blotches(), SITE, CORNER)
    classes = as_two_classes(blotches())
    with rasterio.open(save("mask.tif", classes, SITE, CORNER), "r+") as mask:
        legend = make_legend({0: "class 0", 7: "class 7"}, background=())
        mask.update_tags(AERIAL_SEG_LEGEND=legend.model_dump_json())
    labels = "labels.gpkg" if kind == "polygons" else "labels.tif"
    if kind == "polygons":
        boxes = [
            shapely.box(*(CORNER * (col, row + 20)), *(CORNER * (col + 20, row)))
            for row in range(0, 120, 20)
            for col in range(0, 160, 20)
            if classes[0, row, col]
        ]
        polygon_file(labels, boxes, {"class": [7] * len(boxes)}, crs=SITE)
    else:
        fine = 3 if kind == "finer raster" else 1
        save(labels, classes.repeat(fine, 1).repeat(fine, 2), SITE, CORNER * Affine.scale(1 / fine))
    field = ("--class-field", "class") if kind == "polygons" else ()
    code, told, err = run(
        "tile", source, "--labels", labels, *field, "-o", "chips", "--chip-size", 40, "--block", 1
    )
    assert code == 0, err
    chips = sorted((tmp_path / "chips" / "labels").glob("*.tif"))
    assert len(chips) == 12
    for chip in chips:
        with rasterio.open(chip) as made:
            col, row = (round(number) for number in ~CORNER * (made.transform.c, made.transform.f))
            assert is_local(CRS(made.crs))
            np.testing.assert_array_equal(made.read(1), classes[0, row : row + 40, col : col + 40])
    index = pyogrio.read_info(tmp_path / "chips" / "chips.gpkg")
    assert "Site grid" in str(index["crs"])
    assert told["gsd"] == 0.5
    assert "is a local grid, 'Site grid'" in err
    code, scores, err = run("evaluate", "mask.tif", labels, *field)
    assert code == 0, err
    assert scores["pixel_accuracy"] == 1.0, scores


def test_labels_of_another_place_are_refused(run: Command, save: Callable, polygon_file: Callable) -> None:
    source = save("in.tif", blotches(), SITE, CORNER)
    save("utm.tif", as_two_classes(blotches()), "EPSG:32633", CORNER)
    save("far.tif", as_two_classes(blotches()), SITE, CORNER * Affine.translation(1e4, 0))
    polygon_file("utm.gpkg", [shapely.box(1000, 1960, 1030, 1990)], {"class": [7]})
    for labels, words in (
        ("utm.tif", "a local grid has no place in any other CRS"),
        ("utm.gpkg", "a local grid has no place in any other CRS"),
        ("far.tif", "do not overlap"),
    ):
        code, _, err = run("tile", source, "--labels", labels, "-o", "chips")
        assert code == 1
        assert words in err
    save("utm_image.tif", blotches(), "EPSG:32633", CORNER)
    code, _, err = run("tile", source, "utm_image.tif", "--labels", "far.tif", "-o", "chips")
    assert (code, "a local grid has no place in any other CRS" in err) == (1, True)


def test_rasters_without_a_usable_place_are_taken_with_no_georef(
    run: Command, model_file: Callable, save: Callable, tmp_path: Path
) -> None:
    """Each in one line with the true reason, and mapped with the option that the line names."""
    broken = save("broken.tif", blotches(), None, Affine.identity())
    (tmp_path / "broken.tif.aux.xml").write_text(
        "<PAMDataset><SRS>GEOGCS[broken</SRS><GeoTransform>1000,1,0,2000,0,-1</GeoTransform></PAMDataset>"
    )
    cases = {
        broken: "has a CRS that PROJ cannot build (broken.tif.aux.xml says GEOGCS[broken)",
        save(
            "far.tif", blotches(), "EPSG:32633", Affine(1, 0, 1e30, 0, -1, 1e30)
        ): "far.tif: the raster's place",
        save(
            "odd.tif", blotches(), UNKNOWN, CORNER
        ): "has the local CRS 'Odd' without a known unit of length",
        save("xyz.tif", blotches(), GEOCENTRIC, CORNER): "has a CRS of geocentric coordinates (X, Y, Z)",
        with_crs(
            save("up.tif", blotches(), None, CORNER), "EPSG:5773"
        ): "has a CRS of heights only, 'EGM96 height'",
        save(
            "flat.tif", blotches(), "EPSG:32633", Affine(1, 1, 5e5, 1, 1, 5e6)
        ): "that places no pixel (500000, 1,",
    }
    model = model_file(3, gsd=0.5)
    turned = CRS(ROTATED_POLE).to_wkt()
    cases[save("turned.tif", blotches(), turned, Affine(4.5e-6, 0, 0, 0, -4.5e-6, 0))] = (
        "which no GeoTIFF can hold"
    )
    save("plain.tif", blotches(), None, Affine.identity())
    assert predict(run, model, "plain.tif", "-o", "plain_map.tif", "--no-georef")[0] == 0
    with rasterio.open(tmp_path / "plain_map.tif") as made:
        wanted = made.read(1)
    for source, words in cases.items():
        code, _, err = predict(run, model, source, "-o", "no.tif")
        assert code == 1, source
        assert words in err
        assert source.name in err
        assert "--no-georef" in err
        code, (report,), err = predict(
            run, model, source, "-o", "map.tif", "--no-georef", "--overwrite", "--stac"
        )
        assert code == 0, err
        assert report["resampled_to"] is None
        with rasterio.open(tmp_path / "map.tif") as made:
            np.testing.assert_array_equal(made.read(1), wanted)
            if source.name == "odd.tif":
                assert made.crs.to_wkt().startswith('LOCAL_CS["Odd"')
        code, _, _ = run("info", source)
        assert code == 0


def with_crs(raster: Path, crs: str) -> Path:
    """A VRT of the raster in a CRS that GeoTIFF would change."""
    vrt = raster.with_suffix(".vrt")
    rasterio.shutil.copy(raster, vrt, driver="VRT")
    with rasterio.open(vrt, "r+") as dataset:
        dataset.crs = rasterio.crs.CRS.from_user_input(crs)
    return vrt


def test_a_unit_makes_an_odd_grid_usable(run: Command, model_file: Callable, save: Callable) -> None:
    """The remedy that the refusal prints."""
    source = save("odd.tif", blotches(), UNKNOWN, CORNER)
    with rasterio.open(source, "r+") as dataset:
        dataset.crs = rasterio.crs.CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    code, _, err = predict(run, model_file(3, gsd=0.5), source, "-o", "map.tif")
    assert code == 0, err


COMPOUND_SITE = (
    'COMPOUNDCRS["Site with heights",ENGCRS["Site grid",EDATUM["Site"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],'
    'LENGTHUNIT["metre",1]],VERTCRS["h",VDATUM["v"],CS[vertical,1],AXIS["h",up],LENGTHUNIT["metre",1]]]'
)
BOUND = "+proj=tmerc +lon_0=15 +k=0.9996 +x_0=500000 +ellps=bessel +towgs84=582,105,414,1.04,0.35,-3.08,8.3 +units=m"
ROTATED_POLE = (
    "+proj=ob_tran +o_proj=longlat +o_lon_p=-162 +o_lat_p=39.25 +lon_0=180 +to_meter=0.0174532925199433"
)


@pytest.mark.parametrize(
    ("crs", "transform", "gsd"),
    [
        ("EPSG:32633+5773", Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000), 0.5),
        (BOUND, Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000), 0.5),
        # ITRF2014, a frame at a time; with ellipsoidal heights
        pytest.param("EPSG:9000", Affine(4.5e-6, 0, 10, 0, -4.5e-6, 0), 0.5, marks=pytest.mark.slow),
        pytest.param("EPSG:4979", Affine(4.5e-6, 0, 10, 0, -4.5e-6, 0), 0.5, marks=pytest.mark.slow),
        (COMPOUND_SITE, CORNER, 0.5),
    ],
    ids=["compound", "bound", "time-dependent", "3D", "compound site"],
)
def test_the_other_kinds_of_crs_work(
    run: Command,
    model_file: Callable,
    save: Callable,
    tmp_path: Path,
    crs: str,
    transform: Affine,
    gsd: float,
) -> None:
    vrt = with_crs(save("in.tif", blotches(), None, transform), crs)
    code, facts, err = run("info", vrt)
    assert code == 0, err
    assert facts["gsd_m"]["across"] == pytest.approx(gsd, rel=0.01)
    code, _, err = predict(run, model_file(3, gsd=gsd), vrt, "-o", "map.tif", "--vectors", "map.gpkg")
    assert code == 0, err
    layer = geopandas.read_file(tmp_path / "map.gpkg")
    with rasterio.open(tmp_path / "map.tif") as made:
        pixels = int((made.read(1) == 7).sum())
    assert layer["area_m2"].sum() == pytest.approx(pixels * gsd**2, rel=0.03)
