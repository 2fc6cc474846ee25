"""What `tile` cannot cut leaves nothing behind; what it cuts opens in QGIS with its colours."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as Xml

import numpy as np
import pytest

from aerial_seg.errors import AerialSegError, InputError, OutputError
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.outputs.geopackage import stored_style
from aerial_seg.outputs.qgis_style import read_style

if TYPE_CHECKING:
    from tests.conftest import RasterFile
from tile_town import HEIGHT, SETTINGS, WIDTH, index, run, scene


class TestInQgis:
    def test_chips_are_drawn_by_split_and_labels_by_their_own_classes(
        self, image: Path, polygons: Path, tmp_path: Path
    ) -> None:
        report = run([image], polygons)
        path = report.dataset / "chips.gpkg"
        style = read_style(stored_style(path, "chips") or "").polygons
        assert style is not None
        assert style.attrib["attr"] == "split"
        drawn = {entry.attrib["value"]: entry.attrib["label"] for entry in style.iter("category")}
        assert drawn == {split: split for split in ("train", "val", "test")}
        fills = {prop.attrib["v"] for prop in style.iterfind(".//prop[@k='color']")}
        assert len(fills) == 3
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA user_version").fetchone() == (10300,)
        labels = sorted((report.dataset / "labels").glob("*.tif"))
        assert sorted((report.dataset / "labels").glob("*.qml")) == [
            chip.with_suffix(".qml") for chip in labels
        ]
        assert len(labels) == len(index(report))
        for chip in labels:
            entries = Xml.parse(chip.with_suffix(".qml")).iter("paletteEntry")
            found = {int(entry.attrib["value"]): entry.attrib["color"] for entry in entries}
            assert found == {entry.value: entry.colour for entry in report.legend.entries}

    def test_equal_chips_make_an_equal_index(self, image: Path, polygons: Path) -> None:
        one = (run([image], polygons).dataset / "chips.gpkg").read_bytes()
        two = (run([image], polygons, replace(SETTINGS, overwrite=True)).dataset / "chips.gpkg").read_bytes()
        assert one == two


class TestFailures:
    def test_nothing_is_left_behind(
        self, image: Path, polygons: Path, raster_file: RasterFile, tmp_path: Path
    ) -> None:
        unlabelled = raster_file("u.tif", np.zeros((1, HEIGHT, WIDTH), np.uint8), nodata=0)
        damaged = raster_file("d.tif", scene())
        damaged.write_bytes(damaged.read_bytes()[:20_000])
        two_bands, words = raster_file("2.tif", scene(bands=2)), LabelSettings(class_field="knd")
        before = sorted(tmp_path.rglob("*"))
        cases: list[tuple[list[Path], Path, TileSettings, str]] = [
            (
                [image],
                unlabelled,
                replace(SETTINGS, labels=LabelSettings()),
                "no labelled pixel; check `unlabelled`",
            ),
            ([damaged], polygons, SETTINGS, "d.tif could not be read at row"),
            (
                [image, two_bands],
                polygons,
                SETTINGS,
                "2.tif has bands 2, but .* has 3; one dataset needs one",
            ),
            ([image], polygons, replace(SETTINGS, labels=words), "did you mean 'kind'"),
            ([image], polygons, replace(SETTINGS, val="0.5", test="0.5"), "leave nothing for training"),
            ([image], polygons, replace(SETTINGS, test="*"), "leave at least one for training"),
            ([tmp_path / "gone.tif"], polygons, SETTINGS, "gone.tif does not exist"),
            ([image], tmp_path / "gone.gpkg", SETTINGS, "gone.gpkg does not exist"),
        ]
        for rasters, labels, wanted, message in cases:
            with pytest.raises(AerialSegError, match=message) as caught:
                run(rasters, labels, wanted)
            assert "\n" not in str(caught.value)
            assert sorted(tmp_path.rglob("*")) == before

    def test_nothing_measured_where_labels_are_is_an_error(
        self, raster_file: RasterFile, polygons: Path, tmp_path: Path
    ) -> None:
        path = raster_file("white.tif", np.full((3, HEIGHT, WIDTH), 255, np.uint8), nodata=255)
        with pytest.raises(
            InputError, match="none of the 35 chips holds a pixel that is both measured and labelled"
        ):
            run([path], polygons)
        assert not (tmp_path / "out").exists()

    def test_an_interruption_leaves_nothing(self, image: Path, polygons: Path, tmp_path: Path) -> None:
        class Bar:
            def update(self, n: int = 1) -> None:
                raise KeyboardInterrupt

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *_: object) -> None: ...

        with pytest.raises(KeyboardInterrupt):
            tile(
                [str(image)], [str(polygons)], tmp_path / "out" / "set", SETTINGS,
                lambda label, *, total, unit: Bar(),
            )  # fmt: skip
        assert not (tmp_path / "out").exists()

    def test_overwrite_replaces_datasets_only(self, image: Path, polygons: Path, tmp_path: Path) -> None:
        run([image], polygons)
        with pytest.raises(OutputError, match="exists already; pass `overwrite=True`"):
            run([image], polygons)
        again = replace(SETTINGS, overwrite=True, chip_size=50)
        report = run([image], polygons, again)
        assert json.loads((report.dataset / "dataset.json").read_text())["chip_size"] == 50
        assert len(list((report.dataset / "images").iterdir())) == sum(report.chips.values())
        (report.dataset / "dataset.json").unlink()
        with pytest.raises(OutputError, match=r"holds other files and no dataset.json"):
            run([image], polygons, again)
        assert (report.dataset / "chips.gpkg").exists()
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["set"]
