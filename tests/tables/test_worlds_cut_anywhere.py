"""Label rasters and scenes on both sides of 180°, however each of them counts its longitudes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import CRS, Transformer

from aerial_seg.geo.grid import Grid, whole_outline
from aerial_seg.geo.raster.mosaic import write_mosaic
from aerial_seg.geo.raster.raster import Raster
from aerial_seg.labels.labels import Labels, check_overlap, open_labels
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile

SIDE = 64
MERCATOR = 40075016.68557849
STEP = {"EPSG:4326": 1e-5, "EPSG:3857": 1.0, "EPSG:3832": 1.0}
TURN = {"EPSG:4326": 360.0, "EPSG:3857": MERCATOR, "EPSG:3832": MERCATOR}
RANDOM = np.random.default_rng(5)
VALUES = RANDOM.integers(0, 4, (SIDE, SIDE)).astype(np.uint8)
SEAM = {code: Transformer.from_crs(4326, code, always_xy=True).transform(180.0, 0.0)[0] for code in STEP}


def place(code: str, *, turns: int = 0, left: int = 0) -> Affine:
    """A square of SIDE pixels whose middle column lies on 180°, counted from `turns` further around."""
    step = STEP[code]
    return Affine(step, 0, SEAM[code] + turns * TURN[code] + (left - SIDE // 2) * step, 0, -step, 10 * step)


def opened(*paths: Path) -> Labels:
    return open_labels(paths, LabelSettings())


@pytest.mark.parametrize("code", STEP)
@pytest.mark.parametrize("scene", [-1, 0])
@pytest.mark.parametrize("turns", [-1, 0, 1])
def test_a_label_raster_may_count_its_longitudes_otherwise(
    raster_file: RasterFile, code: str, scene: int, turns: int
) -> None:
    path = raster_file("l.tif", VALUES[None], crs=code, transform=place(code, turns=turns))
    grid = Grid(CRS(code), place(code, turns=scene), SIDE, SIDE)
    labels = opened(path)
    check_overlap(labels, [grid], names=["scene"])
    np.testing.assert_array_equal(labels.burn(grid), VALUES)


@pytest.mark.parametrize("code", STEP)
def test_a_label_raster_for_each_side(raster_file: RasterFile, code: str) -> None:
    """The eastern half lost all its labels: it began at −180, and the scene reached beyond 180."""
    half = SIDE // 2
    west = raster_file("w.tif", VALUES[None, :, :half], crs=code, transform=place(code))
    east = raster_file("e.tif", VALUES[None, :, half:], crs=code, transform=place(code, turns=-1, left=half))
    grid = Grid(CRS(code), place(code), SIDE, SIDE)
    np.testing.assert_array_equal(opened(west, east).burn(grid), VALUES)
    np.testing.assert_array_equal(opened(east).burn(grid), np.where(np.arange(SIDE) < half, IGNORE, VALUES))


@pytest.mark.parametrize(("own", "other"), [("EPSG:4326", "EPSG:32601"), ("EPSG:3857", "EPSG:32660"),
                                            ("EPSG:4326", "EPSG:3857"), ("EPSG:32601", "EPSG:4326")])  # fmt: skip
@pytest.mark.parametrize("turns", [-1, 0])
def test_in_another_crs_the_labels_lie_where_pyproj_says(
    raster_file: RasterFile, own: str, other: str, turns: int
) -> None:
    """Columns of labels that are read back through the longitude of each pixel's middle."""
    metre = 1 / (MERCATOR / 360)
    steps = {"EPSG:4326": 8 * metre, "EPSG:3857": 8.0, "EPSG:32601": 8.0, "EPSG:32660": 8.0}
    turn = TURN.get(own, 0.0)
    seams = {
        code: Transformer.from_crs(4326, code, always_xy=True).transform(180.0, 0.0)[0] for code in steps
    }
    left = seams[own] + (turns * turn) - 20 * steps[own]
    columns = np.tile((np.arange(40) // 4).astype(np.uint8), (40, 1))
    path = raster_file(
        "l.tif",
        columns[None],
        crs=own,
        transform=Affine(steps[own], 0, left, 0, -steps[own], 200 * steps[own] / 8),
    )
    grid = Grid(
        CRS(other),
        Affine(steps[other] / 8, 0, seams[other] - 60 * steps[other] / 8, 0, -steps[other] / 8, 0),
        9,
        120,
    )
    got = opened(path).burn(grid)
    x = grid.transform.c + grid.transform.a * (np.arange(120) + 0.5)
    y = grid.transform.f + grid.transform.e * (np.arange(9) + 0.5)
    lon, lat = np.meshgrid(x, y)
    back, _ = Transformer.from_crs(other, own, always_xy=True).transform(lon, lat)
    if turn:
        back = left + (np.asarray(back) - left) % turn
    column = (np.asarray(back) - left) / steps[own]
    want = np.where((column >= 0) & (column < 40), columns[0][np.clip(column.astype(int), 0, 39)], IGNORE)
    clear = np.abs(column - np.round(column)) > 1e-3
    np.testing.assert_array_equal(got[clear], want[clear])
    assert set(np.unique(got[clear])) >= {3, 4, 5, 6}


class TestPoles:
    GRID = Grid(CRS(3413), Affine(1000, 0, -32_000, 0, -1000, 32_000), SIDE, SIDE)

    def test_the_outline_of_what_lies_around_a_pole_holds_the_pole(self) -> None:
        west, south, east, north = whole_outline(self.GRID).bounds
        assert (north, round(east - west)) == (90.0, 360)
        assert south == pytest.approx(89.58, abs=0.01)
        south_pole = Grid(CRS(3031), self.GRID.transform, SIDE, SIDE)
        assert whole_outline(south_pole).bounds[1] == -90.0

    @pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3995"])
    def test_labels_around_it_lie_on_the_scene(self, polygon_file: PolygonFile, crs: str) -> None:
        """They were said not to overlap: the scene's own border never comes nearer than 89.7°."""
        shape = (
            shapely.box(-180, 89.8, 180, 90)
            if crs == "EPSG:4326"
            else shapely.box(-10_000, -10_000, 10_000, 10_000)
        )
        labels = opened(polygon_file("cap.gpkg", [shape], crs=crs))
        check_overlap(labels, [self.GRID], names=["scene"])
        burnt = labels.burn(self.GRID)
        x, y = np.meshgrid(*(1000.0 * (np.arange(SIDE) + 0.5) - 32_000,) * 2)
        if crs == "EPSG:4326":
            lat = Transformer.from_crs(3413, 4326, always_xy=True).transform(x, y)[1]
            want = lat > 89.8
        else:
            px, py = Transformer.from_crs(3413, 3995, always_xy=True).transform(x, -y)
            want = (np.abs(px) < 10_000) & (np.abs(py) < 10_000)
        assert (burnt[want] == 1).mean() > 0.99
        assert (burnt[~want] == 0).mean() > 0.99

    def test_a_label_raster_of_the_whole_world(self, raster_file: RasterFile) -> None:
        values = np.tile((np.arange(36) % 5).astype(np.uint8), (180, 1))[None]
        path = raster_file("w.tif", values, crs="EPSG:4326", transform=Affine(10, 0, -180, 0, -1, 90))
        labels = opened(path)
        check_overlap(labels, [self.GRID], names=["scene"])
        x, y = np.meshgrid(
            1000.0 * (np.arange(SIDE) + 0.5) - 32_000, 32_000 - 1000.0 * (np.arange(SIDE) + 0.5)
        )
        lon = Transformer.from_crs(3413, 4326, always_xy=True).transform(x, y)[0]
        got, want = labels.burn(self.GRID), ((lon + 180) // 10 % 36 % 5).astype(int)
        clear = np.abs((lon + 180) / 10 - np.round((lon + 180) / 10)) > 1e-6
        # Of 4,096 places 107 were looked up in the neighbour: within an eighth of a pixel all was thought the same.
        np.testing.assert_array_equal(got[clear], want[clear])


@pytest.mark.parametrize("code", STEP)
def test_scenes_on_both_sides_are_a_mosaic_of_the_ground_between_them(
    raster_file: RasterFile, tmp_path: Path, code: str
) -> None:
    """The mosaic went once around the earth: 36 million pixels wide for two scenes of 64."""
    image = RANDOM.integers(0, 255, (3, SIDE, SIDE)).astype(np.uint8)
    half = SIDE // 2
    east = raster_file("e.tif", image[:, :, half:], crs=code, transform=place(code, turns=-1, left=half))
    west = raster_file("w.tif", image[:, :, :half], crs=code, transform=place(code))
    mosaic = write_mosaic([east, west], tmp_path / "m.vrt")
    with Raster(mosaic.path) as raster:
        assert raster.grid.shape == (SIDE, SIDE)
        np.testing.assert_array_equal(raster.read(top=0, left=0, height=SIDE, width=SIDE)[0], image)
        assert whole_outline(raster.grid).bounds[2] - whole_outline(raster.grid).bounds[0] < 0.01
