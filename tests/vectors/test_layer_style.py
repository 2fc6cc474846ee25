"""A style lists the real classes in their colours, survives in a GeoPackage, and is never lost to ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
import pyogrio
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.errors import OutputError
from aerial_seg.legend import make_legend
from aerial_seg.outputs.geopackage import settle_geopackage, stored_style
from aerial_seg.outputs.qgis_style import (
    StyleClass,
    class_polygons,
    is_own,
    read_classes,
    read_style,
    style_classes,
    style_text,
)
from aerial_seg.printable import name_problem
from aerial_seg.vectors.layer_style import grown_style

LEGEND = make_legend({7: 'road <&> "path"', 0: "background", 1: "Gebäude 建物"}, background=[0])
HANDMADE = "<qgis><renderer-v2 attr='area_m2' type='graduatedSymbol'/></qgis>"


def qml(classes: Iterable[StyleClass]) -> str:
    return style_text(class_polygons(classes))


def classes_of(style: str | None) -> tuple[StyleClass, ...]:
    return read_classes(read_style(style or ""))


colours = st.integers(0, 0xFFFFFF).map(lambda number: f"#{number:06x}")
# Drawn as printable: of any text so many are not that hypothesis gave up now and then.
printable = st.characters(exclude_categories=["C", "Z"]) | st.just(" ")
names = st.text(printable, min_size=1).filter(lambda name: name.isprintable() and name_problem(name) is None)
classes = st.dictionaries(st.integers(0, 65534), st.tuples(names, colours)).map(
    lambda found: tuple(StyleClass(value, *rest) for value, rest in sorted(found.items()))
)


@given(classes)
def test_what_is_written_is_read(known: tuple[StyleClass, ...]) -> None:
    assert classes_of(qml(known)) == known


def test_qgis_finds_a_filled_symbol_for_each_class() -> None:
    root = Xml.fromstring(qml(style_classes(LEGEND)))
    renderer = root.find("renderer-v2")
    assert renderer is not None
    assert renderer.attrib["type"] == "categorizedSymbol"
    assert renderer.attrib["attr"] == "class_id"
    categories = renderer.findall("categories/category")
    assert [entry.attrib["value"] for entry in categories] == ["0", "1", "7"]
    assert [entry.attrib["label"] for entry in categories] == [
        "background",
        "Gebäude 建物",
        'road <&> "path"',
    ]
    for entry, style in zip(categories, style_classes(LEGEND), strict=True):
        symbol = renderer.find(f"symbols/symbol[@name='{entry.attrib['symbol']}']")
        assert symbol is not None
        assert symbol.attrib["type"] == "fill"
        colour = symbol.find("layer[@class='SimpleFill']/Option/Option[@name='color']")
        assert colour is not None
        assert (
            colour.attrib["value"]
            == ",".join(str(int(style.colour[k : k + 2], 16)) for k in (1, 3, 5)) + ",255"
        )


def test_control_characters_make_no_broken_file() -> None:
    style = qml([StyleClass(1, "a\x01b\x00c\nd", "#000000")])
    assert classes_of(style) == (StyleClass(1, "abcd", "#000000"),)


@given(classes, st.integers(0), st.integers(1, 255))
def test_a_style_is_ours_until_a_byte_of_it_changes(
    known: tuple[StyleClass, ...], place: int, change: int
) -> None:
    style = qml(known)
    assert is_own(style)
    data = bytearray(style.encode())
    data[place % len(data)] ^= change
    assert not is_own(data.decode("utf-8", errors="replace"))
    assert not is_own(style + "\n")
    assert not is_own(style.replace("\n", "\r\n"))


class TestUpdating:
    def test_new_classes_join_and_old_ones_stay(self) -> None:
        before = qml([StyleClass(1, "Gebäude 建物", "#010203"), StyleClass(9, "wood", "#00ff00")])
        found = classes_of(grown_style(before, LEGEND, "a.gpkg").text)
        assert [entry.value for entry in found] == [0, 1, 7, 9]
        assert found[1].colour == "#010203"

    def test_a_handmade_style_stays(self) -> None:
        style = grown_style(HANDMADE, LEGEND, "a.gpkg")
        assert style.text is None
        assert "style of a.gpkg" in style.notes[0]

    @pytest.mark.parametrize("text", ["", "no xml", "<qgis/>"])
    def test_what_is_no_style_of_ours_stays(self, text: str) -> None:
        assert classes_of(text) == ()
        assert grown_style(text, LEGEND, "a.gpkg").text is None

    def test_one_number_for_two_classes(self) -> None:
        before = qml([StyleClass(1, "wood", "#00ff00")])
        with pytest.raises(OutputError, match=r"class_id 1 is 'wood' in a\.gpkg and 'Gebäude 建物'"):
            grown_style(before, LEGEND, "a.gpkg")


class TestGeoPackage:
    @pytest.fixture
    def package(self, tmp_path: Path) -> Path:
        path = tmp_path / "a.gpkg"
        wkb = shapely.to_wkb(np.array([shapely.box(0, 0, 1, 1)], object))
        for layer in ("one", "two's"):
            pyogrio.raw.write(
                path,
                wkb,
                [np.array([1])],
                ["class_id"],
                layer=layer,
                geometry_type="Polygon",
                crs="EPSG:32645",
            )
        return path

    def test_the_style_is_stored_for_its_layer(self, package: Path) -> None:
        settle_geopackage(package, "two's", qml(style_classes(LEGEND)))
        assert stored_style(package, "one") is None
        assert classes_of(stored_style(package, "two's")) == style_classes(LEGEND)
        with closing(sqlite3.connect(package)) as database:
            rows = database.execute(
                "SELECT f_table_catalog, f_table_schema, f_table_name, f_geometry_column, useAsDefault "
                "FROM layer_styles"
            ).fetchall()
            assert rows == [("", "", "two's", "geom", 1)]
            kind = database.execute(
                "SELECT data_type FROM gpkg_contents WHERE table_name = 'layer_styles'"
            ).fetchone()
            assert kind == ("attributes",)
        assert [name for name, _ in pyogrio.list_layers(package)] == ["one", "two's", "layer_styles"]

    def test_a_second_time_replaces_the_first(self, package: Path) -> None:
        settle_geopackage(package, "one", qml([StyleClass(1, "a", "#000000")]))
        settle_geopackage(package, "one", qml([StyleClass(2, "b", "#000000")]))
        assert [entry.value for entry in classes_of(stored_style(package, "one"))] == [2]

    def test_another_style_of_the_layer_stays(self, package: Path) -> None:
        settle_geopackage(package, "one", qml(()))
        with closing(sqlite3.connect(package)) as database, database:
            database.execute(
                "INSERT INTO layer_styles (f_table_name, styleName, styleQML, useAsDefault) "
                "VALUES ('one', 'mine', 'x', 0)"
            )
        settle_geopackage(package, "one", qml(style_classes(LEGEND)))
        with closing(sqlite3.connect(package)) as database:
            found = database.execute("SELECT styleName FROM layer_styles ORDER BY id").fetchall()
        assert sorted(found) == [("mine",), ("one",)]

    def test_no_time_of_day_is_left(self, package: Path) -> None:
        settle_geopackage(package, "one", qml(()))
        with closing(sqlite3.connect(package)) as database:
            (changed,) = database.execute(
                "SELECT last_change FROM gpkg_contents WHERE table_name = 'one'"
            ).fetchone()
            (styled,) = database.execute("SELECT update_time FROM layer_styles").fetchone()
        assert changed == styled == "1995-07-26T00:00:00.000Z"

    def test_none_leaves_the_style(self, package: Path) -> None:
        settle_geopackage(package, "one", HANDMADE)
        settle_geopackage(package, "one", None)
        assert stored_style(package, "one") == HANDMADE
