"""Labels land where GDAL would burn them, nothing is dropped unsaid, and every misfit names its remedy."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import CRS
from rasterio.features import rasterize
from shapely import LineString, MultiPolygon, Point, Polygon, box

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.geo.grid import Grid
from aerial_seg.labels.labels import check_overlap, open_labels
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE, make_legend

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile

X, Y, SIDE = 300_000.0, 3_060_000.0, 60
GRID = Grid(crs=CRS(32645), transform=Affine(0.5, 0, X, 0, -0.5, Y), height=SIDE, width=SIDE)
KNOWN = make_legend({0: "background", 1: "building", 2: "road"}, background=[0])


def on_ground(geometry: Any) -> Any:
    """A geometry in metres east and south of the grid's corner."""
    return shapely.transform(geometry, lambda points: points * [1, -1] + [X, Y])


HOUSE, YARD, LAKE = (on_ground(box(*b)) for b in ((3.2, 3.3, 9.1, 8.2), (7, 6, 15, 20), (18, 2, 29, 13)))


def burn(path: Path, grid: Grid = GRID, *, legend: Any = None, **settings: Any) -> np.ndarray:
    return open_labels([path], LabelSettings(**settings), legend=legend).burn(grid)


def oracle(pairs: list[tuple[Any, int]], fill: int = 0) -> np.ndarray:
    return rasterize(pairs, out_shape=GRID.shape, transform=GRID.transform, fill=fill, dtype="uint8")


class TestPolygons:
    def test_they_burn_as_gdal_does_the_later_on_top(self, polygon_file: PolygonFile) -> None:
        path = polygon_file("l.gpkg", [HOUSE, YARD, LAKE], {"kind": ["building", "yard", "lake"]})
        labels = open_labels([path], LabelSettings(class_field="kind"))
        assert labels.legend.names == ("background", "building", "lake", "yard")
        np.testing.assert_array_equal(labels.burn(GRID), oracle([(HOUSE, 1), (YARD, 3), (LAKE, 2)]))
        window = {"top": 5, "left": 9, "height": 30, "width": 70}
        padded = np.pad(labels.burn(GRID), ((0, 0), (0, 50)))
        np.testing.assert_array_equal(labels.burn(GRID.window(**window)), padded[5:35, 9:79])
        assert labels.notes == ()

    @pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:32644"])
    def test_another_crs_is_brought_onto_the_grid(self, polygon_file: PolygonFile, crs: str) -> None:
        moved = geopandas.GeoSeries([HOUSE, LAKE], crs=GRID.crs).segmentize(1).to_crs(crs)
        got = burn(polygon_file("l.gpkg", list(moved), crs=crs))
        want = oracle([(HOUSE, 1), (LAKE, 1)])
        assert (got != want).mean() < 0.002

    def test_without_crs_the_option_is_named_and_works(self, polygon_file: PolygonFile) -> None:
        path = polygon_file("l.shp", [HOUSE], crs=None)
        with pytest.raises(InputError, match=r"l.shp has no CRS .*`crs=.*look like projected metres"):
            burn(path)
        np.testing.assert_array_equal(burn(path, crs="EPSG:32645"), oracle([(HOUSE, 1)]))
        with pytest.raises(SettingsError, match=r"`crs=.EPSG:nonsense.` is not a CRS; wanted for example"):
            burn(path, crs="EPSG:nonsense")
        with pytest.raises(InputError, match="look like degrees, try EPSG:4326"):
            burn(polygon_file("d.shp", [box(85, 27, 86, 28)], crs=None))

    def test_a_crs_given_against_the_files_own_is_noted(self, polygon_file: PolygonFile) -> None:
        path = polygon_file("l.geojson", [HOUSE], crs="EPSG:32644")
        labels = open_labels([path], LabelSettings(crs="EPSG:32645"))
        assert 'says EPSG:32644, but was read as `crs="EPSG:32645"`' in labels.notes[0]

    @pytest.mark.parametrize(
        "crs", ["EPSG:4326", 'LOCAL_CS["site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]']
    )
    def test_coordinates_that_do_not_fit_their_crs_are_an_error(
        self, polygon_file: PolygonFile, crs: str
    ) -> None:
        path = polygon_file("l.shp", [HOUSE], crs=None)
        with pytest.raises(InputError, match="`crs"):
            check_overlap(open_labels([path], LabelSettings(crs=crs)), [GRID], names=["i.tif"])

    def test_no_overlap_prints_both_extents(self, polygon_file: PolygonFile) -> None:
        far = polygon_file("far.gpkg", [shapely.transform(HOUSE, lambda p: p + np.array([9000, 0]))])
        with pytest.raises(
            InputError, match=r"do not overlap i.tif: labels lon 8\d.*; imagery lon 8\d.*check the"
        ):
            check_overlap(open_labels([far], LabelSettings()), [GRID], names=["i.tif"])
        lonlat = geopandas.GeoSeries([HOUSE], crs=GRID.crs).to_crs(4326).iloc[0]
        swapped = polygon_file("s.gpkg", [shapely.transform(lonlat, lambda p: p[:, ::-1])], crs="EPSG:4326")
        with pytest.raises(InputError, match="axes seem swapped"):
            check_overlap(open_labels([swapped], LabelSettings()), [GRID], names=["i.tif"])
        near = polygon_file("near.gpkg", [HOUSE])
        check_overlap(open_labels([near], LabelSettings()), [GRID], names=["i.tif"])

    def test_an_absent_field_lists_the_fields(self, polygon_file: PolygonFile) -> None:
        path = polygon_file("l.gpkg", [HOUSE], {"landuse": ["x"], "height": [3]})
        with pytest.raises(
            InputError, match=r"no field 'lnduse'; its fields are: landuse, height; did you mean"
        ):
            burn(path, class_field="lnduse")

    def test_unknown_words_are_listed_with_counts(self, polygon_file: PolygonFile) -> None:
        path = polygon_file("l.gpkg", [HOUSE, YARD, LAKE], {"kind": ["bulding", "bulding", "road"]})
        for options in ({"classes": {1: "building", 2: "road"}}, {"legend": KNOWN}):
            with pytest.raises(InputError, match=r"'bulding' \(2 times\); known: .*did you mean 'building'"):
                burn(path, class_field="kind", **options)

    def test_unknown_numbers_are_listed_with_counts(self, polygon_file: PolygonFile) -> None:
        path = polygon_file("l.gpkg", [HOUSE, YARD, LAKE], {"code": [9, 9, 2]})
        for options in ({"classes": {1: "building", 2: "road"}}, {"legend": KNOWN}):
            with pytest.raises(InputError, match=r"unknown class values 9 \(2 times\); wanted .*2=road"):
                burn(path, class_field="code", **options)
        wild = polygon_file("w.gpkg", [HOUSE, YARD], {"code": [300, -1]})
        with pytest.raises(InputError, match=r"-1 \(1 times\), 300 \(1 times\); wanted 0..254"):
            burn(wild, class_field="code")

    def test_numbers_without_0_get_a_background_and_with_0_leave_the_outside_unlabelled(
        self, polygon_file: PolygonFile
    ) -> None:
        plain = open_labels(
            [polygon_file("a.gpkg", [HOUSE], {"code": [4]})], LabelSettings(class_field="code")
        )
        assert plain.legend.names == ("background", "class 4")
        np.testing.assert_array_equal(plain.burn(GRID), oracle([(HOUSE, 4)]))
        path = polygon_file("b.gpkg", [HOUSE, LAKE], {"code": [0.0, 4.0]})
        zero = open_labels([path], LabelSettings(class_field="code"))
        assert zero.legend.values == (0, 4)
        np.testing.assert_array_equal(zero.burn(GRID), oracle([(HOUSE, 0), (LAKE, 4)], fill=IGNORE))
        assert "no class is called background" in zero.notes[0]

    def test_null_is_unlabelled_with_a_note(self, polygon_file: PolygonFile) -> None:
        for name, values in (("word", ["road", None]), ("code", [2, None])):
            path = polygon_file(f"{name}.gpkg", [LAKE, HOUSE], {name: values})
            labels = open_labels([path], LabelSettings(class_field=name), legend=KNOWN)
            np.testing.assert_array_equal(labels.burn(GRID), oracle([(LAKE, 2), (HOUSE, IGNORE)]))
            assert labels.notes == (
                f"1 features without a value in field '{name}' of {path} count as unlabelled",
            )
        empty = polygon_file("e.gpkg", [HOUSE], {"word": [None]})
        with pytest.raises(InputError, match=r"'word' of .* is NULL in every feature"):
            burn(empty, class_field="word")

    def test_broken_polygons_are_mended_with_a_note(self, polygon_file: PolygonFile) -> None:
        bowtie = on_ground(Polygon([(2, 2), (12, 12), (12, 2), (2, 12)]))
        spiked = on_ground(Polygon([(14, 14), (20, 14), (20, 20), (29, 20), (20, 20), (14, 20)]))
        labels = open_labels([polygon_file("l.gpkg", [LAKE, bowtie, spiked])], LabelSettings())
        halves = on_ground(
            MultiPolygon([Polygon([(2, 2), (7, 7), (2, 12)]), Polygon([(12, 2), (7, 7), (12, 12)])])
        )
        want = oracle([(LAKE, 1), (halves, 1), (on_ground(box(14, 14, 20, 20)), 1)])
        np.testing.assert_array_equal(labels.burn(GRID), want)
        assert labels.notes == ("2 invalid polygons were made valid (features 2, 3)",)

    def test_lines_points_and_nothing_are_counted_or_refused(self, polygon_file: PolygonFile) -> None:
        line, flat = LineString([(X, Y), (X + 9, Y - 9)]), Polygon([(X, Y), (X + 9, Y), (X + 4, Y)])
        mixed = shapely.GeometryCollection([LAKE, line])
        path = polygon_file("l.gpkg", [HOUSE, line, Point(X, Y), None, flat, mixed, line])
        labels = open_labels([path], LabelSettings())
        assert labels.notes == (
            "left out: 2 × LineString (features 2, 7), 1 × Point (feature 3), 1 × Polygon without an area (feature 5), "
            "1 × no geometry (feature 4)",
        )
        np.testing.assert_array_equal(labels.burn(GRID), oracle([(HOUSE, 1), (LAKE, 1)]))
        with pytest.raises(
            InputError,
            match=r"holds 1 × LineString \(feature 1\), wanted polygons .* width with `buffer=METRES`",
        ):
            burn(polygon_file("lines.gpkg", [line]))
        with pytest.raises(InputError, match="no geometry"):
            burn(polygon_file("none.gpkg", [None, None]))
        empty = polygon_file("empty.gpkg", [Polygon()])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(InputError, match=r"holds 1 × empty Polygon \(feature 1\), wanted"):
                burn(empty)

    def test_partial_annotation_leaves_the_outside_unlabelled(self, polygon_file: PolygonFile) -> None:
        path = polygon_file("l.gpkg", [HOUSE])
        got = burn(path, outside="unlabelled")
        np.testing.assert_array_equal(got, oracle([(HOUSE, 1)], fill=IGNORE))
        assert (
            burn(path, outside="unlabelled", legend=make_legend({0: "background", 1: "b"}, background=[0]))
            == got
        ).all()

    def test_one_class_takes_its_name_from_the_option_or_the_file(self, polygon_file: PolygonFile) -> None:
        path = polygon_file("roofs.gpkg", [HOUSE], {"height": [3]})
        assert open_labels([path], LabelSettings()).legend.names == ("background", "roofs")
        named = open_labels([path], LabelSettings(classes={0: "background", 5: "roof"}))
        np.testing.assert_array_equal(named.burn(GRID), oracle([(HOUSE, 5)]))
        with pytest.raises(
            InputError, match=r"2 classes apart .*building, road.*`class_field`, one of: height"
        ):
            burn(path, legend=KNOWN)

    def test_compared_with_a_legend_one_class_may_be_named(self, polygon_file: PolygonFile) -> None:
        path = polygon_file("l.gpkg", [HOUSE])
        np.testing.assert_array_equal(burn(path, legend=KNOWN, classes="road"), oracle([(HOUSE, 2)]))

    def test_compared_with_a_legend_words_take_its_values(self, polygon_file: PolygonFile) -> None:
        path = polygon_file("l.gpkg", [HOUSE], {"kind": ["road"]})
        np.testing.assert_array_equal(burn(path, legend=KNOWN, class_field="kind"), oracle([(HOUSE, 2)]))

    def test_what_is_no_polygon_layer_is_one_line(self, tmp_path: Path, polygon_file: PolygonFile) -> None:
        (tmp_path / "text.gpkg").write_text("nothing")
        with pytest.raises(InputError, match="not a vector layer"):
            burn(tmp_path / "text.gpkg")
        with pytest.raises(InputError, match=r"gone.shp does not exist"):
            burn(tmp_path / "gone.shp")
        path = polygon_file("l.gpkg", [HOUSE])
        with pytest.raises(InputError, match="merge them first"):
            open_labels([path, path], LabelSettings())
        with pytest.raises(InputError, match="no CRS; give it one"):
            burn(path, Grid(crs=None, transform=Affine.identity(), height=5, width=5))

    def test_too_many_words_are_no_classes(self, polygon_file: PolygonFile) -> None:
        path = polygon_file("l.gpkg", [HOUSE] * 300, {"id": [f"h{k}" for k in range(300)]})
        with pytest.raises(InputError, match="300 different words, wanted at most 254 classes"):
            burn(path, class_field="id")

    def test_a_yes_no_field_is_two_classes(self, polygon_file: PolygonFile) -> None:
        path = polygon_file("l.gpkg", [HOUSE, LAKE], {"roof": [True, False]})
        assert open_labels([path], LabelSettings(class_field="roof")).legend.names == (
            "background",
            "False",
            "True",
        )


class TestRasters:
    VALUES = np.random.default_rng(2).choice(np.array([0, 1, 7], np.uint8), (1, SIDE, SIDE))

    def test_on_the_images_grid_they_are_copied(self, raster_file: RasterFile) -> None:
        path = raster_file("l.tif", self.VALUES, nodata=255)
        np.testing.assert_array_equal(burn(path), self.VALUES[0])
        got = burn(path, GRID.window(top=-5, left=40, height=30, width=30))
        want = np.full((30, 30), IGNORE)
        want[5:, :20] = self.VALUES[0, :25, 40:]
        np.testing.assert_array_equal(got, want)

    @pytest.mark.parametrize("nodata", [None, 0, 255])
    def test_coarser_labels_are_repeated_and_finer_ones_vote(
        self, raster_file: RasterFile, nodata: int | None
    ) -> None:
        path = raster_file("l.tif", self.VALUES, nodata=nodata)
        coarse = np.where(self.VALUES[0] == 0, IGNORE, self.VALUES[0]) if nodata == 0 else self.VALUES[0]
        fine = burn(path, GRID.resized(height=SIDE * 3, width=SIDE * 3))
        np.testing.assert_array_equal(fine, np.kron(coarse, np.ones((3, 3), np.uint8)))
        voted = burn(path, GRID.resized(height=SIDE // 3, width=SIDE // 3))
        groups = coarse.reshape(SIDE // 3, 3, SIDE // 3, 3).swapaxes(1, 2).reshape(-1, 9)
        for got, group in zip(voted.ravel(), groups, strict=True):
            known = group[group != IGNORE]
            votes = np.bincount(known, minlength=256)
            assert (votes[got] == votes.max()) if len(known) else got == IGNORE

    def test_values_that_mean_unlabelled_become_255(self, raster_file: RasterFile) -> None:
        path = raster_file("l.tif", self.VALUES)
        labels = open_labels([path], LabelSettings(unlabelled=(0,)))
        assert labels.legend.values == (1, 7)
        np.testing.assert_array_equal(
            labels.burn(GRID), np.where(self.VALUES[0] == 0, IGNORE, self.VALUES[0])
        )

    def test_unknown_values_are_listed_with_counts(self, raster_file: RasterFile) -> None:
        values = np.full((1, 20, 20), 300, np.uint16)
        values[0, :, :5] = 1
        path = raster_file("l.tif", values)
        with pytest.raises(InputError, match=r"300 \(300 times\); wanted 0..254.*`unlabelled=.300,.`"):
            burn(path)
        assert set(np.unique(burn(path, unlabelled=(300,)))) == {1, IGNORE}
        with pytest.raises(InputError, match=r"7 \(\d+ times\); wanted 0=background, 1=building"):
            burn(raster_file("k.tif", self.VALUES), legend=KNOWN)

    def test_nothing_labelled_is_an_error(self, raster_file: RasterFile) -> None:
        path = raster_file("l.tif", np.zeros((1, 9, 9), np.uint8))
        for options in ({}, {"classes": {1: "a"}}, {"legend": KNOWN}):
            with pytest.raises(InputError, match="no labelled pixel; check `unlabelled`"):
                burn(path, unlabelled=(0,), **options)

    def test_floats_and_two_bands_are_refused(self, raster_file: RasterFile) -> None:
        for image in (self.VALUES.astype("float32"), np.repeat(self.VALUES, 2, axis=0)):
            with pytest.raises(InputError, match=r"wanted one band of integer class values, or the colours"):
                burn(raster_file("l.tif", image))

    def test_another_crs_is_warped_without_new_values(self, raster_file: RasterFile) -> None:
        blocks = np.kron(self.VALUES[:, :6, :6], np.ones((10, 10), np.uint8))
        path = raster_file("l.tif", blocks)
        west, south, east, north = GRID.footprint_lonlat().bounds
        lonlat = Grid(
            crs=CRS(4326),
            transform=Affine((east - west) / 50, 0, west, 0, (south - north) / 50, north),
            height=50,
            width=50,
        )
        got = burn(path, lonlat)
        assert set(np.unique(got)) <= {0, 1, 7, IGNORE}
        assert (got == IGNORE).mean() < 0.1
        share = [(got == v).mean() - (blocks == v).mean() for v in (0, 1, 7)]
        np.testing.assert_allclose(share, 0, atol=0.06)

    def test_labels_far_away_leave_all_unlabelled(self, raster_file: RasterFile) -> None:
        far = raster_file("l.tif", self.VALUES, transform=Affine(0.5, 0, X + 5000, 0, -0.5, Y))
        assert (burn(far) == IGNORE).all()
        with pytest.raises(InputError, match="do not overlap"):
            check_overlap(open_labels([far], LabelSettings()), [GRID], names=["i.tif"])

    def test_several_tiles_are_one_layer_the_later_on_top(self, raster_file: RasterFile) -> None:
        ones, sevens = np.ones((1, 30, 30), np.uint8), np.full((1, 30, 30), 7, np.uint8)
        paths = [
            raster_file("a.tif", ones),
            raster_file("b.tif", sevens, transform=Affine(0.5, 0, X + 10, 0, -0.5, Y)),
        ]
        got = open_labels(paths, LabelSettings()).burn(GRID)
        want = np.full(GRID.shape, IGNORE)
        want[:30, :20], want[:30, 20:50] = 1, 7
        np.testing.assert_array_equal(got, want)

    def test_of_many_only_those_that_lie_there_are_looked_at(
        self, raster_file: RasterFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        places = [GRID.transform * Affine.translation(20 * k, 0) for k in range(30)]
        image = np.ones((1, 20, 20), np.uint8)
        paths = [raster_file(f"{k}.tif", (k + 1) * image, transform=place) for k, place in enumerate(places)]
        labels = open_labels(paths, LabelSettings())
        labels.burn(GRID)
        asked: list[Grid] = []
        outline = Grid.footprint_lonlat

        def counting(grid: Grid) -> Polygon:
            asked.append(grid)
            return outline(grid)

        monkeypatch.setattr(Grid, "footprint_lonlat", counting)
        got = labels.burn(GRID.window(top=5, left=250, height=10, width=100))
        np.testing.assert_array_equal(got, np.tile(np.arange(250, 350) // 20 + 1, (10, 1)))
        assert len(asked) == 1

    def test_without_crs_they_pair_pixel_by_pixel(self, raster_file: RasterFile) -> None:
        plain = Grid(crs=None, transform=Affine.identity(), height=SIDE, width=SIDE)
        path = raster_file("l.tif", self.VALUES, crs=None, transform=Affine.identity())
        labels = open_labels([path], LabelSettings())
        check_overlap(labels, [plain], names=["i.tif"])
        window = plain.window(top=50, left=10, height=20, width=20)
        np.testing.assert_array_equal(labels.burn(window)[:10], self.VALUES[0, 50:, 10:30])
        assert (labels.burn(window)[10:] == IGNORE).all()
        with pytest.raises(InputError, match="wanted one raster and one label raster, got 2 and 1"):
            check_overlap(labels, [plain, plain], names=["a", "b"])
        with pytest.raises(InputError, match=r"labels have 60 × 60 pixels, but i.tif has 20 × 20"):
            check_overlap(labels, [window], names=["i.tif"])
        with pytest.raises(InputError, match=r"l.tif has no CRS.*`crs`"):
            labels.burn(GRID)

    def test_a_crs_given_for_rasters_is_used(self, raster_file: RasterFile) -> None:
        path = raster_file("l.tif", self.VALUES, crs=None)
        np.testing.assert_array_equal(burn(path, crs="EPSG:32645"), self.VALUES[0])

    def test_a_damaged_file_is_one_line(self, raster_file: RasterFile) -> None:
        path = raster_file("l.tif", np.random.default_rng(0).integers(0, 9, (1, 90, 90)).astype("uint8"))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match=r"l.tif could not be read at row \d+.*copy it again"):
            burn(path)

    def test_our_own_class_names_are_kept(self, raster_file: RasterFile) -> None:
        path = raster_file("l.tif", self.VALUES)
        legend = make_legend({0: "background", 1: "road", 7: "water"}, background=[0])
        with rasterio.open(path, "r+") as file:
            file.update_tags(AERIAL_SEG_LEGEND=legend.model_dump_json())
        assert open_labels([path], LabelSettings()).legend == legend
