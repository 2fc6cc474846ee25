"""Label rasters without CRS find their rasters by name, or are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.errors import InputError
from aerial_seg.labels.pairing.by_name import Pairs, pair_by_name


def paths(*names: str) -> list[Path]:
    return [Path("/data") / name for name in names]


@pytest.mark.parametrize(
    ("rasters", "labels", "wanted"),
    [
        # The order of the files says nothing.
        (["i/a.jpg", "i/b.jpg"], ["m/b.png", "m/a.png"], (1, 0)),
        # VOC, LoveDA; DeepGlobe; iSAID; Cityscapes; what comes out of other programs.
        (["1_sat.jpg", "2_sat.jpg"], ["2_mask.png", "1_mask.png"], (1, 0)),
        (["P0.png", "P1.png"], ["P1_instance_color_RGB.png", "P0_instance_color_RGB.png"], (1, 0)),
        (["aachen_000_019_leftImg8bit.png", "bonn_000_001_leftImg8bit.png"],
         ["bonn_000_001_gtFine_labelIds.png", "aachen_000_019_gtFine_labelIds.png"], (1, 0)),
        (["image_0.tif", "image_1.tif"], ["label_0.tif", "label_1.tif"], (0, 1)),
        (["a-7 rgb.png", "b-7 rgb.png"], ["b-7.png", "a-7.png"], (1, 0)),
        # One name in many folders, which lie beside each other or below one for each kind.
        (["Tile 1/images/p1.jpg", "Tile 2/images/p1.jpg"], ["Tile 2/masks/p1.png", "Tile 1/masks/p1.png"], (1, 0)),
        (["images/x/p1.jpg", "images/y/p1.jpg"], ["masks/y/p1.png", "masks/x/p1.png"], (1, 0)),
        (["i/19/5/7.png", "i/19/6/7.png"], ["m/19/6/7.png", "m/19/5/7.png"], (1, 0)),
        # 1 is not 01, and equal names go before parts of names.
        (["x_1.png", "x_2.png"], ["y_1.png", "x_1.png", "x_2.png"], (1, 2)),
    ],
)  # fmt: skip
def test_names_that_belong_together(rasters: list[str], labels: list[str], wanted: tuple[int, ...]) -> None:
    pairs = pair_by_name(paths(*rasters), paths(*labels))
    assert isinstance(pairs, Pairs)
    assert pairs.labels == wanted
    assert set(pairs.unused) == set(paths(*labels)) - {paths(*labels)[k] for k in wanted}


@pytest.mark.parametrize(
    ("rasters", "labels", "told"),
    [
        (["a.jpg", "b.jpg", "c.jpg"], ["a.png", "b.png"], r"1 of 3 rasters have no .*/c\.jpg.*wanted c\.png"),
        (["a_1.jpg", "a_2.jpg"], ["b_01.png", "b_02.png"], "2 of 2 rasters have no"),
        (
            ["a.jpg"],
            ["m/a.png", "n/a.png"],
            r"2 label rasters may be those of .*/a\.jpg .*m/a\.png, .*n/a\.png",
        ),
        (["x/a.jpg", "y/a.jpg"], ["m/a.png"], r"x/a\.jpg and .*y/a\.jpg have one name, and .*m/a\.png"),
    ],
)
def test_what_names_do_not_tell_is_asked(rasters: list[str], labels: list[str], told: str) -> None:
    refusal = pair_by_name(paths(*rasters), paths(*labels))
    assert isinstance(refusal, InputError)
    with pytest.raises(InputError, match=told):
        raise refusal


@given(
    st.lists(st.text("ab1", min_size=1, max_size=4), min_size=2, max_size=6, unique=True),
    st.sampled_from(["", "img_", "left "]),
    st.sampled_from(["", "_mask", "-gt_fine"]),
)
@settings(max_examples=examples(60))
def test_whatever_all_names_begin_and_end_with_each_finds_its_own(
    names: list[str], before: str, after: str
) -> None:
    rasters = paths(*(f"i/{before}{name}.jpg" for name in names))
    mixed = sorted(names)
    labels = paths(*(f"m/{name}{after}.png" for name in mixed))
    pairs = pair_by_name(rasters, labels)
    assert isinstance(pairs, Pairs)
    assert [mixed[k] for k in pairs.labels] == names
    assert pairs.unused == ()
