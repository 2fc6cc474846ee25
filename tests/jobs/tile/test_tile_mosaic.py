"""Several rasters that are one ground: cut as one, or apart without a pixel of ground in two splits."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from laws import examples
from shapely import box
from tile_town import X, Y, at, index, scene

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.jobs.tile.dry_run import forecast_tiling
from aerial_seg.jobs.tile.job import TileReport, tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.jobs.tile.splits.ground import overlapping
from aerial_seg.training.manifest import open_manifest

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile

HEIGHT, WIDTH = 96, 128


@pytest.fixture
def labels(polygon_file: PolygonFile) -> Path:
    squares = [box(X + 9 * i, Y - 8 * j - 5, X + 9 * i + 4, Y - 8 * j) for i in range(8) for j in range(6)]
    return polygon_file("l.gpkg", squares)


def cut(rasters: list[Path], labels: Path, name: str, **options: Any) -> TileReport:
    chosen = TileSettings(**({"chip_size": 40, "block": 1} | options))
    return tile([str(path) for path in rasters], [str(labels)], labels.with_name(name), chosen)


def chips(folder: Path, kind: str = "images") -> dict[str, Any]:
    """row_col → pixels and mask."""
    found = {}
    for path in sorted((folder / kind).glob("*.tif")):
        with rasterio.open(path) as chip:
            found[path.stem[-9:]] = np.concatenate([chip.read(), chip.dataset_mask()[None]])
    return found


def pieces(
    write: Callable[..., Path], image: Any, rows: list[int], cols: list[int], **options: Any
) -> list[Path]:
    """The image in pieces, cut at these rows and columns."""
    paths = []
    for top, bottom in zip([0, *rows], [*rows, image.shape[1]], strict=True):
        for left, right in zip([0, *cols], [*cols, image.shape[2]], strict=True):
            part = image[:, top:bottom, left:right]
            transform = at(left * 0.5, top * 0.5)
            paths.append(write(f"p_{top}_{left}.tif", part, transform=transform, **options))
    return paths


@settings(
    max_examples=examples(3), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    row=st.integers(3, HEIGHT - 3),
    cols=st.lists(st.integers(3, WIDTH - 3), min_size=1, max_size=2, unique=True),
)
def test_chips_of_a_mosaic_are_those_of_the_whole_raster_wherever_it_was_cut(
    raster_file: RasterFile, labels: Path, tmp_path_factory: pytest.TempPathFactory, row: int, cols: list[int]
) -> None:
    image = scene(HEIGHT, WIDTH)
    image[:, 30:50, 60:90] = 0
    out = tmp_path_factory.mktemp("out")
    for name, rasters, options in (
        ("whole", [raster_file("whole.tif", image, nodata=0)], {}),
        ("parts", pieces(raster_file, image, [row], sorted(cols), nodata=0), {"mosaic": True}),
    ):
        chosen = TileSettings(chip_size=40, block=1, **options)
        tile([str(path) for path in rasters], [str(labels)], out / name, chosen)
    for kind in ("images", "labels"):
        whole, parts = chips(out / "whole", kind), chips(out / "parts", kind)
        assert whole.keys() == parts.keys()
        for name, pixels in whole.items():
            valid = pixels[-1] > 0
            np.testing.assert_array_equal(parts[name][-1] > 0, valid)
            np.testing.assert_array_equal(parts[name][:-1, valid], pixels[:-1, valid])
    whole_set, parts_set = open_manifest(out / "whole").document, open_manifest(out / "parts").document
    assert whole_set.bands == parts_set.bands
    assert whole_set.class_pixels == parts_set.class_pixels
    (source,) = parts_set.sources
    assert len(source.members) == 2 * (len(cols) + 1)
    assert source.path == f"mosaic of {len(source.members)} rasters"
    assert not list(Path(out / "parts").rglob("*.vrt"))


def test_small_rasters_are_told_and_the_remedy_fills_their_chips(
    raster_file: RasterFile, labels: Path
) -> None:
    paths = pieces(raster_file, scene(HEIGHT, WIDTH), [32, 64], [32, 64, 96])
    apart = cut(paths, labels, "apart")
    (note,) = [note for note in apart.notes if "smaller than a chip" in note]
    assert "12 of 12 rasters are smaller than a chip of 40 px" in note
    assert "mosaic=True" in note
    as_one = cut(paths, labels, "one", mosaic=True)
    assert not [note for note in as_one.notes if "smaller than a chip" in note]
    filled = [(chip[-1] > 0).mean() for chip in chips(as_one.dataset).values()]
    assert max((chip[-1] > 0).mean() for chip in chips(apart.dataset).values()) == pytest.approx(
        32**2 / 40**2
    )
    assert max(filled) == 1
    assert sum(pixels == 1 for pixels in filled) == 6


def test_whole_rasters_cannot_be_kept_together_where_a_mosaic_makes_one_of_them(
    raster_file: RasterFile, labels: Path
) -> None:
    paths = pieces(raster_file, scene(HEIGHT, WIDTH), [], [64])
    with pytest.raises(SettingsError, match=r"tells rasters apart that `mosaic=True` makes one of"):
        cut(paths, labels, "out", mosaic=True, split_by="source", block=None)
    assert not labels.with_name("out").exists()
    cut(paths, labels, "out", mosaic=True)


@settings(
    max_examples=examples(4), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(col=st.integers(25, 40), shared=st.sampled_from([0, 0, 7]), gsd=st.sampled_from([None, None, 0.6]))
def test_chips_of_a_mosaic_are_of_the_split_of_the_only_scenes_that_they_reach_into(
    raster_file: RasterFile,
    labels: Path,
    tmp_path_factory: pytest.TempPathFactory,
    col: int,
    shared: int,
    gsd: float | None,
) -> None:
    image = scene(HEIGHT, WIDTH)
    sides = {"west": (0, col), "mid": (col - shared, 90), "east": (90, WIDTH)}
    paths = [
        raster_file(f"{name}.tif", image[:, :, a:b], transform=at(a * 0.5, 0))
        for name, (a, b) in sides.items()
    ]
    chosen = TileSettings(chip_size=20, block=1, mosaic=True, val="west*", test="east*", gsd=gsd)
    report = tile([str(p) for p in paths], [str(labels)], tmp_path_factory.mktemp("out") / "set", chosen)
    pixel = gsd or 0.5
    step, across, down = 20 * pixel, round(WIDTH * 0.5 / pixel), round(HEIGHT * 0.5 / pixel)
    wanted: dict[str, int] = {}
    for left in np.arange(-(-across // 20)) * step:
        right = min(left + step, across * pixel)
        reached = {
            split
            for (a, b), split in zip(sides.values(), ("val", "train", "test"), strict=True)
            if min(right, b * 0.5) - max(left, a * 0.5) > 0.26
        }
        split = reached.pop() if len(reached) == 1 else "out"
        wanted[split] = wanted.get(split, 0) + -(-down // 20)
    out = wanted.pop("out", 0)
    assert report.chips == {split: wanted.get(split, 0) for split in ("train", "val", "test")}
    told = [note for note in report.notes if "reach into scenes of two splits" in note]
    assert told == ([f"{out} chips that reach into scenes of two splits were left out"] if out else [])


def test_scenes_of_a_mosaic_across_the_edge_of_the_world_are_found_by_their_names(
    raster_file: RasterFile, polygon_file: PolygonFile
) -> None:
    pixel, image = 0.01, scene(80, 80)
    west = raster_file("w.tif", image, crs="EPSG:4326", transform=Affine(pixel, 0, 179.2, 0, -pixel, 0))
    east = raster_file("e.tif", image, crs="EPSG:4326", transform=Affine(pixel, 0, -180, 0, -pixel, 0))
    squares = [box(179.2 + x, -0.7, 179.3 + x, -0.1) for x in np.arange(0.05, 1.5, 0.2)]
    drawn = polygon_file("w.gpkg", squares, crs="EPSG:4326")
    report = cut([west, east], drawn, "out", mosaic=True, val="e*", test="0")
    assert report.chips == {"train": 4, "val": 4, "test": 0}
    with pytest.raises(SettingsError, match=r"`val` 'x\*' matches none of the 2 sources \(first: w.tif\)"):
        cut([west, east], drawn, "bad", mosaic=True, val="x*", test="0")


def test_scenes_with_alpha_and_without_are_one_dataset_whose_alpha_is_no_band(
    raster_file: RasterFile, labels: Path
) -> None:
    image = scene(HEIGHT, WIDTH)
    alpha = np.full((HEIGHT, 64), 255, "uint8")
    alpha[10:20] = 0
    paths = [
        raster_file("rgb.tif", image[:, :, :64], transform=at(0, 0)),
        raster_file("rgba.tif", image[:, :, 64:], transform=at(32, 0), alpha=alpha),
    ]
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[10:20, 64:] = False
    for name, mosaic in (("apart", False), ("one", True)):
        report = cut(paths, labels, name, mosaic=mosaic, val="0", test="0")
        bands = open_manifest(report.dataset).document.bands
        assert len(bands) == 3
        mean = image[:, valid].astype(float).mean(axis=1)
        assert [band.mean for band in bands] == pytest.approx(mean.tolist(), rel=1e-9)
    with pytest.raises(InputError, match="has bands 1, but"):
        cut([paths[0], raster_file("gray.tif", image[:1], transform=at(64, 0))], labels, "bad")


@settings(
    max_examples=examples(4), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    east=st.integers(10, 60),
    south=st.integers(-20, 20),
    seed=st.integers(0, 99),
    by=st.sampled_from(["block", "source"]),
)
def test_no_ground_of_overlapping_scenes_is_in_two_splits_and_what_is_left_out_is_counted(
    raster_file: RasterFile,
    labels: Path,
    tmp_path_factory: pytest.TempPathFactory,
    east: int,
    south: int,
    seed: int,
    by: str,
) -> None:
    paths = [
        raster_file(f"s{k}.tif", scene(HEIGHT, WIDTH, seed=k), transform=at(k * east, k * south))
        for k in range(3)
    ]
    out = tmp_path_factory.mktemp("out") / "set"
    block = 1 if by == "block" else None
    chosen = TileSettings(chip_size=24, block=block, seed=seed, split_by=by, val="0.25", test="0.25")
    report = None
    with suppress(InputError):  # no chip is left for training
        report = tile([str(path) for path in paths], [str(labels)], out, chosen)
    assume(report is not None)
    table = index(report)
    ground = {name: shapely.union_all(part.geometry.values) for name, part in table.groupby("split")}
    pixel = 0.25
    for first in ground:
        for second in ground:
            if first < second:
                assert shapely.intersection(ground[first], ground[second]).area < pixel
    left_out = [note for note in report.notes if "overlap another split's ground were left out" in note]
    files = len(list((out / "images").glob("*.tif")))
    assert files == len(table) == sum(report.chips.values())
    if left_out:
        assert int(left_out[0].split()[0]) > 0


@pytest.mark.parametrize(("shared", "out"), [(16, [0]), (0, []), (0.3, []), (1, [0])])
def test_a_shared_corner_is_ground_in_two_splits_and_a_seam_is_not(shared: float, out: list[int]) -> None:
    chip = box(0, 0, 512, 512)
    corner = box(512 - shared, 512 - shared, 1024 - shared, 1024 - shared)
    beside = box(512 - min(shared, 0.3), 0, 1024, 512)
    ranks = {"train": 0, "val": 1}
    assert overlapping([chip, corner], ["train", "val"], ranks) == out
    assert overlapping([chip, beside], ["train", "val"], ranks) == []


def test_messages_of_a_mosaic_name_rasters_and_no_temporary_folder(
    raster_file: RasterFile, labels: Path
) -> None:
    """Notes and errors named mosaic.vrt in a folder that was gone when anybody read of it."""
    told: list[str] = []
    image = scene(HEIGHT, WIDTH).astype("float32")
    image[0, :, :20] = 0  # partly the declared value
    image[:, :15, :] = 7  # a collar
    image[1, 40:60, 30:50] = -9999  # a filler that nobody declares
    paths = pieces(raster_file, image, [50], [64], nodata=0)
    for options in ({}, {"index_only": True, "gsd": 0.7}):
        name = f"s{len(told)}"
        told += cut(paths, labels, name, mosaic=True, **options).notes
        document = open_manifest(labels.with_name(name)).document
        told += document.notes
        chosen = TileSettings(chip_size=40, block=1, mosaic=True, **options)
        forecast = forecast_tiling(
            [str(path) for path in paths], [str(labels)], labels.with_name("no"), chosen
        )
        told += [one.problem for one in forecast.problems]
    about = [text for text in told if "the mosaic of 4 rasters (" in text]
    assert {"-9999", "nodata"} <= {word for word in ("-9999", "nodata") for text in about if word in text}
    assert all(str(paths[0]) in text for text in about)
    paths[1].write_bytes(paths[1].read_bytes()[:9000])
    with pytest.raises(InputError, match=rf"^{re.escape(str(paths[1]))} could not be read") as damaged:
        cut(paths, labels, "out", mosaic=True)
    forecast = forecast_tiling([str(path) for path in paths], [str(labels)], labels.with_name("no"), chosen)
    assert str(damaged.value) in [one.problem for one in forecast.problems if one.severity == "error"]
    told += [str(damaged.value), *(one.problem for one in forecast.problems)]
    assert [text for text in told if "aerial-seg-" in text or "mosaic.vrt" in text] == []
