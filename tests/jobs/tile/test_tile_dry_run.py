"""The dry run tells all that `tile` would refuse, and exactly what it would make; nothing is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from shapely import box
from tile_town import SETTINGS, X, Y, at, run, scene

from aerial_seg.errors import InputError, OutputError, SettingsError
from aerial_seg.jobs.tile.dry_run import TileForecast, forecast_tiling
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.class_table import class_table
from aerial_seg.labels.settings import LabelSettings

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile


def errors(forecast: TileForecast) -> dict[str, str]:
    return {one.kind: one.problem for one in forecast.problems if one.severity == "error"}


def listing(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_it_foretells_what_tile_makes(image: Path, polygons: Path) -> None:
    """Chips, classes and notes to the pixel; the disk within a tenth."""
    before = listing(image.parents[1])
    foretold = forecast_tiling(image, polygons, polygons.parent / "out" / "set", SETTINGS)
    assert listing(image.parents[1]) == before
    made = run([image], polygons)
    assert foretold.chips == made.chips
    assert foretold.class_pixels == made.class_pixels
    assert foretold.gsd == made.gsd
    assert foretold.legend == made.legend
    assert [one.problem for one in foretold.problems] == list(made.notes)
    assert foretold.seconds is not None
    assert foretold.bytes is not None
    chips = [*made.dataset.glob("images/*"), *made.dataset.glob("labels/*")]
    assert foretold.bytes == pytest.approx(sum(file.stat().st_size for file in chips), rel=0.1)


def test_all_problems_of_rasters_labels_and_settings_are_told_at_once(
    raster_file: RasterFile, polygon_file: PolygonFile, tmp_path: Path
) -> None:
    good = raster_file("good.tif", scene())
    other = raster_file("other.tif", scene(bands=4))
    wide = raster_file("wide.tif", scene().astype(np.uint16))
    nowhere = raster_file("nowhere.tif", scene(), crs=None)
    (tmp_path / "broken.tif").write_bytes(b"II*\0" + bytes(90))
    roofs = polygon_file("roofs.gpkg", [box(X, Y - 9, X + 4, Y)], {"kind": ["roof"]})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    settings = TileSettings(
        chip_size=20, val="*.jp2", overwrite=True, labels=LabelSettings(class_field="kid")
    )
    rasters = [good, other, wide, nowhere, tmp_path / "broken.tif", tmp_path / "gone.tif"]
    before = listing(tmp_path)
    forecast = forecast_tiling(rasters, roofs, tmp_path / "mine", settings)
    assert listing(tmp_path) == before
    told = [one.problem for one in forecast.problems if one.severity == "error"]
    assert len(told) == len(forecast.problems) == 8
    for part in (
        "mine holds other files and no dataset.json",
        "gone.tif does not exist",
        "broken.tif",
        "'*.jp2' matches none of the 4 sources",
        "other.tif has bands 4, but",
        "wide.tif has dtype uint16, but",
        "nowhere.tif has no CRS",
        "roofs.gpkg has no field 'kid'",
    ):
        assert any(part in problem for problem in told), (part, told)
    assert (forecast.chips, forecast.legend, forecast.bytes) == ({}, None, None)


def test_a_damaged_raster_is_found_though_another_one_and_the_labels_are_damaged(
    raster_file: RasterFile, polygon_file: PolygonFile
) -> None:
    rasters = [
        raster_file(f"{name}.tif", scene(seed=k), transform=at(70 * k, 0)) for k, name in enumerate("abc")
    ]
    for path in rasters[:2]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    boxes = [box(X + 9 * i, Y - 5, X + 9 * i + 4, Y) for i in range(24)]
    labels = polygon_file("l.gpkg", boxes, {"kind": ["road", "roof"] * 12})
    no_field = replace(SETTINGS, labels=LabelSettings(class_field="x"))
    for settings, others in ((SETTINGS, []), (no_field, ["labels"])):
        forecast = forecast_tiling(rasters, labels, labels.parent / "set", settings)
        found = [one for one in forecast.problems if one.severity == "error"]
        assert sorted(one.kind for one in found) == [*others, "raster", "raster"]
        told = [one.problem for one in found if one.kind == "raster"]
        assert [str(path) in problem for path, problem in zip(rasters[:2], told, strict=True)] == [True, True]


def test_all_that_is_wrong_with_one_vector_layer_is_told(
    image: Path, polygon_file: PolygonFile, tmp_path: Path
) -> None:
    roofs = [box(X, Y - 9, X + 4, Y), box(X + 9, Y - 9, X + 14, Y)]
    away = [box(X + 9e4, Y - 9, X + 9e4 + 4, Y)]
    fields = {"kind": ["roof", "rof"]}
    asked = LabelSettings(class_field="kind", classes=class_table("roof,road"))
    bare = polygon_file("bare.gpkg", roofs, fields, crs=None)
    cases: list[tuple[Path, LabelSettings, list[str]]] = [
        (bare, asked, ["bare.gpkg has no CRS", "did you mean 'roof'?"]),
        (bare, replace(asked, class_field="kid"), ["bare.gpkg has no field 'kid'", "bare.gpkg has no CRS"]),
        (
            polygon_file("away.gpkg", away, {"kind": ["rof"]}),
            asked,
            ["did you mean 'roof'?", "the labels do not overlap the imagery"],
        ),
        (
            polygon_file("area.gpkg", roofs, fields),
            replace(asked, labelled_area="gone"),
            ["did you mean 'roof'?", "gone"],
        ),
    ]
    for labels, settings, wanted in cases:
        forecast = forecast_tiling(image, labels, tmp_path / "set", replace(SETTINGS, labels=settings))
        told = [one.problem for one in forecast.problems if one.severity == "error"]
        assert len(told) == len(set(told)) == len(wanted), told
        for part in wanted:
            assert any(part in problem for problem in told), (part, told)


def test_labels_that_overlap_or_are_one_class_are_errors_as_in_tile(
    image: Path, polygon_file: PolygonFile, tmp_path: Path
) -> None:
    both = [box(X + 10, Y - 40, X + 60, Y - 5), box(X + 30, Y - 45, X + 65, Y - 10)]
    labels = polygon_file("both.gpkg", both, {"kind": ["road", "roof"]})
    told = errors(forecast_tiling(image, labels, tmp_path / "set", SETTINGS))
    with pytest.raises(InputError) as refused:
        run([image], labels)
    (problem,) = told.values()
    # `tile` stops as soon as nothing can mend it, with the share of what it has seen by then.
    assert problem.partition(" on ")[0] == str(refused.value).partition(" on ")[0]
    assert problem.partition("; ")[2] == str(refused.value).partition("; ")[2]
    whole = polygon_file("whole.gpkg", [box(X, Y - 60, X + 80, Y)])
    one = TileSettings(chip_size=20)
    told = errors(forecast_tiling(image, whole, tmp_path / "set", one))
    assert "alone has pixels in the chips" in told["one-class"]


def test_tile_itself_stops_at_the_first_error_and_says_how_many_more_there_are(
    image: Path, polygons: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("a letter")
    with pytest.raises(OutputError) as refused:
        tile([image, tmp_path / "gone.tif"], tmp_path / "no.gpkg", tmp_path / "mine", SETTINGS)
    assert str(refused.value) == (
        f"{tmp_path / 'mine'} is a file where a folder is to be written; choose another output (2 more errors: "
        "`aerial-seg tile --dry-run` with the same arguments lists all)"
    )
    lone = replace(SETTINGS, val="*.jp2")
    with pytest.raises(SettingsError, match=r"matches none of the 1 sources[^(]*\(first: [^)]*\)[^(]*$"):
        tile(image, polygons, tmp_path / "set", lone)
    told = errors(
        forecast_tiling([image, tmp_path / "gone.tif"], tmp_path / "no.gpkg", tmp_path / "mine", SETTINGS)
    )
    assert list(told) == ["output", "raster", "labels"]
