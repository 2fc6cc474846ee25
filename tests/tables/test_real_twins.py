"""Small twins of the trouble in real datasets, with exact class counts; for these see labels/test_real_labels.py."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples
from PIL import Image
from pyproj import CRS
from rasterio.features import rasterize
from rasterio.windows import Window
from shapely import affinity, box

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.raster import raster_info
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.labels import expand_labels, open_labels
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE

if TYPE_CHECKING:
    from web_server import WebServer

    from tests.conftest import PolygonFile, RasterFile

SIDE = 60
CORNER = Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000)
GRID = Grid(crs=CRS(32645), transform=CORNER, height=SIDE, width=SIDE)
RANDOM = np.random.default_rng(11)
COLOURS = {1: 0x3C1098, 2: 0x8429F6, 3: 0x6EC1E4, 4: 0xFEDD3A, 5: 0xE2A929, IGNORE: 0x9B9B9B}


def counted(values: np.ndarray) -> dict[int, int]:
    return dict(zip(*(part.tolist() for part in np.unique(values, return_counts=True)), strict=True))


def picture(values: np.ndarray) -> np.ndarray:
    out = np.zeros((*values.shape, 3), np.uint8)
    for value, colour in COLOURS.items():
        out[values == value] = colour >> 16, colour >> 8 & 255, colour & 255
    return out


def test_masks_of_colours_and_of_palettes_that_differ_are_one_legend(tmp_path: Path) -> None:
    """As in dubai: PNGs without a place, some with palettes of an order of their own, a few pixels black."""
    paths, totals, want = [], Counter[int](), Counter[int]()
    for k in range(6):
        values = RANDOM.choice(np.array(list(COLOURS), np.uint8), (SIDE - k % 2, SIDE))
        values[0, :k] = 0  # black, of no class
        image = Image.fromarray(picture(values))
        path = tmp_path / f"mask_{k}.png"
        (image.convert("P", palette=Image.Palette.ADAPTIVE, colors=16) if k % 2 else image).save(path)
        with rasterio.open(path) as file:
            assert file.count == (1 if k % 2 else 3)
        paths.append(path)
        labels = open_labels([path], LabelSettings(preset="dubai"))
        burnt = labels.burn(raster_info(path).grid.for_polygons())
        np.testing.assert_array_equal(burnt, np.where(values == 0, IGNORE, values))
        assert [f"#000000 ({k} px)" in note for note in labels.notes] == [True] * (k > 0)
        totals.update(counted(burnt))
        want.update(counted(np.where(values == 0, IGNORE, values)))
    assert totals == want
    together = open_labels(paths, LabelSettings(preset="dubai"))
    assert any("#000000 (15 px)" in note for note in together.notes)


def test_sparse_labels_of_a_larger_raster_are_those_of_the_scene(raster_file: RasterFile) -> None:
    """As in shallow_water: one raster of labels around several scenes, nearly all of it 0, which means nothing."""
    large = np.zeros((200, 300), np.uint8)
    large[40:90, 60:140] = RANDOM.choice(np.array([0, 0, 0, 1, 2, 4], np.uint8), (50, 80))
    path = raster_file("sparse.tif", large[None], transform=CORNER * Affine.translation(-50, -30))
    labels = open_labels([path], LabelSettings(unlabelled=(0,)))
    assert labels.notes == ()
    own = large[30 : 30 + SIDE, 50 : 50 + SIDE]
    np.testing.assert_array_equal(labels.burn(GRID), np.where(own == 0, IGNORE, own))
    assert counted(labels.burn(GRID))[IGNORE] == int((own == 0).sum())


def test_footprints_that_overlap_and_share_walls_count_once(polygon_file: PolygonFile) -> None:
    """As in banepa: one class in degrees, buildings that overlap, others wall to wall."""
    step = 1.2e-6
    grid = Grid(CRS(4326), Affine(step, 0, 85.52, 0, -step, 27.63), SIDE, SIDE)
    shapes: list[Any] = []
    for _ in range(30):
        left, top = RANDOM.uniform(0, SIDE - 12, 2)
        house = affinity.rotate(
            box(left, top, left + RANDOM.uniform(3, 12), top + RANDOM.uniform(3, 12)), RANDOM.uniform(0, 90)
        )
        shapes += [house, affinity.translate(house, house.bounds[2] - house.bounds[0], 0)]
    placed = [affinity.affine_transform(shape, [step, 0, 0, -step, 85.52, 27.63]) for shape in shapes]
    labels = open_labels([polygon_file("buildings.geojson", placed, crs="EPSG:4326")], LabelSettings())
    burnt = labels.burn(grid)
    np.testing.assert_array_equal(burnt, rasterize(shapes, (SIDE, SIDE)))
    assert labels.check_overlaps() == ()
    kinds = ["a", "b"] * 30
    two = open_labels(
        [polygon_file("two.gpkg", placed, {"k": kinds}, crs="EPSG:4326")], LabelSettings(class_field="k")
    )
    two.burn(grid)
    a, b = (
        rasterize([s for s, k in zip(shapes, kinds, strict=True) if k == kind], (SIDE, SIDE)) for kind in "ab"
    )
    share = int((a & b).sum()) / int((a | b).sum())
    with pytest.raises(InputError, match=rf"overlap on {share:.2g} of the labelled area"):
        two.check_overlaps()


@settings(
    max_examples=examples(12), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), side=st.sampled_from([16, 23, 64]))
def test_chips_put_together_are_the_whole_that_gdal_burns(
    raster_file: RasterFile, polygon_file: PolygonFile, tmp_path: Path, data: st.DataObject, side: int
) -> None:
    """Polygons → chips → mosaic of chips, whatever the chips' size."""
    corner = st.tuples(*[st.integers(-20, 8 * SIDE + 20)] * 2)
    # No edge goes through the middle of a pixel, where each window rounds in its own way.
    rectangles = data.draw(st.lists(st.tuples(corner, corner), min_size=1, max_size=6))
    shapes = [
        box(*(np.minimum(*pair) / 8 + 1 / 16), *(np.maximum(*pair) / 8 + 3 / 16))
        for pair in np.array(rectangles, float)
    ]
    kinds = [data.draw(st.integers(1, 3)) for _ in shapes]
    order = np.argsort(kinds, kind="stable")
    whole = rasterize([(shapes[k], kinds[k]) for k in order], (SIDE, SIDE), dtype="uint8")
    if len(np.unique(whole)) < 2:
        return
    image = raster_file("i.tif", np.ones((1, SIDE, SIDE), np.uint8))
    placed = [affinity.affine_transform(shape, [0.5, 0, 0, -0.5, 300_000, 3_060_000]) for shape in shapes]
    (tmp_path / "l.gpkg").unlink(missing_ok=True)
    path = polygon_file("l.gpkg", placed, {"k": kinds})
    classes = {0: "background", 1: "a", 2: "b", 3: "c"}
    how = LabelSettings(class_field="k", classes=classes, priority=("c", "b", "a"))
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    tile([image], [path], tmp_path / "out", TileSettings(labels=how, chip_size=side, val="0", test="0"))
    together = np.full((SIDE, SIDE), IGNORE, np.uint8)
    for chip in (tmp_path / "out" / "labels").glob("*.tif"):
        with rasterio.open(chip) as file:
            left, top = (round(part) for part in ~CORNER * (file.transform.c, file.transform.f))
            part = file.read(1, window=Window(0, 0, min(side, SIDE - left), min(side, SIDE - top)))
        together[top : top + part.shape[0], left : left + part.shape[1]] = part
    np.testing.assert_array_equal(together, whole)


def test_labels_of_another_pixel_size_are_told_with_both(raster_file: RasterFile) -> None:
    values = RANDOM.integers(0, 3, (1, 15, 15)).astype(np.uint8)
    coarse = raster_file("l.tif", values, transform=CORNER * Affine.scale(4))
    labels = open_labels([coarse], LabelSettings())
    assert labels.later_notes == ()
    labels.burn(GRID)
    (note,) = labels.later_notes
    assert note.startswith("the label rasters have other pixels than the imagery, 2 m on imagery of 0.5 m")
    same = open_labels([raster_file("s.tif", np.ones((1, SIDE, SIDE), np.uint8))], LabelSettings())
    same.burn(GRID)
    assert same.later_notes == ()


@pytest.mark.parametrize("name", ["l.gpkg", "l.geojson", "l.fgb", "l.zip", "l.tif"])
def test_labels_on_a_server_are_those_of_the_file(
    server: WebServer, polygon_file: PolygonFile, raster_file: RasterFile, name: str
) -> None:
    shape = box(300_005, 3_059_985, 300_015, 3_059_995)
    if name == "l.tif":
        raster_file(
            "served/l.tif", np.kron([[0, 1], [1, 2]], np.ones((1, 30, 30), np.uint8)).astype(np.uint8)
        )
    elif name == "l.zip":
        folder = polygon_file("shapes.shp", [shape]).parent
        (folder / "zipped").mkdir()
        for part in folder.glob("shapes.*"):
            part.rename(folder / "zipped" / part.name)
        shutil.make_archive(str(server.folder / "l"), "zip", folder / "zipped")
    else:
        polygon_file(f"served/{name}", [shape])
    (there,) = expand_labels([server.url(name)])
    (here,) = expand_labels([str(server.folder / name)])
    got = open_labels([there], LabelSettings()).burn(GRID)
    assert len(np.unique(got)) > 1
    np.testing.assert_array_equal(got, open_labels([here], LabelSettings()).burn(GRID))
