"""A dataset of chosen bands is that of the raster one would have had to make by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
from shapely import box

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.geo.raster.band_choice import ALL_BANDS, BandChoice
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.training.manifest import DatasetDocument, open_manifest

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile

HEIGHT, WIDTH = 64, 96


def pixels(bands: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (bands, HEIGHT, WIDTH), dtype=np.uint8)


@pytest.fixture
def labels(polygon_file: PolygonFile) -> Path:
    return polygon_file("l.gpkg", [box(300_000, 3_059_970, 300_020, 3_060_000)])


def cut(rasters: list[Path], labels: Path, name: str, choice: BandChoice = ALL_BANDS) -> DatasetDocument:
    settings = TileSettings(chip_size=32, block=1, bands=choice)
    report = tile([str(path) for path in rasters], [str(labels)], labels.with_name(name), settings)
    return open_manifest(report.dataset).document


def chips(folder: Path) -> np.ndarray:
    return np.stack([rasterio.open(path).read() for path in sorted((folder / "images").glob("*.tif"))])


@pytest.mark.parametrize("numbers", [(3, 1), (1, 5), (5, 4, 2)])
def test_chips_hold_the_chosen_bands_and_the_dataset_their_statistics(
    raster_file: RasterFile, labels: Path, tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    image, heights = pixels(4), pixels(1, 1)
    stack = (str(raster_file("height.tif", heights)),) if 5 in numbers else ()
    got = cut([raster_file("a/in.tif", image)], labels, "got", BandChoice(numbers, stack=stack))
    by_hand = raster_file("b/in.tif", np.concatenate([image, heights])[np.array(numbers) - 1])
    want = cut([by_hand], labels, "want")
    np.testing.assert_array_equal(chips(tmp_path / "got"), chips(tmp_path / "want"))
    assert [band.mean for band in got.bands] == [band.mean for band in want.bands]


def test_named_bands_are_called_so_in_the_dataset(raster_file: RasterFile, labels: Path) -> None:
    choice = BandChoice((4, 1), ("nir", "red"))
    assert [band.name for band in cut([raster_file("in.tif", pixels(4))], labels, "out", choice).bands] == [
        "nir",
        "red",
    ]


def test_collars_are_told_once_with_their_remedy(raster_file: RasterFile, labels: Path) -> None:
    image = pixels(3)
    image[:, 50:] = 0
    paths = [raster_file(f"{k}/in.tif", image) for k in range(3)]
    (note,) = [note for note in cut(paths, labels, "out").notes if "`nodata=0`" in note]
    assert "2 other rasters" in note
    assert not any(
        "nodata" in note for note in cut([raster_file("d.tif", image, nodata=0)], labels, "no").notes
    )


def test_nodata_in_some_bands_only_is_told_once(raster_file: RasterFile, labels: Path) -> None:
    image = pixels(3)
    image[image == 0] = 1
    image[1, :9] = 0
    paths = [raster_file(f"{k}/in.tif", image, nodata=0) for k in range(3)]
    (note,) = [note for note in cut(paths, labels, "out").notes if "some bands" in note]
    assert "(2 other rasters have such pixels, too)" in note


def test_what_does_not_fit_leaves_nothing_behind(
    raster_file: RasterFile, labels: Path, tmp_path: Path
) -> None:
    paths = [raster_file(f"{k}/in.tif", pixels(3)) for k in range(2)]
    other = raster_file("height.tif", pixels(1)[:, 1:])
    with pytest.raises(InputError, match="cannot be stacked on"):
        cut(paths[:1], labels, "out", BandChoice(stack=(str(other),)))
    with pytest.raises(InputError, match="band 4 was asked for"):
        cut(paths[:1], labels, "out", BandChoice((4,)))
    with pytest.raises(SettingsError, match="goes with one raster"):
        cut(paths, labels, "out", BandChoice(stack=(str(paths[0]),)))
    assert not (tmp_path / "out").exists()
