"""Map tiles are placed by their names: their chips are those of one raster of the same ground."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from rasterio.transform import from_bounds
from shapely import box

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.geo.map_tiles.names import TileName, read_names
from aerial_seg.geo.raster.band_choice import BandChoice
from aerial_seg.jobs.tile.job import TileReport, tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.chip_file import read_chip
from aerial_seg.training.manifest import open_manifest

if TYPE_CHECKING:
    from tests.conftest import PolygonFile

ZOOM, COLUMN, ROW, SIDE = 19, 386_690, 221_550, 64
ACROSS, DOWN = 3, 2


def corner(column: int, row: int) -> tuple[float, float]:
    """Longitude and latitude of a tile's north-west corner. Source: OpenStreetMap wiki, Slippy map tilenames."""
    tiles = 2**ZOOM
    return column / tiles * 360 - 180, math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * row / tiles))))


@pytest.fixture
def image() -> Any:
    return np.random.default_rng(0).integers(1, 255, (3, DOWN * SIDE, ACROSS * SIDE)).astype("uint8")


@pytest.fixture
def labels(polygon_file: PolygonFile) -> Path:
    (west, north), (east, south) = corner(COLUMN, ROW), corner(COLUMN + ACROSS, ROW + DOWN)
    middle = (west + east) / 2
    return polygon_file("l.gpkg", [box(west, south, middle, north)], crs="EPSG:4326")


def write(image: Any, name: Callable[[int, int], str], folder: Path, *, alpha: bool = False) -> list[Path]:
    """Tiles of the image; every second one with alpha, if any is to have it."""
    paths = []
    for down in range(DOWN):
        for across in range(ACROSS):
            path = folder / name(COLUMN + across, ROW + down)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = image[:, down * SIDE : (down + 1) * SIDE, across * SIDE : (across + 1) * SIDE]
            if alpha and across % 2:
                part = np.concatenate([part, np.full((1, SIDE, SIDE), 255, "uint8")])
            form = {"driver": "PNG", "height": SIDE, "width": SIDE, "count": len(part), "dtype": "uint8"}
            with rasterio.open(path, "w", **form) as file:
                file.write(part)
            paths.append(path)
    return paths


def cut(rasters: list[Path], labels: Path, name: str, **options: Any) -> TileReport:
    chosen = TileSettings(**({"chip_size": 50, "block": 1} | options))
    return tile([str(path) for path in rasters], [str(labels)], labels.with_name(name), chosen)


def chips(folder: Path, kind: str) -> dict[str, Any]:
    found = {}
    for path in sorted((folder / kind).glob("*.tif")):
        with rasterio.open(path) as chip:
            found[path.stem[-9:]] = (chip.read(), chip.transform, chip.crs)
    return found


def whole(image: Any, folder: Path) -> Path:
    to_metres = Transformer.from_crs(4326, 3857, always_xy=True)
    left, top = to_metres.transform(*corner(COLUMN, ROW))
    right, bottom = to_metres.transform(*corner(COLUMN + ACROSS, ROW + DOWN))
    path = folder / "whole.tif"
    transform = from_bounds(left, bottom, right, top, ACROSS * SIDE, DOWN * SIDE)
    with rasterio.open(path, "w", driver="GTiff", height=DOWN * SIDE, width=ACROSS * SIDE, count=3, dtype="uint8",
                       crs="EPSG:3857", transform=transform) as file:  # fmt: skip
        file.write(image)
    return path


NAMES: dict[str, Callable[[int, int], str]] = {
    "folders": lambda x, y: f"{ZOOM}/{x}/{y}.png",
    "zoom first": lambda x, y: f"{ZOOM}-{x}-{y}.png",
    "zoom last": lambda x, y: f"OAM-{x}-{y}-{ZOOM}.png",
    "from the south": lambda x, y: f"{ZOOM}/{x}/{2**ZOOM - 1 - y}.png",
}


@pytest.mark.parametrize("kind", NAMES)
def test_chips_of_map_tiles_are_those_of_one_raster_of_the_same_ground(
    image: Any, labels: Path, tmp_path: Path, kind: str
) -> None:
    write(image, NAMES[kind], tmp_path / "tiles", alpha=kind == "folders")
    got = cut([tmp_path / "tiles"], labels, "got", mosaic=True)
    want = cut([whole(image, tmp_path)], labels, "want")
    for what in ("images", "labels"):
        found, wanted = chips(got.dataset, what), chips(want.dataset, what)
        assert found.keys() == wanted.keys()
        for name, (pixels, transform, crs) in wanted.items():
            np.testing.assert_array_equal(found[name][0], pixels)
            assert np.allclose(found[name][1], transform, atol=1e-4, rtol=1e-12)
            assert found[name][2] == crs
    assert got.class_pixels == want.class_pixels
    (note,) = [note for note in got.notes if "map tiles by their names" in note]
    assert f"zoom {ZOOM}, the first in column {COLUMN}, row" in note
    assert ("counted from the south" in note) == (kind == "from the south")
    (source,) = open_manifest(got.dataset).document.sources
    assert all(Path(member).is_file() for member in source.members)


@pytest.mark.parametrize("options", [{"nodata": 7}, {"gsd": 0.2}])
def test_windows_of_a_mosaic_of_map_tiles_are_its_chips(
    image: Any, labels: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """The VRTs of placed tiles and of their mosaic come along, and may be moved: they name each other."""
    write(image, NAMES["folders"], tmp_path / "tiles", alpha=True)
    want = cut([tmp_path / "tiles"], labels, "want", mosaic=True, **options)
    got = cut([tmp_path / "tiles"], labels, "got", mosaic=True, index_only=True, **options)
    moved = got.dataset.rename(tmp_path / "moved")
    pairs = zip(open_manifest(moved).chips, open_manifest(want.dataset).chips, strict=True)
    for one, other in pairs:
        found, wanted = read_chip(one.image, one.labels), read_chip(other.image, other.labels)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(a, b)


def test_chosen_bands_and_declared_scales_of_map_tiles_are_those_of_the_files(
    image: Any, labels: Path, tmp_path: Path
) -> None:
    paths = write(image, NAMES["folders"], tmp_path / "tiles")
    for path in paths:
        with rasterio.open(path) as file:
            pixels = file.read()
        with rasterio.open(path.with_suffix(".tif"), "w", driver="GTiff", height=SIDE, width=SIDE, count=3,
                           dtype="uint8") as file:  # fmt: skip
            file.write(pixels)
            file.scales, file.offsets = (0.5, 0.25, 0.125), (1, 2, 3)
        path.unlink()
    report = cut([tmp_path / "tiles"], labels, "out", chip_size=SIDE, bands=BandChoice((3, 1)))
    found = {}
    for path in (report.dataset / "images").iterdir():
        with rasterio.open(path) as chip:
            found[round(chip.transform.f), round(-chip.transform.c)] = chip.read()
    assert len(found) == ACROSS * DOWN
    north_west = found[max(found)]
    np.testing.assert_array_equal(
        north_west, np.stack([image[2, :SIDE, :SIDE] * 0.125 + 3, image[0, :SIDE, :SIDE] * 0.5 + 1])
    )


def test_how_rows_count_is_refused_of_rasters_that_are_no_map_tiles(
    image: Any, labels: Path, tmp_path: Path
) -> None:
    scene = tmp_path / "flight.tif"
    with rasterio.open(scene, "w", driver="GTiff", height=128, width=192, count=3, dtype="uint8") as file:
        file.write(image)
    with pytest.raises(
        SettingsError,
        match=r"`map_tiles=.slippy.` is for .* but the 1 rasters are not .*flight.tif\); leave it",
    ):
        cut([scene], labels, "out", map_tiles="slippy")


@pytest.mark.parametrize("mosaic", [False, True])
def test_a_map_tile_that_cannot_be_read_is_named_and_no_temporary_folder(
    image: Any, labels: Path, tmp_path: Path, mosaic: bool
) -> None:
    paths = write(image, NAMES["folders"], tmp_path / "tiles")
    paths[0].write_bytes(paths[0].read_bytes()[:3000])
    with pytest.raises(InputError, match="could not be read") as told:
        cut([tmp_path / "tiles"], labels, "out", mosaic=mosaic)
    assert str(paths[0]) in str(told.value)
    assert "aerial-seg-" not in str(told.value)


def test_without_mosaic_each_tile_is_a_source_of_its_own_name(
    image: Any, labels: Path, tmp_path: Path
) -> None:
    paths = write(image, NAMES["folders"], tmp_path / "tiles")
    report = cut([tmp_path / "tiles"], labels, "out", chip_size=SIDE)
    document = open_manifest(report.dataset).document
    assert sorted(source.path for source in document.sources) == sorted(map(str, paths))
    assert sum(report.chips.values()) == ACROSS * DOWN


def test_what_names_cannot_tell_is_asked(
    image: Any, polygon_file: PolygonFile, labels: Path, tmp_path: Path
) -> None:
    write(image, NAMES["folders"], tmp_path / "tiles")
    middle = (corner(COLUMN, ROW)[0] + corner(COLUMN + ACROSS, ROW)[0]) / 2
    everywhere = polygon_file("all.gpkg", [box(-170, -80, middle, 80)], crs="EPSG:4326")
    with pytest.raises(InputError, match=r"from the north or from the south; say which: .*slippy.* or .*tms"):
        cut([tmp_path / "tiles"], everywhere, "out", mosaic=True)
    north = cut([tmp_path / "tiles"], everywhere, "north", mosaic=True, map_tiles="slippy")
    south = cut([tmp_path / "tiles"], everywhere, "south", mosaic=True, map_tiles="tms")
    tops = [chips(one.dataset, "images").popitem()[1][1].f for one in (north, south)]
    assert tops[0] > 0 > tops[1]
    (tmp_path / "tiles" / "tilemapresource.xml").write_text("<TileMap/>")
    described = cut([tmp_path / "tiles"], everywhere, "described", mosaic=True)
    assert any("tilemapresource.xml" in note for note in described.notes)
    with pytest.raises(InputError, match="has no CRS"):
        cut([tmp_path / "tiles"], labels, "out", map_tiles="off")
    write(image, lambda x, y: f"18/{x // 4}/{y}.png", tmp_path / "tiles")
    with pytest.raises(
        InputError, match=r"of the zooms 18, 19, which show the same ground; name the folder of one"
    ):
        cut([tmp_path / "tiles"], labels, "out", mosaic=True, map_tiles="slippy")
    cut([tmp_path / "tiles" / "19"], labels, "one", mosaic=True, map_tiles="slippy")


def test_a_raster_that_is_no_square_is_not_placed_by_a_name_that_is_a_day(
    image: Any, labels: Path, tmp_path: Path
) -> None:
    path = tmp_path / "2024-05-11.png"
    with rasterio.open(path, "w", driver="PNG", height=128, width=192, count=3, dtype="uint8") as file:
        file.write(image)
    assert read_names([path]) == [TileName(11, 2024, 5)]
    with pytest.raises(InputError, match="has no CRS"):
        cut([path], labels, "out")


def test_names_are_read_in_the_one_way_that_fits_all() -> None:
    def paths(*names: str) -> list[Path]:
        return [Path("/data/of") / name for name in names]

    assert read_names(paths("19-386694-221555.png")) == [TileName(19, 386694, 221555)]
    assert read_names(paths("OAM-386694-221555-19.tif")) == [TileName(19, 386694, 221555)]
    assert read_names(paths("19/386694/221555.png")) == [TileName(19, 386694, 221555)]
    assert read_names(paths("3-2-3.png")) is None
    assert read_names(paths("3-2-3.png", "3-7-5.png")) == [TileName(3, 2, 3), TileName(3, 7, 5)]
    assert read_names(paths("ortho.tif", "19-386694-221555.png")) is None
    assert read_names(paths("19/386694/221555.png", "18/193347/110777.png")) is None
    assert read_names(paths("2024-05-03.tif")) is None
