"""What counts and what does not: ground without imagery, numbers that mean nothing, fillers, features beyond repair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS
from shapely import box

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.raster.values.fill import suspects
from aerial_seg.geo.raster.values.scaling import Scaling, require_scalings, scaled_by_all
from aerial_seg.jobs.evaluate import evaluate_mask
from aerial_seg.jobs.tile.job import tile
from aerial_seg.jobs.tile.settings import TileSettings
from aerial_seg.labels.labels import open_labels
from aerial_seg.labels.settings import LabelSettings

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile

SIDE = 48
CORNER = Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000)
GRID = Grid(crs=CRS(32645), transform=CORNER, height=SIDE, width=SIDE)
RANDOM = np.random.default_rng(4)


def ground(left: float, top: float, right: float, bottom: float) -> Any:
    """A rectangle of these columns and rows."""
    (west, north), (east, south) = CORNER * (left, top), CORNER * (right, bottom)
    return box(west, south, east, north)


class TestUnmeasuredGround:
    """Chips reach beyond the raster, and rasters have holes: no label is lost there, and none counts."""

    @pytest.mark.parametrize("border", [0, 2])
    def test_overlaps_and_implied_background_are_those_of_measured_pixels(
        self, polygon_file: PolygonFile, border: int
    ) -> None:
        """The overlap in the unmeasured half was 22 % of all labels: `tile` refused what it would never cut."""
        shapes = [ground(0, 0, 40, SIDE), ground(30, 0, SIDE, SIDE)]
        path = polygon_file("l.gpkg", shapes, {"k": ["a", "b"]})
        measured = np.zeros((SIDE, SIDE), bool)
        measured[:, :20] = True
        labels = open_labels([path], LabelSettings(class_field="k", ignore_border=border))
        everywhere = open_labels([path], LabelSettings(class_field="k", ignore_border=border))
        np.testing.assert_array_equal(labels.burn(GRID, measured), everywhere.burn(GRID))
        assert labels.check_overlaps() == ()
        with pytest.raises(InputError, match=r"overlap on 0.21 of the labelled area"):
            everywhere.check_overlaps()

    def test_the_share_of_implied_background(self, polygon_file: PolygonFile) -> None:
        path = polygon_file("l.gpkg", [ground(0, 0, 12, SIDE)])
        measured = np.zeros((SIDE, SIDE), bool)
        measured[:, :24] = True
        labels = open_labels([path], LabelSettings())
        labels.burn(GRID, measured)
        assert labels.implied_notes[0].startswith("50 % of the labelled pixels lie outside every polygon")

    def test_tile_tells_the_share_of_its_chips(
        self, raster_file: RasterFile, polygon_file: PolygonFile, tmp_path: Path
    ) -> None:
        """48 × 48 pixels in chips of 32: the other 44 % of the chips are no ground at all."""
        image = raster_file("i.tif", RANDOM.integers(0, 255, (3, SIDE, SIDE)).astype(np.uint8))
        labels = polygon_file("l.gpkg", [ground(0, 0, 12, SIDE)])
        report = tile([image], [labels], tmp_path / "out", TileSettings(chip_size=32, val="0", test="0"))
        (note,) = [note for note in report.notes if "outside every polygon" in note]
        assert note.startswith("75 % of the labelled pixels")
        assert report.class_pixels["train"] == {"background": 36 * SIDE, "l": 12 * SIDE}


class TestScales:
    @pytest.mark.parametrize("broken", [Scaling(0.0), Scaling(float("nan")), Scaling(1.0, float("inf"))])
    def test_a_scale_that_gives_no_meaning_is_refused(self, broken: Scaling) -> None:
        """NaN ended in a traceback, and 0 made every pixel the same."""
        with pytest.raises(
            InputError, match=r"b.tif declares scale .* for band 'nir', which gives its numbers no"
        ):
            scaled_by_all([("a.tif", [Scaling(0.1)]), ("b.tif", [broken])], ["nir"])
        with pytest.raises(InputError, match=r"b.tif declares no scale and offset for nir"):
            require_scalings("b.tif", [broken], ["nir"], [True])


class TestFillers:
    @pytest.mark.parametrize("value", [1e15, 1e20, -1e20, 9.999e20, -32768.0, -2147483648.0])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_what_models_write_for_what_is_missing_is_looked_for(self, value: float, dtype: str) -> None:
        """1e20 of climate models gave a band a mean of 1e19, and no note."""
        pixels = RANDOM.random(1000).astype(dtype)
        assert suspects(pixels) == {}
        pixels[:7] = value
        assert suspects(pixels) == {float(pixels[0]): 7}


class TestFeatures:
    def test_an_unclosed_ring_with_what_is_no_number_costs_itself_alone(self, tmp_path: Path) -> None:
        """It ended `tile` with a traceback of GEOS."""
        ring = [list(point) for point in ground(30, 30, 40, 40).exterior.coords]
        broken = [ring[0], [float("nan"), ring[1][1]], *ring[2:-1]]
        features = [
            {
                "type": "Feature",
                "properties": {},
                "geometry": {"type": "Polygon", "coordinates": [coordinates]},
            }
            for coordinates in (broken, [list(point) for point in ground(5, 5, 15, 15).exterior.coords])
        ]
        crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32645"}}
        path = tmp_path / "l.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
        labels = open_labels([path], LabelSettings())
        assert int((labels.burn(GRID) == 1).sum()) == 100
        assert labels.notes == ("left out: 1 × Polygon with coordinates that are no numbers (feature 0)",)

    def test_rasters_and_polygons_at_once_are_named(
        self, polygon_file: PolygonFile, raster_file: RasterFile
    ) -> None:
        polygons = polygon_file("l.gpkg", [ground(5, 5, 15, 15)])
        raster = raster_file("l.tif", np.ones((1, SIDE, SIDE), np.uint8))
        with pytest.raises(InputError, match=r"l.gpkg was given beside the label raster .*l.tif"):
            open_labels([raster, polygons], LabelSettings())


def test_a_preset_explains_the_mask_that_polygons_are_held_against(
    raster_file: RasterFile, polygon_file: PolygonFile
) -> None:
    """It was refused as a setting for label rasters, which the polygons are not."""
    said = np.zeros((SIDE, SIDE), bool)
    said[5:15, 5:20] = True
    image = np.stack([np.where(said, a, b) for a, b in ((0x3C, 0x84), (0x10, 0x29), (0x98, 0xF6))])
    mask = raster_file("theirs.tif", image.astype(np.uint8))
    labels = polygon_file(
        "truth.gpkg", [ground(5, 5, 15, 15), ground(20, 20, SIDE, SIDE)], {"k": ["building", "land"]}
    )
    report = evaluate_mask(mask, [str(labels)], LabelSettings(preset="dubai", class_field="k"))
    names = report.legend.names
    confusion = np.array(report.scores.confusion)
    assert confusion[names.index("building"), names.index("building")] == 100
    assert confusion[names.index("land"), names.index("land")] == 28 * 28
    assert confusion.sum() == 100 + 28 * 28
