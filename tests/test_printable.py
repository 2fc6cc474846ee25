"""What can be a name, and what a terminal is shown of text from outside."""

from __future__ import annotations

import json
import shlex
import unicodedata
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.printable import cleaned_name, name_problem, printable, shell_word, shortened

CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
TURNING = [chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))]
HIDDEN = ["\u00ad", "\u180e", "\u2060", "\ufeff", "\u2028", "\u2029", "\ufff9"]
NONE = ["\ufffe", "\uffff", "\U0001fffe", "\U0010ffff", "\ufdd0"]
SURROGATES = ["\ud800", "\udfff", "\udce9"]
JOINERS = ["\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u061c"]

NAMES = [
    "building", "road & rail <paved> \"new\" 'old'", "Straße", "建筑物", "水体", "здание", "طريق", "می‌خواهم", "בניין",
    "भवन", "ක්‍රීඩා", "อาคาร", "ផ្លូវ​ថ្នល់", "Ελιά", "道路/鐵路", "1", "a b", "a\u00a0b", "a\u3000b", "🏠", "👩‍🌾 field",
    "e\u0301",
]  # fmt: skip
"""Names as people give them: with the joiners of Persian, Sinhala and Khmer, and blanks of other widths."""


@pytest.mark.parametrize("letter", [*CONTROLS, *TURNING, *HIDDEN, *NONE, *SURROGATES], ids=ascii)
def test_no_name_holds_what_steers_or_hides(letter: str) -> None:
    for name in (f"ro{letter}ad", f"{letter}road", f"road{letter}", f"建{letter}筑"):
        place = name.index(letter) + 1
        assert f"character {place} is U+{ord(letter):04X}" in str(name_problem(name))
        assert cleaned_name(name) in ("road", "建筑")
    assert letter not in printable(f"a{letter}b", lines=False)
    shown = printable(f"a{letter}b", lines=False)
    assert shown.startswith("a\\")
    assert shown.isprintable()


@pytest.mark.parametrize("letter", JOINERS, ids=ascii)
def test_joiners_belong_into_words_of_scripts_that_use_them(letter: str) -> None:
    for name in (f"ro{letter}ad", f"road{letter}", f"{letter}می", f"می{letter}"):
        assert name_problem(name) is not None
    assert name_problem(f"می{letter}خواهم") is None


@pytest.mark.parametrize("name", NAMES)
def test_names_of_all_scripts_stay_as_they_are(name: str) -> None:
    assert name_problem(name) is None
    assert cleaned_name(name) == name
    assert printable(name) == name


@pytest.mark.parametrize("name", ["", " ", "\u3000", "x" * 1001])
def test_a_name_is_neither_nothing_nor_a_novel(name: str) -> None:
    assert name_problem(name) is not None


@given(st.text(st.characters(), max_size=12))
def test_a_name_survives_everything_that_it_is_written_to(name: str) -> None:
    if name_problem(name) is not None:
        return
    element = ElementTree.Element("a", label=name)
    element.text = name
    back = ElementTree.fromstring(ElementTree.tostring(element))
    assert (back.get("label"), back.text) == (name, name)
    assert json.loads(json.dumps(name)) == name.encode().decode()
    assert printable(name, lines=False) == name
    assert not {unicodedata.category(letter) for letter in name} & {"Cc", "Cs", "Zl", "Zp"}


@given(st.text(st.characters(), max_size=40))
def test_what_is_shown_cannot_steer_a_terminal(text: str) -> None:
    shown = printable(text)
    assert not {unicodedata.category(letter) for letter in shown.replace("\n", "").replace("\t", "")} & {
        "Cc",
        "Cs",
    }
    assert printable(shown) == shown
    assert len(shortened(text * 50)) <= 80


def test_a_byte_of_a_name_is_shown_as_that_byte() -> None:
    assert printable(b"caf\xe9.tif".decode("utf-8", "surrogateescape")) == r"caf\xe9.tif"


@pytest.mark.parametrize("text", ["311=class 311,523=sea", "a b", "x;y", "(1)", "it's"])
def test_a_value_with_blanks_is_one_word_to_a_shell(text: str) -> None:
    assert shlex.split(f"--classes {shell_word(text)}") == ["--classes", text]
    assert shell_word("0=background,255=building") == "0=background,255=building"
