"""A layer grows by like features only, on a copy: it has all of them in the end, or is as it was."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
from pyproj import CRS

from aerial_seg.errors import OutputError, SettingsError
from aerial_seg.legend import make_legend
from aerial_seg.outputs.geopackage import stored_style
from aerial_seg.outputs.qgis_style import read_classes, read_style
from aerial_seg.vectors.schema import FeatureSchema
from aerial_seg.vectors.writer import check_layer, layer_writer

if TYPE_CHECKING:
    from tests.vectors.conftest import Layers

GROWING = ("a.gpkg", "a.shp")


@pytest.mark.parametrize("name", GROWING)
def test_features_are_added(layers: Layers, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    layers.write(path, 3, append=True)  # there is none yet
    files = sorted(layers.contents(tmp_path))
    layers.write(path, 4, first=3, append=True)
    layers.write(path, 0, append=True)
    table, batch = layers.read(path), layers.batch(7)
    assert (table["n_px"] - 2**33).tolist() == list(range(7))
    assert table["class_name"].tolist() == [layers.legend.by_value()[value].name for value in batch.values]
    assert table.geometry.area.tolist() == pytest.approx([g.area for g in layers.geometries(batch)])
    assert table.crs == layers.utm
    assert sorted(layers.contents(tmp_path)) == files


def test_the_spatial_index_grows_too(layers: Layers, tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    layers.write(path, 20)
    layers.write(path, 30, first=20, append=True)
    for number in (5, 45):
        left = 300_000 + 10 * number
        found = pyogrio.read_dataframe(path, layer="a", bbox=(left, 3_060_000, left + 4, 3_060_009))
        assert (found["n_px"] - 2**33).tolist() == [number]


def test_equal_work_gives_equal_bytes(layers: Layers, tmp_path: Path) -> None:
    for name in GROWING:
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir(exist_ok=True)
            layers.write(tmp_path / folder / name, 5)
            layers.write(tmp_path / folder / name, 5, first=5, append=True)
    assert layers.contents(tmp_path / "one") == layers.contents(tmp_path / "two")


def test_an_old_index_of_a_shapefile_goes(layers: Layers, tmp_path: Path) -> None:
    layers.write(tmp_path / "a.shp", 3)
    (tmp_path / "a.qix").write_bytes(b"index of three features")
    layers.write(tmp_path / "a.shp", 3, append=True)
    assert not (tmp_path / "a.qix").exists()


def test_a_geopackage_takes_further_layers(layers: Layers, tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    layers.write(path, 3)
    with layer_writer(path, layers.spec(path, layer="b", crs=CRS(3857)), append=True) as layer:
        layer.write(layers.batch(2), layers.measured(layers.batch(2)))
    assert [name for name, _ in pyogrio.list_layers(path)] == ["a", "b", "layer_styles"]
    assert len(layers.read(path, "a")) == 3
    assert len(layers.read(path, "b")) == 2
    assert layers.read(path, "b").crs.to_epsg() == 3857
    assert stored_style(path, "a") == stored_style(path, "b")


def test_a_layer_without_index_may_grow(layers: Layers, tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    layers.write(path, 3)
    pyogrio.write_dataframe(layers.read(path), path, layer="a", layer_options={"SPATIAL_INDEX": "NO"})
    layers.write(path, 3, append=True)
    assert len(layers.read(path)) == 6


@pytest.mark.parametrize("name", ["a.fgb", "a.geojson", "a.geojsonl", "a.csv", "a.parquet"])
def test_other_formats_do_not_grow(layers: Layers, name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be appended to; write \.gpkg or \.shp"):
        check_layer(tmp_path / name, layers.spec(tmp_path / name), append=True)


def test_append_and_overwrite_exclude_each_other(layers: Layers, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="exclude each other"):
        check_layer(tmp_path / "a.gpkg", layers.spec(tmp_path / "a.gpkg"), append=True, overwrite=True)


class TestRefusing:
    @pytest.mark.parametrize("name", GROWING)
    def test_other_columns(self, layers: Layers, name: str, tmp_path: Path) -> None:
        path = tmp_path / name
        layers.write(path, 3)
        before = layers.contents(tmp_path)
        spec = layers.spec(path, schema=FeatureSchema(layers.legend))
        both = r"has class_id int32, .*conf_mean float64.*the new features class_id int32, class_name text.*; append to"
        with pytest.raises(OutputError, match=both):
            check_layer(path, spec, append=True)
        assert layers.contents(tmp_path) == before

    @pytest.mark.parametrize("name", GROWING)
    @pytest.mark.parametrize(("crs", "named"), [(CRS(32644), r"EPSG:32644 \(.*\)"), (None, "no CRS")])
    def test_another_crs(
        self, layers: Layers, name: str, crs: CRS | None, named: str, tmp_path: Path
    ) -> None:
        path = tmp_path / name
        layers.write(path, 3)
        with pytest.raises(
            OutputError, match=rf"is in EPSG:32645 .*the new features in {named}; pass `dst_crs`"
        ):
            check_layer(path, layers.spec(path, crs=crs), append=True)
        layers.write(path, 1, append=True)

    @pytest.mark.parametrize("name", GROWING)
    def test_without_a_crs_only_to_one_without(self, layers: Layers, name: str, tmp_path: Path) -> None:
        path = tmp_path / name
        spec, batch = layers.spec(path, crs=None), layers.batch(2)
        for append in (False, True):
            with layer_writer(path, spec, append=append) as layer:
                layer.write(batch, layers.measured(batch))
        assert len(layers.read(path)) == 4
        with pytest.raises(OutputError, match="is in no CRS, and the new features in EPSG:32645"):
            check_layer(path, layers.spec(path), append=True)

    @pytest.mark.parametrize("number", ["-1", "0"])
    def test_a_geopackage_that_says_undefined_has_no_crs(
        self, layers: Layers, number: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "a.gpkg"
        layers.write(path, 3)
        table = layers.read(path).set_crs(None, allow_override=True)
        pyogrio.write_dataframe(table, path, layer="a", layer_options={"SRID": number})
        assert "Undefined" in pyogrio.read_info(path, layer="a")["crs"]
        check_layer(path, layers.spec(path, crs=None), append=True)
        with pytest.raises(OutputError, match="is in no CRS"):
            check_layer(path, layers.spec(path), append=True)

    def test_single_polygons(self, layers: Layers, tmp_path: Path) -> None:
        """A layer made for Polygons is out of its specification with MultiPolygons in it."""
        path = tmp_path / "a.gpkg"
        layers.write(path, 3)
        table = layers.read(path).explode(ignore_index=True)
        pyogrio.write_dataframe(table, path, layer="a", geometry_type="Polygon")
        with pytest.raises(OutputError, match="holds Polygons, and the new features are MultiPolygons"):
            check_layer(path, layers.spec(path), append=True)

    def test_another_encoding(self, layers: Layers, tmp_path: Path) -> None:
        path = tmp_path / "a.shp"
        layers.write(path, 3)
        check_layer(path, layers.spec(path), append=True)
        (tmp_path / "a.cpg").write_text("ISO-8859-1")
        with pytest.raises(OutputError, match="texts in ISO-8859-1, and the new features in UTF-8"):
            check_layer(path, layers.spec(path), append=True)
        (tmp_path / "a.cpg").unlink()
        with pytest.raises(OutputError, match="texts in no stated encoding"):
            check_layer(path, layers.spec(path), append=True)

    def test_one_number_for_two_classes(self, layers: Layers, tmp_path: Path) -> None:
        for name in GROWING:
            path = tmp_path / name
            layers.write(path, 3)
            other = FeatureSchema(make_legend({1: "wood"}), confidence=True)
            with pytest.raises(OutputError, match=r"class_id 1 is 'Gebäude 建物' in .* and 'wood'"):
                check_layer(path, layers.spec(path, schema=other), append=True)

    def test_what_is_no_layer(self, layers: Layers, tmp_path: Path) -> None:
        for name in GROWING:
            (tmp_path / name).write_bytes(b"nothing of the kind")
            with pytest.raises(OutputError, match="cannot be read as a"):
                check_layer(tmp_path / name, layers.spec(tmp_path / name), append=True)


class TestStyles:
    def test_new_classes_get_their_colours(self, layers: Layers, tmp_path: Path) -> None:
        more = FeatureSchema(make_legend({1: "Gebäude 建物", 5: "wood"}), confidence=True)
        for name in GROWING:
            layers.write(tmp_path / name, 3)
            with layer_writer(tmp_path / name, layers.spec(tmp_path / name, schema=more), append=True):
                pass
        for style in (
            stored_style(tmp_path / "a.gpkg", "a"),
            (tmp_path / "a.qml").read_text(encoding="utf-8"),
        ):
            assert [entry.value for entry in read_classes(read_style(style or ""))] == [0, 1, 5, 7]

    def test_a_style_made_by_hand_stays(self, layers: Layers, tmp_path: Path) -> None:
        mine = "<qgis><renderer-v2 type='singleSymbol'/></qgis>"
        for name in GROWING:
            layers.write(tmp_path / name, 3)
        with closing(sqlite3.connect(tmp_path / "a.gpkg")) as database, database:
            database.execute("UPDATE layer_styles SET styleQML = ?, styleName = 'mine'", (mine,))
        (tmp_path / "a.qml").write_text(mine)
        for name in GROWING:
            layers.write(tmp_path / name, 3, append=True)
        assert (tmp_path / "a.qml").read_text() == mine
        with closing(sqlite3.connect(tmp_path / "a.gpkg")) as database:
            rows = database.execute("SELECT styleName, styleQML FROM layer_styles").fetchall()
        assert rows == [("mine", mine)]

    def test_a_style_that_was_edited_in_qgis_stays_and_is_told(self, layers: Layers, tmp_path: Path) -> None:
        """It is by class still, in other colours: QGIS writes the whole style anew."""
        path = tmp_path / "a.gpkg"
        layers.write(path, 3)
        edited = (stored_style(path, "a") or "").rpartition("<!--")[0].replace("35,35,35", "1,2,3")
        assert read_classes(read_style(edited))
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE layer_styles SET styleQML = ?", (edited,))
        more = FeatureSchema(make_legend({5: "wood"}), confidence=True)
        with layer_writer(path, layers.spec(path, schema=more), append=True) as layer:
            pass
        assert stored_style(path, "a") == edited
        assert "style of a.gpkg is not (or no longer) as aerial-seg wrote it" in layer.notes[0]
        clashing = FeatureSchema(make_legend({1: "wood"}), confidence=True)
        with pytest.raises(OutputError, match="class_id 1 is 'Gebäude 建物'"):
            check_layer(path, layers.spec(path, schema=clashing), append=True)


class TestVersion:
    def test_it_is_one_that_debians_qgis_knows(self, layers: Layers, tmp_path: Path) -> None:
        path = tmp_path / "a.gpkg"
        layers.write(path, 3)
        with layer_writer(path, layers.spec(path, layer="second"), append=True):
            pass
        layers.write(path, 3, append=True)
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA user_version").fetchone() == (10300,)
            dates = set(database.execute("SELECT last_change FROM gpkg_contents"))
        assert dates == {("1995-07-26T00:00:00.000Z",)}


class TestFailures:
    @pytest.mark.parametrize("name", GROWING)
    def test_the_layer_is_as_it_was(self, layers: Layers, name: str, tmp_path: Path) -> None:
        path = tmp_path / name
        layers.write(path, 3)
        before = layers.contents(tmp_path)

        def work() -> None:
            with layer_writer(path, layers.spec(path), append=True) as layer:
                layer.write(layers.batch(5), layers.measured(layers.batch(5)))
                assert layers.contents(tmp_path).items() >= before.items()
                raise ValueError

        with pytest.raises(ValueError, match=r"^$"):
            work()
        assert layers.contents(tmp_path) == before

    def test_what_another_wrote_meanwhile_is_not_undone(self, layers: Layers, tmp_path: Path) -> None:
        path = tmp_path / "a.gpkg"
        layers.write(path, 3)

        def work() -> None:
            with layer_writer(path, layers.spec(path), append=True) as layer:
                layer.write(layers.batch(1), layers.measured(layers.batch(1)))
                with closing(sqlite3.connect(path)) as other, other:
                    other.execute("CREATE TABLE notes AS SELECT 'mine'")

        with pytest.raises(OutputError, match="changed by another program meanwhile"):
            work()
        assert len(gpd.read_file(path, layer="a")) == 3
        with closing(sqlite3.connect(path)) as other:
            assert other.execute("SELECT * FROM notes").fetchall() == [("mine",)]

    def test_what_waits_in_a_journal_is_not_lost(self, layers: Layers, tmp_path: Path) -> None:
        path = tmp_path / "a.gpkg"
        layers.write(path, 3)
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA journal_mode = WAL")
            with other:
                other.execute("CREATE TABLE notes AS SELECT 'mine'")
            copies = {suffix: path.with_name(path.name + suffix).read_bytes() for suffix in ("", "-wal")}
        for suffix, copy in copies.items():  # as after a crash
            path.with_name(path.name + suffix).write_bytes(copy)
        layers.write(path, 2, append=True)
        with closing(sqlite3.connect(path)) as other:
            assert other.execute("SELECT * FROM notes").fetchall() == [("mine",)]
        assert np.array_equal(layers.read(path)["n_px"] - 2**33, [0, 0, 1, 1, 2])
