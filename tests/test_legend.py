"""Values, channels and names of classes go over into each other without loss, each in its own colour."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.errors import SettingsError
from aerial_seg.legend import IGNORE, Legend, legend_from_colormap, make_legend

NAMES = st.dictionaries(
    st.integers(0, 254), st.text("abcdefgh", min_size=1, max_size=6), min_size=1, max_size=40
)


@given(names=NAMES.filter(lambda d: len(set(d.values())) == len(d)))
def test_tables_are_each_others_inverse_and_colours_differ(names: dict[int, str]) -> None:
    legend = make_legend(names)
    assert legend.values == tuple(sorted(names))
    to_channel, to_value = legend.channel_table(), legend.value_table()
    np.testing.assert_array_equal(to_value[to_channel[list(legend.values)]], legend.values)
    np.testing.assert_array_equal(to_channel[to_value[: len(legend)]], np.arange(len(legend)))
    others = np.setdiff1d(np.arange(256), legend.values)
    assert (to_channel[others] == IGNORE).all()
    assert (to_value[len(legend) :] == IGNORE).all()
    assert len({entry.colour for entry in legend.entries}) == len(legend)
    for entry in legend.entries:
        assert tuple(legend.colours()[entry.value]) == entry.rgb
    assert Legend.model_validate_json(legend.model_dump_json()) == legend


def test_usual_names_have_usual_colours_unless_told_otherwise() -> None:
    legend = make_legend(
        {0: "background", 1: "Buildings", 2: "water"}, background=[0], colours={2: "#FF0000"}
    )
    assert legend.by_value()[1].colour == make_legend({5: "building"}).entries[0].colour
    assert legend.by_value()[2].rgb == (255, 0, 0)
    assert [entry.background for entry in legend.entries] == [True, False, False]


@pytest.mark.parametrize(
    ("names", "colours", "got"),
    [
        ({1: "road", 2: "road"}, None, "class name ['road'] is used more than once"),
        ({IGNORE: "road"}, None, "'entries.0.value' is 255"),
        ({-1: "road"}, None, "'entries.0.value' is -1"),
        ({}, None, "'entries' is []"),
        ({1: ""}, None, "'entries.0.name' is ''"),
        ({1: "a\nb"}, None, "class name"),
        ({1: "road"}, {1: "red"}, "'entries.0.colour' is 'red'"),
    ],
)
def test_classes_that_make_no_legend_are_told_in_one_line(
    names: dict[int, str], colours: dict[int, str] | None, got: str
) -> None:
    with pytest.raises(SettingsError) as told:
        make_legend(names, colours=colours)
    line = str(told.value)
    assert got in line
    assert "give every class a value from 0 to 254, a name of its own and a colour like #c0392b" in line
    assert "\n" not in line
    assert "pydantic" not in line


def test_a_palette_gives_its_colours() -> None:
    legend = legend_from_colormap(
        ["Background", "road"], {0: (1, 2, 3, 255), 1: (4, 5, 6, 255), 9: (0, 0, 0, 255)}
    )
    assert [entry.rgb for entry in legend.entries] == [(1, 2, 3), (4, 5, 6)]
    assert legend.entries[0].background
