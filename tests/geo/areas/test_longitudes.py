"""Wherever a world is cut, and however often longitudes go around it, ground stays ground."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from pyproj import CRS
from rasterio.features import rasterize

from aerial_seg.errors import InputError
from aerial_seg.geo.areas.area import Area, area_of_bounds
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.turns import copies, turn_of
from aerial_seg.labels.labels import check_overlap, open_labels
from aerial_seg.labels.settings import LabelSettings

MERCATOR = 40075016.68557849
SIDE = 60
SCENES = {
    "degrees, from 179.7": Grid(CRS(4326), Affine(0.01, 0, 179.7, 0, -0.01, 0.3), SIDE, SIDE),
    "degrees, to -179.7": Grid(CRS(4326), Affine(0.01, 0, -180.3, 0, -0.01, 0.3), SIDE, SIDE),
    "degrees, 0 to 360": Grid(CRS(4326), Affine(6, 0, 0, 0, -3, 90), SIDE, SIDE),
    "grads": Grid(CRS(4807), Affine(0.01, 0, 196.8, 0, -0.01, 0.3), SIDE, SIDE),
    "Mercator": Grid(CRS(3857), Affine(1000, 0, MERCATOR / 2 - 30_000, 0, -1000, 30_000), SIDE, SIDE),
    "Mercator of the Pacific": Grid(CRS(3832), Affine(1000, 0, 3_310_000, 0, -1000, 30_000), SIDE, SIDE),
    "UTM 60": Grid(CRS(32660), Affine(1000, 0, 800_000, 0, -1000, 30_000), SIDE, SIDE),
    "UTM 1": Grid(CRS(32601), Affine(1000, 0, 137_000, 0, -1000, 30_000), SIDE, SIDE),
}
SYSTEMS = {"EPSG:4326": 360.0, "EPSG:4269": 360.0, "EPSG:3857": MERCATOR, "EPSG:3832": MERCATOR}


def write(path: Path, geometries: list[shapely.Geometry], crs: str) -> Path:
    path.unlink(missing_ok=True)
    pyogrio.raw.write(
        path,
        geometry=np.array([shapely.to_wkb(geometry) for geometry in geometries], object),
        field_data=[],
        fields=[],
        geometry_type="Unknown",
        crs=crs,
        driver="FlatGeobuf",
    )
    return path


@pytest.mark.parametrize(
    ("code", "turn"),
    [(4326, 360), (4807, 400), (3857, MERCATOR), (3395, MERCATOR), (4087, MERCATOR), (6933, 34735060.890322745),
     (32660, None), (3031, None), (2154, None), (8857, None)],
)  # fmt: skip
def test_what_comes_round_is_found_by_what_it_does(code: int, turn: float | None) -> None:
    assert turn_of(CRS.from_epsg(code)) == (None if turn is None else pytest.approx(turn, rel=1e-12))
    assert turn_of(None) is None


@given(
    west=st.floats(-700, 700), width=st.floats(0, 800), left=st.floats(-400, 400), wide=st.floats(0.1, 360)
)
def test_copies_are_all_that_meet_and_no_other(west: float, width: float, left: float, wide: float) -> None:
    rows, moves = copies(np.array([[west, 0, west + width, 1]]), left, left + wide, 360.0)
    wanted = [k for k in range(-6, 7) if west + 360 * k <= left + wide and west + width + 360 * k >= left]
    assert (moves / 360).tolist() == wanted
    assert rows.tolist() == [0] * len(wanted)


def burnt(path: Path, grid: Grid) -> np.ndarray:
    return open_labels([path], LabelSettings(), near=[grid]).burn(grid)


def degrees(least: float, most: float) -> st.SearchStrategy[float]:
    """To a tenth of a millimetre: with numbers of 1e-308 the union of two boxes loses a corner."""
    return st.floats(least, most).map(lambda number: round(number, 9))


boxes = st.tuples(degrees(-0.6, 0.55), degrees(-0.35, 0.3), degrees(0.011, 0.6), degrees(0.011, 0.3))


@settings(max_examples=examples(60))
@given(
    scene=st.sampled_from(sorted(SCENES)),
    system=st.sampled_from(sorted(SYSTEMS)),
    found=st.lists(boxes, min_size=1, max_size=4),
    turns=st.lists(st.integers(-2, 2), min_size=8, max_size=8),
)
def test_whole_turns_move_no_pixel_of_labels_nor_of_areas(
    tmp_path_factory: pytest.TempPathFactory,
    scene: str,
    system: str,
    found: list[tuple[float, float, float, float]],
    turns: list[int],
) -> None:
    """Boxes around 180°, each cut there and put anywhere, are the boxes that nobody cut."""
    grid, turn = SCENES[scene], SYSTEMS[system]
    unit, middle = turn / 360, turn / 2 if system != "EPSG:3832" else turn / 2 - 150 / 360 * turn
    whole = [
        shapely.box(middle + x * unit, y * unit, middle + (x + w) * unit, (y + h) * unit)
        for x, y, w, h in found
    ]
    sides = (
        shapely.box(middle - turn / 4, -turn, middle, turn),
        shapely.box(middle, -turn, middle + turn / 4, turn),
    )
    pieces = [part for box in whole for side in sides if (part := box.intersection(side)).area > 0]
    moved = [shapely.affinity.translate(piece, turn * turns[k % 8]) for k, piece in enumerate(pieces)]
    folder = tmp_path_factory.getbasetemp()
    wanted = burnt(write(folder / "whole.fgb", [shapely.union_all(whole)], system), grid)
    got = burnt(write(folder / "moved.fgb", moved, system), grid)
    # A cut leaves a seam whose two sides are one line: GDAL gives a centre on it to one of them.
    assert (got != wanted).sum() <= (2 if turn_of(grid.crs) is None else 0)
    if not (wanted == 1).any():
        return
    area = Area("a", shapely.union_all(moved), CRS.from_user_input(system), {}).on(grid, "in.tif")
    inside = area.inside(range(SIDE), range(SIDE))
    assert (inside != (wanted == 1)).sum() <= 2


@pytest.mark.parametrize("scene", ["degrees, from 179.7", "degrees, to -179.7"])
@pytest.mark.parametrize(
    ("one", "other"), [(179.8, -179.9), (179.8, 180.1), (-180.2, -179.9), (539.8, 540.1)]
)
def test_gdal_burns_the_same_in_the_scenes_own_longitudes(
    tmp_path: Path, scene: str, one: float, other: float
) -> None:
    grid = SCENES[scene]
    path = write(
        tmp_path / "l.fgb", [shapely.box(lon, 0.1, lon + 0.1, 0.2) for lon in (one, other)], "EPSG:4326"
    )
    labels = open_labels([path], LabelSettings())
    check_overlap(labels, [grid], names=["i.tif"])
    left = grid.transform.c
    own = [shapely.box(left + x, 0.1, left + x + 0.1, 0.2) for x in (0.1, 0.4)]
    wanted = rasterize(own, out_shape=grid.shape, transform=grid.transform)
    np.testing.assert_array_equal(labels.burn(grid), wanted)
    assert wanted.sum() == 200


def test_a_box_of_bounds_goes_around_as_well() -> None:
    area = area_of_bounds((179.8, -0.1, 180.1, 0.1)).on(SCENES["degrees, to -179.7"], "in.tif")
    assert area.inside(range(SIDE), range(SIDE)).sum() == 30 * 20


def test_an_edge_the_long_way_round_is_told_and_the_remedy_cuts_it(tmp_path: Path) -> None:
    """Straight, it covers the whole world but the ground that was meant: no one can tell, so it is said."""
    ring = shapely.Polygon([(179.9, 0.1), (-179.9, 0.1), (-179.9, 0.2), (179.9, 0.2)])
    labels = open_labels([write(tmp_path / "l.fgb", [ring], "EPSG:4326")], LabelSettings())
    assert "1 polygons have an edge longer than half the way around the earth (feature 0)" in labels.notes[0]
    assert "ogr2ogr -wrapdateline -t_srs EPSG:4326 NEW.gpkg FILE" in labels.notes[0]
    world = open_labels(
        [write(tmp_path / "w.fgb", [shapely.box(-180, -90, 180, 90)], "EPSG:4326")], LabelSettings()
    )
    assert world.notes == ()
    for grid in SCENES.values():
        assert (world.burn(grid) == 1).all()


def test_labels_elsewhere_still_do_not_overlap(tmp_path: Path) -> None:
    path = write(tmp_path / "l.fgb", [shapely.box(178, 0.1, 179, 0.2)], "EPSG:4326")
    for scene in ("degrees, from 179.7", "degrees, to -179.7", "Mercator", "UTM 1"):
        grid = SCENES[scene]
        with pytest.raises(InputError, match="do not overlap"):
            check_overlap(open_labels([path], LabelSettings()), [grid], names=["i.tif"])
        with pytest.raises(InputError, match="holds no pixel"):
            Area("a", shapely.box(178, 0.1, 179, 0.2), CRS(4326), {}).on(grid, "i.tif")
