"""A name that goes through the door means the file of that name for every library, or is refused in one line."""

from __future__ import annotations

import ast
import os
import string
import zipfile
from pathlib import Path

import geopandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyogrio.util import get_vsi_path_or_buffer, vsi_path
from rasterio._path import _parse_path
from shapely import box

from aerial_seg.errors import InputError, OutputError
from aerial_seg.files.names import (
    ROOM,
    check_address,
    check_input,
    check_output,
    exact,
    is_plain,
    name_trouble,
    ogr_name,
    shown,
    split_layer,
    writing_folder,
)
from aerial_seg.geo.raster.inputs import expand_rasters

PACKAGE = Path(__file__).parents[2] / "aerial_seg"
MARKS = "!;|?%#[]@-~ '\"&<>:,=*{}()$^+\\"
names = st.text(st.sampled_from(string.ascii_letters + string.digits + MARKS + "é建\u0301._"), min_size=1)
paths = st.lists(names.filter(lambda name: name not in (".", "..")), min_size=1, max_size=4).map("/".join)
anywhere = st.tuples(st.sampled_from(["", "/", "//", "./", "../"]), paths).map("".join)


@given(anywhere)
def test_rasterio_hands_the_spelling_on_and_it_is_the_same_file(path: str) -> None:
    spelt = exact(path)
    assert _parse_path(spelt).as_vsi() == spelt
    assert os.path.realpath(spelt) == os.path.realpath(path)
    # GDAL's drivers, and its inline XML and JSON, know names by how they begin.
    assert spelt[0] in "./" or (":" not in spelt and (spelt[0].isalnum() or spelt[0] in "_-"))


@given(anywhere)
def test_pyogrio_hands_the_spelling_on_for_reading(path: str) -> None:
    if path.lower().endswith(".zip"):
        return
    assert get_vsi_path_or_buffer(ogr_name(path)) == exact(path)


@given(paths)
def test_what_is_called_plain_pyogrio_leaves_alone(path: str) -> None:
    if not path.endswith(".zip") and is_plain("/" + path):
        assert vsi_path("/" + path) == "/" + path


@pytest.mark.parametrize("name", ["!a", "a;b", "a?b", "a#b", "a\\b", "x!", "plain"])
def test_what_is_written_through_a_writing_folder_lies_in_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    table = geopandas.GeoDataFrame({"n": [1]}, geometry=[box(0, 0, 1, 1)], crs="EPSG:4326")
    with writing_folder(folder) as place:
        for suffix in ("gpkg", "shp", "fgb", "geojson"):
            table.to_file(place / f"layer.{suffix}", layer="layer")
    written = {file.suffix for file in folder.iterdir()}
    assert written == {".gpkg", ".shp", ".shx", ".dbf", ".prj", ".cpg", ".fgb", ".geojson"}
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    for suffix in ("gpkg", "shp", "fgb", "geojson"):
        assert len(geopandas.read_file(ogr_name(folder / f"layer.{suffix}"))) == 1


def test_a_zipped_layer_is_read_as_before(tmp_path: Path) -> None:
    table = geopandas.GeoDataFrame({"n": [1]}, geometry=[box(0, 0, 1, 1)], crs="EPSG:4326")
    with zipfile.ZipFile(tmp_path / "!fields.zip", "w") as archive:
        archive.writestr("fields.geojson", table.to_json())
    assert len(geopandas.read_file(ogr_name(tmp_path / "!fields.zip"))) == 1


def test_without_a_plain_place_for_a_link_writing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("!out", "!tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "!tmp"))
    with (
        pytest.raises(OutputError, match="set TMPDIR to a folder of a plain name"),
        writing_folder(tmp_path / "!out"),
    ):
        pass
    assert list((tmp_path / "!tmp").iterdir()) == []


LIBRARIES = {
    "open", "copy", "list_layers", "read_info", "read", "write", "write_arrow", "read_file", "to_file",
    "write_dataframe",
}  # fmt: skip
DOORS = ("exact(", "ogr_name(", "source_name(", "place / ")
INSIDE = {  # the name was spelt by the caller
    "geo/raster/opening.py": "text", "vectors/ogr_sink.py": "path", "vectors/shapefile_sink.py": "path",
    "outputs/attribute_table.py": "path",
}  # fmt: skip


def test_every_call_of_a_library_that_parses_names_goes_through_the_door() -> None:
    seen = 0
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            owner, name = ast.unparse(node.func.value), node.func.attr
            parses = owner.startswith(("rasterio", "pyogrio", "geopandas")) or name == "to_file"
            if name not in LIBRARIES or not parses:
                continue
            told = ast.unparse(node.args[1] if name in ("write_arrow", "write_dataframe") else node.args[0])
            seen += 1
            inside = INSIDE.get(str(file.relative_to(PACKAGE)))
            assert told.startswith(DOORS) or told == inside, f"{file.name}: {ast.unparse(node)[:100]}"
    assert seen >= 15


@given(st.text(min_size=1))
def test_a_name_is_shown_on_one_line_of_letters(name: str) -> None:
    line = shown(name)
    assert line.isprintable()
    assert (name_trouble(name) is None) or line != name


def test_bytes_that_are_no_utf8_are_shown_as_bytes() -> None:
    assert shown(os.fsdecode(b"caf\xe9.tif")) == "caf\\xe9.tif"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a\nb.tif", r"a\\x0ab.tif holds a line break"),
        ("\x1b[31m.tif", r"\\x1b\[31m.tif holds the control character U\+001B"),
        ("a\x00.tif", r"the control character U\+0000"),
        (os.fsdecode(b"caf\xe9.tif"), r"caf\\xe9.tif holds bytes that are not UTF-8"),
        ("a\u2028b.tif", r"the control character U\+2028"),
        ("<VRTDataset>.tif", "takes for the XML of a VRT"),
        ("é" * 128, "longer than the system's names"),
        ("a/" * 3000 + "b", "longer than the system's names"),
    ],
)
def test_names_that_nothing_can_use_are_refused(name: str, told: str, tmp_path: Path) -> None:
    for check, kind in ((check_input, InputError), (check_output, OutputError)):
        with pytest.raises(kind, match=told) as caught:
            check(tmp_path / name if "\0" not in name else name)
        assert str(caught.value).isprintable()
        assert "; " in str(caught.value)  # a remedy


def test_a_folder_to_work_in_that_nothing_can_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    monkeypatch.chdir(folder)
    for check in (check_input, check_output):
        with pytest.raises((InputError, OutputError), match=r"caf\\xe9.* holds bytes that are not UTF-8"):
            check("in.tif")
    check_input(tmp_path / "in.tif")


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for check in (check_input, check_output):
        for path in (tmp_path / "a", tmp_path / "a" / "out.tif"):
            with pytest.raises((InputError, OutputError), match="a loop of symbolic links"):
                check(path)


def test_an_output_keeps_room_for_the_names_derived_from_it(tmp_path: Path) -> None:
    check_output(tmp_path / ("n" * (255 - ROOM)))
    check_output(tmp_path / "new" / "folder" / ("n" * (255 - ROOM)))
    with pytest.raises(OutputError, match=f"216 bytes, wanted at most {255 - ROOM}"):
        check_output(tmp_path / ("n" * (256 - ROOM)))
    with pytest.raises(OutputError, match="1,700"):
        check_output(tmp_path / "/".join(["n" * 200] * 9))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (r"https:\\host\a.tif", "https://host/a.tif"),
        (r"https://host\a.tif", "https://host/a.tif"),
        (r"https:\/host/a.tif", "https://host/a.tif"),
        ("https:///host/a.tif", "https://host/a.tif"),
        ("HTTP:////host/a.tif", "http://host/a.tif"),
        (r"s3:\\bucket\a.tif", r"s3://bucket\a.tif"),
    ],
)
def test_an_address_with_other_slashes_names_the_one_that_is_meant(text: str, meant: str) -> None:
    with pytest.raises(InputError) as caught:
        check_address(text)
    assert f"wanted {meant}; " in str(caught.value)
    check_address(meant)


@pytest.mark.parametrize("text", ["http:/host/a.tif", "s3:/bucket/a.tif", "https:/h/a%20b.tif?k=1"])
def test_a_single_slash_is_a_slip_of_the_pen_where_somebody_typed_it(text: str) -> None:
    check_address(Path(text))
    with pytest.raises(InputError) as caught:
        expand_rasters([text])
    meant = text.replace(":/", "://")
    assert f"{text} is no address as it is written, wanted {meant}; " in str(caught.value)
    assert len(expand_rasters([meant])) == 1


def test_a_file_of_the_name_of_an_address_is_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(r"https:\\host\a.tif").touch()
    check_address(r"https:\\host\a.tif")


def test_a_layer_is_cut_off_where_there_is_such_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "a|layername=b"
    folder.mkdir()
    (folder / "c.gpkg").touch()
    (tmp_path / "d.gpkg").touch()
    assert split_layer(folder / "c.gpkg") == (str(folder / "c.gpkg"), "")
    assert split_layer(f"{folder}/c.gpkg|layername=n") == (f"{folder}/c.gpkg", "n")
    assert split_layer(f"{tmp_path}/d.gpkg|layername=x|layername=y") == (
        f"{tmp_path}/d.gpkg",
        "x|layername=y",
    )
    assert split_layer("gone.gpkg|layername=n") == ("gone.gpkg", "n")
