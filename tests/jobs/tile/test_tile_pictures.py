"""Label rasters without CRS beside many rasters: paired by name, or placed by their own names as map tiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from aerial_seg.errors import InputError
from aerial_seg.jobs.check.job import check
from aerial_seg.jobs.tile.dry_run import forecast_tiling
from aerial_seg.jobs.tile.job import TileReport, tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.training.manifest import open_manifest

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

CHIP = 16
SIZES = [(40, 50), (33, 64), (32, 32), (47, 31)]
FREE = TileSettings(chip_size=CHIP, georeferenced=False, labels=LabelSettings(unlabelled=(3,)))
ZOOM, COLUMN, ROW, SIDE = 15, 24_150, 13_800, 64


def png(path: Path, values: Any, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    form = {"driver": "PNG", "count": len(values), "height": values.shape[1], "width": values.shape[2],
            "dtype": "uint8"} | more  # fmt: skip
    with rasterio.open(path, "w", **form) as file:
        file.write(values)
    return path


def drawn(size: tuple[int, int], seed: int) -> Any:
    """Image (3,h,w) and labels (1,h,w), each pixel of both another one."""
    random = np.random.default_rng(seed)
    return random.integers(1, 255, (3, *size)).astype("uint8"), random.integers(0, 4, (1, *size)).astype(
        "uint8"
    )


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Any]:
    """Four pictures in two folders, two of one name each, and their masks."""
    found = {}
    for k, size in enumerate(SIZES):
        image, labels = drawn(size, k)
        name = f"t{k // 2}/{{}}/p{k % 2}.png"
        png(tmp_path / name.format("images"), image)
        png(tmp_path / name.format("masks"), labels)
        found[str(tmp_path / name.format("images"))] = image, labels
    return found


def cut(
    folder: Path, name: str = "out", settings: TileSettings = FREE, masks: str = "t*/masks/*.png"
) -> TileReport:
    return tile([str(folder / "t*/images/*.png")], [str(folder / masks)], folder / name, settings)


def test_each_chip_holds_the_pixels_of_the_picture_and_mask_of_one_name(
    pictures: dict[str, Any], tmp_path: Path
) -> None:
    report = cut(tmp_path)
    assert report.chips == {"train": 24, "val": 5, "test": 5}
    manifest = open_manifest(report.dataset)
    assert {chip.place.source for chip in manifest.chips if chip.place} == set(pictures)
    for chip in manifest.chips:
        assert chip.place is not None
        assert isinstance(chip.image, Path)
        top, left = chip.place.row * CHIP, chip.place.col * CHIP
        here = np.s_[:, top : top + CHIP, left : left + CHIP]
        with rasterio.open(chip.image) as image, rasterio.open(chip.labels) as labels:
            wanted, true = (whole[here] for whole in pictures[chip.place.source])
            height, width = wanted.shape[1:]
            np.testing.assert_array_equal(image.read()[:3, :height, :width], wanted)
            np.testing.assert_array_equal(labels.read()[:, :height, :width], np.where(true == 3, 255, true))
    masks = [labels for _, labels in pictures.values()]
    assert {
        name: sum(split[name] for split in report.class_pixels.values()) for name in report.legend.names
    } == {f"class {k}": sum(int((one == k).sum()) for one in masks) for k in range(3)}
    assert any(
        "4 label rasters without CRS are paired with the rasters by name" in note for note in report.notes
    )
    assert any(
        "4 rasters without CRS are taken as pictures of different ground" in note for note in report.notes
    )


@pytest.mark.parametrize("index_only", [False, True])
def test_pictures_lie_apart_and_check_finds_all_in_place(
    pictures: dict[str, Any], tmp_path: Path, index_only: bool
) -> None:
    wanted = replace(FREE, index_only=index_only)
    foretold = forecast_tiling(
        [str(tmp_path / "t*/images/*.png")], [str(tmp_path / "t*/masks/*.png")], tmp_path / "out", wanted
    )
    report = cut(tmp_path, settings=wanted)
    assert (foretold.chips, foretold.class_pixels) == (report.chips, report.class_pixels)
    checked = check(report.dataset)
    assert [one.problem for one in checked.problems if one.severity == "error"] == []


def test_what_does_not_belong_together_is_named(pictures: dict[str, Any], tmp_path: Path) -> None:
    mask = tmp_path / "t1/masks/p1.png"
    png(mask, np.zeros((1, 47, 30), "uint8"))
    with pytest.raises(
        InputError, match=r"t1/masks/p1\.png has 30 × 47 pixels, but .*t1/images/p1\.png.* has 31 × 47"
    ):
        cut(tmp_path)
    png(tmp_path / "t1/masks/p3.png", np.zeros((1, 8, 8), "uint8"))
    mask.unlink()
    with pytest.raises(
        InputError, match=r"1 of 4 rasters have no label raster of the same name .*t1/images/p1\.png"
    ):
        cut(tmp_path)
    (tmp_path / "t1/images/p1.png").unlink()  # as the message says
    assert any("1 label rasters have no raster of their name" in note for note in cut(tmp_path).notes)
    assert not (tmp_path / "out.work").exists()


def test_masks_without_crs_take_the_place_of_the_raster_of_their_name(
    tmp_path: Path, raster_file: Any
) -> None:
    """As they come from labelling programs: the georeference is lost on the way."""
    image, labels = drawn((64, 48), 1)
    for k in range(2):
        place = Affine(0.5, 0, 600_000 + 40 * k, 0, -0.5, 5_000_000)
        raster_file(f"i/tile_{k}_rgb.tif", image[:, :, k:], transform=place)
        png(tmp_path / f"m/tile_{k}_mask.png", labels[:, :, k:])
    report = tile(
        [str(tmp_path / "i")], [str(tmp_path / "m")], tmp_path / "out", TileSettings(chip_size=CHIP)
    )
    counted = {name: sum(one[name] for one in report.class_pixels.values()) for name in report.legend.names}
    assert counted == {
        f"class {k}": int((labels == k).sum() + (labels[:, :, 1:] == k).sum()) for k in range(4)
    }
    assert report.gsd == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("layout", ["{z}/{x}/{y}.png", "{x}-{y}-{z}.png"])
@pytest.mark.parametrize("rows", ["slippy", "tms"])
@pytest.mark.parametrize("scale", [1, 2])
def test_label_tiles_lie_beside_image_tiles(tmp_path: Path, layout: str, rows: str, scale: int) -> None:
    """Of six image tiles four have labels: the others have no chip. Label tiles may be finer."""
    image, labels = drawn((2 * SIDE, 3 * SIDE), 2)
    labels %= 2
    counted = np.zeros(2, int)
    for down, across in np.ndindex(2, 3):
        row = ROW + down if rows == "slippy" else 2**ZOOM - 1 - ROW - down
        name = layout.format(z=ZOOM, x=COLUMN + across, y=row)
        here = np.s_[:, down * SIDE : (down + 1) * SIDE, across * SIDE : (across + 1) * SIDE]
        png(tmp_path / "images" / name, image[here])
        if across < 2:
            png(tmp_path / "labels" / name, labels[here].repeat(scale, 1).repeat(scale, 2))
            counted += np.bincount(labels[here].ravel(), minlength=2)
    settings = TileSettings(chip_size=SIDE, block=1, map_tiles=rows)
    report = tile([str(tmp_path / "images")], [str(tmp_path / "labels")], tmp_path / "out", settings)
    assert sum(report.chips.values()) == 4
    assert {name: sum(one[name] for one in report.class_pixels.values()) for name in report.legend.names} == {
        "class 0": counted[0], "class 1": counted[1]
    }  # fmt: skip
    assert any("4 label rasters without CRS are map tiles by their names" in note for note in report.notes)
    assert "2 chips with no labelled pixel were left out" in report.notes


@pytest.mark.parametrize("rows", ["slippy", "tms"])
def test_label_tiles_lie_on_an_orthophoto(tmp_path: Path, rows: str) -> None:
    side = 2 * np.pi * 6_378_137 / 2**ZOOM
    left, top = COLUMN * side - np.pi * 6_378_137, np.pi * 6_378_137 - ROW * side
    image, labels = drawn((SIDE, 2 * SIDE), 3)
    form = {
        "driver": "GTiff",
        "count": 3,
        "height": SIDE,
        "width": 2 * SIDE,
        "dtype": "uint8",
        "crs": "EPSG:3857",
    }
    place = Affine(side / SIDE, 0, left, 0, -side / SIDE, top)
    with rasterio.open(tmp_path / "ortho.tif", "w", **form, transform=place) as file:
        file.write(image)
    row = ROW if rows == "slippy" else 2**ZOOM - 1 - ROW
    for across in range(2):
        png(
            tmp_path / f"l/{ZOOM}/{COLUMN + across}/{row}.png",
            labels[:, :, across * SIDE : (across + 1) * SIDE],
        )
    report = tile(
        [str(tmp_path / "ortho.tif")], [str(tmp_path / "l")], tmp_path / "out", TileSettings(chip_size=32)
    )
    counted = [sum(one[name] for one in report.class_pixels.values()) for name in report.legend.names]
    assert counted == np.bincount(labels.ravel(), minlength=4).tolist()
