"""Strides, areas, fields and folds on files: who is in which split, and what is left out with which count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import pytest
import rasterio
from shapely import box
from tile_town import CHIP, HEIGHT, SETTINGS, WIDTH, X, Y, index, run, scene

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.training.manifest import open_manifest
from aerial_seg.training.validation.chip_scenes import chip_scenes

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile

BARE = TileSettings(chip_size=CHIP, labels=SETTINGS.labels)


def columns(first: int, last: int, *, part: float = 1.0) -> Any:
    """The ground of whole columns of chips, of the last one only a part."""
    return box(X + 10 * first, Y - 50, X + 10 * (last + part), Y)


def splits_by_column(frame: Any) -> dict[int, set[str]]:
    return {int(col): set(own.split) for col, own in frame.groupby("col")}


@pytest.fixture
def full(raster_file: RasterFile) -> Path:
    return raster_file("full.tif", scene())


def test_strided_chips_are_what_the_raster_shows_and_share_ground_in_training_only(
    full: Path, polygons: Path, tmp_path: Path
) -> None:
    plain = run([full], polygons)
    alone = index(plain)
    report = run([full], polygons, replace(SETTINGS, stride=8, overwrite=True))
    document, frame = open_manifest(report.dataset).document, index(report)
    assert (document.chip_size, document.stride) == (CHIP, 8)
    held = np.zeros((HEIGHT, WIDTH), int)
    with rasterio.open(full) as source:
        pixels = np.pad(source.read(), ((0, 0), (0, CHIP), (0, CHIP)))
    for row in frame.itertuples():
        top, left = row.row * 4, row.col * 4  # what divides 20 and 8
        apart = top % CHIP == left % CHIP == 0
        assert apart or (row.split == "train" and top % 8 == left % 8 == 0)
        with rasterio.open(report.dataset / "images" / f"{row.chip}.tif") as file:
            np.testing.assert_array_equal(file.read(), pixels[:, top : top + CHIP, left : left + CHIP])
        if row.split != "train":
            held[top : top + CHIP, left : left + CHIP] += 1
    assert held.max() == 1
    for row in frame[frame.split == "train"].itertuples():
        assert not held[row.row * 4 : row.row * 4 + CHIP, row.col * 4 : row.col * 4 + CHIP].any()
    for split in ("val", "test"):
        first, then = (part[part.split == split].geometry.normalize().to_wkt() for part in (alone, frame))
        assert set(first) == set(then)
    assert report.chips["train"] > 1.5 * plain.chips["train"]
    assert {place.wkt for place in alone.geometry.normalize()} <= {
        place.wkt for place in frame.geometry.normalize()
    }
    scenes, _ = chip_scenes(open_manifest(report.dataset), "val", tmp_path, side=CHIP)
    parts = [part for shown in scenes for part in shown.rectangles]
    assert sum(len(part.rows) * len(part.cols) for part in parts) == report.chips["val"] * CHIP**2


def test_chips_with_little_in_them_are_left_out_with_a_count(image: Path, polygons: Path) -> None:
    """The image has no pixels in its first 25 columns: a column of chips without any, one with three quarters."""
    counts = {
        0.75: None,
        0.76: "5 chips with less than `min_valid=0.76` of their pixels measured were left out",
    }
    for least, said in counts.items():
        report = run([image], polygons, replace(SETTINGS, min_valid=least, overwrite=True))
        assert "5 chips with no measured pixel were left out" in report.notes
        assert [note for note in report.notes if "min_valid" in note] == ([said] if said else [])
        assert index(report).valid_px.min() == (400 if said else 300)
    sparse = replace(BARE, labels=LabelSettings(class_field="kind", outside="unlabelled"), val="0", test="0")
    whole = index(run([image], polygons, replace(sparse, overwrite=True)))
    labelled = whole[[name for name in whole.columns if name.startswith("px_")]].sum(axis=1)
    few = int((labelled / CHIP**2 < 0.2).sum())
    assert 0 < few < len(whole)
    report = run([image], polygons, replace(sparse, min_labelled=0.2, overwrite=True))
    assert (
        f"{few} chips with less than `min_labelled=0.2` of their pixels labelled were left out"
        in report.notes
    )
    assert sum(report.chips.values()) == len(whole) - few
    with pytest.raises(InputError, match=r"none of the 35 chips is left: .*`min_labelled=1` of their pixels"):
        run([image], polygons, replace(sparse, min_labelled=1, overwrite=True))


def test_a_layer_says_what_ground_is_for_in_any_crs(
    full: Path, polygons: Path, polygon_file: PolygonFile
) -> None:
    shapes = [columns(0, 1), columns(2, 2), columns(3, 3, part=0.3)]
    areas = geopandas.GeoSeries(shapes, crs=32645).to_crs(4326)
    layer = polygon_file("areas.geojson", list(areas), {"Split": ["test", "Val ", "test"]}, crs="EPSG:4326")
    report = run([full], polygons, replace(BARE, split_layer=str(layer)))
    assert splits_by_column(index(report)) == {0: {"test"}, 1: {"test"}, 2: {"val"}, 4: {"train"}, 5: {"train"},
                                               6: {"train"}}  # fmt: skip
    assert "5 chips less than half of which lies in a split's area were left out" in report.notes
    only = polygon_file("test.gpkg", [columns(0, 1)], {"split": ["test"]})
    frame = index(run([full], polygons, replace(BARE, split_layer=str(only), val="0.2", overwrite=True)))
    assert set(frame[frame.col <= 1].split) == {"test"}
    assert (frame[frame.col > 1].split == "val").sum() == 5  # of 25
    every = polygon_file("every.gpkg", [columns(0, 1), columns(3, 4)], {"split": ["test", "train"]})
    report = run([full], polygons, replace(BARE, split_layer=str(every), overwrite=True))
    assert splits_by_column(index(report)) == {0: {"test"}, 1: {"test"}, 3: {"train"}, 4: {"train"}}
    assert "15 chips outside of all split areas were left out" in report.notes


def test_a_labelled_area_says_it_too(full: Path, polygons: Path, polygon_file: PolygonFile) -> None:
    area = polygon_file(
        "area.gpkg",
        [columns(0, 1), columns(2, 2, part=0.5), columns(4, 6)],
        {"split": ["train", "test", "val"]},
    )
    labels = LabelSettings(class_field="kind", labelled_area=str(area))
    report = run([full], polygons, TileSettings(chip_size=CHIP, labels=labels))
    frame = index(report)
    assert splits_by_column(frame) == {
        0: {"train"},
        1: {"train"},
        2: {"test"},
        4: {"val"},
        5: {"val"},
        6: {"val"},
    }
    labelled = [name for name in frame.columns if name.startswith("px_")]
    assert (frame[frame.col == 2][labelled].sum(axis=1) == CHIP**2 / 2).all()
    with pytest.raises(
        SettingsError, match=r"has a field 'split', which .* so does `split_field`; leave it out"
    ):
        run([full], polygons, TileSettings(chip_size=CHIP, labels=labels, split_field="kind", overwrite=True))


def test_a_field_of_the_labels_names_splits_or_groups(full: Path, polygon_file: PolygonFile) -> None:
    """Two columns of chips have no polygon: they go with their neighbours."""
    cells = [(col, row) for col in (0, 1, 2, 4, 5) for row in range(5)]
    shapes = [box(X + 10 * c + 2, Y - 10 * r - 8, X + 10 * c + 7, Y - 10 * r - 2) for c, r in cells]
    sites = {0: "mill", 1: "mill", 2: "quay", 4: "quay", 5: "farm"}
    splits = {0: "train", 1: "train", 2: "val", 4: "val", 5: "test"}
    labels = polygon_file(
        "drawn.gpkg", shapes,
        {"kind": ["road", "roof"] * 12 + ["road"], "site": [sites[c] for c, _ in cells],
         "use": [splits[c] for c, _ in cells]},
    )  # fmt: skip
    report = run([full], labels, replace(BARE, split_field="use"))
    assert splits_by_column(index(report)) == {
        c: {splits.get(c, {3: "val", 6: "test"}.get(c))} for c in range(7)
    }
    chosen = replace(BARE, split_field="site", test="farm", val="0.4", overwrite=True)
    for seed in range(3):
        frame = index(run([full], labels, replace(chosen, seed=seed)))
        found = splits_by_column(frame)
        assert found[5] == found[6] == {"test"}
        assert found[0] == found[1] != found[2] == found[3] == found[4]
        assert {*found[0], *found[2]} == {"train", "val"}
    with pytest.raises(SettingsError, match=r"`test` 'barn' matches none of the 3 groups \(first: farm\)"):
        run([full], labels, replace(chosen, test="barn"))


def test_folds_are_the_same_whichever_is_held_out(full: Path, polygons: Path) -> None:
    held: dict[Any, set[str]] = {}
    for fold in (1, 2, 3):
        report = run([full], polygons, replace(SETTINGS, folds=3, fold=fold, overwrite=True))
        document = open_manifest(report.dataset).document
        assert (document.folds, document.fold) == (3, fold)
        for row in index(report).itertuples():
            held.setdefault((row.row, row.col), set()).add(f"{row.split}{fold if row.split == 'val' else ''}")
    assert len(held) == 35
    kinds = [tuple(sorted(found)) for found in held.values()]
    assert kinds.count(("test",)) == 5
    assert set(kinds) == {("test",), *(("train", f"val{fold}") for fold in (1, 2, 3))}
    with pytest.raises(
        InputError, match=r"there are 30 units of ground beside the test's, .* of the 40 folds"
    ):
        run([full], polygons, replace(SETTINGS, folds=40, fold=1, overwrite=True))


def test_what_a_split_lacks_is_told(full: Path, polygon_file: PolygonFile) -> None:
    shapes = [box(X + 2, Y - 40, X + 8, Y - 2), box(X + 32, Y - 40, X + 38, Y - 2)]
    labels = polygon_file("l.gpkg", shapes, {"kind": ["mill", "quay"]})
    areas = polygon_file("a.gpkg", [columns(0, 2), columns(3, 6)], {"split": ["test", "train"]})
    report = run([full], labels, replace(BARE, split_layer=str(areas)))
    frame = index(report)
    mills = int(frame[frame.split == "test"].px_mill.sum())
    assert f"no training chip holds class mill: it cannot be learnt from these labels; other splits have mill (test, "\
           f"{mills:,} px), which counts as error there" in report.notes  # fmt: skip
    assert any(note.startswith("no test chip holds class quay, which training has") for note in report.notes)
    (small,) = (note for note in report.notes if "too small for its score" in note or "one adjacent" in note)
    assert small.startswith("all test chips (15) are one adjacent piece of ground")
    assert "looks different; draw more areas for it, or keep another raster" in small
    spread = run([full], labels, replace(BARE, overwrite=True))
    assert any(
        note.startswith(
            "validation is 5 chips in 5 blocks with 2,000 labelled pixels, too small for its score"
        )
        for note in spread.notes
    )


def split_file(polygon_file: PolygonFile, name: str, values: list[Any], field: str = "split") -> str:
    return str(polygon_file(name, [columns(k, k) for k in range(len(values))], {field: values}))


def test_what_areas_do_not_say_is_asked_for(full: Path, polygons: Path, polygon_file: PolygonFile) -> None:
    def refused(match: str, kind: type[Exception] = InputError, **chosen: Any) -> None:
        with pytest.raises(kind, match=match):
            run([full], polygons, replace(BARE, overwrite=True, **chosen))

    odd = split_file(polygon_file, "odd.gpkg", ["train", "tset", "val", "tset"])
    refused(
        r"field 'split' of .*odd.gpkg .*got: 2 polygons have 'tset'; did you mean 'test'\?", split_layer=odd
    )
    towns = split_file(polygon_file, "towns.gpkg", ["Aber", "Bala"])
    refused(r"wanted train, val, test, got: .*'Aber'.*; fields that name groups are told with `split_field=\"split\"`",
            split_layer=towns)  # fmt: skip
    report = run(
        [full], polygons, replace(BARE, split_layer=towns, split_field="split", test="Bala", val="0")
    )
    assert splits_by_column(index(report)) == {0: {"train"}, 1: {"test"}}
    other = split_file(polygon_file, "other.gpkg", ["train"], field="purpose")
    refused(r"has no field 'split'; its fields are: purpose; name .*`split_field=FIELD`", split_layer=other)
    refused(r"has no field 'purpos'.*did you mean 'purpose'", split_layer=other, split_field="purpos")
    blank = split_file(polygon_file, "blank.gpkg", ["", None])
    refused("is empty everywhere", split_layer=blank)
    some = split_file(polygon_file, "some.gpkg", ["test", None, " "])
    chosen = replace(BARE, split_layer=some, val="0", overwrite=True)
    report = run([full], polygons, chosen)
    assert any("2 of the polygons of" in note and "name no split in 'split'" in note for note in report.notes)
    assert splits_by_column(index(report)) == {0: {"test"}, **{col: {"train"} for col in range(1, 7)}}
    refused(r"gone\.gpkg does not exist", split_layer="gone.gpkg")


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"stride": 21}, r"`stride=21` would leave ground between chips of 20 px out"),
        ({"fold": 1}, "`fold` needs `folds`, too"),
        ({"folds": 3}, "`folds` needs `fold`, too"),
        ({"folds": 3, "fold": 4}, r"`fold=4` is none of the 3 folds, wanted 1 to 3"),
        ({"folds": 3, "fold": 1, "val": "0.2"}, "`val=.0.2.` and `fold=1` both say what is for validation"),
        ({"split_field": "kind", "split_by": "source"}, "`split_by=.source.` and `split_field` both say"),
        (
            {"block": 3, "split_by": "source"},
            "`block=3` cannot apply where `split_by=.source.` keeps rasters whole",
        ),
        (
            {"map_tiles": "tms", "georeferenced": False},
            "`map_tiles=.tms.` places rasters by their names, and",
        ),
        (
            {"map_tiles": "tms"},
            r"`map_tiles=.tms.` is for rasters without CRS .*has a place of its own \(1 of 1",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    chosen: dict[str, Any], message: str, full: Path, polygons: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        run([full], polygons, replace(BARE, **chosen))
    assert not (polygons.parent / "out").exists()


def test_what_areas_leave_nothing_to_is_refused_by_name(
    full: Path, polygons: Path, polygon_file: PolygonFile
) -> None:
    """Folds beside a validation area made training chips of that area, unsaid."""
    whole = split_file(polygon_file, "whole.gpkg", ["train", "val", "test"])
    held = split_file(polygon_file, "held.gpkg", ["val", "test"])
    towns = split_file(polygon_file, "towns.gpkg", ["Aber", "Bala", "Cwm"], field="town")
    groups = {"split_layer": towns, "split_field": "town", "val": "0", "test": "Cwm"}
    folds, all_said = {"folds": 2, "fold": 1}, "the field 'split' says of all ground what it is for; leave"
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"split_layer": whole}, {"block": 3}, f"`block=3` cannot apply: {all_said} it out"),
        (
            groups,
            {"block": 3},
            "`block=3` cannot apply: the field 'town' says what is never divided; leave it out",
        ),
        ({"split_layer": whole}, folds, f"`folds=2` and `fold` cannot apply: {all_said} them out"),
        (
            {"split_layer": held},
            folds,
            "cannot apply: the field 'split' says what is for validation; leave them out",
        ),
        (
            {"split_layer": whole},
            {"val": "0.3"},
            "`val=.0.3.` cannot apply: .* says what is for validation; leave",
        ),
        (
            {"split_layer": held},
            {"test": "full*"},
            "`test=.full.*` cannot apply: .* says what is for test; leave",
        ),
    ]
    for kept, idle, message in cases:
        with pytest.raises(SettingsError, match=message):
            run([full], polygons, replace(BARE, overwrite=True, **kept, **idle))
        run([full], polygons, replace(BARE, overwrite=True, **kept))
    only = split_file(polygon_file, "only.gpkg", ["test"])
    report = run([full], polygons, replace(BARE, overwrite=True, split_layer=only, block=1, **folds))
    assert report.chips == {"train": 15, "val": 15, "test": 5}


def test_a_label_raster_has_no_fields(full: Path, raster_file: RasterFile) -> None:
    values = np.random.default_rng(0).integers(0, 3, (1, HEIGHT, WIDTH)).astype("uint8")
    labels = raster_file("labels.tif", values)
    with pytest.raises(
        SettingsError, match=r"`split_field` is a field of label polygons, but .*labels.tif is a label"
    ):
        run([full], labels, TileSettings(chip_size=CHIP, split_field="site"))
