"""A folder of masks is scored as one: against polygons, against masks of the same names, or as map tiles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from shapely import box

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.jobs.evaluate import evaluate_mask
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import make_legend

if TYPE_CHECKING:
    from tests.conftest import PolygonFile

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

CLASSES = LabelSettings(classes={0: "background", 1: "building"})


def png(path: Path, values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = values.shape
    with rasterio.open(path, "w", driver="PNG", count=1, height=height, width=width, dtype="uint8") as file:
        file.write(values.astype("uint8"), 1)
    return path


def confusion(pairs: list[Any]) -> list[list[int]]:
    return [
        [sum(int(((t == true) & (p == said)).sum()) for true, said in pairs) for p in (0, 1)] for t in (0, 1)
    ]


@pytest.fixture
def pairs(tmp_path: Path) -> list[Any]:
    """Masks of three sizes beside those that are true."""
    random, found = np.random.default_rng(3), []
    for k, size in enumerate([(20, 30), (31, 17), (20, 30)]):
        true, said = random.integers(0, 2, (2, *size))
        png(tmp_path / f"said/a_{k}.png", said)
        png(tmp_path / f"true/gt-{k}.png", true)
        found.append((true, said))
    return found


def test_masks_of_one_name_are_compared_pixel_by_pixel(pairs: list[Any], tmp_path: Path) -> None:
    report = evaluate_mask(tmp_path / "said", str(tmp_path / "true"), CLASSES)
    np.testing.assert_array_equal(report.scores.confusion, confusion(pairs))
    assert any(
        "3 label rasters without CRS are paired with the rasters by name" in note for note in report.notes
    )
    by_glob = evaluate_mask(tmp_path / "said/a_[01].png", str(tmp_path / "true"), CLASSES)
    np.testing.assert_array_equal(by_glob.scores.confusion, confusion(pairs[:2]))
    assert any("1 label rasters have no raster of their name" in note for note in by_glob.notes)


def test_what_cannot_be_scored_together_is_named(pairs: list[Any], tmp_path: Path, use_masks: Any) -> None:
    with pytest.raises(SettingsError, match=r"is laid on one mask's grid, but .*said names 3"):
        evaluate_mask(tmp_path / "said", str(tmp_path / "true"), CLASSES, error_map=tmp_path / "e.tif")
    (tmp_path / "true/gt-1.png").unlink()
    with pytest.raises(InputError, match=r"1 of 3 rasters have no label raster of the same name .*a_1\.png"):
        evaluate_mask(tmp_path / "said", str(tmp_path / "true"), CLASSES)
    use_masks("own", [{0: "background", 1: "building"}, {0: "background", 1: "house"}])
    with pytest.raises(
        InputError, match=r"1\.tif has the classes 0 background, 1 house, but .*0\.tif has .* building"
    ):
        evaluate_mask(tmp_path / "own", str(tmp_path / "own"), LabelSettings())
    png(tmp_path / "own/2.png", np.zeros((4, 4)))
    with pytest.raises(InputError, match=r"2\.png tells no class names, but .* does \(1 of 3"):
        evaluate_mask(tmp_path / "own", str(tmp_path / "own"), LabelSettings())


@pytest.fixture
def use_masks(tmp_path: Path) -> Any:
    """Masks of ours side by side, each with these classes."""
    from pyproj import CRS

    from aerial_seg.geo.grid import Grid
    from aerial_seg.outputs.maps import write_mask

    def write(folder: str, classes: list[dict[int, str]]) -> list[Any]:
        (tmp_path / folder).mkdir()
        values = []
        for k, own in enumerate(classes):
            grid = Grid(CRS(32645), Affine(1, 0, 500_000 + 40 * k, 0, -1, 3_000_000), height=30, width=40)
            values.append(np.random.default_rng(k).integers(0, 2, (30, 40)).astype("uint8"))
            legend = make_legend(own, background=[0])
            write_mask(tmp_path / folder / f"{k}.tif", values[-1], grid=grid, legend=legend)
        return values

    return write


def test_masks_beside_each_other_against_polygons(
    use_masks: Any, tmp_path: Path, polygon_file: PolygonFile
) -> None:
    said = use_masks("masks", [{0: "background", 1: "building"}] * 2)
    building = box(500_010, 2_999_975, 500_065, 2_999_995)
    labels = polygon_file("l.gpkg", [building], crs="EPSG:32645")
    true = np.zeros((30, 80), int)
    true[5:25, 10:65] = 1
    report = evaluate_mask(tmp_path / "masks", str(labels), LabelSettings(classes={1: "building"}))
    np.testing.assert_array_equal(report.scores.confusion, confusion([(true, np.hstack(said))]))
    assert not any("share ground" in note for note in report.notes)


@pytest.mark.parametrize("rows", ["slippy", "tms"])
def test_mask_tiles_are_placed_by_name(tmp_path: Path, polygon_file: PolygonFile, rows: str) -> None:
    """Masks as z/x/y against footprints, which tell from where rows count."""
    zoom, column, row, side = 15, 24_150, 13_800, 64
    length = 2 * np.pi * 6_378_137 / 2**zoom
    left, top = column * length - np.pi * 6_378_137, np.pi * 6_378_137 - row * length
    said = np.random.default_rng(1).integers(0, 2, (side, 2 * side))
    for across in range(2):
        y = row if rows == "slippy" else 2**zoom - 1 - row
        png(tmp_path / f"m/{zoom}/{column + across}/{y}.png", said[:, across * side : (across + 1) * side])
    to_degrees = Transformer.from_crs(3857, 4326, always_xy=True)
    west, north = to_degrees.transform(left + length / 2, top)
    east, south = to_degrees.transform(left + 2 * length, top - length)
    labels = polygon_file("l.gpkg", [box(west, south, east, north)], crs="EPSG:4326")
    true = np.zeros((side, 2 * side), int)
    true[:, side // 2 :] = 1
    report = evaluate_mask(tmp_path / "m", str(labels), CLASSES)
    np.testing.assert_array_equal(report.scores.confusion, confusion([(true, said)]))
    assert any("2 rasters without CRS are map tiles by their names" in note for note in report.notes)
    with pytest.raises(SettingsError, match="is for rasters without CRS"):
        evaluate_mask(png(tmp_path / "x.png", said), str(labels), CLASSES, map_tiles="tms")
