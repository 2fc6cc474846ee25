"""Label rasters that hide, rename or blur what they hold: nothing of it stays unsaid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from pyproj import CRS

from aerial_seg.errors import AerialSegError, InputError, SettingsError
from aerial_seg.geo.grid import Grid
from aerial_seg.labels.labels import Labels, open_labels
from aerial_seg.labels.settings import LabelSettings
from aerial_seg.legend import IGNORE
from aerial_seg.mentions import settings_in

if TYPE_CHECKING:
    from tests.conftest import RasterFile

SIDE = 40
CORNER = Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000)
GRID = Grid(crs=CRS(32645), transform=CORNER, height=SIDE, width=SIDE)
THREE = np.zeros((SIDE, SIDE), np.uint8)
THREE[2:12, 2:12], THREE[20:30, 20:35] = 1, 2


def opened(*paths: Path, **how: Any) -> Labels:
    return open_labels(paths, LabelSettings(**how))


def remedy(kind: type[AerialSegError], *paths: Path, **how: Any) -> dict[str, Any]:
    with pytest.raises(kind) as refusal:
        opened(*paths, **how)
    assert "\n" not in str(refusal.value)
    return {one.name: one.value for one in settings_in(str(refusal.value)) if one.has_value}


def named(path: Path, names: Sequence[str]) -> Path:
    """The raster with these names of its values, as GDAL keeps them."""
    listed = "".join(f"<Category>{escape(name)}</Category>" for name in names)
    Path(f"{path}.aux.xml").write_text(
        f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{listed}</CategoryNames></PAMRasterBand></PAMDataset>',
        encoding="utf-8",
    )
    return path


class TestDeclaredNodata:
    @pytest.mark.parametrize(("value", "pixels"), [(0, 1350), (1, 100), (2, 150)])
    def test_a_number_that_is_declared_as_nodata_is_told_and_can_be_a_class(
        self, raster_file: RasterFile, value: int, pixels: int
    ) -> None:
        """Of three classes two stay when one is lost: nothing else would tell."""
        path = raster_file("l.tif", THREE[None], nodata=value)
        labels = opened(path)
        assert int((labels.burn(GRID) == IGNORE).sum()) == pixels
        assert f"{pixels} pixels of {path} are {value}, which is declared as nodata" in " ".join(labels.notes)
        whole = opened(path, classes={0: "background", 1: "building", 2: "road"})
        np.testing.assert_array_equal(whole.burn(GRID), THREE)
        assert "declared as nodata" not in " ".join(whole.notes)

    def test_what_was_said_is_not_told(self, raster_file: RasterFile) -> None:
        path = raster_file("l.tif", THREE[None], nodata=0)
        assert opened(path, unlabelled=(0,)).notes == ()

    def test_what_a_mask_hides_is_counted(self, raster_file: RasterFile) -> None:
        shown = np.ones((SIDE, SIDE), bool)
        shown[:3] = False
        labels = opened(raster_file("l.tif", THREE[None], mask=shown))
        assert f"{3 * SIDE} pixels of" in labels.notes[0]
        assert "count as unlabelled: a mask" in labels.notes[0]


class TestUnlabelled:
    def test_a_number_cannot_be_a_class_and_mean_nothing(self, raster_file: RasterFile) -> None:
        """The buildings were lost, and the roads kept the count of classes at two."""
        path = raster_file("l.tif", THREE[None])
        with pytest.raises(
            SettingsError, match=r"says that 1 means nothing, and `classes` that it is 'building'"
        ):
            opened(path, unlabelled=(1,), classes="0=background,1=building,2=road")
        agreed = opened(path, unlabelled=(1,), classes={0: "background", 1: "unlabelled", 2: "road"})
        np.testing.assert_array_equal(agreed.burn(GRID), np.where(THREE == 1, IGNORE, THREE))

    def test_a_number_that_is_nowhere_is_told(self, raster_file: RasterFile) -> None:
        path = raster_file("l.tif", THREE[None])
        assert opened(path, unlabelled=(7,)).notes == (f"no pixel of {path} is 7, which `unlabelled` names",)
        assert opened(path, unlabelled=(2,)).notes == ()

    def test_where_colours_tell_the_classes_no_number_means_nothing(self, raster_file: RasterFile) -> None:
        image = np.stack([np.full((9, 9), part, np.uint8) for part in (0x3C, 0x10, 0x98)])
        path = raster_file("l.tif", image)
        with pytest.raises(
            SettingsError, match=r"`unlabelled=\(7,\)` is for numbers, but the colours of .*l.tif"
        ):
            opened(path, unlabelled=(7,), preset="dubai")


class TestNamesOfFiles:
    HALVES = (THREE[:, :18], THREE[:, 18:])

    def files(self, raster_file: RasterFile, *names: Sequence[str]) -> list[Path]:
        east = CORNER * Affine.translation(18, 0)
        return [
            named(raster_file(f"l{k}.tif", half[None], transform=place), own)
            for k, (half, place, own) in enumerate(zip(self.HALVES, (CORNER, east), names, strict=True))
        ]

    def test_names_that_contradict_each_other_are_refused(self, raster_file: RasterFile) -> None:
        """The west holds building as 1, the east road as 2; the names of the first file were taken for both."""
        files = self.files(raster_file, ["ground", "building", "road"], ["ground", "road", "building"])
        with pytest.raises(
            InputError, match=r"class 'building' is 1 by the names that .*l0.tif carries, but 2 by"
        ):
            opened(*files)
        files = self.files(raster_file, ["ground", "building"], ["water", "road", "building"])
        with pytest.raises(
            InputError, match=r"value 0 is 'ground' by the names that .*l0.tif carries, but 'water'"
        ):
            opened(*files)
        mended = opened(*files, classes={0: "ground", 1: "house", 2: "road"})
        np.testing.assert_array_equal(mended.burn(GRID), THREE)

    def test_what_no_file_contradicts_is_one_legend(self, raster_file: RasterFile) -> None:
        """Names of values that a file does not hold are no matter."""
        files = self.files(raster_file, ["ground", "building", "?"], ["ground", "x", "road", "water"])
        labels = opened(*files)
        known = {entry.value: entry.name for entry in labels.legend.entries}
        assert {value: known[value] for value in (0, 1, 2)} == {0: "ground", 1: "building", 2: "road"}
        np.testing.assert_array_equal(labels.burn(GRID), THREE)

    def test_a_number_without_a_name_leaves_the_others_theirs(self, raster_file: RasterFile) -> None:
        path = named(raster_file("l.tif", THREE[None]), ["ground", "building"])
        assert opened(path).legend.names == ("ground", "building", "class 2")


class TestRemedies:
    @pytest.mark.parametrize(
        ("values", "classes"),
        [
            (np.where(THREE > 0, 255, 0), ("background", "building")),
            (np.where(THREE > 0, 1, 0), ("background", "building")),
            (THREE, ("background", "building", "road")),
        ],
    )
    def test_a_list_is_given_to_the_numbers_that_are_there_in_their_order(
        self, raster_file: RasterFile, values: np.ndarray, classes: tuple[str, ...]
    ) -> None:
        """A list counts from 1. Followed to the letter, the old remedy called the buildings of 0 and 1 background."""
        path = raster_file("l.tif", values.astype(np.uint8)[None])
        numbers = np.unique(values).tolist()
        told = remedy(InputError, path, classes=list(classes))["classes"]
        assert told == dict(zip(numbers, classes, strict=True))
        labels = opened(path, classes=told)
        found = {entry.value: entry.name for entry in labels.legend.entries}
        burnt = labels.burn(GRID)
        for number, name in told.items():
            assert {found[value] for value in np.unique(burnt[values == number]).tolist()} == {name}

    def test_a_grey_picture_of_one_class_names_the_remedy(self, raster_file: RasterFile) -> None:
        values = np.where(THREE > 0, 255, 0).astype(np.uint8)
        labels = opened(raster_file("l.tif", np.repeat(values[None], 3, axis=0)))
        (told,) = [one.value for one in settings_in(labels.beside_one_class("class 0")) if one.has_value]
        assert told == {0: "background", 255: "building"}


class TestLosses:
    def test_jpeg_behind_a_vrt_behind_a_vrt(self, tmp_path: Path) -> None:
        Image.fromarray(THREE * 40).save(tmp_path / "l.jpg", quality=50)
        for name, below in (("a.vrt", "l.jpg"), ("b.vrt", "a.vrt")):
            (tmp_path / name).write_text(
                f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><SRS>EPSG:32645</SRS>'
                "<GeoTransform>300000, 0.5, 0, 3060000, 0, -0.5</GeoTransform>"
                '<VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
                f'<SourceFilename relativeToVRT="1">{below}</SourceFilename><SourceBand>1</SourceBand>'
                "</SimpleSource></VRTRasterBand></VRTDataset>",
                encoding="utf-8",
            )
            with pytest.raises(
                InputError, match=rf"{name} is made of .*l.jpg, which is compressed as JPEG with"
            ):
                opened(tmp_path / name)

    def test_lerc_with_an_error_of_one(self, tmp_path: Path) -> None:
        """It made 324 of 900 buildings roads."""
        profile = {"driver": "GTiff", "count": 1, "height": SIDE, "width": SIDE, "dtype": "uint8",
                   "crs": "EPSG:32645", "transform": CORNER, "compress": "LERC"}  # fmt: skip
        for name, how in (("lossy.tif", {"MAX_Z_ERROR": "1"}), ("exact.tif", {})):
            with rasterio.open(tmp_path / name, "w", **profile, **how) as file:
                file.write(THREE, 1)
        with pytest.raises(InputError, match=r"lossy.tif is compressed as LERC with losses"):
            opened(tmp_path / "lossy.tif")
        np.testing.assert_array_equal(opened(tmp_path / "exact.tif").burn(GRID), THREE)

    def test_what_was_a_jpeg_once_shows_it_by_its_many_rare_values(
        self, raster_file: RasterFile, tmp_path: Path
    ) -> None:
        large = np.kron(THREE * 100, np.ones((5, 5), np.uint8))
        Image.fromarray(large).save(tmp_path / "l.jpg", quality=60)
        was = raster_file("was.tif", np.asarray(Image.open(tmp_path / "l.jpg"))[None])
        assert any("was it compressed with losses, or resized, once?" in note for note in opened(was).notes)
        assert opened(raster_file("is.tif", large[None])).notes == ()


class TestPalettes:
    COLOURS: Mapping[int, tuple[int, int, int]] = {
        0: (0x84, 0x29, 0xF6), 1: (0x3C, 0x10, 0x98), 2: (0x6E, 0xC1, 0xE4),
    }  # fmt: skip

    def write(self, path: Path, palette: Mapping[int, tuple[int, int, int]]) -> Path:
        profile = {"driver": "GTiff", "count": 1, "height": SIDE, "width": SIDE, "dtype": "uint8"}
        with rasterio.open(path, "w", **profile, crs="EPSG:32645", transform=CORNER) as file:
            file.write(THREE, 1)
            file.write_colormap(1, {index: (*colour, 255) for index, colour in palette.items()})
        return path

    def test_its_colours_are_the_classes_and_a_preset_of_them_is_named(self, tmp_path: Path) -> None:
        labels = opened(self.write(tmp_path / "p.tif", self.COLOURS))
        np.testing.assert_array_equal(labels.burn(GRID), THREE)
        assert [entry.colour for entry in labels.legend.entries] == ["#8429f6", "#3c1098", "#6ec1e4"]
        (told,) = [one.value for note in labels.notes for one in settings_in(note) if one.has_value]
        by_preset = opened(tmp_path / "p.tif", preset=told)
        names = {entry.value: entry.name for entry in by_preset.legend.entries}
        burnt = by_preset.burn(GRID)
        assert [names[int(burnt[k == THREE][0])] for k in range(3)] == ["land", "building", "road"]

    def test_palettes_that_differ_name_the_preset_that_reads_both(self, tmp_path: Path) -> None:
        one = self.write(tmp_path / "a.tif", self.COLOURS)
        other = self.write(tmp_path / "b.tif", {0: self.COLOURS[1], 1: self.COLOURS[0], 2: self.COLOURS[2]})
        told = remedy(InputError, one, other)
        assert told["preset"] == "dubai"
        burnt = opened(one, other, preset="dubai").burn(GRID)
        np.testing.assert_array_equal(burnt, np.select([THREE == 0, THREE == 1], [1, 2], 3))
