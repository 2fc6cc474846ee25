"""Cutting uses all cores, and nothing tells how many there were: neither a file, nor a note, nor an error."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from laws import few
from shapely import box
from tile_town import SETTINGS, X, Y, at, run, scene

from aerial_seg.errors import InputError, OutputError
from aerial_seg.jobs.tile import chip_cutter
from aerial_seg.jobs.tile.job import TileReport, tile
from aerial_seg.progress import ProgressBar, silent

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile


@pytest.fixture
def busy_polygons(polygon_file: PolygonFile) -> Path:
    """Classes that overlap here and there, as much the one pair as the other."""
    boxes = [box(X + 9 * i, Y - 8 * j - 5, X + 9 * i + 4, Y - 8 * j) for i in range(8) for j in range(6)]
    kinds = ["road", "roof", "tree"] * 16
    for k, kind in ((3, "tree"), (7, "road"), (11, "roof"), (20, "road")):
        boxes.append(box(X + 9 * k, Y - 40, X + 9 * k + 9, Y - 36) if k < 8 else boxes[k])
        kinds.append(kind)
    return polygon_file("l.gpkg", boxes, {"kind": kinds})


def pixels(dtype: str) -> np.ndarray:
    """With a corner where nothing was measured, and, where the type has room for it, fillers that nobody declares."""
    out = scene().astype(dtype)
    if dtype != "uint8":
        out[:, 30:33, 40:90] = -9999
        out[1, 70, 100:104] = -32767
    out[:, :45, :25] = 0
    return out


def everything(report: TileReport) -> dict[str, Any]:
    files = {
        str(path.relative_to(report.dataset)): path.read_bytes()
        for path in sorted(report.dataset.rglob("*"))
        if path.is_file()
    }
    return {**files, "report": report}


@pytest.mark.parametrize("dtype", few(["uint8", "int16", "float32"], quick=1))
def test_the_dataset_is_the_same_whatever_the_number_of_threads(
    dtype: str, raster_file: RasterFile, busy_polygons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [raster_file(f"s{k}/ortho.tif", pixels(dtype), nodata=0) for k in range(2)]
    wanted = replace(
        SETTINGS, overwrite=True, labels=replace(SETTINGS.labels, priority=("roof", "road"), ignore_border=1)
    )
    made = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(chip_cutter, "usable_cores", lambda n=threads: n)
        made.append(everything(run(images, busy_polygons, wanted)))
    notes = " ".join(made[0]["report"].notes)
    assert "decided by their priority" in notes
    assert dtype == "uint8" or "are -9999 in" in notes
    assert len(made[0]) > 100
    for other in made[1:]:
        assert other.keys() == made[0].keys()
        assert [name for name in other if other[name] != made[0][name]] == []


def test_the_members_of_a_mosaic_are_read_alike_by_many_threads(
    raster_file: RasterFile, busy_polygons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At another GSD, so that chips share pixels of a member with their neighbours.
    images = [raster_file(f"{k}.tif", scene(seed=k), transform=at(60 * k, 0)) for k in range(2)]
    wanted = replace(
        SETTINGS,
        overwrite=True,
        mosaic=True,
        gsd=0.4,
        labels=replace(SETTINGS.labels, priority=("roof", "road")),
    )
    made = []
    for threads in (1, 6):
        monkeypatch.setattr(chip_cutter, "usable_cores", lambda n=threads: n)
        made.append(everything(run(images, busy_polygons, wanted)))
    assert len(made[0]) > 100
    assert [name for name in made[1] if made[1][name] != made[0][name]] == []
    assert made[1].keys() == made[0].keys()


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.suffix in (".tif", ".qml", ".gpkg", ".json")]


@pytest.mark.parametrize("threads", [1, 4])
def test_an_error_in_a_thread_ends_the_run_and_leaves_nothing(
    threads: int, image: Path, polygons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = chip_cutter.write_image

    def full(path: Path, *rest: Any) -> None:
        if path.stem.endswith("_0002_0003"):
            raise OutputError("the disk is full")
        write(path, *rest)

    monkeypatch.setattr(chip_cutter, "usable_cores", lambda: threads)
    monkeypatch.setattr(chip_cutter, "write_image", full)
    with pytest.raises(OutputError, match="the disk is full"):
        run([image], polygons)
    assert left(polygons.parent / "out") == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("in-order")]


def test_a_damaged_block_is_told_as_one_thread_tells_it(
    raster_file: RasterFile, polygons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = raster_file("cut_off.tif", scene(200, 200))
    image.write_bytes(image.read_bytes()[:-50_000])
    told = []
    for threads in (1, 4):
        monkeypatch.setattr(chip_cutter, "usable_cores", lambda n=threads: n)
        with pytest.raises(InputError, match=r"could not be read at row \d+, column \d+, ") as raised:
            run([image], polygons)
        told.append(str(raised.value))
    assert told[0] == told[1]
    assert left(polygons.parent / "out") == []


def test_an_interruption_ends_all_threads_and_leaves_nothing(
    image: Path, polygons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chip_cutter, "usable_cores", lambda: 4)

    class Stopped:
        """A bar under which the user presses Ctrl-C after some chips."""

        seen = 0

        def __enter__(self) -> ProgressBar:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def update(self, n: int = 1) -> None:
            Stopped.seen += n
            if Stopped.seen == 5:
                raise KeyboardInterrupt

    def progress(label: str, *, total: int, unit: str) -> ProgressBar:
        return Stopped() if unit == "chip" else silent(label, total=total, unit=unit)

    out = polygons.parent / "out"
    with pytest.raises(KeyboardInterrupt):
        tile([str(image)], [str(polygons)], out / "set", SETTINGS, progress)
    assert left(out) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("in-order")]
