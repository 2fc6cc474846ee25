"""A mask file tells its classes again, by our tag or by what GDAL's other writers leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import CRS

from aerial_seg.errors import InputError
from aerial_seg.geo.grid import Grid
from aerial_seg.legend import IGNORE, make_legend
from aerial_seg.outputs.maps import write_mask
from aerial_seg.outputs.mask import LEGEND_TAG, provenance, read_legend

LEGEND = make_legend({0: "background", 1: "Gebäude", 2: "road", 7: "water"}, background=[0])


@pytest.fixture
def mask_path(tmp_path: Path) -> Path:
    values = np.random.default_rng(4).choice(np.array([0, 1, 2, 7, IGNORE], np.uint8), (30, 40))
    grid = Grid(crs=CRS(32645), transform=Affine(0.5, 0, 300_000, 0, -0.5, 3_060_000), height=30, width=40)
    return write_mask(tmp_path / "mask.tif", values, grid=grid, legend=LEGEND)[0]


def bare_copy(mask_path: Path, *, palette: bool = False) -> Path:
    """The same pixels without our tag."""
    bare = mask_path.with_name("bare.tif")
    with rasterio.open(mask_path) as mask, rasterio.open(bare, "w", **mask.profile) as file:
        file.write(mask.read())
        if palette:
            file.write_colormap(1, mask.colormap(1))
    return bare


def name_classes(path: Path, names: list[str]) -> None:
    categories = "".join(f"<Category>{name}</Category>" for name in names)
    text = f"<PAMDataset><PAMRasterBand band='1'>{categories}</PAMRasterBand></PAMDataset>"
    path.with_name(path.name + ".aux.xml").write_text(text)


def test_our_tag_round_trips(mask_path: Path) -> None:
    assert read_legend(mask_path) == LEGEND


def test_category_names_and_palette_serve_without_the_tag(mask_path: Path) -> None:
    bare = bare_copy(mask_path, palette=True)
    assert read_legend(bare) is None
    names = mask_path.with_name("mask.tif.aux.xml").read_bytes()
    bare.with_name("bare.tif.aux.xml").write_bytes(names)
    legend = read_legend(bare)
    assert legend is not None
    named = legend.by_value()
    for entry in LEGEND.entries:
        assert (named[entry.value].name, named[entry.value].rgb) == (entry.name, entry.rgb)
    assert named[3].name == "class 3"


def test_names_used_twice_are_one_line(mask_path: Path) -> None:
    bare = bare_copy(mask_path)
    name_classes(bare, ["a", "a"])
    with pytest.raises(InputError, match="unusable category names"):
        read_legend(bare)


def test_a_sidecar_that_is_not_xml_is_one_line(mask_path: Path) -> None:
    bare = bare_copy(mask_path)
    bare.with_name("bare.tif.aux.xml").write_text("<PAM")
    with pytest.raises(InputError, match="is not XML"):
        read_legend(bare)


def test_256_names_are_taken_without_the_last(mask_path: Path) -> None:
    bare = bare_copy(mask_path)
    name_classes(bare, [f"c{k}" for k in range(256)])
    legend = read_legend(bare)
    assert legend is not None
    assert len(legend) == 255


def test_a_damaged_tag_is_one_line(tmp_path: Path) -> None:
    with rasterio.open(
        tmp_path / "m.tif", "w", driver="GTiff", count=1, height=9, width=9, dtype="uint8"
    ) as file:
        file.update_tags(**{LEGEND_TAG: "{}"})
    with pytest.raises(InputError, match=f"damaged {LEGEND_TAG} tag .*run predict again"):
        read_legend(tmp_path / "m.tif")


def test_facts_become_tags() -> None:
    assert provenance(version="1.2", sources=["a.tif"], model_gsd=0.5) == {
        "AERIAL_SEG_VERSION": "1.2",
        "AERIAL_SEG_SOURCES": '["a.tif"]',
        "AERIAL_SEG_MODEL_GSD": "0.5",
    }
