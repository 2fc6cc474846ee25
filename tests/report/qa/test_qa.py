"""What `qa/` shows is what the dataset holds: colours, patterns, counts, and chips that are worth a look."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from PIL import Image
from shapely import box

from aerial_seg.bands import Band
from aerial_seg.legend import IGNORE, make_legend
from aerial_seg.report.qa.chips import QaChip, random_chips, rare_chips
from aerial_seg.report.qa.page import class_csv, page
from aerial_seg.report.qa.panels import chip_panels, unlabelled_pattern, unmeasured_pattern
from aerial_seg.report.qa.sheets import contact_rows, draw_contact_sheet, fullest_window
from aerial_seg.report.qa.split_map import SPLIT_COLOURS, draw_split_map
from aerial_seg.training.manifest import DatasetDocument

LEGEND = make_legend({0: "background", 3: "roof", 7: "road"}, background=[0])
ROOF, ROAD = LEGEND.entries[1].rgb, LEGEND.entries[2].rgb


def chip(name: str, counts: tuple[int, ...], *, split: str = "train", at: tuple[int, int] = (0, 0)) -> QaChip:
    x, y = at
    return QaChip(name, split, "a.tif", box(x, y, x + 1, y + 1), 400, np.array(counts))


chips = st.lists(
    st.tuples(st.sampled_from(("train", "val", "test")), st.tuples(*[st.integers(0, 3)] * 3)),
    min_size=1,
    max_size=40,
).map(lambda drawn: [chip(f"c{k}", counts, split=split) for k, (split, counts) in enumerate(drawn)])


@given(chips, st.integers(0, 5))
@settings(max_examples=examples(60))
def test_chips_at_random_are_of_every_split_and_each_once(drawn: list[QaChip], seed: int) -> None:
    chosen = random_chips(drawn, seed)
    assert len(chosen) == len(set(chosen)) == min(12, len(drawn))
    assert {drawn[k].split for k in chosen} == {one.split for one in drawn}
    assert chosen == random_chips(drawn, seed)


@given(chips, st.integers(0, 5))
@settings(max_examples=examples(60))
def test_chips_of_rare_classes_hold_them_and_the_fullest_is_there(drawn: list[QaChip], seed: int) -> None:
    chosen = rare_chips(drawn, seed)
    assert len({k for k, _ in chosen}) == len(chosen) <= 12
    assert all(drawn[k].counts[channel] for k, channel in chosen)
    pixels = np.sum([one.counts for one in drawn], axis=0)
    if pixels.any():
        rarest = min(np.flatnonzero(pixels), key=lambda k: (pixels[k], k))
        most = max(one.counts[rarest] for one in drawn)
        assert any(channel == rarest and drawn[k].counts[rarest] == most for k, channel in chosen)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 40), st.integers(0, 2**31))
@settings(max_examples=examples(60))
def test_a_window_lies_inside_and_holds_a_rare_pixel(height: int, width: int, side: int, seed: int) -> None:
    where = np.zeros((height, width), np.bool_)
    random = np.random.default_rng(seed)
    where[random.integers(height), random.integers(width)] = True
    rows, cols = fullest_window(where, side=side)
    assert (rows.stop - rows.start, cols.stop - cols.start) == (min(side, height), min(side, width))
    assert min(rows.start, cols.start) >= 0
    assert rows.stop <= height
    assert cols.stop <= width
    if side >= 8:
        assert where[rows, cols].any()


def test_panels_tell_classes_unlabelled_and_unmeasured_apart() -> None:
    """Big enough that nothing is enlarged or reduced: 200 px."""
    image = np.full((200, 200, 3), 90, np.uint8)
    channels = np.zeros((200, 200), np.uint8)
    channels[:100, :100] = 1
    channels[100:, :100] = IGNORE
    channels[100:, 100:] = IGNORE
    valid = np.ones((200, 200), np.bool_)
    valid[100:, 100:] = False
    seen, labels, both = chip_panels(image, valid, channels, LEGEND)
    assert (labels[:100, :100] == ROOF).all()
    assert (labels[:100, 100:] == LEGEND.entries[0].rgb).all()
    assert (labels[100:, :100] == unlabelled_pattern(200, 200)[100:, :100]).all()
    for panel in (seen, labels, both):
        # Its own border apart, which "both" draws.
        assert (panel[102:, 102:] == unmeasured_pattern(200, 200)[102:, 102:]).all()
    assert (seen[:, :100] == 90).all()
    assert (both[:98, 102:] == 90).all(), "background hides nothing of the image"
    assert (both[50, 99] == ROOF).all(), "the border of a class has its colour"
    inside = both[50, 50].astype(int)
    assert np.abs(inside - (0.75 * 90 + 0.25 * np.array(ROOF))).max() <= 1
    unlabelled = both[102:, :98]
    assert {tuple(pixel) for pixel in unlabelled.reshape(-1, 3)} == {(90, 90, 90), (189, 189, 189)}


def band(name: str, dtype: str, low: float, high: float) -> Band:
    return Band(name=name, dtype=dtype, mean=(low + high) / 2, std=1.0, p2=low, p98=high)


def drawn_image(tmp_path: Path, image: np.ndarray, bands: list[Band]) -> np.ndarray:
    """The image panel of a sheet of one chip of 200 px."""
    valid, channels = np.ones((200, 200), np.bool_), np.zeros((200, 200), np.uint8)
    rows = contact_rows(
        [(chip("c", (400, 0, 0)), None)],
        read=lambda name: (image, valid, channels),
        bands=bands,
        legend=LEGEND,
    )
    draw_contact_sheet(rows, tmp_path / "s.png", legend=LEGEND, title="t")
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    return sheet[80:280, 6:206]


def test_16_bits_are_stretched_between_percentiles_with_bands_by_their_names(tmp_path: Path) -> None:
    bands = [band("nir", "uint16", 0, 9000), band("blue", "uint16", 100, 600)]
    bands += [band("green", "uint16", 200, 700), band("red", "uint16", 1000, 3000)]
    image = np.zeros((4, 200, 200), np.uint16)
    image[0], image[1], image[2], image[3] = 9000, 350, 200, 3000
    assert {tuple(p) for p in drawn_image(tmp_path, image, bands).reshape(-1, 3)} == {(255, 0, 128)}


@pytest.mark.parametrize(("level", "shown"), [(128, 128), (30, 102)])
def test_dark_8_bits_are_brightened_and_others_left_as_they_are(
    tmp_path: Path, level: int, shown: int
) -> None:
    bands = [
        Band(name=c, dtype="uint8", mean=level, std=1.0, p2=0, p98=255) for c in ("red", "green", "blue")
    ]
    panel = drawn_image(tmp_path, np.full((3, 200, 200), level, np.uint8), bands)
    assert {tuple(p) for p in panel.reshape(-1, 3)} == {(shown,) * 3}


def test_the_split_map_shows_every_chip_at_its_place(tmp_path: Path) -> None:
    """A degree is shorter from west to east than from south to north: chips are squares all the same."""
    places = {(0, 1): "train", (1, 1): "val", (0, 0): "test"}
    found = [chip(f"{x}{y}", (1, 0, 0), split=split, at=(x, y)) for (x, y), split in places.items()]
    draw_split_map(found, LEGEND, tmp_path / "m.png")
    picture = np.asarray(Image.open(tmp_path / "m.png").convert("RGB"))
    side = 640 // 2
    for (x, y), split in places.items():
        colour = SPLIT_COLOURS[split]
        middle = picture[80 + (1 - y) * side + side // 2, 6 + x * side + side // 2]
        assert tuple(middle) == tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5)), split
    assert tuple(picture[80 + side + side // 2, 6 + side + side // 2]) == (255, 255, 255)


def test_the_class_table_counts_pixels_and_chips_of_each_split() -> None:
    found = [chip("a", (5, 2, 0)), chip("b", (1, 0, 0)), chip("c", (0, 3, 0), split="val")]
    rows = list(csv.DictReader(io.StringIO(class_csv(found, LEGEND))))
    assert [row["class"] for row in rows] == ["background", "roof", "road"]
    told = [(row["train_pixels"], row["train_chips"], row["val_pixels"], row["val_chips"]) for row in rows]
    assert told == [("6", "2", "0", "0"), ("2", "1", "3", "1"), ("0", "0", "0", "0")]
    assert [row["value"] for row in rows] == ["0", "3", "7"]


def test_names_and_warnings_are_text_in_the_page() -> None:
    """What comes from outside neither becomes markup nor steers anything."""
    legend = make_legend({0: "background", 1: "<img src=x>"}, background=[0])
    document = DatasetDocument(
        tool_version="1",
        legend=legend,
        bands=(band("red", "uint8", 0, 255),),
        gsd=None,
        chip_size=20,
        split_by="block",
        seed=0,
        sources=(),
        class_pixels={},
        notes=("a <b>file</b> & \u202e more",),
        fingerprint="",
    )
    found = [QaChip("c", "train", "a.tif", box(0, 0, 1, 1), 400, np.array((300, 0)))]
    text = page(document, found, [("Where", "splits.png")], document.notes)
    assert "<img src=x>" not in text
    assert "&lt;img src=x&gt;" in text
    assert "<li>a &lt;b&gt;file&lt;/b&gt; &amp; \\u202e more</li>" in text
    assert "<h2>1 warning</h2>" in text
    assert '<td class="none">none</td>' in text, "the class that no chip holds"
