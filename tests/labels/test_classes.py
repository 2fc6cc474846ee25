"""What a value of labels means: numbers are numbers, nothing is renamed unsaid, and what messages print works."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.errors import AerialSegError, InputError, SettingsError
from aerial_seg.labels.census import Census
from aerial_seg.labels.class_table import class_table, parse_classes
from aerial_seg.labels.class_value import key_of
from aerial_seg.labels.classes import ClassMap, Origin, class_map
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE, Legend, make_legend
from aerial_seg.mentions import settings_in

ORIGIN = Origin("field 'kind' of l.gpkg", around=True)
KEYS = st.one_of(
    st.integers(-(2**40), 2**40), st.integers(0, 260), st.text("abcXYé-", min_size=1, max_size=5)
)
ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4))
PIXELS = Origin("l.tif", each="pixels", unlabelled=True)


def column(*values: Any) -> np.ndarray:
    out = np.empty(len(values), object)
    out[:] = values
    return out


def mapped(
    *values: Any, classes: Any = None, origin: Origin = ORIGIN, known: Legend | None = None
) -> ClassMap:
    found = column(*values) if not isinstance(values[0], np.ndarray) else values[0]
    return class_map(Census.of_column(found), class_table(classes), origin, known=known)


def remedied(
    *values: Any, classes: Any = None, origin: Origin = ORIGIN, known: Legend | None = None
) -> ClassMap:
    """The map with the `classes` that the refusal prints."""
    with pytest.raises(InputError) as refusal:
        mapped(*values, classes=classes, origin=origin, known=known)
    assert "\n" not in str(refusal.value)
    (told,) = [
        one.value for one in settings_in(str(refusal.value)) if one.name == "classes" and one.has_value
    ]
    return mapped(*values, classes=LabelSettings(classes=told).classes, origin=origin, known=known)


def meaning(classes: ClassMap, values: np.ndarray) -> list[str | None]:
    names = {entry.value: entry.name for entry in classes.legend.entries}
    return [names.get(int(value)) for value in classes.indices(values)]


class TestKeys:
    @pytest.mark.parametrize(
        ("value", "key"),
        [
            (1, 1), ("1", 1), (" 10 ", 10), ("1.0", 1), ("+7", 7), ("-3", -3), (2.0, 2), (np.float32(4), 4),
            (np.uint8(9), 9), ("01", 1), ("road ", "road"), ("1e3", "1e3"), ("1,5", "1,5"), (0.5, "0.5"),
            (np.float32(0.1), "0.1"), (True, "True"), (np.False_, "False"), (date(2020, 5, 1), "2020-05-01"),
            (datetime(2020, 5, 1, 7), "2020-05-01T07:00:00"), (np.datetime64("2020-05-01"), "2020-05-01"),
            (np.datetime64("2020-05-01T00:00:00.000"), "2020-05-01"), ("", None), (" ", None), (None, None),
            (float("nan"), None), (float("-inf"), None), (np.datetime64("NaT"), None), ("²", "²"), ("Wald", "Wald"),
        ],
    )  # fmt: skip
    def test_a_value_has_one_spelling(self, value: object, key: object) -> None:
        found = key_of(value)
        assert (found, type(found)) == (key, type(key))

    @given(numbers=st.lists(st.integers(0, 254), min_size=1, max_size=30))
    def test_numbers_in_text_are_these_numbers(self, numbers: list[int]) -> None:
        """Until now '10' came before '2', and a perfect map scored 0.25."""
        plain, text = mapped(np.array(numbers)), mapped(*map(str, numbers))
        assert plain.legend == text.legend
        np.testing.assert_array_equal(text.indices(column(*map(str, numbers))), numbers)
        np.testing.assert_array_equal(plain.indices(np.array(numbers, float)), numbers)
        assert "is text that holds numbers" in text.notes[0]
        assert plain.notes == ()


class TestColumns:
    def test_null_blank_and_trimmed_are_told_with_their_counts(self) -> None:
        values = ("building", "building ", None, "", " ", "road", None)
        classes = mapped(*values)
        assert classes.legend.names == ("background", "building", "road")
        assert classes.indices(column(*values)).tolist() == [1, 1, IGNORE, IGNORE, IGNORE, 2, IGNORE]
        what = "field 'kind' of l.gpkg"
        assert classes.notes == (
            f"2 features without a value in {what} count as unlabelled",
            f"2 features whose value in {what} is blank count as unlabelled",
            f"1 features of {what} have blanks around their value ('building'): read without",
        )

    @pytest.mark.parametrize("other", ["Building", "building", "BUILDING"])
    def test_capitals_are_told_and_the_printed_remedy_makes_one_class(self, other: str) -> None:
        values = ("building", "building", "road", other)
        classes = mapped(*values)
        if other == "building":
            assert classes.notes == ()
            return
        assert set(classes.legend.names) == {"background", "building", "road", other}
        (note,) = classes.notes
        assert f"'{other}' (1 features) beside 'building' (2 features); did you mean one class?" in note
        (told,) = [one.value for one in settings_in(note) if one.name == "classes"]
        merged = mapped(*values, classes=told)
        assert meaning(merged, column(*values)) == ["building", "building", "road", "building"]

    def test_accents_that_are_stored_in_two_ways_are_told(self) -> None:
        (note,) = mapped("Forêt", "Fore\u0302t").notes
        assert "did you mean one class?" in note

    def test_numbers_written_otherwise_are_told(self) -> None:
        classes = mapped("1", "01", "2")
        assert classes.legend.values == (0, 1, 2)
        assert any("write a number otherwise ('01')" in note for note in classes.notes)

    def test_words_beside_numbers_take_what_is_free(self) -> None:
        classes = mapped("1", "wood", "3", "field")
        assert classes.indices(column("1", "wood", "3", "field")).tolist() == [1, 4, 3, 2]

    @pytest.mark.parametrize(
        ("values", "names"),
        [
            ((True, False, None), ["True", "False", None]),
            ((2.0, 5.0, float("nan")), ["class 2", "class 5", None]),
            ((date(2020, 1, 1), date(2021, 1, 1), None), ["2020-01-01", "2021-01-01", None]),
            ((0.5, 1.5), ["0.5", "1.5"]),
        ],
    )
    def test_fields_of_every_type(self, values: tuple[Any, ...], names: list[str | None]) -> None:
        assert meaning(mapped(*values), column(*values)) == names

    def test_a_yes_no_field_is_mapped_by_words_or_numbers(self) -> None:
        for classes in ("0=other,1=roof", "False=other,True=roof"):
            found = mapped(True, False, classes=classes)
            assert meaning(found, column(True, False)) == ["roof", "other"]

    def test_nothing_but_null(self) -> None:
        with pytest.raises(InputError, match=r"field 'kind' of l.gpkg is NULL in every feature"):
            mapped(None, None)
        with pytest.raises(InputError, match=r"is NULL or blank in every feature"):
            mapped(None, " ")


class TestCodes:
    def test_any_integer_is_a_class_and_keeps_its_code(self) -> None:
        values = np.array([311, 523, 65535, 523])
        classes = mapped(values, classes="311=forest,523=sea,65535=unlabelled", origin=PIXELS)
        assert [(e.value, e.name, e.code) for e in classes.legend.entries] == [
            (1, "forest", 311),
            (2, "sea", 523),
        ]
        assert classes.indices(values).tolist() == [1, 2, IGNORE, 2]
        np.testing.assert_array_equal(classes.pixels(values.reshape(2, 2)), [[1, 2], [IGNORE, 2]])
        assert any(
            "the attribute 'code' keeps the labels': 311 is 1 (forest), 523 is 2 (sea)" in note
            for note in classes.notes
        )
        assert any(
            "1 pixels of l.tif are called unlabelled: 65535 (1 times)" in note for note in classes.notes
        )

    def test_values_that_fit_stay(self) -> None:
        classes = mapped(0, 255, 7, classes="0=background,255=building,7=road", origin=PIXELS)
        assert dict(zip(classes.legend.names, classes.legend.values, strict=True)) == {
            "background": 0, "building": 1, "road": 7,
        }  # fmt: skip
        assert {e.name: e.code for e in classes.legend.entries} == {
            "background": 0,
            "building": 255,
            "road": 7,
        }

    def test_a_narrow_raster_beside_a_wide_one(self) -> None:
        classes = mapped(7, 311, classes="7=road,311=forest", origin=PIXELS)
        assert classes.pixels(np.array([[7, 55]], np.uint8)).tolist() == [[7, IGNORE]]
        assert classes.pixels(np.array([[7, 311]], np.uint16)).tolist() == [[7, 1]]

    def test_several_codes_of_one_name_are_one_class_and_that_is_told(self) -> None:
        classes = mapped(311, 312, 523, classes="311=forest,312=forest,523=sea", origin=PIXELS)
        assert {e.name: e.code for e in classes.legend.entries} == {"forest": None, "sea": 523}
        assert any("are one class: 311, 312 → forest" in note for note in classes.notes)

    def test_codes_survive_documents_and_their_absence_leaves_them_as_they_were(self) -> None:
        coded = make_legend({1: "forest", 2: "sea"}, codes={1: 311})
        assert Legend.model_validate_json(coded.model_dump_json(), strict=True) == coded
        assert "code" not in make_legend({1: "forest"}).model_dump_json()

    def test_what_the_error_prints_works(self) -> None:
        classes = remedied(311, 523, 65535, origin=PIXELS)
        assert {e.code: e.name for e in classes.legend.entries} == {
            code: f"class {code}" for code in (311, 523, 65535)
        }
        assert len(remedied("a", 300, -5).legend) == 4

    def test_labels_meet_a_map_by_code_where_all_are_codes(self) -> None:
        known = make_legend({1: "forest", 2: "sea", 3: "bog"}, codes={1: 311, 2: 523, 3: 411})
        assert mapped(523, 311, known=known).indices(np.array([523, 311])).tolist() == [2, 1]
        assert mapped(1, 2, known=known).indices(np.array([1, 2])).tolist() == [1, 2]

    def test_a_map_of_numbers_as_words_is_met_by_these_words(self) -> None:
        """Models of before name '1', '10' and '2' the values 1, 2 and 3."""
        known = make_legend({0: "background", 1: "1", 2: "10", 3: "2"}, background=[0])
        assert mapped("10", "2", "1", known=known).indices(column("10", "2", "1")).tolist() == [2, 3, 1]


class TestRemedies:
    KNOWN = make_legend({0: "background", 1: "building", 2: "road"}, background=[0])

    @pytest.mark.parametrize("options", [{"classes": "building,road"}, {"known": KNOWN}])
    @pytest.mark.parametrize("word", ["Building", "bulding", "lake", "7"])
    def test_an_unknown_value(self, word: str, options: dict[str, Any]) -> None:
        values = ("building", "road", word)
        classes = remedied(*values, **options)
        wanted = "building" if "uilding" in word or "ulding" in word else None
        assert meaning(classes, column(*values)) == ["building", "road", wanted]

    def test_words_that_pairs_cannot_hold_are_sent_to_a_table(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match=r"`classes=\"classes.csv\"`, a table with the columns value and name"
        ):
            mapped("a=b", "road", classes="road")
        (tmp_path / "classes.csv").write_text('value,name\na=b,field\n"c,d",field\nroad,road\n')
        classes = mapped("a=b", "c,d", "road", classes=tmp_path / "classes.csv")
        assert meaning(classes, column("a=b", "c,d", "road")) == ["field", "field", "road"]

    def test_a_class_that_the_map_has_not_is_refused(self) -> None:
        with pytest.raises(
            SettingsError, match=r"names 'rod', which is no class here; .*did you mean 'road'"
        ):
            mapped(1, classes="1=rod", known=self.KNOWN)

    def test_names_that_no_class_can_have(self) -> None:
        with pytest.raises(InputError, match=r"holds 1 names that no class can have"):
            mapped("a\x07b", "road")


class TestTables:
    ROWS = "value,name,colour,code\n4,forest,#00ff00,311\n9,sea,0 0 255,523\n,unlabelled,,999\n"
    TOML = (
        'classes = [\n  { value = 4, name = "forest", colour = "#00FF00", code = 311 },\n'
        '  { value = 9, name = "sea", colour = [0, 0, 255], code = 523 },\n  { name = "unlabelled", code = 999 },\n]\n'
    )

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("c.csv", ROWS), ("c.CSV", "\ufeff" + ROWS.replace(",", ";").replace("colour", " Color ")),
            ("c.tsv", ROWS.replace(",", "\t")), ("c.toml", TOML),
        ],
    )  # fmt: skip
    def test_value_name_colour_and_code(self, tmp_path: Path, name: str, text: str) -> None:
        (tmp_path / name).write_text(text, encoding="utf-8")
        for given_as in (tmp_path / name, str(tmp_path / name)):
            table = LabelSettings(classes=given_as).classes
            classes = mapped(np.array([311, 523, 999]), classes=table)
            assert [(e.value, e.name, e.colour, e.code) for e in classes.legend.entries[1:]] == [
                (4, "forest", "#00ff00", 311), (9, "sea", "#0000ff", 523),
            ]  # fmt: skip
            assert classes.indices(np.array([523, 999])).tolist() == [9, IGNORE]

    def test_without_codes_the_values_are_what_labels_hold(self, tmp_path: Path) -> None:
        (tmp_path / "c.csv").write_text("name,value\nforest,311\nsea,7\n")
        assert mapped(311, 7, classes=tmp_path / "c.csv").indices(np.array([311, 7])).tolist() == [1, 7]

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("", "wanted the columns value, name, colour, code"),
            ("value\n1\n", "row 1 has no name; call what is no class 'unlabelled'"),
            ("value,nme\n1,a\n", "no column 'nme', wanted value, name, colour, code; did you mean 'name'"),
            ("value,name\n1,a\n1,b\n", "value 1 comes twice, as 'a' and 'b'"),
            ("value,name,code\n300,a,7\n", "has value 300 beside a code, wanted 0 to 254"),
            ("value,name,code\n1,a,7\n1,b,8\n", "value 1 stands in two rows"),
            ("value,name,colour\n1,a,red\n", "has colour red, wanted #c0392b or 192 57 43"),
            ("value,name,colour\n1,a,1 2 256\n", "has colour 1 2 256"),
            ("value,name\n1,unlabelled\n", "no class is named"),
        ],
    )
    def test_a_table_that_is_none(self, tmp_path: Path, text: str, told: str) -> None:
        (tmp_path / "c.csv").write_text(text)
        with pytest.raises(SettingsError) as refusal:
            LabelSettings(classes=tmp_path / "c.csv")
        assert told in str(refusal.value)
        assert "c.csv" in str(refusal.value)

    def test_a_file_that_is_not_there_or_no_text(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"gone\.csv cannot be read"):
            LabelSettings(classes=tmp_path / "gone.csv")
        (tmp_path / "c.toml").write_bytes(b"\xff\xfe")
        with pytest.raises(SettingsError, match=r"c\.toml is no table of classes: it is not UTF-8"):
            LabelSettings(classes=str(tmp_path / "c.toml"))

    @given(keys=st.lists(KEYS, min_size=1, max_size=40, unique_by=key_of))
    def test_every_class_gets_a_value_of_its_own(self, keys: list[int | str]) -> None:
        table = class_table({key: f"c{k}" for k, key in enumerate(keys)})
        given_values = table.pixel_values
        assert sorted(given_values) == sorted(f"c{k}" for k in range(len(keys)))
        assert len(set(given_values.values())) == len(keys)
        assert all(0 <= value <= 254 for value in given_values.values())
        for k, key in enumerate(map(key_of, keys)):
            if isinstance(key, int) and 0 <= key <= 254:
                assert given_values[f"c{k}"] == key


@given(values=st.lists(ANYTHING, max_size=12))
def test_whatever_a_column_holds_ends_in_classes_or_is_refused(values: list[Any]) -> None:
    for known in (None, TestRemedies.KNOWN):
        try:
            classes = class_map(Census.of_column(column(*values)), None, ORIGIN, known=known)
        except AerialSegError:
            continue
        indices = classes.indices(column(*values))
        labelled = [key_of(value) is not None and key_of(value) != "unlabelled" for value in values]
        np.testing.assert_array_equal(indices != IGNORE, labelled)


def test_classes_are_names_or_pairs() -> None:
    assert parse_classes(None) is None
    assert parse_classes("building, road") == {1: "building", 2: "road"}
    assert parse_classes("1=water,7= sand ") == {1: "water", 7: "sand"}
    assert parse_classes("0=background,255=building") == {0: "background", 255: "building"}
    assert parse_classes("-1=a,65535=a,x=b") == {-1: "a", 65535: "a", "x": "b"}


@pytest.mark.parametrize("text", ["", ",", "1=a,b", "1=", "=a", "1=a,1=b", "a,a", "1=a,01=b", "1=a\x07b"])
def test_other_classes_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(SettingsError, match="`classes`") as caught:
        parse_classes(text)
    assert isinstance(caught.value, AerialSegError)
    assert "\n" not in str(caught.value)


def test_words_for_no_value_are_told_and_the_remedy_makes_them_unlabelled() -> None:
    """Their polygons were a class 'NULL', unsaid; someone's class may be called so."""
    values = ("NULL", "road", "None", "nan", "N/A", "road", "NULL")
    first = mapped(*values)
    (note,) = [note for note in first.notes if "no value" in note]
    assert note.startswith(
        "field 'kind' of l.gpkg holds 'NULL' (2 times), 'N/A' (1 times), 'None' (1 times), 'nan' (1 times), which"
    )
    assert "which count as a class; if they mean that there is no value, `classes=" in note
    assert {"NULL", "None", "nan", "N/A", "road"} <= set(first.legend.names)
    (remedy,) = settings_in(note)
    mended = mapped(*values, classes=class_table(remedy.value))
    assert not [note for note in mended.notes if "no value" in note]
    assert "5 features of field 'kind' of l.gpkg are called unlabelled" in " ".join(mended.notes)
    assert mended.indices(column(*values)).tolist() == [255, 1, 255, 255, 255, 1, 255]
    assert set(mended.legend.names) == {"background", "road"}
    assert not [note for note in mapped("nullarbor", "road").notes if "no value" in note]
