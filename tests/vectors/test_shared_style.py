"""map.qml serves map.tif and every layer of that name, whoever came first; a style that is not ours stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine

from aerial_seg.geo.grid import Grid
from aerial_seg.legend import Legend, make_legend
from aerial_seg.outputs.maps import write_mask
from aerial_seg.outputs.qgis_style import LAYER_SUFFIXES, is_own, read_classes, read_style
from aerial_seg.vectors.formats import FORMATS, GPKG
from aerial_seg.vectors.schema import FeatureSchema
from aerial_seg.vectors.writer import layer_writer

Layers = Any
"""The fixture of conftest.py."""

SHARING = ("map.shp", "map.geojson", "map.geojsonl", "map.fgb", "map.parquet", "map.csv")
MASK = make_legend({0: "background", 3: "water"}, background=[0])
HANDMADE = "<qgis version='3.22.16'><pipe><rasterrenderer/></pipe></qgis>"


def mask(folder: Path, legend: Legend = MASK) -> tuple[Path, ...]:
    grid = Grid(crs=None, transform=Affine.identity(), height=4, width=4)
    return write_mask(folder / "map.tif", np.zeros((4, 4), np.uint8), grid=grid, legend=legend)


def layer(layers: Layers, path: Path, legend: Legend, **how: bool) -> tuple[str, ...]:
    with layer_writer(path, layers.spec(path, schema=FeatureSchema(legend)), **how) as writer:
        pass
    return writer.notes


def raster_colours(folder: Path) -> dict[int, str]:
    style = read_style((folder / "map.qml").read_text(encoding="utf-8"))
    assert style.raster is not None
    return {int(e.attrib["value"]): e.attrib["color"] for e in style.raster.iter("paletteEntry")}


def layer_colours(folder: Path) -> dict[int | str, str]:
    style = read_style((folder / "map.qml").read_text(encoding="utf-8"))
    return {entry.value: entry.colour for entry in read_classes(style)}


def colours(legend: Legend) -> dict[int, str]:
    return {entry.value: entry.colour for entry in legend.entries}


def test_every_suffix_that_shares_is_known() -> None:
    sharing = {s for form in FORMATS if form is not GPKG for s in (*form.suffixes, *form.also)}
    assert sharing == set(LAYER_SUFFIXES)


@pytest.mark.parametrize("name", SHARING)
@pytest.mark.parametrize("raster_first", [True, False])
def test_both_are_drawn_whoever_came_first(
    layers: Layers, tmp_path: Path, name: str, raster_first: bool
) -> None:
    layers.needs(name)
    if raster_first:
        mask(tmp_path)
    files = layers.write(tmp_path / name)
    assert tmp_path / "map.qml" in files
    if not raster_first:
        assert tmp_path / "map.qml" in mask(tmp_path)
    text = (tmp_path / "map.qml").read_text(encoding="utf-8")
    assert is_own(text)
    assert raster_colours(tmp_path) == colours(MASK)
    assert layer_colours(tmp_path) == colours(layers.legend)
    assert "<layerGeometryType>2</layerGeometryType>" in text


def test_a_layer_alone_is_drawn_in_every_format(layers: Layers, tmp_path: Path) -> None:
    for name in SHARING:
        layers.needs(name)
        folder = tmp_path / name
        folder.mkdir()
        layers.write(folder / name)
        assert layer_colours(folder) == colours(layers.legend)
        assert "<pipe" not in (folder / "map.qml").read_text(encoding="utf-8")


class TestOneOfThemMadeAnew:
    other = make_legend({3: "lake", 4: "wood"}, colours={3: "#0000ff", 4: "#00ff00"})

    def test_the_layer(self, layers: Layers, tmp_path: Path) -> None:
        mask(tmp_path)
        layers.write(tmp_path / "map.shp")
        layer(layers, tmp_path / "map.shp", self.other, overwrite=True)
        assert (raster_colours(tmp_path), layer_colours(tmp_path)) == (colours(MASK), colours(self.other))

    def test_the_raster(self, layers: Layers, tmp_path: Path) -> None:
        mask(tmp_path)
        layers.write(tmp_path / "map.shp")
        mask(tmp_path, self.other)
        assert raster_colours(tmp_path) == colours(self.other)
        assert layer_colours(tmp_path) == colours(layers.legend)

    def test_what_is_gone_is_not_drawn_any_more(self, layers: Layers, tmp_path: Path) -> None:
        mask(tmp_path)
        before = (tmp_path / "map.qml").read_bytes()
        layers.write(tmp_path / "map.fgb")
        (tmp_path / "map.fgb").unlink()
        mask(tmp_path)
        assert (tmp_path / "map.qml").read_bytes() == before
        (tmp_path / "map.tif").unlink()
        layers.write(tmp_path / "map.fgb")
        assert "<pipe" not in (tmp_path / "map.qml").read_text(encoding="utf-8")

    def test_a_layer_that_grows_keeps_the_raster(self, layers: Layers, tmp_path: Path) -> None:
        mask(tmp_path)
        layers.write(tmp_path / "map.shp")
        more = make_legend({1: "Gebäude 建物", 5: "wood"})
        spec = layers.spec(tmp_path / "map.shp", schema=FeatureSchema(more, confidence=True))
        with layer_writer(tmp_path / "map.shp", spec, append=True):
            pass
        assert raster_colours(tmp_path) == colours(MASK)
        assert list(layer_colours(tmp_path)) == [0, 1, 5, 7]


class TestLayersOfOneName:
    def test_their_classes_join(self, layers: Layers, tmp_path: Path) -> None:
        mask(tmp_path)
        assert layer(layers, tmp_path / "map.geojson", make_legend({1: "road"})) == ()
        assert layer(layers, tmp_path / "map.fgb", make_legend({2: "water"})) == ()
        assert list(layer_colours(tmp_path)) == [1, 2]
        assert raster_colours(tmp_path) == colours(MASK)

    def test_one_number_for_two_classes_is_told(self, layers: Layers, tmp_path: Path) -> None:
        layer(layers, tmp_path / "map.geojson", make_legend({1: "road"}))
        (note,) = layer(layers, tmp_path / "map.fgb", make_legend({1: "water"}))
        assert "map.qml draws map.geojson as well, where class_id 1 was 'road'" in note
        style = read_style((tmp_path / "map.qml").read_text(encoding="utf-8"))
        assert [entry.name for entry in read_classes(style)] == ["water"]


class TestSomebodysOwn:
    @pytest.fixture(
        params=["another program", "ours, with a colour changed", "Windows' line ends", "no text"]
    )
    def style(self, request: pytest.FixtureRequest, layers: Layers, tmp_path: Path) -> bytes:
        layers.write(tmp_path / "other.shp")
        ours = (tmp_path / "other.qml").read_bytes()
        made = {
            "another program": HANDMADE.encode(),
            "ours, with a colour changed": ours.replace(b"35,35,35", b"0,0,0"),
            "Windows' line ends": ours.replace(b"\n", b"\r\n"),
            "no text": b"\xff\xfe",
        }[request.param]
        assert made != ours
        (tmp_path / "map.qml").write_bytes(made)
        return made

    @pytest.mark.parametrize("name", SHARING)
    def test_a_layer_leaves_it_and_tells(
        self, layers: Layers, tmp_path: Path, style: bytes, name: str
    ) -> None:
        layers.needs(name)
        for how in ({}, {"overwrite": True}):
            (note,) = layer(layers, tmp_path / name, layers.legend, **how)
            assert "map.qml is not (or no longer) as aerial-seg wrote it, so it stays" in note
            assert (tmp_path / "map.qml").read_bytes() == style
        # The remedy that it tells.
        (tmp_path / "map.qml").unlink()
        assert layer(layers, tmp_path / name, layers.legend, overwrite=True) == ()
        assert layer_colours(tmp_path) == colours(layers.legend)

    def test_a_raster_leaves_it(self, tmp_path: Path, style: bytes) -> None:
        assert tmp_path / "map.qml" not in mask(tmp_path)
        assert (tmp_path / "map.qml").read_bytes() == style


def test_parts_of_a_divided_shapefile_leave_no_style_behind(layers: Layers, tmp_path: Path) -> None:
    for number in (1, 2):
        layers.write(tmp_path / f"map_00{number}.shp")
    (tmp_path / "map_002.tif").write_bytes(b"a raster of that name")
    layers.write(tmp_path / "map.shp", overwrite=True)
    assert not (tmp_path / "map_001.qml").exists()
    assert (tmp_path / "map_002.qml").exists()
