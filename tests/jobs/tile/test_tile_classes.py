"""Labels of one class are refused with a remedy that works, and chips hold what the labels mean."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from shapely import box
from tile_town import HEIGHT, SETTINGS, WIDTH, X, Y, run, scene

from aerial_seg.errors import InputError
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.train.data import open_dataset
from aerial_seg.labels.chip_file import read_label_chip
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE
from aerial_seg.mentions import settings_in
from aerial_seg.recipe.loading import load_recipe
from aerial_seg.training.chip_dataset import ChipDataset
from aerial_seg.training.manifest import DOCUMENT, open_manifest

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile

HOUSES = np.kron(np.random.default_rng(0).integers(0, 2, (10, 14)), np.ones((10, 10))).astype(np.uint8)[None]


def settings(**how: Any) -> TileSettings:
    return replace(SETTINGS, labels=LabelSettings(**how))


def remedied(image: Path, labels: Path, **how: Any) -> Any:
    """The report of the run with what the refusal prints, which left nothing behind."""
    before = sorted(labels.parent.rglob("*"))
    with pytest.raises(InputError) as refusal:
        run([image], labels, settings(**how))
    assert "\n" not in str(refusal.value)
    assert sorted(labels.parent.rglob("*")) == before
    told = {one.name: one.value for one in settings_in(str(refusal.value)) if one.has_value}
    return run([image], labels, settings(**how | told))


def pixels(report: Any) -> dict[str, int]:
    return {name: sum(split[name] for split in report.class_pixels.values()) for name in report.legend.names}


@pytest.mark.parametrize(("top", "nodata"), [(255, None), (255, 0), (1, 0), (1, None)])
def test_masks_of_two_values(raster_file: RasterFile, top: int, nodata: int | None) -> None:
    """Until now every building was dropped, and `train` reported a mIoU of 1.0 over one class."""
    image, labels = raster_file("a.tif", scene()), raster_file("m.tif", HOUSES * np.uint8(top), nodata=nodata)
    plain = (top, nodata) == (1, None)
    report = run([image], labels, settings()) if plain else remedied(image, labels)
    names = ("class 0", "class 1") if plain else ("background", "building")
    assert pixels(report) == {names[k]: int((k == HOUSES).sum()) for k in (0, 1)}


def test_polygons_alone_without_the_ground_around_them(image: Path, polygon_file: PolygonFile) -> None:
    labels = polygon_file("l.gpkg", [box(X + 20, Y - 40, X + 50, Y - 10)])
    report = remedied(image, labels, outside="unlabelled")
    assert report.legend.names == ("background", "l")
    assert pixels(report)["l"] == 60 * 60


def test_polygons_that_cover_no_pixel(image: Path, polygon_file: PolygonFile) -> None:
    labels = polygon_file("l.gpkg", [box(X + 20.3, Y - 20.4, X + 20.4, Y - 20.3)])
    with pytest.raises(
        InputError, match=r"'background' alone has pixels .*no polygon covers the centre of a measured"
    ):
        run([image], labels, settings())


def test_overlaps_stop_tile_and_the_printed_priority_goes_on(image: Path, polygon_file: PolygonFile) -> None:
    shapes = [box(X + 15, Y - 40, X + 40, Y), box(X + 35, Y - 40, X + 60, Y)]
    labels = polygon_file("l.gpkg", shapes, {"kind": ["wood", "field"]})
    report = remedied(image, labels, class_field="kind")
    assert pixels(report)["wood"] + pixels(report)["field"] == 80 * 90
    assert any("decided by their priority: field × wood 200 m²" in note for note in report.notes)


def test_what_overlaps_at_once_is_told_before_all_is_cut(image: Path, polygon_file: PolygonFile) -> None:
    labels = polygon_file("l.gpkg", [box(X, Y - 40, X + 60, Y)] * 2, {"kind": ["wood", "field"]})
    cut: list[int] = []

    @contextmanager
    def count(label: str, *, total: int, unit: str) -> Any:
        yield SimpleNamespace(update=lambda n=1: cut.append(n))

    with pytest.raises(InputError, match="overlap on 1 of the labelled area"):
        tile([image], [labels], labels.with_name("chips"), settings(class_field="kind"), count)
    assert len(cut) == 2  # the first of the 35 chips holds no measured pixel


def test_text_numbers_and_numbers_give_one_dataset(image: Path, polygon_file: PolygonFile) -> None:
    """Until now '10' came before '2': a perfect map scored 0.25 against the integers."""
    shapes = [box(X + 15 * k, Y - 40, X + 15 * k + 10, Y) for k in (1, 2, 3)]
    found = []
    for name, values in (("t.gpkg", ["1", "2", "10"]), ("n.gpkg", [1, 2, 10])):
        report = run([image], polygon_file(name, shapes, {"k": values}), settings(class_field="k") if not found else
                     replace(settings(class_field="k"), overwrite=True))  # fmt: skip
        found.append((report.legend, report.class_pixels))
    assert found[0] == found[1]


class TestTraining:
    def test_chips_of_one_class_are_not_trained_on(self, image: Path, polygons: Path) -> None:
        report = run([image], polygons)
        document = report.dataset / DOCUMENT
        text = document.read_text()
        counts = report.class_pixels["train"]
        for road in ("road", "roof"):
            text = text.replace(f'"{road}": {counts[road]}', f'"{road}": 0')
        document.write_text(text)
        with pytest.raises(
            InputError, match=r"of its train chips its only class is 'background', wanted pixels of two"
        ):
            open_dataset(report.dataset, load_recipe("fcn"))


class TestLabelChips:
    def test_a_value_that_is_no_class_is_refused_by_name(self, image: Path, polygons: Path) -> None:
        """Until now it was ignored without a count."""
        report = run([image], polygons)
        chips = ChipDataset(report.dataset)
        path = open_manifest(report.dataset).split("train")[0].labels
        with rasterio.open(path, "r+") as file:
            values = file.read(1)
            values[:2, :3] = 7
            file.write(values, 1)
        with pytest.raises(
            InputError, match=rf"{path.name} holds the value 7 \(6 px\), wanted 0=background, 1=road"
        ):
            _ = chips[0]

    @pytest.mark.parametrize("side", [19, 21])
    def test_another_size_than_the_images(self, image: Path, polygons: Path, side: int) -> None:
        report = run([image], polygons)
        path = open_manifest(report.dataset).split("train")[0].labels
        profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "height": side, "width": 20}
        with rasterio.open(path, "w", **profile) as file:
            file.write(np.zeros((side, 20), np.uint8), 1)
        told = rf"{path.name} (are|is) 20 × {side} px"
        with pytest.raises(InputError, match=told):
            _ = ChipDataset(report.dataset)[0]
        with pytest.raises(InputError, match=told):
            read_label_chip(path, side=20)

    def test_another_type_than_a_label_chips(self, image: Path, polygons: Path) -> None:
        """300 became 44 in 8 bits."""
        report = run([image], polygons)
        path = open_manifest(report.dataset).split("train")[0].labels
        with rasterio.open(path, "w", driver="GTiff", count=1, dtype="uint16", height=20, width=20) as file:
            file.write(np.full((20, 20), 300, np.uint16), 1)
        with pytest.raises(InputError, match=r"has 1 band\(s\) of uint16, wanted one of uint8 class values"):
            _ = ChipDataset(report.dataset)[0]

    def test_unlabelled_is_no_unknown_value(self, image: Path, raster_file: RasterFile) -> None:
        values = np.random.default_rng(1).choice(np.array([1, 2, IGNORE], np.uint8), (1, HEIGHT, WIDTH))
        report = run([image], raster_file("l.tif", values), settings())
        labels = ChipDataset(report.dataset)[0][1].numpy()
        assert set(np.unique(labels)) == {0, 1, IGNORE}
