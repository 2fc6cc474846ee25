"""tile end to end: the index tells the truth about the chips, and a failure leaves nothing behind."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples
from shapely import box
from tile_town import CHIP, HEIGHT, SETTINGS, WIDTH, X, Y, at, index, run, scene

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE
from aerial_seg.training.manifest import SPLITS, open_manifest
from aerial_seg.training.validation.ground import count_pieces

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile


def check_disjoint(frame: Any) -> None:
    """The oracle: shapely finds no two chips of different splits that share a thousandth of the smaller one.

    Less is how grids meet that are not quite aligned (a strip of a hundredth of a pixel along a common side).
    """
    chips = frame.geometry.to_numpy()
    shared = shapely.area(shapely.intersection(chips[:, None], chips[None]))
    smaller = np.minimum.outer(shapely.area(chips), shapely.area(chips))
    other = frame.split.to_numpy()[:, None] != frame.split.to_numpy()[None]
    assert (shared[other] <= 1e-3 * smaller[other]).all()


def test_the_index_counts_what_the_chips_hold(image: Path, polygons: Path) -> None:
    report = run([image], polygons)
    frame, legend = index(report), report.legend
    assert legend.names == ("background", "road", "roof")
    assert report.chips == {name: int((frame.split == name).sum()) for name in SPLITS}
    assert all(report.chips.values())
    totals = {split: dict.fromkeys(legend.names, 0) for split in SPLITS}
    for row in frame.itertuples():
        with rasterio.open(report.dataset / "labels" / f"{row.chip}.tif") as file:
            labels = file.read(1)
        with rasterio.open(report.dataset / "images" / f"{row.chip}.tif") as file:
            valid, bounds = file.dataset_mask() > 0, file.bounds
        assert row.valid_px == valid.sum()
        assert (labels[~valid] == IGNORE).all()
        for entry in legend.entries:
            count = int((labels == entry.value).sum())
            assert getattr(row, f"px_{entry.name}") == count
            totals[row.split][entry.name] += count
        assert box(*bounds).contains(row.geometry)
    assert report.class_pixels == totals
    check_disjoint(frame)


def test_every_measured_pixel_is_in_one_chip(image: Path, polygons: Path) -> None:
    report = run([image], polygons)
    rebuilt = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    for row in index(report).itertuples():
        with rasterio.open(report.dataset / "images" / f"{row.chip}.tif") as file:
            pixels = file.read() * (file.dataset_mask() > 0)
        top, left = row.row * CHIP, row.col * CHIP
        rebuilt[:, top : top + CHIP, left : left + CHIP] += pixels
    with rasterio.open(image) as file:
        np.testing.assert_array_equal(rebuilt, file.read())


def test_statistics_are_those_of_the_measured_training_pixels(image: Path, polygons: Path) -> None:
    report = run([image], polygons)
    manifest = open_manifest(report.dataset)
    parts = []
    for chip in manifest.split("train"):
        with rasterio.open(chip.image) as file:
            parts.append(file.read()[:, file.dataset_mask() > 0])
    pixels = np.concatenate(parts, axis=1).astype(float)
    for band, values in zip(manifest.document.bands, pixels, strict=True):
        assert (band.mean, band.std) == pytest.approx((values.mean(), values.std()))
        assert (band.p2, band.p98) == pytest.approx(np.percentile(values, [2, 98]), abs=1)
    assert manifest.document.gsd == pytest.approx(0.5, rel=2e-3)
    assert manifest.document.chip_size == CHIP


def test_a_seed_gives_one_dataset(image: Path, polygons: Path) -> None:
    first, again = run([image], polygons), run([image], polygons, replace(SETTINGS, overwrite=True))
    assert first.class_pixels == again.class_pixels
    other = run([image], polygons, replace(SETTINGS, overwrite=True, seed=5))
    assert first.class_pixels != other.class_pixels


@settings(max_examples=examples(6), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    places=st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30)), min_size=2, max_size=4),
    split_by=st.sampled_from(["block", "source"]),
    block=st.integers(1, 3),
)
def test_overlapping_rasters_share_no_ground_across_splits(
    raster_file: RasterFile, polygons: Path, places: list[tuple[float, float]], split_by: str, block: int
) -> None:
    paths = [
        raster_file(f"r{k}.tif", scene(50, 70, seed=k), transform=at(*place))
        for k, place in enumerate(places)
    ]
    squares = block if split_by == "block" else None
    wanted = replace(SETTINGS, split_by=split_by, block=squares, overwrite=True)
    try:
        report = run(paths, polygons, wanted)
    except InputError as error:
        if "no chip is left for training" in str(error):
            return
        raise
    frame = index(report)
    check_disjoint(frame)
    files = {path.stem for path in (report.dataset / "images").iterdir()}
    assert files == {path.stem for path in (report.dataset / "labels").iterdir()} == set(frame.chip)
    if split_by == "source":
        assert frame.groupby("source").split.nunique().max() == 1


def test_blocks_of_several_rasters_are_common_ground(raster_file: RasterFile, polygons: Path) -> None:
    paths = [
        raster_file(f"r{k}.tif", scene(70, 70, seed=k), transform=at(35 * k, 0)) for k in range(2)
    ]  # 70 px is no multiple of a chip: the clipped ones at the edge belong to the same blocks
    report = run(paths, polygons, replace(SETTINGS, block=2))
    frame = index(report)
    centres = frame.geometry.centroid
    cells = [
        f"{x}/{y}"
        for x, y in zip((centres.x - X) // 20, (centres.y - frame.total_bounds[1]) // 20, strict=True)
    ]
    assert frame.groupby(cells).split.nunique().max() == 1
    assert not any("overlap another split" in note for note in report.notes)


def test_globs_match_the_file_name_and_never_the_folder(raster_file: RasterFile, polygons: Path) -> None:
    paths = [
        raster_file(f"north_site/{name}.tif", scene(40, 60, seed=k), transform=at(30 * k, 0))
        for k, name in enumerate(["north_a", "south_b"])
    ]
    report = run(paths, polygons, replace(SETTINGS, split_by="source", test="north_*", val="0"))
    frame = index(report)
    assert {Path(source).stem: split for source, split in zip(frame.source, frame.split, strict=True)} == {
        "north_a": "test", "south_b": "train",
    }  # fmt: skip
    with pytest.raises(SettingsError, match=r"`test` '\*north_site\*' matches none of the 2 sources"):
        run(paths, polygons, replace(SETTINGS, test="*north_site*", overwrite=True))


def test_rasters_of_one_name_keep_their_own_chips(raster_file: RasterFile, polygons: Path) -> None:
    paths = [raster_file(f"{k}/a.tif", scene(40, 40, seed=k), transform=at(30 * k, 0)) for k in range(2)]
    frame = index(run(paths, polygons))
    assert len(set(frame.chip)) == len(frame) == 8
    assert {chip.split("_")[0] for chip in frame.chip} == {"a", "a-2"}
    assert frame.groupby("source").chip.agg(lambda chips: len({c.split("_")[0] for c in chips})).max() == 1


def test_a_raster_smaller_than_a_chip_is_padded(raster_file: RasterFile, polygons: Path) -> None:
    path = raster_file("small.tif", scene(13, 17))
    report = run([path], polygons, replace(SETTINGS, chip_size=32))
    assert report.chips == {"train": 1, "val": 0, "test": 0}
    assert sum("no chip is left for" in note for note in report.notes) == 2
    chip = open_manifest(report.dataset).chips[0]
    with rasterio.open(chip.image) as file, rasterio.open(chip.labels) as labels:
        valid = file.dataset_mask() > 0
        assert file.shape == (32, 32)
        np.testing.assert_array_equal(file.read()[:, :13, :17], scene(13, 17))
        assert (labels.read(1)[~valid] == IGNORE).all()
    assert valid[:13, :17].all()
    assert valid.sum() == 13 * 17
    assert index(report).geometry.area.iloc[0] == pytest.approx(13 * 17 / 4)


def test_gsd_averages_pixels(image: Path, polygons: Path) -> None:
    report = run([image], polygons, replace(SETTINGS, gsd=1.0, chip_size=10, nodata=0))
    assert report.gsd == 1.0
    frame = index(report)
    with rasterio.open(image) as source:
        pixels, mask = source.read().astype(float), source.dataset_mask() > 0
    groups = np.where(mask, pixels, 0).reshape(3, 50, 2, 70, 2).sum((2, 4))
    count = mask.reshape(50, 2, 70, 2).sum((1, 3))
    for row in frame.itertuples():
        with rasterio.open(report.dataset / "images" / f"{row.chip}.tif") as file:
            got, valid = file.read(), file.dataset_mask() > 0
            assert file.res == pytest.approx((1, 1))
        part = np.s_[row.row * 10 : row.row * 10 + 10, row.col * 10 : row.col * 10 + 10]
        np.testing.assert_array_equal(valid, count[part] > 0)
        want = groups[:, *part] / np.maximum(count[part], 1)
        assert np.abs(got - want)[:, valid].max() <= 0.51


def test_rasters_of_different_gsd_need_one(raster_file: RasterFile, polygons: Path) -> None:
    paths = [
        raster_file("a.tif", scene(40, 40)),
        raster_file("b.tif", scene(40, 40), transform=at(20, 0, 0.6)),
    ]
    with pytest.raises(InputError, match=r"GSDs from 0.5 to 0.6 m.*pass `gsd=0.6`"):
        run(paths, polygons)
    assert sum(run(paths, polygons, replace(SETTINGS, gsd=0.6)).chips.values()) > 4


def test_chips_that_teach_nothing_are_counted(image: Path, polygons: Path) -> None:
    report = run([image], polygons)
    assert "5 chips with no measured pixel were left out" in report.notes
    partial = replace(
        SETTINGS, labels=LabelSettings(class_field="kind", outside="unlabelled"), overwrite=True
    )
    notes = run([image], polygons, replace(partial, chip_size=5)).notes
    unlabelled = [int(note.split()[0]) for note in notes if "no labelled pixel" in note]
    assert unlabelled
    assert unlabelled[0] > 10


def test_pixels_that_a_nodata_option_names_are_not_measured(raster_file: RasterFile, polygons: Path) -> None:
    pixels = scene()
    pixels[:, :, :40] = 255
    report = run([raster_file("a.tif", pixels)], polygons, replace(SETTINGS, nodata=255))
    assert "10 chips with no measured pixel were left out" in report.notes
    assert index(report).valid_px.sum() == HEIGHT * (WIDTH - 40)


def test_raster_labels_and_several_crs(raster_file: RasterFile) -> None:
    values = np.random.default_rng(0).integers(0, 3, (1, HEIGHT, WIDTH)).astype("uint8")
    labels = raster_file("labels.tif", values)
    first = raster_file("a.tif", scene(60, 60))
    with rasterio.open(first) as file:
        bounds = rasterio.warp.transform_bounds(file.crs, "EPSG:32644", *file.bounds)
    second = raster_file(
        "b.tif", scene(60, 60), crs="EPSG:32644", transform=Affine(0.5, 0, bounds[0] + 35, 0, -0.5, bounds[3])
    )
    report = run([first, second], labels, replace(SETTINGS, labels=LabelSettings(unlabelled=(0,))))
    assert report.legend.names == ("class 1", "class 2")
    assert any("2 CRSs: chips.gpkg is in EPSG:4326" in note for note in report.notes)
    frame = index(report)
    assert frame.crs.to_epsg() == 4326
    check_disjoint(frame)


def test_without_crs_a_label_raster_of_the_same_pixels_works(raster_file: RasterFile, polygons: Path) -> None:
    plain: dict[str, Any] = {"crs": None, "transform": Affine.identity()}
    path = raster_file("plain.tif", scene(), **plain)
    values = np.random.default_rng(1).integers(0, 3, (1, HEIGHT, WIDTH)).astype("uint8")
    labels = raster_file("labels.tif", values, **plain)
    bare = TileSettings(chip_size=CHIP)
    with pytest.raises(InputError, match=r"plain.tif has no CRS.*`georeferenced=False`"):
        run([path], labels, bare)
    free = replace(bare, georeferenced=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        report = run([path], labels, free)
    assert report.gsd is None
    assert {name: sum(p[name] for p in report.class_pixels.values()) for name in report.legend.names} == {
        f"class {v}": int((values == v).sum()) for v in range(3)
    }
    with pytest.raises(InputError, match="no GSD to resample from"):
        run([path], labels, replace(free, gsd=1.0, overwrite=True))
    with pytest.raises(InputError, match="2 of 2 rasters have no label raster of the same name"):
        run([path, raster_file("second.tif", scene(), **plain)], labels, replace(free, overwrite=True))
    with pytest.raises(InputError, match="pixel by pixel"):
        run([raster_file("less.tif", scene(50, 50), **plain)], labels, replace(free, overwrite=True))
    with pytest.raises(
        InputError, match=r"vector labels in .* need georeferenced imagery, but .*plain.tif has no CRS"
    ):
        run([path], polygons, replace(free, overwrite=True))


def test_classes_that_differ_in_capitals_only_have_columns_of_their_own(
    image: Path, polygon_file: PolygonFile
) -> None:
    path = polygon_file(
        "c.gpkg", [box(X + 15, Y - 40, X + 40, Y), box(X + 45, Y - 40, X + 70, Y)], {"kind": ["A", "a"]}
    )
    frame = index(run([image], path))
    assert {"px_A_1", "px_a_2", "px_background"} <= set(frame.columns)


def test_small_ground_is_split_in_single_chips_so_that_validation_is_no_one_place(
    raster_file: RasterFile, polygons: Path
) -> None:
    """35 chips are 12 blocks of 2 × 2, of which 15 % are two: until now validation was one or two places."""
    image = raster_file("a.tif", scene())
    report = run([image], polygons, replace(SETTINGS, block=None))
    assert TileSettings().block is None
    (said,) = (note for note in report.notes if "split blocks are single chips" in note)
    assert "of 2 × 2 chips there are 12, too few to spread" in said
    frame = index(report)
    assert frame.block.nunique() == len(frame) == 35
    for split in ("val", "test"):
        own = frame[frame.split == split]
        assert len(own) >= 4
        assert (count_pieces(list(own.geometry)) or 0) >= 3
    asked = run([image], polygons, replace(SETTINGS, block=2, overwrite=True))
    assert not any("split blocks are single chips" in note for note in asked.notes)
    frame = index(asked)
    assert frame.block.nunique() == 12
    assert (frame.groupby("block").split.nunique() == 1).all()
    assert frame[["row", "col"]].floordiv(2).apply(tuple, axis=1).groupby(frame.block).nunique().max() == 1


def test_one_adjacent_piece_of_validation_ground_is_told(raster_file: RasterFile, polygons: Path) -> None:
    paths = [raster_file(f"{name}.tif", scene(40, 60, seed=k), transform=at(30 * k, 0))
             for k, name in enumerate(["west", "middle", "east"])]  # fmt: skip
    report = run(paths, polygons, replace(SETTINGS, split_by="source", val="middle.tif", test="0"))
    (said,) = (note for note in report.notes if "one adjacent piece of ground" in note)
    assert said.startswith("all validation chips (6) are one adjacent piece of ground")
    assert "`val`" in said
    assert "`block`" not in said
    spread = run(paths, polygons, replace(SETTINGS, block=1, val="0.3", test="0", overwrite=True))
    assert not any("one adjacent piece" in note for note in spread.notes)


def test_the_fingerprint_does_not_know_the_blocks(raster_file: RasterFile, polygons: Path) -> None:
    """The same chips in the same splits are the same data, whatever their split blocks are called."""
    image = raster_file("a.tif", scene())
    made = [
        run([image], polygons, replace(SETTINGS, block=block, val="0", test="0", overwrite=True))
        for block in (1, 2)
    ]
    prints = [open_manifest(report.dataset).document.fingerprint for report in made]
    assert prints[0] == prints[1]
    assert len({chip.block for chip in open_manifest(made[1].dataset).chips}) == 12
