"""Chips added to a dataset: the same as if all had been cut at once, or a line that says what does not go together."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from added_town import ADDED, FAR, Town, content, cut
from affine import Affine
from pyproj import Transformer
from shapely import box
from tile_town import CHIP, HEIGHT, SETTINGS, WIDTH, X, Y, index, scene

from aerial_seg.errors import AerialSegError, InputError, SettingsError
from aerial_seg.files import work
from aerial_seg.files.lock import held
from aerial_seg.files.work import LOCK, work_folder
from aerial_seg.jobs.tile.job import TileReport
from aerial_seg.labels.chip_file import read_chip
from aerial_seg.labels.class_table import class_table
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.training.manifest import open_manifest

if TYPE_CHECKING:
    from tests.conftest import PolygonFile


@pytest.fixture
def labels(town_labels: Path) -> Path:
    """Roads and roofs wherever a test puts a raster."""
    return town_labels


def rows(report: TileReport) -> Any:
    found = index(report).drop(columns="block").set_index("chip").sort_index()
    return pd.DataFrame(found.drop(columns="geometry")).assign(
        place=shapely.to_wkb(found.geometry.to_numpy())
    )


@pytest.mark.parametrize(
    ("only", "dtype"),
    [
        pytest.param(False, "uint8", id="chips"),
        pytest.param(True, "float32", id="index-only"),
        pytest.param(False, "float32", id="chips-float32", marks=pytest.mark.slow),
        pytest.param(True, "uint8", id="index-only-uint8", marks=pytest.mark.slow),
    ],
)
def test_chips_that_are_added_are_those_that_are_cut_at_once(
    town: Town, labels: Path, tmp_path: Path, only: bool, dtype: str
) -> None:
    names = ("a", "b", "c")
    images = [
        town(f"{name}.tif", k * FAR, pixels=scene(seed=k).astype(dtype)) for k, name in enumerate(names)
    ]
    wanted = replace(SETTINGS, index_only=only, val="b*", test="c*")
    whole = cut(images, labels, tmp_path / "whole", wanted)
    first = replace(wanted, val="0", test="0")
    cut(images[:1], labels, tmp_path / "grown", first)
    cut(images[1:2], labels, tmp_path / "grown", replace(first, val="b*", append=True))
    grown = cut(images[2:], labels, tmp_path / "grown", replace(first, test="c*", append=True))

    assert (grown.chips, grown.class_pixels) == (whole.chips, whole.class_pixels)
    assert (grown.gsd, grown.legend, grown.statistics) == (whole.gsd, whole.legend, whole.statistics)
    one, other = open_manifest(tmp_path / "whole"), open_manifest(tmp_path / "grown")
    assert other.document.fingerprint == one.document.fingerprint
    assert other.document.bands == one.document.bands
    assert other.document.sources == one.document.sources
    assert rows(grown).equals(rows(whole))
    for before, after in zip(one.chips, other.chips, strict=True):
        for wanted_part, part in zip(
            read_chip(before.image, before.labels), read_chip(after.image, after.labels), strict=True
        ):
            np.testing.assert_array_equal(part, wanted_part)
    qa = [(tmp_path / name / "qa" / "splits.png").read_bytes() for name in ("grown", "whole")]
    assert qa[0] == qa[1]
    assert not [note for note in grown.notes if "no chip is left" in note]


def test_what_is_there_stays_and_new_chips_are_divided_by_fraction(
    town: Town, labels: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    before = cut([town("a.tif")], labels, folder)
    was, files = rows(before), content(folder)
    nodes = {path.name: path.stat().st_ino for path in (folder / "images").iterdir()}
    after = cut([town("b/a.tif", FAR, seed=1)], labels, folder, ADDED)
    now = rows(after)
    assert now.loc[was.index].equals(was)
    chips = {name: digest for name, digest in files.items() if name.startswith(("images/", "labels/"))}
    assert chips.items() <= content(folder).items()
    assert {name: (folder / "images" / name).stat().st_ino for name in nodes} == nodes
    new = now.drop(was.index)
    assert all(name.startswith("a-2_") for name in new.index)
    assert {*new["split"]} == {"train", "val", "test"}
    assert (
        f"{len(new)} chips of {tmp_path / 'b/a.tif'} were added to the {len(was)} that were there"
        in after.notes
    )
    assert after.statistics is not None
    assert before.statistics is not None
    trained = now[now["split"] == "train"]
    assert after.statistics.bands[0].pixels == trained["valid_px"].sum()
    assert after.statistics.classes["roof"].pixels == trained["px_roof"].sum()
    blocks = index(after).set_index("chip")["block"]
    assert not {*blocks[was.index]} & {*blocks[new.index]}


def test_no_new_chip_lies_on_ground_of_former_chips_of_another_split(
    town: Town, labels: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    cut([town("a.tif")], labels, folder)
    former = rows(cut([town("far.tif", FAR)], labels, folder, ADDED)).index
    # Half a chip to the east: every chip shares ground with some former ones.
    report = cut([town("b.tif", CHIP / 4, seed=1)], labels, folder, replace(ADDED, seed=3, min_labelled=0.01))
    found = index(report).set_index("chip")
    new = found.drop(former)
    told = {
        which: int(match.group(1))
        for which, text in (
            ("out", r"(\d+) new chips that overlap ground of former chips of another split were left out"),
            ("again", r"(\d+) new chips show ground that former chips of their split show, too"),
        )
        for note in report.notes
        if (match := re.fullmatch(text, note))
    }
    whole = -(-HEIGHT // CHIP) * (WIDTH // CHIP)
    assert told["out"] > 0
    assert len(new) + told["out"] + _others_left_out(report) == whole
    again = 0
    for _, chip in new.iterrows():
        shared = found.loc[former].geometry.intersection(chip.geometry).area > 0
        assert {*found.loc[former][shared]["split"]} <= {chip["split"]}
        again += bool(shared.any())
    assert told["again"] == again > 0
    assert "the new chips were split by seed 3, the first by 0" in report.notes


def _others_left_out(report: TileReport) -> int:
    found = [
        re.match(r"(\d+) chips that overlap another split's ground were left out", note)
        for note in report.notes
    ]
    return sum(int(match.group(1)) for match in found if match)


def test_rasters_of_another_zone_are_added(town: Town, labels: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    east, north = Transformer.from_crs(32645, 32646, always_xy=True).transform(X + FAR, Y)
    place = Affine(0.5, 0, round(east), 0, -0.5, round(north))
    images = [town("a.tif"), town("b.tif", transform=place, crs="EPSG:32646")]
    whole = cut(images, labels, tmp_path / "whole", replace(SETTINGS, val="0", test="b*"))
    cut(images[:1], labels, folder, replace(SETTINGS, val="0", test="0"))
    grown = cut(images[1:], labels, folder, replace(ADDED, val="0", test="b*"))
    assert rows(grown).equals(rows(whole))
    assert any("have 2 CRSs" in note for note in grown.notes)


def test_mosaics_get_names_of_their_own(town: Town, labels: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, mosaic=True, index_only=True)
    images = [town(f"{k}.tif", k * FAR + (k % 2) * 70 - (k % 2) * FAR, seed=k) for k in range(4)]
    folder = tmp_path / "set"
    cut(images[:2], labels, folder, settings)
    cut(images[2:], labels, folder, replace(settings, append=True))
    manifest = open_manifest(folder)
    assert [source.path for source in manifest.document.sources] == [
        "mosaic of 2 rasters", "mosaic of 2 rasters (2)"
    ]  # fmt: skip
    for chip in manifest.chips:
        assert read_chip(chip.image, chip.labels)[1].any()
    with pytest.raises(
        InputError, match=rf"holds chips of {re.escape(str(images[1]))} already; leave it out"
    ):
        cut([images[1]], labels, folder, replace(settings, mosaic=False, append=True))


def test_a_raster_that_is_there_is_refused(town: Town, labels: Path, tmp_path: Path) -> None:
    image, folder, link, copy = town("a.tif"), tmp_path / "set", tmp_path / "link.tif", tmp_path / "copy.tif"
    cut([image], labels, folder)
    before = content(folder)
    link.symlink_to(image)
    copy.write_bytes(image.read_bytes())
    for again in (image, link, copy):
        with pytest.raises(InputError, match=rf"holds chips of .*{again.name} already"):
            cut([again], labels, folder, ADDED)
        assert content(folder) == before
        assert not work_folder(folder).exists()


def test_another_day_of_the_same_ground_is_no_repetition(town: Town, labels: Path, tmp_path: Path) -> None:
    cut([town("a.tif")], labels, tmp_path / "set")
    report = cut([town("other/a.tif", seed=1)], labels, tmp_path / "set", ADDED)
    assert any("show ground that former chips of their split show, too" in note for note in report.notes)


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"chip_size": 40}, r"made with `chip_size=20`, got `chip_size=40`; pass `chip_size=20`"),
    ({"stride": 10}, r"made with `stride=20`, got `stride=10`"),
    ({"split_by": "source"}, r'made with `split_by="block"`, got `split_by="source"`'),
    ({"layout": "coco"}, r'made with `layout="chips"`, got `layout="coco"`'),
    ({"index_only": True}, r"holds images, wanted all its chips alike; leave out `index_only=True`"),
    ({"overwrite": True}, r"`append=True` adds to a dataset that `overwrite=True` replaces"),
    ({"folds": 3, "fold": 1}, r"`append=True` cannot divide ground into `folds`"),
)


def test_other_settings_are_refused(town: Town, labels: Path, tmp_path: Path) -> None:
    cut([town("a.tif")], labels, tmp_path / "set")
    before, more = content(tmp_path / "set"), town("b.tif", FAR)
    for wanted, message in REFUSED:
        with pytest.raises(SettingsError, match=message):
            cut([more], labels, tmp_path / "set", replace(ADDED, **wanted))
    locked = held(work_folder(tmp_path / "set") / LOCK, tmp_path / "set")
    with locked, pytest.raises(AerialSegError, match="another run"):
        cut([more], labels, tmp_path / "set", ADDED)
    assert content(tmp_path / "set") == before


def test_other_rasters_are_refused(town: Town, labels: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    cut([town("a.tif")], labels, folder)
    before = content(folder)
    for other, message in (
        (town("four.tif", FAR, pixels=scene(bands=4)), "has bands: 4, but the chips of .* have 3"),
        (town("deep.tif", FAR, pixels=scene().astype("uint16")), "has dtype: uint16, but .* have uint8"),
        (town("fine.tif", FAR, pixel=0.25), "would have a GSD of 0.25 m, .* have a GSD of 0.5 m"),
    ):
        with pytest.raises(InputError, match=message):
            cut([other], labels, folder, ADDED)
    assert content(folder) == before
    # The remedy that was told works.
    cut([tmp_path / "fine.tif"], labels, folder, replace(ADDED, gsd=0.5))


def test_other_classes_are_refused_by_name_and_the_remedy_works(
    town: Town, labels: Path, polygon_file: PolygonFile, tmp_path: Path
) -> None:
    folder, more = tmp_path / "set", town("b.tif", FAR)
    cut([town("a.tif")], labels, folder)
    boxes = [box(X + FAR + 9 * i, Y - 30, X + FAR + 9 * i + 4, Y - 5) for i in range(6)]
    new = polygon_file("new.gpkg", boxes, {"kind": ["roof", "pond"] * 3})
    with pytest.raises(InputError, match="got the class 'pond', wanted background, road, roof"):
        cut([more], new, folder, ADDED)
    roofs = polygon_file("roofs.gpkg", boxes, {"kind": ["roof"] * 6})
    with pytest.raises(InputError, match="got no class 'road'") as caught:
        cut([more], roofs, folder, ADDED)
    found = re.search(r'`classes="([^"]+)"`', str(caught.value))
    assert found
    wanted = LabelSettings(class_field="kind", classes=class_table(found.group(1)))
    report = cut([more], roofs, folder, replace(ADDED, labels=wanted))
    assert report.legend.names == ("background", "road", "roof")


def test_only_whole_datasets_of_today_are_added_to(town: Town, labels: Path, tmp_path: Path) -> None:
    folder, more = tmp_path / "set", town("b.tif", FAR)
    with pytest.raises(AerialSegError, match="set"):
        cut([more], labels, folder, ADDED)
    cut([town("a.tif")], labels, folder)
    table = geopandas.read_file(folder / "chips.gpkg")
    for changed, message in (
        (table.drop(columns=["top", "left"]), "has no field top, left, which adding chips needs"),
        (table.assign(mine=1), r"has fields that were not made with it \(mine\)"),
    ):
        changed.to_file(folder / "chips.gpkg", layer="chips")
        with pytest.raises(InputError, match=message):
            cut([more], labels, folder, ADDED)
    table.to_file(folder / "chips.gpkg", layer="chips")
    document = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**document, "folds": 3, "fold": 1}))
    with pytest.raises(InputError, match="was divided into 3 folds"):
        cut([more], labels, folder, ADDED)


def test_layouts_hold_the_new_chips_too_where_the_disk_knows_no_links(
    town: Town, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    settings = replace(SETTINGS, layout="folders")
    before = cut([town("a.tif")], labels, tmp_path / "set", settings)
    monkeypatch.setattr(work.os, "link", refuse)
    report = cut([town("b.tif", FAR)], labels, tmp_path / "set", replace(settings, append=True))
    assert f"{3 * sum(before.chips.values())} files were copied: this disk has no" in str(report.notes)
    for split, count in report.chips.items():
        assert len([*(tmp_path / "set" / split / "images").iterdir()]) == count


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from aerial_seg.files import staging, work
from aerial_seg.jobs.tile import chip_cutter
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.settings import LabelSettings

raster, labels, size, *folders = sys.argv[1:]
settings = TileSettings(chip_size=int(size), labels=LabelSettings(class_field="kind"), append=True)
moments = {"cut": (chip_cutter, "write_labels", 5), "whole": (staging, "record_made", 0)}
moments["placing"] = work, "replace", 1
for folder in folders:
    if (child := os.fork()) == 0:
        module, name, left = moments[Path(folder).name]
        real, calls = getattr(module, name), []
        def die(*args):
            calls.append(1)
            if len(calls) > left:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)
        setattr(module, name, die)
        tile([raster], [labels], folder, settings)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_kill_leaves_the_former_dataset_or_the_new_one(town: Town, labels: Path, tmp_path: Path) -> None:
    first, more = town("a.tif"), town("b.tif", FAR, seed=1)
    wanted = cut([first], labels, tmp_path / "wanted")
    before = content(wanted.dataset)
    moments = [tmp_path / name for name in ("cut", "whole", "placing")]
    for folder in moments:
        shutil.copytree(wanted.dataset, folder)
    cut([more], labels, wanted.dataset, ADDED)
    after = open_manifest(wanted.dataset)
    done = subprocess.run(
        [sys.executable, "-P", "-c", KILLED, str(more), str(labels), str(CHIP), *map(str, moments)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["-9"] * len(moments), done.stderr
    for folder in moments[:-1]:
        assert content(folder) == before
    cut([more], labels, moments[-2], ADDED)
    assert not work_folder(moments[-2]).exists()
    # Between two renames: the next run ends what was begun, and says that all is there.
    with pytest.raises(InputError, match=r"holds chips of .* already"):
        cut([more], labels, moments[-1], ADDED)
    for folder in moments[-2:]:
        assert open_manifest(folder).document == after.document
