"""Any layer of any file is read as it was meant, once, and only where the imagery lies."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import pandas
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from pyproj import CRS
from rasterio.features import rasterize

from aerial_seg.errors import InputError, OutputError, SettingsError
from aerial_seg.geo.areas.area import read_area
from aerial_seg.geo.grid import Grid
from aerial_seg.labels.labels import check_overlap, expand_labels, open_labels
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE

if TYPE_CHECKING:
    from tests.conftest import PolygonFile, RasterFile

X, Y, SIDE = 300_000.0, 3_060_000.0, 60
GRID = Grid(crs=CRS(32645), transform=Affine(0.5, 0, X, 0, -0.5, Y), height=SIDE, width=SIDE)
HOUSE, LAKE = (shapely.box(X + a, Y - d, X + c, Y - b) for a, b, c, d in ((3, 3, 9, 8), (18, 2, 29, 13)))
WORDS = ["Häuser", "Straße"]


def frame(**fields: Sequence[Any]) -> geopandas.GeoDataFrame:
    return geopandas.GeoDataFrame(fields, geometry=[HOUSE, LAKE], crs=GRID.crs)


def names(path: Path, **wanted: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Classes of the field `kind`, and what was said."""
    labels = open_labels([path], LabelSettings(class_field="kind", **wanted))
    return labels.legend.names[1:], labels.notes


def pixels(path: Path, **wanted: Any) -> int:
    """How many pixels are no background; the house has 120, the lake 484."""
    return int((open_labels([path], LabelSettings(**wanted)).burn(GRID) == 1).sum())


class TestLayers:
    def test_the_only_layer_of_polygons_is_taken_and_said(self, tmp_path: Path) -> None:
        path = tmp_path / "l.gpkg"
        geopandas.GeoDataFrame(geometry=[shapely.Point(X, Y)], crs=GRID.crs).to_file(path, layer="trees")
        frame().to_file(path, layer="houses")
        labels = open_labels([path], LabelSettings())
        assert labels.notes == (
            f"{path}: 'houses' was read, its only layer of polygons; it also has trees (Point), see `layer`",
        )
        assert pixels(path) == 604
        assert pixels(path, layer="trees", buffer=3) > 0

    def test_of_several_one_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "l.gpkg"
        for layer, shape in (("one", HOUSE), ("two", LAKE)):
            geopandas.GeoDataFrame(geometry=[shape], crs=GRID.crs).to_file(path, layer=layer)
        with pytest.raises(
            InputError, match=r"2 layers of geometries \(one \(Polygon\), two .*`layer=.NAME.`"
        ):
            open_labels([path], LabelSettings())
        assert pixels(path, layer="two") == 484
        with pytest.raises(InputError, match=r"no layer 'twoo' .*; did you mean 'two'"):
            open_labels([path], LabelSettings(layer="twoo"))

    def test_a_geodatabase_is_a_folder_that_is_one_file(self, tmp_path: Path) -> None:
        frame().to_file(tmp_path / "l.gdb", driver="OpenFileGDB", layer="houses")
        (path,) = expand_labels([str(tmp_path / "l.gdb")])
        assert pixels(path) == 604
        (tmp_path / "no.gdb").mkdir()
        with pytest.raises(InputError, match=r"no\.gdb is not a vector layer that GDAL can read"):
            open_labels(expand_labels([str(tmp_path / "no.gdb")]), LabelSettings())

    def test_archives_are_looked_into(self, tmp_path: Path) -> None:
        frame().to_file(tmp_path / "in.geojson")
        with zipfile.ZipFile(tmp_path / "l.zip", "w") as archive:
            archive.write(tmp_path / "in.geojson", "in.geojson")
        (path,) = expand_labels([f"/vsizip/{tmp_path}/l.zip/in.geojson"])
        assert pixels(path) == 604
        assert pixels(tmp_path / "l.zip") == 604
        with pytest.raises(InputError, match=r"l\.zip/gone\.geojson.* does not exist"):
            open_labels(expand_labels([f"/vsizip/{tmp_path}/l.zip/gone.geojson"]), LabelSettings())

    def test_an_address_keeps_its_slashes_in_messages(self) -> None:
        (path,) = expand_labels(["http://127.0.0.1:9/labels.gpkg"])
        with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:9/labels\.gpkg is not a vector layer"):
            open_labels([path], LabelSettings())

    def test_topojson_is_in_degrees_unless_it_cannot_be(self, tmp_path: Path) -> None:
        def topology(side: int) -> Path:
            path = tmp_path / "l.topojson"
            arc = [[0, 0], [0, side], [side, side], [side, 0], [0, 0]]
            member = {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "arcs": [[0]]}]}
            path.write_text(json.dumps({"type": "Topology", "objects": {"x": member}, "arcs": [arc]}))
            return path

        grid = Grid(crs=CRS(4326), transform=Affine(0.1, 0, 0, 0, -0.1, 2), height=20, width=20)
        labels = open_labels([topology(1)], LabelSettings())
        assert (
            "l.topojson states no CRS, as all TopoJSON; it was read as longitude, latitude" in labels.notes[0]
        )
        assert (labels.burn(grid) == 1).sum() == 100
        with pytest.raises(InputError, match=r"has no CRS.*look like projected metres"):
            open_labels([topology(1000)], LabelSettings()).burn(grid)

    def test_geojson_in_metres_says_what_is_wrong(self, tmp_path: Path) -> None:
        shapes = [{"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(HOUSE)}]
        path = tmp_path / "l.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": shapes}))
        with pytest.raises(InputError, match=r"beyond all places of 'WGS 84' .*`crs=.EPSG:xxxx.`"):
            open_labels([path], LabelSettings())
        assert pixels(path, crs="EPSG:32645") == 120

    def test_what_holds_no_layer_is_one_line_without_idle_advice(self, tmp_path: Path) -> None:
        path = tmp_path / "l.geojson"
        path.write_text("{}")
        with pytest.raises(InputError, match="not a vector layer") as caught:
            open_labels([path], LabelSettings())
        assert "might help" not in str(caught.value)

    def test_settings_for_polygons_are_refused_with_rasters(self, raster_file: RasterFile) -> None:
        path = raster_file("l.tif", np.ones((1, SIDE, SIDE), np.uint8))
        for wanted in (
            {"layer": "a"}, {"encoding": "UTF-8"}, {"buffer": 2.0}, {"all_touched": True}, {"labelled_area": "a"},
        ):  # fmt: skip
            with pytest.raises(SettingsError, match=f"`{next(iter(wanted))}` is for label polygons"):
                open_labels([path], LabelSettings(**wanted))


class TestParquet:
    @pytest.fixture(autouse=True)
    def _pyarrow(self) -> None:
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")

    def test_it_is_read_through_the_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "l.parquet"
        frame(kind=WORDS).to_parquet(path)
        assert names(path) == (tuple(WORDS), ())
        assert pixels(path) == 604
        assert read_area(path).on(GRID, "i.tif").inside(range(SIDE), range(SIDE)).sum() == 604
        with pytest.raises(InputError, match=r"no field 'kin'; its fields are: kind; did you mean 'kind'"):
            open_labels([path], LabelSettings(class_field="kin"))
        with pytest.raises(SettingsError, match=r"`encoding=.cp1252.` cannot apply to .*l.parquet: .* UTF-8"):
            open_labels([path], LabelSettings(encoding="cp1252"))
        monkeypatch.setattr("aerial_seg.geo.areas.parquet_layer.find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"needs pyarrow.*pip install 'aerial-seg\[parquet\]'"):
            open_labels([path], LabelSettings())

    def test_what_is_none_is_one_line(self, tmp_path: Path) -> None:
        import pandas

        pandas.DataFrame({"a": [1]}).to_parquet(tmp_path / "plain.parquet")
        (tmp_path / "text.parquet").write_text("nothing")
        frame().to_parquet(tmp_path / "whole.parquet")
        cut = (tmp_path / "whole.parquet").read_bytes()[:-20]
        (tmp_path / "cut.parquet").write_bytes(cut)
        for name, message in (
            ("plain", "without a column of geometries"), ("text", "cannot|not a Parquet"), ("cut", "not a Parquet"),
        ):  # fmt: skip
            with pytest.raises(InputError, match=message) as caught:
                open_labels([tmp_path / f"{name}.parquet"], LabelSettings())
            assert "\n" not in str(caught.value)


class TestTexts:
    def test_a_shapefile_without_codepage(self, tmp_path: Path) -> None:
        """Latin-1, UTF-8 and Cyrillic are the same to GDAL then: Latin-1."""
        for encoding, words in (("ISO-8859-1", WORDS), ("UTF-8", WORDS), ("cp1251", ["Дом", "лес"])):
            path = tmp_path / f"{encoding}.shp"
            frame(kind=words).to_file(path, encoding=encoding)
            path.with_suffix(".cpg").unlink()
            assert names(path, encoding=encoding) == (tuple(words), ())
            found, notes = names(path)
            assert (found == tuple(words)) == (encoding != "cp1251")
            assert "`encoding=" in notes[0]
            assert pixels(path) == 604
        with pytest.raises(SettingsError, match=r"`encoding=.klingon.` is no encoding of texts; wanted"):
            names(path, encoding="klingon")
        with pytest.raises(SettingsError, match="is no encoding of texts"):
            names(path, encoding="base64")

    def test_bytes_that_are_no_utf8_are_told_in_any_format(self, tmp_path: Path) -> None:
        database = tmp_path / "l.gpkg"
        frame(kind=["a", "b"]).to_file(database, layer="x")
        with closing(sqlite3.connect(database)) as file:
            for (trigger,) in file.execute(
                "select name from sqlite_master where type = 'trigger'"
            ).fetchall():
                file.execute(f'drop trigger "{trigger}"')
            file.execute("update x set kind = cast(x'48e47573' as text) where fid = 2")
            file.commit()
        text = tmp_path / "l.csv"
        text.write_bytes(f'WKT,kind\n"{HOUSE.wkt}",a\n"{LAKE.wkt}",Häus\n'.encode("latin-1"))
        for path, more in ((database, {}), (text, {"crs": "EPSG:32645"})):
            found, notes = names(path, **more)
            assert found == ("Häus", "a")
            assert notes == (
                f"{path}: 1 texts are not UTF-8 (the first is of feature 2) and were read as Windows-1252; say what "
                'they are in with `encoding="ISO-8859-1"`',
            )
            assert names(path, encoding="ISO-8859-1", **more) == (("Häus", "a"), ())
            # Nobody asked for that column.
            assert pixels(path, **more) == 604
            assert open_labels([path], LabelSettings(**more)).notes == ()

    def test_a_fields_name_is_a_text_too(self, tmp_path: Path) -> None:
        for name in ("l.gpkg", "l.shp", "l.geojson"):
            geopandas.GeoDataFrame({"Straße": ["a", "b"]}, geometry=[HOUSE, LAKE], crs=GRID.crs).to_file(
                tmp_path / name
            )
            labels = open_labels([tmp_path / name], LabelSettings(class_field="Straße"))
            assert labels.legend.names == ("background", "a", "b")


def test_values_of_a_field_are_told_as_they_are_written(tmp_path: Path) -> None:
    """NULL among yes and no makes floats of them, and 0.1 in 32 bits is no 0.1 in 64."""
    path = tmp_path / "l.gpkg"
    for field, kept, wanted in (
        ("yes", pandas.array([True, None], dtype="boolean"), ("background", "True")),
        ("share", np.array([0.1, 0.25], np.float32), ("background", "0.1", "0.25")),
    ):
        geopandas.GeoDataFrame({field: kept}, geometry=[HOUSE, LAKE], crs=GRID.crs).to_file(path)
        assert open_labels([path], LabelSettings(class_field=field)).legend.names == wanted


numbers = st.integers(-40, 160).map(lambda k: k / 2) | st.floats(-20, 80)


@st.composite
def shapes(draw: st.DrawFn) -> list[shapely.Polygon]:
    """Up to six polygons in metres from the corner, some crossing themselves."""
    points = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=7, unique=True)
    found = [shapely.Polygon(draw(points)) for _ in range(draw(st.integers(1, 6)))]
    return [shapely.transform(one, lambda p: p * [0.5, -0.5] + [X, Y]) for one in found]


def classes(folder: Path, found: list[shapely.Polygon], crs: str) -> Path:
    path = folder / "law.gpkg"
    path.unlink(missing_ok=True)
    kinds = [f"k{number % 3}" for number in range(len(found))]
    moved = geopandas.GeoSeries(found, crs=GRID.crs).to_crs(crs)
    geopandas.GeoDataFrame({"kind": kinds}, geometry=moved).to_file(path)
    return path


@pytest.mark.parametrize("crs", ["EPSG:32645", "EPSG:4326", "EPSG:3857"])
@settings(max_examples=examples(20))
@given(
    found=shapes(),
    cuts=st.lists(st.integers(1, SIDE - 1), min_size=1, max_size=3, unique=True),
    touched=st.booleans(),
)
def test_windows_are_the_whole_and_the_index_finds_all(
    tmp_path_factory: pytest.TempPathFactory,
    crs: str,
    found: list[shapely.Polygon],
    cuts: list[int],
    touched: bool,
) -> None:
    path = classes(tmp_path_factory.getbasetemp(), found, crs)
    if not any(shapely.is_valid(found)):
        return
    wanted = LabelSettings(class_field="kind", all_touched=touched)
    labels = open_labels([path], wanted)
    whole = labels.burn(GRID)
    edges = [0, *sorted(cuts), SIDE]
    parts = [
        [labels.burn(GRID.window(top=a, left=c, height=b - a, width=d - c)) for c, d in pairwise(edges)]
        for a, b in pairwise(edges)
    ]
    np.testing.assert_array_equal(np.block(parts), whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aerial_seg.labels.vector_file._FEW", 0)
        indexed = open_labels([path], wanted, near=[GRID.window(top=0, left=0, height=SIDE, width=SIDE)])
    assert indexed.legend == labels.legend
    np.testing.assert_array_equal(indexed.burn(GRID), whole)


@settings(max_examples=examples(20))
@given(found=shapes())
def test_gdal_burns_the_same_but_for_centres_on_edges(
    tmp_path_factory: pytest.TempPathFactory, found: list[shapely.Polygon]
) -> None:
    valid = [one for one in found if one.is_valid and one.area > 0]
    if not valid:
        return
    got = open_labels([classes(tmp_path_factory.getbasetemp(), valid, "EPSG:32645")], LabelSettings()).burn(
        GRID
    )
    wanted = rasterize(valid, out_shape=GRID.shape, transform=GRID.transform)
    rows, cols = np.nonzero((got == 1) != (wanted == 1))
    centres = shapely.points(X + (cols + 0.5) * 0.5, Y - (rows + 0.5) * 0.5)
    rims = shapely.union_all([one.boundary for one in valid])
    assert (shapely.distance(rims, centres) < 1e-6).all()


def test_only_what_meets_the_imagery_is_read_and_the_rest_is_counted(
    polygon_file: PolygonFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = [shapely.box(X + 1000 * k, Y, X + 1000 * k + 10, Y + 10) for k in range(1, 40)]
    path = polygon_file("l.gpkg", [HOUSE, *far, LAKE], {"kind": ["b", *["a"] * 39, "c"]})
    monkeypatch.setattr("aerial_seg.labels.vector_file._FEW", 10)
    labels = open_labels([path], LabelSettings(class_field="kind"), near=[GRID])
    assert labels.notes == (
        f"39 of the 41 features of {path} lie away from the imagery: they were neither read nor looked at for defects",
    )
    assert labels.legend.names == ("background", "a", "b", "c")
    burnt = labels.burn(GRID)
    assert ((burnt == 2).sum(), (burnt == 3).sum()) == (120, 484)
    nowhere = GRID.window(top=5000, left=5000, height=5, width=5)
    away = open_labels([path], LabelSettings(), near=[nowhere])
    with pytest.raises(InputError, match="do not overlap"):
        check_overlap(away, [nowhere], names=["i.tif"])


@pytest.mark.parametrize("few", [0, 100])
def test_what_reaches_into_the_imagery_is_read(
    polygon_file: PolygonFile, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr("aerial_seg.labels.vector_file._FEW", few)
    road = shapely.LineString([(X - 3, Y + 9), (X - 3, Y - 99)])
    path = polygon_file("l.gpkg", [road])
    got = open_labels([path], LabelSettings(buffer=5.0), near=[GRID]).burn(GRID)
    assert (got == (np.arange(SIDE) < 4)).all()
    field = polygon_file("f.gpkg", [shapely.box(X - 9, Y - 99, X, Y + 9)], {"kind": ["field"]})
    labels = open_labels([field], LabelSettings(class_field="kind", ignore_border=2), near=[GRID])
    assert (labels.burn(GRID) == np.where(np.arange(SIDE) < 2, IGNORE, 0)).all()


def test_a_full_folder_for_temporary_files_is_one_line(
    polygon_file: PolygonFile, tmp_path: Path, disk_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = polygon_file("l.gpkg", [shapely.Point(X, Y).buffer(10, quad_segs=5000)] * 3)
    with disk_of(4096), pytest.raises(OutputError, match=r"takes no more .*TMPDIR"):
        open_labels([path], LabelSettings())


def test_all_touched_is_gdals(polygon_file: PolygonFile) -> None:
    wanted = rasterize([HOUSE.buffer(0.1)], out_shape=GRID.shape, transform=GRID.transform, all_touched=True)
    path = polygon_file("l.gpkg", [HOUSE.buffer(0.1)])
    np.testing.assert_array_equal(open_labels([path], LabelSettings(all_touched=True)).burn(GRID), wanted)


class TestWhatIsMissing:
    def test_a_folder_of_vector_files_is_told_as_such_and_the_remedy_works(self, tmp_path: Path) -> None:
        """It was told to hold no raster."""
        folder = tmp_path / "drawn"
        folder.mkdir()
        frame(kind=WORDS).to_file(folder / "a.shp")
        with pytest.raises(
            InputError, match=r"drawn holds 1 vector file \(a.shp\) and no raster.* as (.*a.shp)$"
        ) as told:
            expand_labels([str(folder)])
        assert pixels(*expand_labels([str(told.value).rpartition(", as ")[2]])) == 604
        frame(kind=WORDS).to_file(folder / "b.gpkg")
        with pytest.raises(InputError, match=r"2 vector files \(a.shp, b.gpkg\) .* or merge them first"):
            expand_labels([str(folder)])
        (folder / "c.png").touch()
        assert expand_labels([str(folder)]) == (folder / "c.png",)

    def test_a_part_of_a_shapefile_that_is_missing_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "a.shp"
        frame(kind=WORDS).to_file(path)
        (tmp_path / "a.dbf").rename(tmp_path / "a.DBF")
        assert open_labels([path], LabelSettings(class_field="kind")).notes == ()
        (tmp_path / "a.DBF").unlink()
        with pytest.raises(
            InputError, match=r"no field 'kind': a.dbf, .* is not beside it; copy .* `class_field`"
        ):
            open_labels([path], LabelSettings(class_field="kind"))
        notes = open_labels([path], LabelSettings()).notes
        assert f"a.dbf is not beside {path}: its shapes were read without their fields" in notes
        assert pixels(path, class_field=None) == 604
        (tmp_path / "a.shx").unlink()
        with pytest.raises(
            InputError, match=r"a.shp is a part of a Shapefile, but a.shx is not beside it, wanted"
        ):
            open_labels([path], LabelSettings())
