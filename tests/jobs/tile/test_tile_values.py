"""What chips hold and statistics count: measured numbers in one unit, whatever the rasters declare of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from shapely import box

from aerial_seg.errors import InputError
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.training.manifest import DatasetDocument, open_manifest

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile

SIDE = 64
WEST = Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000)
EAST = WEST * Affine.translation(SIDE, 0)


def noise(dtype: str, bands: int = 3, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(100, 3000, (bands, SIDE, SIDE)).astype(dtype)


def declare(path: Path, scale: float, offset: float, bands: int = 3) -> Path:
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (scale,) * bands, (offset,) * bands
    return path


@pytest.fixture
def labels(polygon_file: PolygonFile) -> Path:
    return polygon_file("l.gpkg", [box(300_000, 3_059_968, 300_020, 3_060_000)])


def cut(rasters: Sequence[Path], labels: Path, name: str = "out", **options: Any) -> DatasetDocument:
    settings = TileSettings(chip_size=32, block=1, val="0", test="0", **options)
    report = tile([str(path) for path in rasters], [str(labels)], labels.with_name(name), settings)
    return open_manifest(report.dataset).document


def held(folder: Path) -> tuple[Any, Any]:
    """image (C,n) of all chips, and which pixels were measured."""
    images, masks = [], []
    for path in sorted((folder / "images").glob("*.tif")):
        with rasterio.open(path) as chip:
            images.append(chip.read().reshape(chip.count, -1))
            masks.append(chip.dataset_mask().ravel() > 0)
    return np.concatenate(images, axis=1), np.concatenate(masks)


@pytest.mark.parametrize("told", ["by the file", "by the caller"])
def test_a_filler_of_one_band_enters_no_statistics(raster_file: RasterFile, labels: Path, told: str) -> None:
    """−9999 in one band of three gave it a mean of −3926 where it was measured at 1550."""
    image = noise("float32")
    image[2, 10:40] = -9999
    path = raster_file("in.tif", image, nodata=-9999 if told == "by the file" else None)
    document = cut([path], labels, nodata=-9999 if told == "by the caller" else None)
    measured = image[:, image[2] != -9999].astype(np.float64)
    assert [band.mean for band in document.bands] == pytest.approx(measured.mean(axis=1).tolist(), rel=1e-12)
    assert [band.std for band in document.bands] == pytest.approx(measured.std(axis=1).tolist(), rel=1e-12)
    assert min(band.p2 for band in document.bands) >= 100
    assert not held(labels.with_name("out"))[1].all()
    (note,) = [note for note in document.notes if "nodata value" in note]
    assert "1,920 of the 4,096 pixels" in note
    assert "count as not measured" in note


@pytest.mark.parametrize("value", [-3.4e38, np.inf, np.nan])
def test_numbers_that_nothing_measures_are_told_and_enter_no_statistics(
    raster_file: RasterFile, labels: Path, value: float
) -> None:
    image = noise("float32")
    image[1, 3, :7] = value
    document = cut([raster_file("in.tif", image)], labels)
    known = np.ones((SIDE, SIDE), bool)
    known[3, :7] = False
    mean = image[:, known].astype(np.float64).mean(axis=1)
    assert [band.mean for band in document.bands] == pytest.approx(mean.tolist(), rel=1e-12)
    told = [note for note in document.notes if "what nothing measures" in note]
    assert len(told) == (0 if np.isnan(value) else 1)
    if value == -3.4e38:
        assert "7 pixels of" in told[0]
        assert "nodata=-3.39999995e+38" in told[0]
        quiet = cut([raster_file("in.tif", image)], labels, "again", nodata=-3.39999995e38)
        assert not [note for note in quiet.notes if "what nothing measures" in note]
        assert quiet.bands == document.bands


def test_an_undeclared_filler_is_told_with_its_count_and_the_remedy_takes_it_out(
    raster_file: RasterFile, labels: Path
) -> None:
    image = noise("int16")
    image[2, 20:23, 5:45] = -9999
    path = raster_file("in.tif", image)
    (note,) = [note for note in cut([path], labels).notes if "-9999" in note]
    assert "120 pixels of" in note
    assert "nodata=-9999" in note
    document = cut([path], labels, "mended", nodata=-9999)
    mean = image[:, image[2] != -9999].astype(np.float64).mean(axis=1)
    assert [band.mean for band in document.bands] == pytest.approx(mean.tolist(), rel=1e-12)
    assert not [note for note in document.notes if "-9999 in" in note]


def test_scenes_that_declare_other_offsets_give_chips_of_one_unit(
    raster_file: RasterFile, labels: Path
) -> None:
    """Sentinel-2 since baseline 04.00: the same ground, 1000 more in each number, and an offset that says so."""
    image = noise("uint16")
    old = declare(raster_file("old.tif", image, transform=WEST), 1e-4, 0)
    new = declare(raster_file("new.tif", image + np.uint16(1000), transform=EAST), 1e-4, -0.1)
    wide = labels
    document = cut([old, new], wide)
    assert [(band.dtype, band.scaled) for band in document.bands] == [("float32", True)] * 3
    pixels, _ = held(labels.with_name("out"))
    assert pixels.dtype == np.float32
    reflectance = image.reshape(3, -1) / 1e4
    assert [band.mean for band in document.bands] == pytest.approx(
        reflectance.mean(axis=1).tolist(), rel=1e-6
    )
    assert [band.std for band in document.bands] == pytest.approx(reflectance.std(axis=1).tolist(), rel=1e-6)
    (note,) = [note for note in document.notes if "are applied" in note]
    assert "scale 0.0001, offset 0 (1 rasters)" in note
    assert "scale 0.0001, offset -0.1 (1 rasters)" in note
    off = cut([old, new], wide, "off", scale="off")
    assert [(band.dtype, band.scaled) for band in off.bands] == [("uint16", False)] * 3
    assert [note for note in off.notes if "taken as stored" in note]
    assert [band.stored_offsets for band in document.bands] == [()] * 3
    assert [band.stored_offsets for band in off.bands] == [(-0.1, 0.0)] * 3


def test_scenes_of_which_some_declare_no_scale_are_refused_and_both_remedies_work(
    raster_file: RasterFile, labels: Path
) -> None:
    image = noise("uint16")
    told = declare(raster_file("told.tif", image, transform=WEST), 1e-4, -0.1)
    silent = raster_file("silent.tif", image, transform=EAST)
    with pytest.raises(InputError, match=r"told\.tif declares scale 0\.0001, offset -0\.1 .*silent\.tif declares none.*"
                                         r"1 of 2 rasters.*gdal_edit\.py -scale S -offset O.*scale=.off."):  # fmt: skip
        cut([told, silent], labels)
    assert not labels.with_name("out").exists()
    assert cut([told, silent], labels, "off", scale="off").bands[0].dtype == "uint16"
    declare(silent, 1e-4, 0)
    assert cut([told, silent], labels, "mended").bands[0].scaled


def test_without_scale_the_document_and_the_chips_are_as_they_were(
    raster_file: RasterFile, labels: Path, tmp_path: Path
) -> None:
    path = raster_file("in.tif", noise("uint16"))
    document = cut([path], labels)
    assert "scaled" not in document.model_dump_json()
    assert DatasetDocument.model_validate_json(document.model_dump_json()) == document
    assert cut([path], labels, "off", scale="off").fingerprint == document.fingerprint


@pytest.mark.parametrize(
    ("tags", "of_band", "told"),
    [
        ({"scale_factor": "0.0001", "add_offset": "-0.1"}, 1, "add_offset -0.1, scale_factor 0.0001 in"),
        ({"BOA_ADD_OFFSET": "-1000"}, 0, "BOA_ADD_OFFSET -1000 in"),
    ],
)
def test_scales_that_only_tags_tell_are_told_and_both_remedies_work(
    raster_file: RasterFile, labels: Path, tags: dict[str, str], of_band: int, told: str
) -> None:
    paths = [raster_file(f"t{k}.tif", noise("uint16"), transform=at) for k, at in enumerate((WEST, EAST))]
    with rasterio.open(paths[1], "r+") as file:
        file.update_tags(of_band, **tags)
    with rasterio.open(paths[0], "r+") as file:
        file.update_tags(1, scale_factor="1.0", add_offset="0", title="of an offset")

    def notes(name: str, **options: Any) -> list[str]:
        return [note for note in cut(paths, labels, name, **options).notes if "only in tags" in note]

    (note,) = notes("told")
    assert note.startswith(
        f"1 of 2 rasters tell a scale or offset only in tags ({told} {paths[1]}), which is not"
    )
    assert 'gdal_edit.py -scale S -offset O), or pass `scale="off"`' in note
    assert notes("off", scale="off") == []
    for path in paths:
        declare(path, 0.0001, -0.1)
    assert notes("declared") == []
