"""The mask file holds exactly the pixels it was given, however they came, and opens with names and colours."""

from __future__ import annotations

import resource
import signal
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import CRS
from rasterio.errors import NotGeoreferencedWarning

from aerial_seg.errors import InputError, OutputError
from aerial_seg.geo.grid import Grid
from aerial_seg.geo.mask import LEGEND_TAG, MaskWriter, provenance, read_legend
from aerial_seg.legend import IGNORE, Legend, make_legend

LEGEND = make_legend({0: "background", 1: "Gebäude", 2: "road", 7: "water"}, background=[0])
UTM = CRS(32645)
HEIGHT, WIDTH = 1100, 1300
VALUES = np.array([0, 1, 2, 7, IGNORE], np.uint8)


def grid(height: int = HEIGHT, width: int = WIDTH, crs: CRS | None = UTM) -> Grid:
    return Grid(crs=crs, transform=Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000), height=height, width=width)


def noise(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(4).choice(VALUES, (height, width))


def write(folder: Path, mask: np.ndarray, sizes: list[int] | None = None, *, crs: CRS | None = UTM) -> Path:
    folder.mkdir(exist_ok=True)
    tags = provenance(version="1.2", sources=["a.tif"], model_gsd=0.5)
    with MaskWriter(folder, "mask.tif", grid=grid(*mask.shape, crs), legend=LEGEND, tags=tags) as writer:
        start = 0
        for size in sizes or [len(mask)]:
            writer.write(start, mask[start : start + size])
            start += size
        return writer.finish()


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("mask"), noise())


def test_pixels_place_and_nodata_survive(noisy: Path) -> None:
    with rasterio.open(noisy) as mask:
        np.testing.assert_array_equal(mask.read(1), noise())
        assert (mask.nodata, mask.dtypes, mask.descriptions) == (IGNORE, ("uint8",), ("class",))
        assert mask.transform == grid().transform
        assert mask.crs.to_epsg() == 32645
        assert (mask.dataset_mask() > 0).sum() == (noise() != IGNORE).sum()


def test_it_is_a_cloud_optimized_geotiff(noisy: Path) -> None:
    with rasterio.open(noisy) as mask:
        assert mask.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert mask.block_shapes == [(512, 512)]
        assert mask.profile["compress"] == "deflate"


def test_overviews_hold_no_class_that_the_mask_does_not(noisy: Path) -> None:
    with rasterio.open(noisy) as mask:
        levels = len(mask.overviews(1))
        assert levels >= 1
    for level in range(levels):
        with rasterio.open(noisy, OVERVIEW_LEVEL=level) as overview:
            assert set(np.unique(overview.read(1))) <= set(VALUES.tolist())


def test_palette_and_tags_survive(noisy: Path) -> None:
    with rasterio.open(noisy) as mask:
        palette = mask.colormap(1)
        for entry in LEGEND.entries:
            assert palette[entry.value] == (*entry.rgb, 255)
        tags = mask.tags()
    assert Legend.model_validate_json(tags[LEGEND_TAG]) == LEGEND
    assert tags["AERIAL_SEG_VERSION"] == "1.2"
    assert tags["AERIAL_SEG_SOURCES"] == '["a.tif"]'
    assert tags["AERIAL_SEG_MODEL_GSD"] == "0.5"


def test_gdal_itself_reads_the_class_names(noisy: Path, tmp_path: Path) -> None:
    # GDAL's VRT driver writes the category names that it found in its source.
    rasterio.shutil.copy(noisy, tmp_path / "m.vrt", driver="VRT")
    names = [element.text or "" for element in Xml.parse(tmp_path / "m.vrt").iter("Category")]
    assert names == ["background", "Gebäude", "road", "", "", "", "", "water"]


def test_the_style_lists_exactly_the_classes(noisy: Path) -> None:
    entries = list(Xml.parse(noisy.with_suffix(".qml")).iter("paletteEntry"))
    assert [(int(e.attrib["value"]), e.attrib["label"], e.attrib["color"]) for e in entries] == [
        (entry.value, entry.name, entry.colour) for entry in LEGEND.entries
    ]


def test_only_the_mask_and_its_sidecars_are_left(noisy: Path) -> None:
    assert {p.name for p in noisy.parent.iterdir()} == {"mask.tif", "mask.tif.aux.xml", "mask.qml"}


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, HEIGHT - 1), max_size=8))
def test_any_way_of_cutting_rows_gives_the_same_bytes(noisy: Path, tmp_path: Path, cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), HEIGHT]
    path = write(tmp_path / "cut", noise(), [b - a for a, b in pairwise(edges)])
    for suffix in (".tif", ".qml", ".tif.aux.xml"):
        assert path.with_suffix(suffix).read_bytes() == noisy.with_suffix(suffix).read_bytes()


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(1, 40), width=st.integers(1, 40), data=st.data())
def test_small_masks_round_trip_row_by_row(
    tmp_path: Path, height: int, width: int, data: st.DataObject
) -> None:
    mask, sizes = noise(height, width), []
    while sum(sizes) < height:
        sizes.append(data.draw(st.integers(1, height - sum(sizes))))
    with rasterio.open(write(tmp_path / "small", mask, sizes)) as file:
        np.testing.assert_array_equal(file.read(1), mask)


def test_rows_out_of_order_or_missing_are_our_own_bug(tmp_path: Path) -> None:
    with MaskWriter(tmp_path, "m.tif", grid=grid(20, 20), legend=LEGEND, tags={}) as writer:
        writer.write(0, noise(5, 20))
        for start in (0, 4, 6):
            with pytest.raises(ValueError, match=f"row {start} does not follow row 5"):
                writer.write(start, noise(5, 20))
        with pytest.raises(ValueError, match="5 of 20 rows"):
            writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_mask_without_crs_is_written_without_warnings(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    plain = Grid(crs=None, transform=Affine.identity(), height=9, width=9)
    with MaskWriter(tmp_path, "m.tif", grid=plain, legend=LEGEND, tags={}) as writer:
        writer.write(0, noise(9, 9))
        path = writer.finish()
    assert [w for w in recwarn if issubclass(w.category, NotGeoreferencedWarning)] == []
    assert read_legend(path) == LEGEND


def test_a_disk_that_is_full_is_one_line(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OutputError, match=r"mask.tif could not be written .*free disk space"):
            write(tmp_path, noise())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


class TestLegend:
    def test_our_tag_round_trips(self, noisy: Path) -> None:
        assert read_legend(noisy) == LEGEND

    def test_category_names_and_palette_serve_without_the_tag(self, noisy: Path, tmp_path: Path) -> None:
        bare = tmp_path / "bare.tif"
        with rasterio.open(noisy) as mask, rasterio.open(bare, "w", **mask.profile) as file:
            file.write(mask.read())
            file.write_colormap(1, mask.colormap(1))
        assert read_legend(bare) is None
        bare.with_name("bare.tif.aux.xml").write_bytes(noisy.with_suffix(".tif.aux.xml").read_bytes())
        legend = read_legend(bare)
        assert legend is not None
        named = legend.by_value()
        for entry in LEGEND.entries:
            assert (named[entry.value].name, named[entry.value].rgb) == (entry.name, entry.rgb)
        assert named[3].name == "class 3"

    @pytest.mark.parametrize(
        ("names", "message"),
        [(["a", "a"], "unusable category names"), (None, "is not XML")],
    )
    def test_unusable_names_are_one_line(self, tmp_path: Path, names: list[str] | None, message: str) -> None:
        path = write(tmp_path, noise(9, 9))
        with rasterio.open(path) as mask, rasterio.open(tmp_path / "b.tif", "w", **mask.profile) as file:
            file.write(mask.read())
        categories = "".join(f"<Category>{name}</Category>" for name in names or [])
        text = f"<PAMDataset><PAMRasterBand band='1'>{categories}</PAMRasterBand></PAMDataset>"
        (tmp_path / "b.tif.aux.xml").write_text(text if names else "<PAM")
        with pytest.raises(InputError, match=message):
            read_legend(tmp_path / "b.tif")

    def test_256_names_are_taken_without_the_last(self, tmp_path: Path) -> None:
        path = write(tmp_path, noise(9, 9))
        with rasterio.open(path) as mask, rasterio.open(tmp_path / "b.tif", "w", **mask.profile) as file:
            file.write(mask.read())
        categories = "".join(f"<Category>c{k}</Category>" for k in range(256))
        text = f"<PAMDataset><PAMRasterBand band='1'>{categories}</PAMRasterBand></PAMDataset>"
        (tmp_path / "b.tif.aux.xml").write_text(text)
        legend = read_legend(tmp_path / "b.tif")
        assert legend is not None
        assert len(legend) == 255

    def test_a_damaged_tag_is_one_line(self, tmp_path: Path) -> None:
        with rasterio.open(
            tmp_path / "m.tif", "w", driver="GTiff", count=1, height=9, width=9, dtype="uint8"
        ) as file:
            file.update_tags(**{LEGEND_TAG: "{}"})
        with pytest.raises(InputError, match=f"damaged {LEGEND_TAG} tag .*run predict again"):
            read_legend(tmp_path / "m.tif")
