"""Label rasters of every kind become the classes that they mean: colours, palettes, codes; JPEG is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples
from PIL import Image
from pyproj import CRS

from aerial_seg.errors import AerialSegError, InputError, SettingsError
from aerial_seg.geo.grid import Grid
from aerial_seg.labels.borders import grown, without_borders
from aerial_seg.labels.labels import Labels, open_labels
from aerial_seg.labels.presets import PRESETS, preset_table
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE, make_legend
from aerial_seg.mentions import settings_in

if TYPE_CHECKING:
    from tests.conftest import RasterFile

SIDE = 40
UTM = CRS(32645)
GRID = Grid(crs=UTM, transform=Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000), height=SIDE, width=SIDE)
RANDOM = np.random.default_rng(3)
DUBAI: Mapping[int, tuple[int, int, int]] = {
    1: (0x3C, 0x10, 0x98), 2: (0x84, 0x29, 0xF6), 3: (0x6E, 0xC1, 0xE4), 4: (0xFE, 0xDD, 0x3A), 5: (0xE2, 0xA9, 0x29),
    IGNORE: (0x9B, 0x9B, 0x9B),
}  # fmt: skip


def colours(values: np.ndarray, table: Mapping[int, tuple[int, int, int]] = DUBAI) -> np.ndarray:
    """(3, H, W) of values (H, W)."""
    out = np.zeros((3, *values.shape), np.uint8)
    for value, colour in table.items():
        out[:, values == value] = np.array(colour, np.uint8)[:, None]
    return out


def opened(*paths: Path, known: Any = None, **how: Any) -> Labels:
    return open_labels(paths, LabelSettings(**how), legend=known)


def remedy(work: Callable[[], object], kind: type[AerialSegError] = InputError) -> dict[str, Any]:
    with pytest.raises(kind) as refusal:
        work()
    assert "\n" not in str(refusal.value)
    return {one.name: one.value for one in settings_in(str(refusal.value)) if one.has_value}


def write_palette(path: Path, values: np.ndarray, palette: Mapping[int, tuple[int, int, int]]) -> Path:
    """A GeoTIFF of indices on GRID whose palette has these colours."""
    profile = {
        "driver": "GTiff",
        "count": 1,
        "dtype": "uint8",
        "crs": UTM.to_wkt(),
        "transform": GRID.transform,
    }
    with rasterio.open(path, "w", height=values.shape[0], width=values.shape[1], **profile) as file:
        file.write(values, 1)
        file.write_colormap(1, {index: (*colour, 255) for index, colour in palette.items()})
    return path


class TestMasksOfTwoValues:
    """Until now the buildings of a 0/255 mask were dropped, and training scored 1.0 over one class."""

    VALUES = np.where(np.kron(np.eye(4), np.ones((10, 10))) > 0, 255, 0).astype(np.uint8)[None]
    CLASSES: ClassVar[dict[int, str]] = {0: "background", 255: "building"}

    @pytest.mark.parametrize("nodata", [None, 0])
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
    def test_any_value_may_be_a_class(self, raster_file: RasterFile, nodata: int | None, dtype: str) -> None:
        labels = opened(raster_file("m.tif", self.VALUES.astype(dtype), nodata=nodata), classes=self.CLASSES)
        assert labels.legend.names == ("background", "building")
        np.testing.assert_array_equal(labels.burn(GRID), self.VALUES[0] // 255)

    def test_a_mask_band_hides_all_the_same(self, raster_file: RasterFile) -> None:
        shown = RANDOM.random((SIDE, SIDE)) > 0.3
        labels = opened(raster_file("m.tif", self.VALUES, mask=shown), classes=self.CLASSES)
        np.testing.assert_array_equal(labels.burn(GRID), np.where(shown, self.VALUES[0] // 255, IGNORE))

    @pytest.mark.parametrize(("top", "nodata"), [(255, None), (255, 0), (1, 0), (7, 0)])
    def test_the_remedy_for_one_class_works(
        self, raster_file: RasterFile, top: int, nodata: int | None
    ) -> None:
        values = np.where(self.VALUES > 0, top, 0).astype(np.uint8)
        path = raster_file("m.tif", values, nodata=nodata)
        if nodata == 0 and top == 255:
            told = remedy(lambda: opened(path))
        else:
            (left,) = opened(path).legend.names
            said = opened(path).beside_one_class(left)
            told = {one.name: one.value for one in settings_in(said) if one.has_value}
        assert told == {"classes": {0: "background", top: "building"}}
        mended = opened(path, **told)
        value = dict(zip(mended.legend.names, mended.legend.values, strict=True))["building"]
        np.testing.assert_array_equal(mended.burn(GRID), np.where(self.VALUES[0] > 0, value, 0))

    def test_a_grey_picture_is_its_values(self, raster_file: RasterFile) -> None:
        path = raster_file("m.tif", np.repeat(self.VALUES, 3, axis=0))
        np.testing.assert_array_equal(opened(path, classes=self.CLASSES).burn(GRID), self.VALUES[0] // 255)


class TestCodes:
    VALUES = RANDOM.choice(np.array([311, 312, 523, 65535], np.uint16), (1, SIDE, SIDE))

    def test_corine_codes_become_values_and_stay_as_codes(self, raster_file: RasterFile) -> None:
        path = raster_file("c.tif", self.VALUES)
        labels = opened(path, classes="311=broad-leaved,312=coniferous,523=sea", unlabelled=(65535,))
        assert [(e.value, e.code) for e in labels.legend.entries] == [(1, 311), (2, 312), (3, 523)]
        want = np.select([self.VALUES[0] == code for code in (311, 312, 523)], [1, 2, 3], IGNORE)
        np.testing.assert_array_equal(labels.burn(GRID), want)

    @pytest.mark.parametrize("dtype", ["uint16", "int32", "uint32", "int64", "uint64"])
    def test_what_the_error_prints_works(self, raster_file: RasterFile, dtype: str) -> None:
        path = raster_file("c.tif", self.VALUES.astype(dtype))
        told = remedy(lambda: opened(path))
        assert opened(path, classes=told["classes"]).legend.names == tuple(
            f"class {c}" for c in (311, 312, 523, 65535)
        )
        told = remedy(lambda: opened(path, classes={311: "a", 312: "a", 523: "b"}))
        assert told["unlabelled"] == (65535,)
        for way in (
            {"classes": {311: "a", 312: "a", 523: "b"}, "unlabelled": (65535,)},
            {"classes": told["classes"]},
        ):
            labels = opened(path, **way)
            np.testing.assert_array_equal(labels.burn(GRID) == IGNORE, self.VALUES[0] == 65535)

    def test_codes_of_one_class_vote_together(self, raster_file: RasterFile) -> None:
        """Two coniferous, two broad-leaved and three of sea are a forest to a pixel of all seven."""
        block = np.array([[311, 311, 312], [312, 523, 523], [523, 311, 523]], np.uint16)
        path = raster_file("c.tif", np.tile(block, (8, 8))[None])
        coarse = GRID.window(top=0, left=0, height=24, width=24).resized(height=8, width=8)
        forest = opened(path, classes="311=forest,312=forest,523=sea")
        assert (
            forest.burn(coarse) == dict(zip(forest.legend.names, forest.legend.values, strict=True))["forest"]
        ).all()


class TestColours:
    VALUES = RANDOM.choice(np.array([*DUBAI], np.uint8), (SIDE, SIDE))

    def test_a_preset_reads_colours_and_palettes_alike(self, raster_file: RasterFile, tmp_path: Path) -> None:
        plain = raster_file("rgb.tif", colours(self.VALUES))
        order = dict(zip(range(6), [4, 1, IGNORE, 5, 2, 3], strict=True))
        indices = np.select([value == self.VALUES for value in order.values()], list(order)).astype(np.uint8)
        palette = write_palette(tmp_path / "p.tif", indices, {k: DUBAI[value] for k, value in order.items()})
        for path in (plain, palette):
            labels = opened(path, preset="dubai")
            assert labels.legend.names == ("building", "land", "road", "vegetation", "water")
            np.testing.assert_array_equal(labels.burn(GRID), self.VALUES)
        both = opened(palette, plain, preset="dubai")
        np.testing.assert_array_equal(both.burn(GRID), self.VALUES)

    def test_without_a_table_the_preset_that_fits_is_printed(self, raster_file: RasterFile) -> None:
        path = raster_file("rgb.tif", colours(self.VALUES))
        told = remedy(lambda: opened(path))
        assert told["preset"] == "dubai"
        np.testing.assert_array_equal(opened(path, preset=told["preset"]).burn(GRID), self.VALUES)

    @pytest.mark.parametrize("name", PRESETS)
    def test_every_preset_reads_its_own_colours(self, raster_file: RasterFile, name: str) -> None:
        table = preset_table(name)
        by_colour = table.colour_values
        listed = list(by_colour)
        stored = np.array(listed)[RANDOM.integers(0, len(listed), (SIDE, SIDE))]
        image = np.stack([stored >> 16, stored >> 8 & 255, stored & 255]).astype(np.uint8)
        labels = opened(raster_file("rgb.tif", image), preset=name)
        want = np.vectorize(by_colour.__getitem__)(stored)
        np.testing.assert_array_equal(labels.burn(GRID), want)
        assert labels.notes == ()

    def test_a_users_table_of_colours(self, raster_file: RasterFile, tmp_path: Path) -> None:
        (tmp_path / "c.csv").write_text("name,colour\nfield,#010203\nwood,4 5 6\nunlabelled,#ffffff\n")
        values = RANDOM.choice(np.array([1, 2, IGNORE], np.uint8), (SIDE, SIDE))
        image = colours(values, {1: (1, 2, 3), 2: (4, 5, 6), IGNORE: (255, 255, 255)})
        labels = opened(raster_file("rgb.tif", image), classes=tmp_path / "c.csv")
        assert [(e.name, e.colour) for e in labels.legend.entries] == [
            ("field", "#010203"),
            ("wood", "#040506"),
        ]
        np.testing.assert_array_equal(labels.burn(GRID), values)

    @pytest.mark.parametrize("strange", [8, 9])
    def test_unknown_colours_are_told_up_to_half_a_percent(
        self, raster_file: RasterFile, strange: int
    ) -> None:
        image = colours(self.VALUES)
        image[:, 0, :strange] = np.array([254, 1, 0], np.uint8)[:, None]
        path = raster_file("rgb.tif", image)  # 8 of 1,600 are half a percent
        if strange == 9:
            with pytest.raises(
                InputError, match=r"0.6% of the pixels of .* have colours of no class: #fe0100 \(9 px\)"
            ):
                opened(path, preset="dubai")
            return
        labels = opened(path, preset="dubai")
        assert "8 pixels (0.5 %)" in labels.notes[0]
        assert "#fe0100 (8 px)" in labels.notes[0]
        want = self.VALUES.copy()
        want[0, :8] = IGNORE
        np.testing.assert_array_equal(labels.burn(GRID), want)

    def test_alpha_hides(self, raster_file: RasterFile) -> None:
        alpha = np.where(RANDOM.random((SIDE, SIDE)) > 0.5, 255, 0).astype(np.uint8)
        labels = opened(raster_file("rgba.tif", colours(self.VALUES), alpha=alpha), preset="dubai")
        np.testing.assert_array_equal(labels.burn(GRID), np.where(alpha > 0, self.VALUES, IGNORE))

    def test_palettes_that_contradict_each_other_are_refused(self, tmp_path: Path) -> None:
        """The same index is land in one and water in another: as numbers they would have been mixed."""
        values = (self.VALUES % 2).astype(np.uint8)
        one = write_palette(tmp_path / "a.tif", values, {0: DUBAI[1], 1: DUBAI[2]})
        other = write_palette(tmp_path / "b.tif", values, {0: DUBAI[1], 1: DUBAI[3]})
        with pytest.raises(
            InputError, match=r"value 1 is #8429f6 in the palette of .*a.tif, but #6ec1e4 in that of"
        ):
            opened(one, other)
        np.testing.assert_array_equal(opened(one).burn(GRID), values)
        np.testing.assert_array_equal(opened(one, other, preset="dubai").burn(GRID), np.where(values, 3, 1))

    def test_colours_meet_a_models_classes_by_name(self, raster_file: RasterFile) -> None:
        path = raster_file("rgb.tif", colours(self.VALUES))
        known = make_legend({0: "water", 3: "road", 4: "land", 5: "building", 9: "vegetation"})
        got = opened(path, preset="dubai", known=known).burn(GRID)
        want = np.vectorize({1: 5, 2: 4, 3: 3, 4: 9, 5: 0, IGNORE: IGNORE}.__getitem__)(self.VALUES)
        np.testing.assert_array_equal(got, want)
        with pytest.raises(
            InputError, match="mean building, vegetation, which is no class here; known: water"
        ):
            opened(path, preset="dubai", known=make_legend({0: "water", 1: "land", 2: "road"}))


class TestRefusals:
    def test_jpeg_in_any_wrapping(self, tmp_path: Path) -> None:
        picture = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
        picture.save(tmp_path / "l.jpg")
        with rasterio.open(
            tmp_path / "l.tif", "w", driver="GTiff", count=3, dtype="uint8", height=16, width=16, compress="JPEG",
            photometric="YCBCR", crs="EPSG:32645", transform=GRID.transform,
        ) as file:  # fmt: skip
            file.write(np.zeros((3, 16, 16), np.uint8))
        for name in ("l.jpg", "l.tif"):
            with pytest.raises(
                InputError, match=r"is compressed as .*JPEG with losses, which changes class values"
            ):
                opened(tmp_path / name)

    @pytest.mark.parametrize("how", [
        {"class_field": "kind"}, {"layer": "l"}, {"outside": "unlabelled"}, {"priority": ("a",), "class_field": "k"},
    ])  # fmt: skip
    def test_what_is_for_polygons(self, raster_file: RasterFile, how: dict[str, Any]) -> None:
        path = raster_file("l.tif", np.zeros((1, 9, 9), np.uint8))
        with pytest.raises(
            SettingsError, match=r"is for label polygons, but .*l.tif is a label raster; leave it out"
        ):
            opened(path, **how)

    def test_two_ways_to_say_one_thing(self, raster_file: RasterFile) -> None:
        with pytest.raises(SettingsError, match="both say what values mean; pass one of them"):
            opened(raster_file("l.tif", np.zeros((1, 9, 9), np.uint8)), preset="voc", classes="a,b")


class TestPlaces:
    @settings(
        max_examples=examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
    )
    @given(
        ratio=st.sampled_from([1, 2, 3, 5]),
        finer=st.booleans(),
        east=st.integers(-30, 30),
        south=st.integers(-30, 30),
    )
    def test_a_window_is_that_part_of_the_whole(
        self, raster_file: RasterFile, ratio: int, finer: bool, east: int, south: int
    ) -> None:
        """Labels of another size of pixels that share edges with the grid: nearest repeats, the mode votes."""
        values = RANDOM.integers(0, 4, (1, SIDE, SIDE)).astype(np.uint8)
        labels = opened(raster_file("l.tif", values))
        side = SIDE // ratio * ratio
        whole = GRID.window(top=0, left=0, height=side, width=side)
        grid = (
            whole.resized(height=side // ratio, width=side // ratio)
            if finer
            else whole.resized(height=side * ratio, width=side * ratio)
        )
        got = labels.burn(grid.window(top=south, left=east, height=17, width=11))
        repeated = np.kron(values[0, :side, :side], np.ones((ratio, ratio), np.uint8))
        want = labels.burn(grid) if finer else repeated
        inside = np.full((want.shape[0] + 120, want.shape[1] + 120), IGNORE)
        inside[60:-60, 60:-60] = want
        lies_within = south >= 0 and east >= 0 and south + 17 <= want.shape[0] and east + 11 <= want.shape[1]
        if lies_within or ratio == 1:
            expected = inside[60 + south : 77 + south, 60 + east : 71 + east]
            known = expected != IGNORE
            np.testing.assert_array_equal(got[known], expected[known])

    def test_large_labels_are_read_in_parts(
        self, raster_file: RasterFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = raster_file("l.tif", RANDOM.integers(0, 4, (1, 120, 120)).astype(np.uint8))
        coarse = GRID.window(top=0, left=0, height=120, width=120).resized(height=30, width=30)
        whole = opened(path).burn(coarse)
        monkeypatch.setattr("aerial_seg.labels.from_raster._AT_ONCE", 900)
        np.testing.assert_array_equal(opened(path).burn(coarse), whole)

    @pytest.mark.parametrize("west", [-180.0, 0.0, 170.0])
    def test_across_the_180th_meridian(self, raster_file: RasterFile, west: float) -> None:
        """A world of labels, wherever it is cut, on a grid that lies on both sides of 180°."""
        values = np.tile((np.arange(36) % 5).astype(np.uint8), (18, 1))[None]
        shifted = np.roll(values, -round((west + 180) / 10), axis=2)
        path = raster_file("w.tif", shifted, crs="EPSG:4326", transform=Affine(10, 0, west, 0, -10, 90))
        grid = Grid(
            crs=CRS(3832), transform=Affine(50_000, 0, 2_200_000, 0, -50_000, 500_000), height=10, width=60
        )
        got = opened(path).burn(grid)
        x = 2_200_000 + 50_000 * (np.arange(60) + 0.5)
        longitude = (150 + np.degrees(x / 6_378_137.0) + 180) % 360
        np.testing.assert_array_equal(got, np.tile((longitude // 10) % 5, (10, 1)))


class TestBorders:
    @given(data=st.data(), pixels=st.integers(0, 3))
    @settings(max_examples=examples(40))
    def test_a_pixel_near_another_class_is_unlabelled(self, data: st.DataObject, pixels: int) -> None:
        random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
        wide = random.choice(
            np.array([0, 1, 254, IGNORE], np.uint8),
            (9 + 2 * pixels, 11 + 2 * pixels),
            p=[0.8, 0.1, 0.05, 0.05],
        )
        got = without_borders(wide, pixels)
        for row in range(9):
            for col in range(11):
                near = wide[row : row + 2 * pixels + 1, col : col + 2 * pixels + 1]
                own = wide[row + pixels, col + pixels]
                several = len(set(near[near != IGNORE].tolist())) > 1
                assert got[row, col] == (IGNORE if several else own)

    def test_windows_meet(self, raster_file: RasterFile) -> None:
        values = np.kron(RANDOM.integers(0, 3, (4, 4)), np.ones((10, 10))).astype(np.uint8)
        labels = opened(raster_file("l.tif", values[None]), ignore_border=2)
        whole = labels.burn(GRID)
        assert 0.2 < (whole == IGNORE).mean() < 0.9
        padded = np.pad(values, 2, constant_values=IGNORE)
        np.testing.assert_array_equal(whole, without_borders(padded, 2))
        for top, left in ((0, 0), (7, 13), (20, 20)):
            part = labels.burn(GRID.window(top=top, left=left, height=20, width=20))
            np.testing.assert_array_equal(part, whole[top : top + 20, left : left + 20])
        assert grown(GRID, 0) is GRID
