"""`check` tells all that is wrong with a dataset at once; a good one passes, also one of an older version."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.transform import from_origin
from shapely import box

from aerial_seg.errors import InputError
from aerial_seg.jobs.check.job import CheckReport, check
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.settings import LabelSettings

SIDE = 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 30 chips of 20 px with roofs and roads, all of it measured."""
    folder = tmp_path_factory.mktemp("made")
    pixels = np.random.default_rng(0).integers(1, 255, (3, 100, 120)).astype(np.uint8)
    place = {"crs": "EPSG:32645", "transform": from_origin(300_000, 3_060_000, 0.5, 0.5)}
    with rasterio.open(
        folder / "o.tif", "w", driver="GTiff", height=100, width=120, count=3, dtype="uint8", **place
    ) as file:
        file.write(pixels)
    boxes = [
        box(300_000 + 9 * i, 3_059_950 + 8 * j, 300_004 + 9 * i, 3_059_955 + 8 * j)
        for i in range(7)
        for j in range(7)
    ]
    kinds = ["road", "roof", "roof"] * 16 + ["road"]
    geopandas.GeoDataFrame({"kind": kinds}, geometry=boxes, crs="EPSG:32645").to_file(folder / "l.gpkg")
    settings = TileSettings(chip_size=SIDE, labels=LabelSettings(class_field="kind"))
    tile(folder / "o.tif", folder / "l.gpkg", folder / "set", settings)
    return folder / "set"


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "set")
    return tmp_path / "set"


def label(dataset: Path, number: int = 0) -> Path:
    return sorted((dataset / "labels").glob("*.tif"))[number]


def image(dataset: Path, number: int = 0) -> Path:
    return sorted((dataset / "images").glob("*.tif"))[number]


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """The raster with other pixels, of another size if they have one."""
    with rasterio.open(path) as file:
        profile, pixels, colours = file.profile, file.read(), None
        if file.count == 1:
            colours = file.colormap(1)
    changed = change(pixels)
    profile.update(
        count=len(changed), height=changed.shape[1], width=changed.shape[2], dtype=str(changed.dtype)
    )
    with rasterio.open(path, "w", **profile) as file:
        file.write(changed)
        if colours:
            file.write_colormap(1, colours)


def index(dataset: Path, statement: str) -> None:
    """Change the index, behind the back of whoever keeps its spatial index."""
    with sqlite3.connect(dataset / "chips.gpkg") as base:
        for (name,) in base.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            base.execute(f'drop trigger "{name}"')
        base.execute(statement)
    base.close()


def kinds(report: CheckReport) -> list[tuple[str, int]]:
    return [(one.kind, one.count) for one in report.errors]


def test_a_dataset_as_tile_left_it_has_no_error(made: Path) -> None:
    report = check(made)
    assert report.errors == ()
    document = json.loads((made / "dataset.json").read_text(encoding="utf-8"))
    assert report.class_pixels == document["class_pixels"]
    assert sum(report.chips.values()) == 30
    assert [one.problem for one in report.problems if one.kind == "note"]


def test_a_dataset_of_an_older_version_has_no_error(dataset: Path) -> None:
    """Before statistics, cut sizes and blocks were told, and `qa/` was drawn."""
    path = dataset / "dataset.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["statistics"]
    for source in document["sources"]:
        for key in ("cut_width", "cut_height", "members"):
            del source[key]
    path.write_text(json.dumps(document), encoding="utf-8")
    index(dataset, "alter table chips drop column block")
    shutil.rmtree(dataset / "qa")
    assert check(dataset).errors == ()


def unlike(values: np.ndarray) -> np.ndarray:
    """Labels of which every road is a roof: all are classes, and the counts are wrong."""
    return np.where(values == 1, 2, np.where(values == 0, 1, values)).astype(np.uint8)


def with_value(values: np.ndarray) -> np.ndarray:
    values[:, 0, :7] = 77
    return values


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "image-missing": (lambda d: image(d).unlink(), "o_0000_0000.tif is gone; put it back"),
    "labels-missing": (lambda d: label(d).unlink(), "o_0000_0000.tif is gone; put it back"),
    "image-damaged": (lambda d: image(d).write_bytes(image(d).read_bytes()[:400]), "images/o_0000_0000.tif"),
    "labels-damaged": (lambda d: label(d).write_text("no raster"), "labels/o_0000_0000.tif"),
    "image-size": (
        lambda d: rewrite(image(d), lambda p: p[:, :15]),
        "is 20 × 15 px, wanted the dataset's 20 × 20",
    ),
    "image-bands": (lambda d: rewrite(image(d), lambda p: p[:1]), "has 1 bands of uint8, wanted 3 of uint8"),
    "labels-unknown": (
        lambda d: rewrite(label(d), with_value),
        "holds the value 77 (7 px), wanted 0=background",
    ),
    "labels-changed": (lambda d: rewrite(label(d), unlike), "it was changed"),
    "chip-twice": (
        lambda d: index(d, "update chips set chip = 'o_0000_0001' where chip = 'o_0000_0000'"),
        "holds o_0000_0001 2 times; leave one row of it",
    ),
    "split": (
        lambda d: index(d, "update chips set split = 'trian' where chip = 'o_0000_0000'"),
        "o_0000_0000 has 'trian' as split, wanted train, val, test; did you mean 'train'?",
    ),
    "chip-name": (
        lambda d: index(d, "update chips set chip = '../o' where chip = 'o_0000_0000'"),
        "has no name that a file can have: '../o'",
    ),
    "index": (lambda d: (d / "chips.gpkg").unlink(), "has no chips.gpkg"),
    "document": (lambda d: (d / "dataset.json").write_text("{"), "dataset.json is damaged"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_each_damage_is_told_with_the_chip_and_the_remedy(dataset: Path, kind: str) -> None:
    damage, told = DAMAGES[kind]
    damage(dataset)
    found = {one.kind: one.problem for one in check(dataset).errors}
    assert kind in found
    assert told in found[kind]
    assert ";" in found[kind], "a remedy follows"


def test_all_damages_are_told_at_once_errors_first(dataset: Path) -> None:
    image(dataset, 1).unlink()
    label(dataset, 2).rename(dataset / "labels" / "o_0000_0002b.tif")
    image(dataset, 3).write_bytes(b"II*\0")
    rewrite(label(dataset, 4), lambda p: p[:, :, :9])
    for number in (6, 7, 8):
        rewrite(label(dataset, number), with_value)
    rewrite(label(dataset, 9), unlike)
    report = check(dataset)
    assert kinds(report) == [
        ("image-missing", 1),
        ("labels-missing", 1),
        ("image-damaged", 1),
        ("labels-damaged", 1),
        ("labels-unknown", 3),
        ("labels-changed", 1),
    ]
    severities = [one.severity for one in report.problems]
    assert severities == sorted(severities), "errors come first"
    unknown = next(one for one in report.problems if one.kind == "labels-unknown")
    assert unknown.where == ("o_0001_0000", "o_0001_0001", "o_0001_0002")
    assert "(2 more such: o_0001_0001, o_0001_0002)" in unknown.problem
    stray = next(one.problem for one in report.problems if one.kind == "stray-file")
    assert "o_0000_0002b.tif belongs to no chip of chips.gpkg; did you mean 'o_0000_0002'?" in stray


def test_changed_images_and_splits_are_told_by_their_sums(dataset: Path) -> None:
    rows = geopandas.read_file(dataset / "chips.gpkg", layer="chips")
    chip = rows[rows.split == "train"].chip.iloc[0]
    rewrite(dataset / "images" / f"{chip}.tif", lambda p: (p // 4).astype(np.uint8))
    index(
        dataset, f"update chips set split = 'val' where chip = '{rows[rows.split == 'train'].chip.iloc[1]}'"
    )
    found = {one.kind: one.problem for one in check(dataset).errors}
    assert set(found) == {"statistics", "document-counts"}
    assert "images or splits were changed" in found["statistics"]


def test_an_image_that_lies_beside_its_labels_is_told_by_how_far(dataset: Path) -> None:
    with rasterio.open(image(dataset), "r+") as file:
        file.transform = file.transform * file.transform.translation(3, 0)
    (problem,) = check(dataset).errors
    assert problem.kind == "labels-misplaced"
    assert "lies 3 px beside its image" in problem.problem


def moved(dataset: Path, change: Callable[[Affine], Affine], crs: str | None = "EPSG:32645") -> None:
    """The image and the labels of one chip alike."""
    for path in (image(dataset), label(dataset)):
        with rasterio.open(path) as file:
            pixels, profile = file.read(), {**file.profile, "crs": crs, "transform": change(file.transform)}
        with rasterio.open(path, "w", **profile) as file:
            file.write(pixels)


_OUTLINE = "the outline that chips.gpkg has of it"
MOVES: dict[str, tuple[Callable[[Path], object], str]] = {
    "moved": (lambda d: moved(d, lambda t: t * t.translation(2.5, 0)), f"lies 2.5 px beside {_OUTLINE}: it was moved"),
    "larger pixels": (lambda d: moved(d, lambda t: t * t.scale(2)), "measures 300 px beyond .*10 × 10 of"),
    "smaller pixels": (lambda d: moved(d, lambda t: t * t.scale(0.5)), "is 20 × 20 px, but .*40 × 40 of"),
    "another zone": (lambda d: moved(d, lambda t: t, "EPSG:32646"), f"px beside {_OUTLINE}"),
    "no CRS": (lambda d: moved(d, lambda t: t, None), "has no CRS, but chips.gpkg one: it was replaced"),
    "the index": (
        lambda d: index(d, "update chips set geom = (select geom from chips where chip = 'o_0001_0001') "
                           "where chip = 'o_0000_0000'"),
        "lies 20 px beside the outline",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MOVES)
def test_a_chip_that_lies_elsewhere_than_the_index_draws_it_is_told_by_name(dataset: Path, kind: str) -> None:
    move, told = MOVES[kind]
    move(dataset)
    errors = [one for one in check(dataset).errors if one.kind == "chip-moved"]
    assert [one.where for one in errors] == [("o_0000_0000",)]
    assert errors[0].problem.startswith(f"{dataset / 'labels' / 'o_0000_0000.tif'} ")
    assert re.search(told, errors[0].problem)
    assert errors[0].problem.endswith("; put the chip back as it was, or run `aerial-seg tile` again")


@pytest.mark.parametrize("kind", ["turned", "two zones", "no CRS"])
def test_chips_of_every_georeference_lie_where_the_index_draws_them(tmp_path: Path, kind: str) -> None:
    """Turned rasters, outlines in longitude and latitude, chips that reach beyond their raster, none at all."""
    pixels = np.random.default_rng(1).integers(1, 250, (1, 50, 70)).astype(np.uint8)
    place = from_origin(300_000, 3_060_000, 0.5, 0.5)
    facts: list[dict[str, Any]] = {
        "turned": [{"crs": "EPSG:32645", "transform": place * place.rotation(20)}],
        "two zones": [{"crs": "EPSG:32645", "transform": place},
                      {"crs": "EPSG:32644", "transform": from_origin(890_300, 3_065_000, 0.5, 0.5)}],
        "no CRS": [{}],
    }[kind]  # fmt: skip
    for number, fact in enumerate(facts):
        with rasterio.open(tmp_path / f"{number}.tif", "w", driver="GTiff", height=50, width=70, count=1,
                           dtype="uint8", **fact) as file:  # fmt: skip
            file.write(pixels + np.uint8(number))
        with rasterio.open(tmp_path / f"l{number}.png.tif", "w", driver="GTiff", height=50, width=70, count=1,
                           dtype="uint8", **fact) as file:  # fmt: skip
            file.write((pixels > 128).astype(np.uint8))
    settings = TileSettings(chip_size=SIDE, georeferenced=kind != "no CRS", block=1)
    rasters = [tmp_path / f"{k}.tif" for k in range(len(facts))]
    tile(rasters, [tmp_path / f"l{k}.png.tif" for k in range(len(facts))], tmp_path / "set", settings)
    assert [one.problem for one in check(tmp_path / "set").errors] == []


def test_ground_and_images_in_two_splits_are_told(dataset: Path) -> None:
    rows = geopandas.read_file(dataset / "chips.gpkg", layer="chips")
    train, test = (rows[rows.split == split].iloc[0] for split in ("train", "test"))
    for folder in ("images", "labels"):
        shutil.copy(dataset / folder / f"{train.chip}.tif", dataset / folder / f"{test.chip}.tif")
    rows.loc[rows.chip == test.chip, "geometry"] = train.geometry
    rows.to_file(dataset / "chips.gpkg", layer="chips", engine="pyogrio")
    found = {one.kind: one for one in check(dataset).errors}
    assert {"same-image", "ground-shared"} <= set(found)
    assert f"the images of {min(train.chip, test.chip)}" in found["same-image"].problem
    assert found["ground-shared"].where == (train.chip,)


def test_labels_on_unmeasured_pixels_and_chips_without_labels_are_warned_of(dataset: Path) -> None:
    chip = image(dataset)
    with rasterio.open(chip, "r+") as file:
        mask = np.full((SIDE, SIDE), 255, np.uint8)
        mask[:3] = 0
        file.write_mask(mask)
    found = {one.kind: one for one in check(dataset).problems}
    assert "names classes for 60 pixels that" in found["labels-unmeasured"].problem
    assert found["labels-unmeasured"].severity == "warning"
    assert found["image-changed"].severity == "error"
    rewrite(label(dataset), lambda p: np.full_like(p, 255))
    assert (
        "has no labelled pixel"
        in {one.kind: one for one in check(dataset).problems}["nothing-labelled"].problem
    )


def test_one_class_alone_is_an_error_as_it_is_in_training(dataset: Path) -> None:
    for path in (dataset / "labels").glob("*.tif"):
        rewrite(path, np.zeros_like)
    found = {one.kind: one.problem for one in check(dataset).errors}
    assert "class 'background' alone has pixels in the training chips" in found["one-class"]


def test_what_is_no_dataset_is_refused_and_nothing_is_changed(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a chip dataset"):
        check(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        check(tmp_path / "gone")
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    check(dataset)
    assert {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()} == before


def test_a_stray_file_is_taken_for_a_chip_only_where_that_has_none(dataset: Path) -> None:
    """A label beside the one that is there, of a chip whose image is gone, must not be renamed over it."""
    image(dataset).unlink()
    shutil.copy(label(dataset), dataset / "labels" / "o_0000_0000b.tif")
    (stray,) = [one.problem for one in check(dataset).problems if one.kind == "stray-file"]
    assert "did you mean" not in stray
