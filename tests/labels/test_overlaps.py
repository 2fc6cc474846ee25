"""Ground that several classes claim is measured once, whatever the windows, and a priority decides it."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from pyproj import CRS
from rasterio.features import rasterize
from shapely import box

from aerial_seg.errors import InputError, SettingsError
from aerial_seg.geo.grid import Grid
from aerial_seg.labels.burning import NOWHERE, Outlines, burnt_polygons, covered_counts, unused_byte
from aerial_seg.labels.labels import Labels, open_labels
from aerial_seg.labels.overlaps import Overlaps
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE, make_legend
from aerial_seg.mentions import settings_in

if TYPE_CHECKING:
    from tests.conftest import PolygonFile

SIDE = 40
GRID = Grid(crs=CRS(32645), transform=Affine(1, 0, 300_000, 0, -1, 3_060_000), height=SIDE, width=SIDE)
LEGEND = make_legend({0: "background", 1: "a", 2: "b", 3: "c"}, background=[0])
NAMES = {1: "a", 2: "b", 3: "c", IGNORE: "unlabelled"}


def ground(left: float, top: float, right: float, bottom: float) -> Any:
    """A rectangle in pixels of GRID."""
    return box(300_000 + left, 3_060_000 - bottom, 300_000 + right, 3_060_000 - top)


def mask_of(geometry: Any) -> np.ndarray:
    """The oracle: GDAL burns it alone."""
    return rasterize([geometry], out_shape=GRID.shape, transform=GRID.transform, dtype="uint8") > 0


def burn_in_windows(labels: Labels | Any, step: int) -> np.ndarray:
    out = np.zeros(GRID.shape, np.uint8)
    for top in range(0, SIDE, step):
        for left in range(0, SIDE, step):
            height, width = min(step, SIDE - top), min(step, SIDE - left)
            part = labels.burn(GRID.window(top=top, left=left, height=height, width=width))
            out[top : top + height, left : left + width] = part
    return out


RECTANGLES = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, IGNORE]), *[st.integers(0, SIDE - 2)] * 2, *[st.integers(1, 20)] * 2),
    min_size=1,
    max_size=8,
)


@settings(max_examples=examples(40), deadline=None)
@given(
    drawn=RECTANGLES,
    priority=st.permutations(tuple(NAMES.values())),
    listed=st.integers(0, 4),
    rim=st.integers(0, 3),
)
def test_every_pixel_that_two_classes_claim_is_counted_once(
    drawn: list[tuple[int, ...]], priority: list[str], listed: int, rim: int
) -> None:
    shapes = np.array([ground(x, y, x + w, y + h) for _, x, y, w, h in drawn], object)
    values = np.array([value for value, *_ in drawn], np.uint8)
    overlaps = Overlaps(LEGEND, tuple(priority[:listed]))
    got = np.zeros(GRID.shape, np.uint8)
    for top in range(0, SIDE, 20):
        for left in range(0, SIDE, 20):
            wide = GRID.window(top=top - rim, left=left - rim, height=20 + 2 * rim, width=20 + 2 * rim)
            corner = np.array([wide.transform.c, wide.transform.f])
            pixels = shapely.transform(shapes, lambda points, c=corner: (points - c) * (1, -1))
            part, found = overlaps.burn(pixels, values, wide, rim=rim)
            overlaps.add(found)
            part = np.where(part == NOWHERE, 0, part)
            got[top : top + 20, left : left + 20] = part[rim : 20 + rim, rim : 20 + rim]
    claims = {k: np.zeros(GRID.shape, bool) for k in NAMES}
    want = np.zeros(GRID.shape, np.uint8)
    rank = {k: listed - priority.index(name) for k, name in NAMES.items() if name in priority[:listed]}
    for k in sorted(range(len(values)), key=lambda k: rank.get(int(values[k]), 0)):
        want[mask_of(shapes[k])] = values[k]
        claims[int(values[k])] |= mask_of(shapes[k])
    np.testing.assert_array_equal(got, want)
    pairs = {(i, j): int((claims[i] & claims[j]).sum()) for i, j in combinations(NAMES, 2)}
    undecided = sum(n for pair, n in pairs.items() if not {NAMES[k] for k in pair} & set(priority[:listed]))
    covered = int(np.logical_or.reduce(list(claims.values())).sum())
    if undecided > 0.001 * covered:
        with pytest.raises(InputError, match="overlap on"):
            overlaps.check()
    else:
        assert len(overlaps.check()) == (undecided > 0) + (sum(pairs.values()) > undecided)


@settings(max_examples=examples(30), deadline=None)
@given(
    seed=st.integers(0, 10_000),
    parts=st.integers(1, 4),
    all_touched=st.booleans(),
)
def test_holes_and_parts_are_burnt_as_gdal_burns_them(seed: int, parts: int, all_touched: bool) -> None:
    random = np.random.default_rng(seed)
    shapes = []
    for _ in range(3):
        discs = shapely.buffer(shapely.points(random.uniform(-5, SIDE + 5, (parts, 2))), random.uniform(2, 9))
        holes = shapely.buffer(shapely.points(random.uniform(0, SIDE, (parts, 2))), random.uniform(1, 4))
        shapes.append(shapely.union_all(discs).difference(shapely.union_all(holes)))
    shapes = [shape for shape in shapes if not shape.is_empty]
    values = np.arange(1, len(shapes) + 1, dtype=np.uint8)
    got = burnt_polygons(np.array(shapes, object), values, GRID.shape, all_touched=all_touched)
    # Moved by as much as all are before it is asked what they touch: see burning.
    moved = [shapely.affinity.translate(shape, 2**-13, 2**-13 * 0.618) for shape in shapes]
    want = rasterize(
        zip(moved if all_touched else shapes, values, strict=True),
        out_shape=GRID.shape,
        fill=NOWHERE,
        dtype="int16",
        all_touched=all_touched,
    )
    assert (got != want).mean() <= (0.002 if all_touched else 0)


@settings(max_examples=examples(40), deadline=None)
@given(
    drawn=st.lists(
        st.tuples(
            st.sampled_from([1, 2, 3, IGNORE]), *[st.integers(-8, 8 * SIDE)] * 2, *[st.integers(1, 60)] * 2
        ),
        min_size=1,
        max_size=12,
    ),
    others=st.sampled_from([0, 1000]),
    elsewhere=st.sampled_from([NOWHERE, 0, 7]),
)
def test_polygons_side_by_side_are_burnt_as_gdal_burns_each(
    drawn: list[tuple[int, ...]], others: int, elsewhere: int
) -> None:
    """In eighths of pixels, so that edges go through their centres; and among as many that lie elsewhere.

    Whether a byte that no polygon has stands for what lies outside of all, or −1, the counts are the same.
    """
    found = [box(x / 8, y / 8, (x + w) / 8, (y + h) / 8) for _, x, y, w, h in drawn]
    values = np.array([value for value, *_ in drawn] + [1] * others, np.uint8)
    shapes = np.array(found + [box(-9, -9, -8, -8)] * others, object)
    got, counted = Overlaps(LEGEND, ()).burn(shapes, values, GRID, elsewhere=elsewhere)
    assert got.dtype == (np.int16 if elsewhere < 0 else np.uint8)
    claims = {k: np.zeros(GRID.shape, bool) for k in NAMES}
    want = np.full(GRID.shape, NOWHERE, np.int16)
    for shape, value in zip(found, values.tolist(), strict=False):
        mask = rasterize([shape], out_shape=GRID.shape, dtype="uint8") > 0
        want[mask] = value
        claims[value] |= mask
    np.testing.assert_array_equal(got, np.where(want == NOWHERE, elsewhere, want))
    pairs = {(i, j): int((claims[i] & claims[j]).sum()) for i, j in combinations(NAMES, 2)}
    assert dict(counted.pixels) == {pair: n for pair, n in pairs.items() if n}
    assert dict(counted.of_class) == {k: int(mask.sum()) for k, mask in claims.items() if mask.any()}
    assert counted.covered == int((want != NOWHERE).sum())


@pytest.mark.parametrize("wanted", [0, 255])
def test_what_lies_outside_has_a_byte_that_no_polygon_has(wanted: int) -> None:
    """The wanted one, else another; where polygons have all 256, none, and every value is still counted."""
    everything = np.arange(256, dtype=np.uint8)
    assert unused_byte(np.array([1, 2], np.uint8), wanted) == wanted
    assert unused_byte(everything[everything != 9], wanted) == 9
    assert unused_byte(everything, wanted) == NOWHERE
    shapes = np.array([box(k % 16, k // 16, k % 16 + 1, k // 16 + 1) for k in range(256)], object)
    burnt = Outlines.of(shapes).burnt(everything, (17, 16))
    np.testing.assert_array_equal(burnt, np.append(everything, [NOWHERE] * 16).reshape(17, 16))
    np.testing.assert_array_equal(covered_counts(burnt, NOWHERE), np.ones(256))
    np.testing.assert_array_equal(covered_counts(burnt, NOWHERE, burnt > 200), everything > 200)


class TestPolygons:
    def write(self, polygon_file: PolygonFile, overlap: float = 6) -> Path:
        shapes = [ground(0, 0, 20, 40), ground(20 - overlap, 0, 40, 40), ground(2, 2, 4, 4)]
        return polygon_file("l.gpkg", shapes, {"kind": ["wood", "field", "wood"]})

    def test_the_printed_priority_works(self, polygon_file: PolygonFile) -> None:
        path = self.write(polygon_file)
        labels = open_labels([path], LabelSettings(class_field="kind"))
        burn_in_windows(labels, 7)
        with pytest.raises(
            InputError, match=r"overlap on 0.15 of the labelled area \(field × wood 240 m²\)"
        ) as refusal:
            labels.check_overlaps()
        (told,) = [one.value for one in settings_in(str(refusal.value)) if one.has_value]
        assert told == ("wood", "field")
        for priority, edge in ((told, 20), (("field",), 14)):
            decided = open_labels([path], LabelSettings(class_field="kind", priority=priority))
            got = burn_in_windows(decided, 7)
            want = np.where(np.arange(SIDE) < edge, 2, 1) * np.ones((SIDE, 1), int)
            np.testing.assert_array_equal(got, want)
            assert decided.check_overlaps() == (
                "overlaps of classes, decided by their priority: field × wood 240 m²",
            )

    def test_a_little_is_told(self, polygon_file: PolygonFile) -> None:
        path = polygon_file(
            "l.gpkg", [ground(0, 0, 40, 39), ground(39, 38, 40, 40)], {"kind": ["wood", "field"]}
        )
        labels = open_labels([path], LabelSettings(class_field="kind"))
        burn_in_windows(labels, 16)
        assert labels.check_overlaps() == (
            "overlaps of classes, the later polygon on top: field × wood 1 m²",
        )

    def test_ground_that_is_called_unlabelled_takes_labels_away(self, polygon_file: PolygonFile) -> None:
        path = self.write(polygon_file)
        how = LabelSettings(class_field="kind", classes={"wood": "wood", "field": "unlabelled"})
        labels = open_labels([path], how)
        burn_in_windows(labels, 7)
        with pytest.raises(InputError, match=r"\(wood × unlabelled 240 m²\)") as refusal:
            labels.check_overlaps()
        (told,) = [one.value for one in settings_in(str(refusal.value)) if one.has_value]
        for priority, edge in ((told, 20), (("unlabelled",), 14)):
            decided = open_labels([path], replace(how, priority=priority))
            got = burn_in_windows(decided, 7)
            want = np.where(np.arange(SIDE) < edge, 1, IGNORE) * np.ones((SIDE, 1), int)
            np.testing.assert_array_equal(got, want)

    def test_before_the_end_only_what_will_be_too_much_is(self, polygon_file: PolygonFile) -> None:
        labels = open_labels([self.write(polygon_file)], LabelSettings(class_field="kind"))
        labels.burn(GRID.window(top=0, left=0, height=1, width=SIDE))  # 6 of 40 pixels
        assert labels.check_overlaps(of=6000) != ()
        with pytest.raises(InputError, match=r"overlap on 0.15 of"):
            labels.check_overlaps(of=5999)

    def test_neighbours_of_which_all_touched_pixels_count_do_not_overlap(
        self, polygon_file: PolygonFile
    ) -> None:
        shapes = [ground(20.3, 0, 40, 40), ground(0, 0, 20.3, 40)]
        path = polygon_file("l.gpkg", shapes, {"kind": ["field", "wood"]})
        labels = open_labels([path], LabelSettings(class_field="kind", all_touched=True))
        got = burn_in_windows(labels, 16)
        assert (got == 2).sum() == 21 * SIDE
        assert labels.check_overlaps() == ()

    def test_what_overlaps_beyond_the_labelled_area_is_no_matter(self, polygon_file: PolygonFile) -> None:
        area = polygon_file("area.gpkg", [ground(0, 0, 14, 40)])
        how = LabelSettings(class_field="kind", labelled_area=str(area))
        labels = open_labels([self.write(polygon_file)], how)
        got = burn_in_windows(labels, 16)
        np.testing.assert_array_equal(
            got, np.where(np.arange(SIDE) < 14, 2, IGNORE) * np.ones((SIDE, 1), int)
        )
        assert labels.check_overlaps() == ()

    def test_overlaps_of_one_class_are_none(self, polygon_file: PolygonFile) -> None:
        path = polygon_file("l.gpkg", [ground(0, 0, 30, 30), ground(10, 10, 40, 40)])
        labels = open_labels([path], LabelSettings())
        burn_in_windows(labels, 16)
        assert labels.check_overlaps() == ()

    @pytest.mark.parametrize(
        ("priority", "told"),
        [
            (("wod",), "names 'wod', which is no class; known: background, field, wood; did you mean 'wood'"),
            (("wood", "wood"), "names a class twice"),
        ],
    )
    def test_a_priority_of_what_is_no_class(
        self, polygon_file: PolygonFile, priority: tuple[str, ...], told: str
    ) -> None:
        with pytest.raises(SettingsError, match=told):
            open_labels([self.write(polygon_file)], LabelSettings(class_field="kind", priority=priority))

    @pytest.mark.parametrize(
        ("how", "told"),
        [
            (
                {"unlabelled": (0,)},
                r"`unlabelled` is for label rasters, but .*l.gpkg is a file of polygons; leave it",
            ),
            ({"preset": "voc"}, r"`preset` is for label rasters"),
            (
                {"priority": ("a",)},
                r"`priority` is for several classes, but without `class_field` all polygons",
            ),
        ],
    )
    def test_options_that_cannot_apply(
        self, polygon_file: PolygonFile, how: dict[str, Any], told: str
    ) -> None:
        """Until now `unlabelled` was ignored here, and the error that recommended it repeated itself."""
        with pytest.raises(SettingsError, match=told):
            open_labels([self.write(polygon_file)], LabelSettings(**how))

    def test_what_is_recommended_in_its_place_works(self, polygon_file: PolygonFile) -> None:
        path = polygon_file("l.gpkg", [ground(0, 0, 20, 40), ground(20, 0, 40, 40)], {"code": [9, 1]})
        labels = open_labels([path], LabelSettings(class_field="code", classes={9: "unlabelled", 1: "wood"}))
        got = labels.burn(GRID)
        np.testing.assert_array_equal(
            got, np.where(np.arange(SIDE) < 20, IGNORE, 1) * np.ones((SIDE, 1), int)
        )

    def test_borders_between_polygons_are_left_out_and_overlaps_counted_once(
        self, polygon_file: PolygonFile
    ) -> None:
        labels = open_labels(
            [self.write(polygon_file)], LabelSettings(class_field="kind", priority=("wood",), ignore_border=2)
        )
        got = burn_in_windows(labels, 9)
        columns = np.arange(SIDE)
        want = np.where((columns >= 18) & (columns < 22), IGNORE, np.where(columns < 20, 2, 1))
        inner = slice(2, SIDE - 2)  # beyond the first and last row lies background
        np.testing.assert_array_equal(got[inner, inner], np.broadcast_to(want, (SIDE, SIDE))[inner, inner])
        assert labels.check_overlaps() == (
            "overlaps of classes, decided by their priority: field × wood 240 m²",
        )
