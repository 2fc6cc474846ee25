"""The finished maps hold exactly their pixels and open with names, colours and scales in other software."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from pyproj import CRS
from rasterio.errors import NotGeoreferencedWarning
from rio_cogeo.cogeo import cog_validate

from aerial_seg.errors import OutputError
from aerial_seg.geo.grid import Grid
from aerial_seg.legend import IGNORE, Legend, make_legend
from aerial_seg.outputs.maps import PROBABILITY_STEP, write_confidence, write_mask, write_probabilities
from aerial_seg.outputs.mask import LEGEND_TAG, provenance, read_legend
from aerial_seg.outputs.segments import Layer, SegmentStore

LEGEND = make_legend({0: "background", 1: "Gebäude", 2: "road", 7: "water"}, background=[0])
ZONE_45 = CRS(32645)
HEIGHT, WIDTH = 1100, 1300
VALUES = np.array([0, 1, 2, 7, IGNORE], np.uint8)
SIDECARS = {"mask.tif.aux.xml", "mask.qml", "mask.tif.vat.dbf", "mask.tif.vat.cpg"}


def grid(height: int = HEIGHT, width: int = WIDTH, crs: CRS | None = ZONE_45) -> Grid:
    return Grid(crs=crs, transform=Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000), height=height, width=width)


def noise(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(4).choice(VALUES, (height, width))


def write(folder: Path) -> tuple[Path, ...]:
    tags = provenance(version="1.2", sources=["a.tif"], model_gsd=0.5)
    return write_mask(folder / "mask.tif", noise(), grid=grid(), legend=LEGEND, tags=tags)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("mask"))[0]


class TestMask:
    def test_pixels_place_and_nodata_survive(self, noisy: Path) -> None:
        with rasterio.open(noisy) as mask:
            np.testing.assert_array_equal(mask.read(1), noise())
            assert (mask.nodata, mask.dtypes, mask.descriptions) == (IGNORE, ("uint8",), ("class",))
            assert mask.transform == grid().transform
            assert mask.crs.to_epsg() == 32645
            assert (mask.dataset_mask() > 0).sum() == (noise() != IGNORE).sum()

    def test_it_is_a_cloud_optimized_geotiff(self, noisy: Path) -> None:
        assert cog_validate(noisy, strict=True, quiet=True) == (True, [], [])
        with rasterio.open(noisy) as mask:
            assert mask.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert mask.block_shapes == [(512, 512)]
            assert mask.profile["compress"] == "deflate"

    def test_palette_and_tags_survive(self, noisy: Path) -> None:
        with rasterio.open(noisy) as mask:
            palette = mask.colormap(1)
            for entry in LEGEND.entries:
                assert palette[entry.value] == (*entry.rgb, 255)
            tags = mask.tags()
        assert Legend.model_validate_json(tags[LEGEND_TAG]) == LEGEND
        assert tags["AERIAL_SEG_VERSION"] == "1.2"
        assert tags["AERIAL_SEG_SOURCES"] == '["a.tif"]'
        assert tags["AERIAL_SEG_MODEL_GSD"] == "0.5"

    def test_gdal_itself_reads_the_class_names(self, noisy: Path, tmp_path: Path) -> None:
        # GDAL's VRT driver writes the category names that it found in its source.
        rasterio.shutil.copy(noisy, tmp_path / "m.vrt", driver="VRT")
        names = [element.text or "" for element in Xml.parse(tmp_path / "m.vrt").iter("Category")]
        assert names == ["background", "Gebäude", "road", "", "", "", "", "water"]

    def test_the_style_lists_exactly_the_classes(self, noisy: Path) -> None:
        entries = list(Xml.parse(noisy.with_suffix(".qml")).iter("paletteEntry"))
        assert [(int(e.attrib["value"]), e.attrib["label"], e.attrib["color"]) for e in entries] == [
            (entry.value, entry.name, entry.colour) for entry in LEGEND.entries
        ]

    def test_the_files_told_of_are_the_files_left(self, tmp_path: Path) -> None:
        first, *sidecars = write(tmp_path)
        assert first == tmp_path / "mask.tif"
        assert {path.name for path in sidecars} == SIDECARS
        assert set(tmp_path.iterdir()) == {first, *sidecars}

    def test_equal_work_gives_equal_bytes(self, noisy: Path, tmp_path: Path) -> None:
        for path in write(tmp_path):
            assert path.read_bytes() == (noisy.parent / path.name).read_bytes()

    def test_without_crs_it_is_written_without_warnings(
        self, tmp_path: Path, recwarn: pytest.WarningsRecorder
    ) -> None:
        plain = Grid(crs=None, transform=Affine.identity(), height=9, width=9)
        path = write_mask(tmp_path / "m.tif", noise(9, 9), grid=plain, legend=LEGEND)[0]
        assert [w for w in recwarn if issubclass(w.category, NotGeoreferencedWarning)] == []
        assert read_legend(path) == LEGEND

    @pytest.mark.parametrize("size", [20, 700, 100_000])
    def test_a_disk_that_is_full_is_one_line_and_no_mask(self, tmp_path: Path, size: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            with pytest.raises(OutputError, match=r"could not be written .*free disk space") as raised:
                write(tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "\n" not in str(raised.value)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("size", [1, 50, 200, 300, 600, 700, 1000, 1500])
    def test_so_it_is_for_a_tiny_mask_whatever_of_it_is_refused(
        self, tmp_path: Path, size: int, disk_of: Callable
    ) -> None:
        """Of so small a file GDAL would write everything when it closes it, and lose it without a word."""
        place = Grid(crs=None, transform=Affine.identity(), height=3, width=3)
        with disk_of(size), pytest.raises(OutputError, match=r"could not be written \(File too large\)"):
            write_mask(tmp_path / "m.tif", noise(3, 3), grid=place, legend=LEGEND)
        assert list(tmp_path.iterdir()) == []


class TestProbabilities:
    def store(self, folder: Path, layer: Layer, values: np.ndarray) -> tuple[SegmentStore, Layer]:
        store = SegmentStore(folder / "work", grid(*values.shape[1:]), (layer,), panels=(range(WIDTH),))
        store.write(0, range(HEIGHT), {layer.name: values})
        return store, layer

    def test_confidence_reads_as_probability(self, tmp_path: Path) -> None:
        values = np.random.default_rng(1).integers(0, 256, (1, HEIGHT, WIDTH), dtype=np.uint8)
        source = self.store(tmp_path, Layer("confidence", 1), values)
        final = tmp_path / "map_confidence.tif"
        assert write_confidence(*source, final, tags=provenance(version="1.2")) == (final,)
        assert cog_validate(final, strict=True, quiet=True) == (True, [], [])
        with rasterio.open(final) as file:
            np.testing.assert_array_equal(file.read(), values)
            assert (file.descriptions, file.nodata) == (("confidence",), IGNORE)
            assert (file.scales, file.offsets) == ((PROBABILITY_STEP,), (0.0,))
            assert file.scales[0] == 0.004
            assert file.tags()["AERIAL_SEG_VERSION"] == "1.2"
            assert "scale 0.004" in file.tags()["AERIAL_SEG_MEANING"]

    def test_probabilities_have_a_band_per_class_by_its_name(self, tmp_path: Path) -> None:
        values = np.random.default_rng(1).integers(0, 256, (len(LEGEND), HEIGHT, WIDTH), dtype=np.uint8)
        source = self.store(tmp_path, Layer("probabilities", len(LEGEND)), values)
        final = tmp_path / "map_probabilities.tif"
        style = tmp_path / "map_probabilities.qml"
        assert write_probabilities(*source, final, legend=LEGEND, tags={}) == (final, style)
        assert cog_validate(final, strict=True, quiet=True) == (True, [], [])
        with rasterio.open(final) as file:
            np.testing.assert_array_equal(file.read(), values)
            assert file.descriptions == LEGEND.names
            assert file.nodatavals == (IGNORE,) * len(LEGEND)
            assert file.scales == (PROBABILITY_STEP,) * len(LEGEND)
            assert not {"red", "green", "blue", "alpha"} & {meaning.name for meaning in file.colorinterp}
            assert Legend.model_validate_json(file.tags()[LEGEND_TAG]) == LEGEND
        (renderer,) = Xml.parse(style).iter("rasterrenderer")
        # Band 1 is the background; the file's scale makes 250 the number 1.
        assert (renderer.attrib["type"], renderer.attrib["grayBand"]) == ("singlebandgray", "2")
        assert (renderer.findtext(".//minValue"), renderer.findtext(".//maxValue")) == ("0", "1")
