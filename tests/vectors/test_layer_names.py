"""A layer's name is in the file as it was given, or is refused before the work."""

from __future__ import annotations

import sqlite3
import string
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyogrio
import pytest
import rasterio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from laws import examples
from pyproj import CRS

from aerial_seg.errors import AerialSegError, OutputError, SettingsError
from aerial_seg.jobs.vectorize.job import vectorize
from aerial_seg.legend import make_legend
from aerial_seg.vectors.class_raster import ClassRaster
from aerial_seg.vectors.files import check_only_layer, tables_in
from aerial_seg.vectors.formats import FLATGEOBUF, GEOJSON, GPKG, SHAPEFILE, VectorFormat, check_layer_name
from aerial_seg.vectors.from_mask.settings import LayerSettings, VectorizeSettings
from aerial_seg.vectors.schema import FeatureSchema
from aerial_seg.vectors.writer import LayerSpec, layer_writer

SCHEMA = FeatureSchema(make_legend({0: "background", 1: "road"}, background=[0]), source="s", model_id="m")
LETTERS = string.ascii_letters + string.digits + string.punctuation + " \n\t\0\x1b\x85\u2028\u200bé建😀\ud800"
layers = st.text(st.sampled_from(LETTERS), min_size=1, max_size=6) | st.sampled_from([
    "gpkg_a", "GPKG", "sqlite_a", "SQLite_sequence", "rtree_a", "layer_styles", "Layer_Styles", "ogr_empty_table",
    "OGR_EMPTY_TABLE", "spatial_ref_sys", "select", "fid", "geom", "x" * 3000, "-", "*", "?", "!keep", 'a"b', "a'b",
    "a--b", "[a]", "a;b", "main.x", "idx_a",
])  # fmt: skip


def refused(form: VectorFormat, layer: str, path: Path) -> bool:
    try:
        check_layer_name(form, layer, path)
    except SettingsError as error:
        message = str(error)
    else:
        return False
    assert message.isprintable()
    assert "`layer`" in message
    return True


@pytest.mark.parametrize("form", [GPKG, GEOJSON, FLATGEOBUF], ids=lambda form: form.name)
@settings(max_examples=examples(25))
@given(layer=layers)
@example(layer="roads")
@example(layer="-")
@example(layer="ogr_empty_table")
@example(layer="a\0b")
def test_the_name_is_read_back_or_was_refused(form: VectorFormat, layer: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"out{form.suffixes[0]}"
        spec = LayerSpec(form, CRS.from_epsg(4326 if form.lonlat else 32633), SCHEMA, layer)
        if refused(form, layer, path):
            with pytest.raises(SettingsError), layer_writer(path, spec):
                pytest.fail("the work began")
            assert list(Path(folder).iterdir()) == []
            return
        with layer_writer(path, spec):
            pass
        assert [str(name) for name, kind in pyogrio.list_layers(path) if kind] == [layer]
        if form is GPKG:
            with closing(sqlite3.connect(path)) as database:
                (tables,) = zip(
                    *database.execute("SELECT table_name FROM gpkg_geometry_columns"), strict=True
                )
                assert tables == (layer,)
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_plain_names_are_not_refused(tmp_path: Path) -> None:
    for layer in ("roads", "Straßen 2026", "建筑物", "a'b", 'a"b', "1", "select", "_x", "a-b (c)"):
        for form in (GPKG, GEOJSON, FLATGEOBUF):
            assert not refused(form, layer, tmp_path / "out.x")


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    pixels = np.zeros((1, 8, 8), np.uint8)
    pixels[:, :4, :4] = 1
    path = tmp_path / "mask.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=8, width=8, dtype="uint8", crs="EPSG:32633",
        transform=rasterio.Affine(1, 0, 500_000, 0, -1, 5_200_000),
    ) as file:  # fmt: skip
        file.write(pixels)
    return path


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("o.gpkg", "a\nb"),
        ("o.gpkg", "-"),
        ("!o.gpkg", None),
        ("o.fgb", "\x1b[2J"),
        ("o.geojson", "a\0b"),
        ("o.shp", "x"),
    ],
)
def test_vectorize_refuses_before_it_reads_the_mask(
    name: str, layer: str | None, mask: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClassRaster, "count", lambda *_: pytest.fail("the mask was read"))
    with pytest.raises(SettingsError, match=r"choose another name|leave `layer` out"):
        vectorize(mask, mask.with_name(name), VectorizeSettings(layer=LayerSettings(layer=layer)))
    assert [file.name for file in mask.parent.iterdir()] == ["mask.tif"]


def written(mask: Path, path: Path, **layer: object) -> None:
    vectorize(mask, path, VectorizeSettings(layer=LayerSettings(**layer)))


def test_capitals_do_not_make_another_layer(mask: Path) -> None:
    path = mask.with_name("o.gpkg")
    written(mask, path, layer="Roads")
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"o.gpkg holds 'Roads', beside which no layer 'roads' can be"):
        written(mask, path, layer="roads", append=True)
    assert path.read_bytes() == before
    written(mask, path, layer="roads 2", append=True)
    assert sorted(str(name) for name, kind in pyogrio.list_layers(path) if kind) == ["Roads", "roads 2"]


def test_a_raster_in_the_geopackage_is_seen(mask: Path) -> None:
    path = mask.with_name("o.gpkg")
    with rasterio.open(
        path, "w", driver="GPKG", count=3, height=8, width=8, dtype="uint8", crs="EPSG:32633", RASTER_TABLE="photo",
        transform=rasterio.Affine(1, 0, 500_000, 0, -1, 5_200_000),
    ) as file:  # fmt: skip
        file.write(np.full((3, 8, 8), 7, np.uint8))
    before = path.read_bytes()
    with pytest.raises(
        OutputError, match=r"holds other layers \(photo\), which `overwrite=True` would delete"
    ):
        written(mask, path, overwrite=True)
    with pytest.raises(OutputError, match="holds 'photo', beside which no layer 'photo' can be"):
        written(mask, path, layer="photo", append=True)
    assert path.read_bytes() == before
    written(mask, path, layer="roads", append=True)
    with rasterio.open(f"GPKG:{path}:photo") as file:
        assert (file.read(1) == 7).all()


def test_a_geopackage_that_does_not_answer_is_not_taken_for_an_empty_one(mask: Path) -> None:
    path = mask.with_name("o.gpkg")
    written(mask, path, layer="roads")
    with closing(sqlite3.connect(path)) as database:
        database.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OutputError, match=r"o\.gpkg is open in another program"):
            tables_in(path)
        with pytest.raises(OutputError, match=r"o\.gpkg is open in another program"):
            check_only_layer(path, "rivers")
        database.rollback()
    assert sorted(tables_in(path)) == ["layer_styles", "roads"]


def test_a_shapefile_is_called_as_its_file(tmp_path: Path) -> None:
    with pytest.raises(AerialSegError, match="leave `layer` out"):
        check_layer_name(SHAPEFILE, "other", tmp_path / "o.shp")
    check_layer_name(SHAPEFILE, "!o", tmp_path / "!o.shp")
