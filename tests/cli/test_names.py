"""Names from outside: checked where they enter, written as they are, and never steering a terminal."""

from __future__ import annotations

import ast
import json
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas
import numpy as np
import pyogrio.raw
import pytest
import rasterio
from shapely import box

from aerial_seg.errors import InputError
from aerial_seg.jobs import import_weights
from aerial_seg.legend import LegendEntry, make_legend
from aerial_seg.models.importing.checkpoint import Checkpoint
from aerial_seg.outputs.attribute_table import attribute_table
from aerial_seg.outputs.qgis_style import (
    class_polygons,
    read_classes,
    read_style,
    style_classes,
    style_text,
)

Refused = Callable[..., str]
WEST, NORTH = 500_000.0, 5_200_000.0
HOSTILE = [
    "ro\x1b[2Jad",
    "road\n",
    "ro\0ad",
    "ro\x9bad",
    "ro\ufffead",
    "ro\u202ead",
    "road\u200b",
    "ro\ud800ad",
]
SCRIPTS = ["建筑物 & <می‌خواهم> \"'"]


def header_of(model: Path) -> tuple[dict[str, Any], bytes]:
    whole = model.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header: dict[str, Any] = json.loads(whole[8 : 8 + length])
    return header, whole[8 + length :]


def named_model(model: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the model file whose document was changed."""
    header, weights = header_of(model)
    document = json.loads(header["__metadata__"]["aerial_seg"])
    change(document)
    header["__metadata__"]["aerial_seg"] = json.dumps(document)
    new = json.dumps(header).encode()
    target.write_bytes(struct.pack("<Q", len(new)) + new + weights)
    return target


def is_shown(line: str) -> bool:
    """Whether the line holds what a terminal only shows; what joins letters may stand in it."""
    return line.replace("\u200b", "").isprintable()


# Where names enter


@pytest.mark.parametrize("name", [name for name in HOSTILE if name.strip() == name], ids=ascii)
def test_names_on_the_command_line(refused: Refused, raster: Callable, labels: Path, name: str) -> None:
    image = raster("in.tif")
    tile = ("tile", image, "--labels", labels, "-o", "chips")
    line = refused(*tile, "--classes", f"1={name},2=water", code=2)
    assert "'--classes': '" in line
    assert "cannot be a class's name: its character" in line
    assert is_shown(line)
    line = refused(*tile, "--bands", f"{name}=1,green=2,blue=3", code=2)
    assert "cannot be a band's name: its character" in line
    assert is_shown(line)


def squares(path: Path, names: list[str]) -> Path:
    """Two squares for each name, side by side; Arrow carries no lone surrogates, so those cannot come."""
    shapes = [box(WEST + 5 * k, NORTH - 60, WEST + 5 * k + 5, NORTH - 20) for k in range(2 * len(names))]
    geopandas.GeoDataFrame({"type": names * 2}, geometry=shapes, crs="EPSG:32633").to_file(path)
    return path


@pytest.mark.parametrize("name", ["ro\x1b[2Jad", "ro\nad", "ro\x9bad", "ro\ufffead", "ro\u202ead"], ids=ascii)
def test_names_in_attribute_tables(refused: Refused, raster: Callable, tmp_path: Path, name: str) -> None:
    image, truth = raster("in.tif"), squares(tmp_path / "labels.geojson", ["water", name])
    line = refused("tile", image, "--labels", truth, "--class-field", "type", "-o", "chips")
    assert "field 'type' of" in line
    assert "holds 1 names that no class can have" in line
    assert "' (2 times): its character 3 is U+" in line
    assert "mend them in 'type', or pass another field with --class-field" in line
    assert is_shown(line)


def test_the_name_of_a_label_file_is_the_class_only_if_it_can_be(
    run: Callable, refused: Refused, raster: Callable, tmp_path: Path
) -> None:
    image, truth = raster("in.tif"), squares(tmp_path / "build\u202eings.geojson", ["a"])
    tile = ("tile", image, "--labels", truth, "--chip-size", 32, "--block", 1, "-o", "chips")
    line = refused(*tile)
    assert "names that no class can have" in line
    assert "name the class with --classes NAME" in line
    assert run(*tile, "--classes", "building").code == 0


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
@pytest.mark.parametrize("what", ["class", "band"])
def test_names_in_model_files(
    refused: Refused, models: Callable, raster: Callable, tmp_path: Path, what: str, name: str
) -> None:
    def rename(document: dict[str, Any]) -> None:
        entry = document["legend"]["entries"][1] if what == "class" else document["bands"][1]
        entry["name"] = name

    model = named_model(models(), tmp_path / "m.safetensors", rename)
    for words in (("info", model), ("predict", model, raster("in.tif"), "-o", "map.tif")):
        line = refused(*words)
        assert "m.safetensors" in line
        assert "no Unicode" in line or f"{what} name '" in line
        assert is_shown(line)


def test_names_in_masks(refused: Refused, raster: Callable, tmp_path: Path) -> None:
    entries = [{"value": 1, "name": "ro\x1bad", "colour": "#000000"}]
    path = raster("map.tif", bands=1)
    with rasterio.open(path, "r+") as file:
        file.update_tags(AERIAL_SEG_LEGEND=json.dumps({"entries": entries}))
    for words in (("info", "map.tif"), ("vectorize", "map.tif", "map.gpkg")):
        line = refused(*words)
        assert "its character 3 is U+001B" in line
        assert is_shown(line)
    path = raster("names.tif", bands=1)
    (tmp_path / "names.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><CategoryNames><Category>sea</Category>"
        "<Category>ro&#x202e;ad</Category></CategoryNames></PAMRasterBand></PAMDataset>",
        encoding="utf-8",
    )
    line = refused("info", "names.tif")
    assert "names.tif.aux.xml has unusable category names" in line
    assert "its character 3 is U+202E" in line


def test_names_in_checkpoints() -> None:
    for names, place in (
        (("background", "ro\x1b[2Jad"), 3),
        (("background", "a\n"), 2),
        (("\udce9", "b"), 1),
    ):
        held = Checkpoint(Path("c.pth"), {}, "", names)
        with pytest.raises(InputError, match=rf"its character {place} is U\+") as caught:
            import_weights._legend(held, 2, None)
        assert "c.pth calls 1 of its classes what no class can be called" in str(caught.value)
        assert "or pass `classes` for those of a benchmark" in str(caught.value)
        assert is_shown(str(caught.value))


def test_band_names_of_rasters_are_cleaned_with_a_note(
    run: Callable, raster: Callable, labels: Path, tmp_path: Path
) -> None:
    image = raster("in.tif")
    with rasterio.open(image, "r+") as file:
        file.descriptions = ("NDVI\n", "建筑\u202e", "blue")
    result = run("tile", image, "--labels", labels, "--chip-size", 32, "--block", 1, "-o", "chips")
    assert result.code == 0
    assert "note: 2 bands of" in result.err
    assert r"'NDVI' was read as 'NDVI', '建筑\u202e' was read as '建筑'" in result.err
    document = json.loads((tmp_path / "chips" / "dataset.json").read_text(encoding="utf-8"))
    assert [band["name"] for band in document["bands"]] == ["NDVI", "建筑", "blue"]
    chosen = run(
        "tile", image, "--labels", labels, "--chip-size", 32, "--block", 1, "--bidx", "3,2", "-o", "two"
    )
    assert chosen.code == 0, chosen.err
    assert "建筑" in (tmp_path / "two" / "dataset.json").read_text(encoding="utf-8")


# What is written


@pytest.mark.parametrize("name", SCRIPTS)
def test_files_give_names_back_as_they_are(
    run: Callable, models: Callable, raster: Callable, tmp_path: Path, name: str
) -> None:
    model = named_model(
        models(),
        tmp_path / "m.safetensors",
        lambda document: document["legend"]["entries"][1].update(name=name),
    )
    made = run("predict", model, raster("in.tif"), "-o", "map.tif", "--vectors", "poly.gpkg")
    assert made.code == 0, made.err
    assert name in made.out
    style = ElementTree.parse(tmp_path / "map.qml")
    assert [entry.get("label") for entry in style.iter("paletteEntry")] == ["background", name]
    names = ElementTree.parse(tmp_path / "map.tif.aux.xml")
    assert [entry.text for entry in names.iter("Category")] == ["background", name]
    assert name in [field.text for field in names.iter("F")]
    _, _, _, (classes,) = pyogrio.raw.read(tmp_path / "map.tif.vat.dbf", columns=["CLASS"], encoding="utf-8")
    assert list(classes) == ["background", name]
    with closing(sqlite3.connect(tmp_path / "poly.gpkg")) as database:
        (text,) = database.execute("SELECT styleQML FROM layer_styles").fetchone()
    assert {entry.get("label") for entry in ElementTree.fromstring(text).iter("category")} == {
        "background",
        name,
    }
    assert set(geopandas.read_file(tmp_path / "poly.gpkg", layer="poly")["class_name"]) <= {
        "background",
        name,
    }
    again = run("vectorize", "map.tif", "poly.gpkg", "--layer", "poly", "--append")
    assert again.code == 0, again.err


def test_xml_of_every_class_that_can_be() -> None:
    letters = [chr(code) for code in (*range(0x20, 0x7F), 0xA0, 0x4E00, 0xE000, 0xFFFD, 0x1F3E0)]
    legend = make_legend({k: f"a{letter}b" for k, letter in enumerate(letters)})
    names = [f"a{letter}b" for letter in letters]
    assert [
        entry.name for entry in read_classes(read_style(style_text(class_polygons(style_classes(legend)))))
    ] == names
    table = ElementTree.fromstring(ElementTree.tostring(attribute_table(legend, {})))
    assert [row.findall("F")[1].text for row in table.iter("Row")] == names


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_no_legend_holds_what_no_file_can(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        LegendEntry(value=1, name=name, colour="#000000")


# What is printed


def test_a_terminal_is_never_steered_by_data(run: Callable, raster: Callable, tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x9b2J\u202e"
    raster(f"in{evil}.tif")
    for words in (
        ("info", f"in{evil}.tif"),
        ("info", f"gone{evil}.tif"),
        ("info", f"gone{evil}.tif", "--debug"),
        ("info", evil, evil),
        (evil,),
        ("predict", f"m{evil}.safetensors", f"in{evil}.tif", "-o", "x.tif"),
        ("predict", "m", "in.tif", "-o", "x.tif", "--window", evil),
        ("tile", f"in{evil}.tif", "--labels", evil, "-o", "chips"),
        ("train", "chips", "--recipe", evil, "-o", "run"),
        ("info", f"in{evil}.tif", "--json"),
    ):
        result = run(*words)
        printed = (result.out + result.err).replace("\n", "")
        assert "owned" in printed
        assert not {*printed} & {*evil[:1], "\x07", "\x9b", "\u202e"}, words


def test_bytes_of_names_that_are_no_text_are_shown(run: Callable, tmp_path: Path) -> None:
    result = run("info", b"caf\xe9.tif".decode("utf-8", "surrogateescape"))
    assert result.code == 1
    assert r"caf\xe9.tif" in result.err


def test_metadata_of_a_raster_is_shown_not_obeyed(run: Callable, raster: Callable) -> None:
    image = raster("in.tif", pixels=np.ones((1, 8, 8), np.uint8))
    with rasterio.open(image, "r+") as file:
        file.descriptions = ("a\x1b[31mb\nkind  model",)
    result = run("info", image)
    assert result.code == 0
    assert "\x1b" not in result.out
    assert "\nkind  model" not in result.out


@pytest.mark.parametrize("value", ["²", "9" * 5000, "1"])
@pytest.mark.parametrize("colour", ["red", "²,0,0", "9,9", "1,2,3,255"])
def test_styles_of_others_are_read_without_harm(value: str, colour: str) -> None:
    text = (
        "<qgis><renderer-v2 attr='class_id'><categories>"
        f"<category value='{value}' label='a' symbol=\"']x\"/></categories>"
        f"<symbols><symbol name=\"']x\"><layer><prop k='color' v='{colour}'/></layer></symbol></symbols>"
        "</renderer-v2></qgis>"
    )
    read = [(one.value, one.name, one.colour) for one in read_classes(read_style(text))]
    assert read == ([(1, "a", "#010203")] if (value, colour) == ("1", "1,2,3,255") else [])


def test_only_the_console_prints() -> None:
    files = sorted((Path(__file__).parents[2] / "cli").rglob("*.py"))
    assert "console.py" in {path.name for path in files}
    for path in files:
        if path.name == "console.py":
            continue
        calls = [
            node.func
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
        ]
        names = {f.attr for f in calls if isinstance(f, ast.Attribute)} | {
            f.id for f in calls if isinstance(f, ast.Name)
        }
        assert not names & {"echo", "secho", "print", "write"}, path
