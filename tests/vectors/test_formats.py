"""A format follows from the file's name or is named; a CRS is one that polygons can lie in."""

from __future__ import annotations

from inspect import signature
from pathlib import Path

import pyogrio
import pytest
from pyproj import CRS

from aerial_seg.errors import InputError, OutputError, SettingsError
from aerial_seg.vectors.formats import (
    CSV,
    FLATGEOBUF,
    FORMATS,
    GEOJSON,
    GEOJSON_LINES,
    GEOPARQUET,
    GPKG,
    SHAPEFILE,
    VectorFormat,
    parse_dst_crs,
    same_crs,
    target_crs,
    vector_format,
)

UTM = CRS(32645)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.gpkg", GPKG),
        ("a.b.SHP", SHAPEFILE),
        ("a.geojson", GEOJSON),
        ("a.geojsonl", GEOJSON_LINES),
        ("a.geojsons", GEOJSON_LINES),
        ("a.fgb", FLATGEOBUF),
        ("a.parquet", GEOPARQUET),
        ("a.csv", CSV),
    ],
)
def test_suffixes(name: str, form: VectorFormat) -> None:
    assert vector_format(Path(name)) is form


@pytest.mark.parametrize("name", ["a.gpx", "a", "a.gpkg.zip", "a.json"])
def test_an_unknown_suffix_lists_the_known(name: str) -> None:
    with pytest.raises(OutputError) as raised:
        vector_format(Path(name))
    for form in FORMATS:
        for suffix in form.suffixes:
            assert suffix in str(raised.value)
    assert "`format`" in str(raised.value)


@pytest.mark.parametrize("form", FORMATS)
def test_names(form: VectorFormat) -> None:
    for name in (form.name, form.name.lower(), form.name.upper(), *form.aliases):
        for suffix in (*form.suffixes, *form.also):
            assert vector_format(Path(f"a{suffix}"), name) is form


def test_a_named_format_wins_over_the_suffix() -> None:
    assert vector_format(Path("a.json"), "GeoJSON") is GEOJSON
    assert vector_format(Path("a.json"), "geojsonseq") is GEOJSON_LINES


def test_a_named_format_and_a_foreign_suffix() -> None:
    with pytest.raises(OutputError, match=r"ends in '\.gpkg', wanted \.shp for a Shapefile"):
        vector_format(Path("a.gpkg"), "shapefile")


def test_an_unknown_name() -> None:
    with pytest.raises(
        SettingsError, match=r"'FlatGeobug' is not known, wanted GPKG, .*; did you mean 'FlatGeobuf'"
    ):
        vector_format(Path("a.fgb"), "FlatGeobug")


def test_gdal_can_write_them_all_but_parquet() -> None:
    drivers = pyogrio.list_drivers(write=True)
    assert {form.name for form in FORMATS} - set(drivers) <= {"Parquet"}


@pytest.mark.skipif(
    "append" not in signature(pyogrio.list_drivers).parameters, reason="pyogrio does not tell before 0.13"
)
def test_gdal_can_append_where_we_say_so() -> None:
    appendable = pyogrio.list_drivers(append=True)
    assert all(form.name in appendable for form in FORMATS if form.appendable)


class TestTargets:
    @pytest.mark.parametrize("form", FORMATS)
    def test_the_masks_own_but_for_geojson(self, form: VectorFormat) -> None:
        assert target_crs(form, UTM) == (CRS(4326) if form.lonlat else UTM)

    @pytest.mark.parametrize("form", FORMATS)
    def test_another_where_asked_for(self, form: VectorFormat) -> None:
        if form.lonlat:
            for text in ("EPSG:4326", "OGC:CRS84"):
                assert target_crs(form, UTM, text) == CRS(4326)
            with pytest.raises(OutputError, match=r"`dst_crs` is EPSG:3857, wanted EPSG:4326"):
                target_crs(form, UTM, "EPSG:3857")
        else:
            assert target_crs(form, UTM, "EPSG:3857") == CRS(3857)

    @pytest.mark.parametrize("form", FORMATS)
    def test_without_a_crs_there_is_nowhere_to_go(self, form: VectorFormat) -> None:
        with pytest.raises(InputError, match="the mask has no CRS; give it one"):
            target_crs(form, None, "EPSG:4326")
        if form.lonlat:
            with pytest.raises(InputError, match=r"RFC 7946.*write \.gpkg or \.shp"):
                target_crs(form, None)
        else:
            assert target_crs(form, None) is None

    @pytest.mark.parametrize("text", ["EPSG:0", "nonsense", "", "EPSG:4978", "EPSG:5703", "EPSG:4979"])
    def test_what_is_no_crs_of_a_map(self, text: str) -> None:
        """Not one, geocentric, a height, with a height."""
        with pytest.raises(SettingsError, match=rf'`dst_crs="{text}"` is .*wanted .*EPSG:32645'):
            parse_dst_crs(text)


def test_crs_that_files_tell_in_other_words_are_the_same() -> None:
    assert same_crs(None, None)
    assert not same_crs(UTM, None)
    assert same_crs(UTM, CRS(UTM.to_wkt("WKT1_ESRI")))
    assert same_crs(CRS(4326), CRS("OGC:CRS84"))
    assert not same_crs(UTM, CRS(32644))
    assert not same_crs(CRS(4326), CRS(4258))
