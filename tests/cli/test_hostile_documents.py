"""Documents that people's tools, disks and enemies leave: each is told in one line that says what is wrong with it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import geopandas
import pytest
import rasterio
import torch

from aerial_seg.benchmarks.protocol import load_protocol
from aerial_seg.cli.main import group
from aerial_seg.errors import SettingsError

Refused = Callable[..., str]
DEEP = 100_000
DIGITS = "1" * 100_000


def with_document(model: Path, target: Path, document: str) -> Path:
    """A copy of the model file with another document in its header."""
    whole = model.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    header["__metadata__"]["aerial_seg"] = document
    new = json.dumps(header).encode()
    target.write_bytes(struct.pack("<Q", len(new)) + new + whole[8 + length :])
    return target


def document_of(model: Path) -> dict[str, Any]:
    whole = model.read_bytes()
    header = json.loads(whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]])
    document: dict[str, Any] = json.loads(header["__metadata__"]["aerial_seg"])
    return document


# Recipes and protocols


RECIPES = [
    ("[training]\n# Größe\ncrop = 64".encode("latin-1"), "it is not UTF-8 at byte 0xf6 in line 2; save it as UTF-8"),
    (("a = " + "[" * DEEP + "]" * DEEP).encode(), "it is nested too deeply"),
    (("a = " + "[" * 60 + "]" * 60).encode(), "it is nested more than 50 levels deep"),
    (f"[training]\ncrop = {DIGITS}".encode(), "it holds an integer beyond 64 bits"),
    (f"[training]\ncrop = 0x{DIGITS}".encode(), "it holds an integer beyond 64 bits"),
    (b"[training]\ncrop = 64\ncrop = 64", "it is not TOML: Cannot overwrite a value"),
    (b"[training]\nlearning_rate = nan", "'training.learning_rate' is nan: Input should be a finite number"),
    (b"[training]\nlearning_rate = 1e999", "'training.learning_rate' is inf: Input should be a finite number"),
    (b"[training.class_weights]\nroad = inf", "'training.class_weights.road' is inf"),
    (b"[training]\nseed = -1", "'training.seed' is -1: Input should be greater than or equal to 0"),
    (b"[model]\nhead_channels = 1_000_000_000", "less than or equal to 4096"),
    (b"[model]\nauxiliary_channels = 1_000_000_000", "less than or equal to 4096"),
    (b"[model]\naspp_rates = [1_000_000_000]", "less than or equal to 1024"),
    (b'[model]\narchitecture = "Unet"\n[model.options]\ndecoder_channels = [1_000_000_000]', "'model.options.decoder"),
    (b"[training]\nworkers = 2000", "'training.workers' is 2000: Input should be less than"),
    (b"[training]\nclass_weights = 'mean'", "'training.class_weights' is 'mean': Input should be 'median' or 'auto'"),
    (b"[prediction]\ntile_size = 1_000_000_000", "less than or equal to 65536"),
    (b'[training]\n"\\u001b[31m" = 1', r"unknown key 'training.\x1b[31m'"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "wanted"), RECIPES, ids=[wanted[:40] for _, wanted in RECIPES])
def test_recipes(refused: Refused, tmp_path: Path, content: bytes, wanted: str) -> None:
    (tmp_path / "own.toml").write_bytes(content)
    line = refused("train", "chips", "--recipe", "own.toml", "-o", "run", code=2)
    assert "recipe own.toml" in line
    assert wanted in line
    assert len(line) < 600


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[crf]\npos_w = nan", "'crf.pos_w' is nan"),
        ("[scales]\ndefault = [1e300]", "less than or equal to 100"),
        ('mode = "slide"\n[crop]\ndefault = 1_000_000_000', "less than or equal to 65536"),
    ],
)
def test_protocols(tmp_path: Path, text: str, wanted: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text('title = "t"\nsource = "s"\n' + text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_protocol(str(path))
    assert f"protocol {path}: " in str(caught.value)
    assert wanted in str(caught.value)


def test_a_recipe_that_windows_saved_is_read(run: Callable, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_bytes(b"\xef\xbb\xbf[training]\r\ncrop = 64\r\n")
    result = run("train", "chips", "--recipe", "own.toml", "-o", "run")
    assert "chips is not a chip dataset" in result.err


# The command line


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "m", "r.tif", "-o", "x.tif", "--tile-size", DIGITS),
        ("predict", "m", "r.tif", "-o", "x.tif", "--tile-size", "9" * 300),
        ("predict", "m", "r.tif", "-o", "x.tif", "--batch-size", "1000000000000"),
        ("predict", "m", "r.tif", "-o", "x.tif", "--bidx", DIGITS),
        ("predict", "m", "r.tif", "-o", "x.tif", "--max-memory", DIGITS + "GB"),
        ("predict", "m", "r.tif", "-o", "x.tif", "--crf-parameters", f"iterations={DIGITS}"),
        ("predict", "m", "r.tif", "-o", "x.tif", "--bounds", "nan", "0", "1", "1"),
        ("tile", "in.tif", "--labels", "l", "-o", "c", "--seed", DIGITS),
        ("tile", "in.tif", "--labels", "l", "-o", "c", "--seed", "-1"),
        ("tile", "in.tif", "--labels", "l", "-o", "c", "--classes", f"{DIGITS}=road"),
        ("tile", "in.tif", "--labels", "l", "-o", "c", "--unlabelled", DIGITS),
        ("tile", "in.tif", "--labels", "l", "-o", "c", "--gsd", "nan"),
        ("vectorize", "m.tif", "o.gpkg", "--split-grid", DIGITS),
        ("vectorize", "m.tif", "o.gpkg", "--min-area", DIGITS + "m2"),
        ("models", "--bands", DIGITS),
        ("export", "m.safetensors", "-o", "m.onnx", "--tile-size", DIGITS),
    ],
    ids=lambda words: f"{words[0]} {words[-2]}",
)  # fmt: skip
def test_numbers_of_the_command_line(run: Callable, words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.code == 2
    assert result.err.startswith("Error: ")
    assert result.err.count("\n") == 1
    assert "defect" not in result.err
    assert len(result.err) < 1000


def options_of(command: click.Command) -> list[tuple[str, click.Parameter]]:
    below = command.commands.values() if isinstance(command, click.Group) else ()
    own = [(f"{command.name} {option.name}", option) for option in command.params]
    return [*own, *(pair for inner in below for pair in options_of(inner))]


def test_every_number_of_the_command_line_has_an_end() -> None:
    context = click.Context(group)
    commands = [group.get_command(context, name) for name in group.list_commands(context)]
    endless = {
        name
        for command in commands
        for name, option in options_of(command)
        if isinstance(option.type, type(click.INT) | type(click.FLOAT))
    }
    # A nodata value may be NaN or infinite, and is compared with the raster's type.
    assert endless == {"tile nodata", "predict nodata", "evaluate nodata"}


# Model files


def change(**entries: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.update(entries)


def deep(levels: int) -> Callable[[dict[str, Any]], str]:
    return lambda _: "[" * levels + "]" * levels


def settings(**entries: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["recipe"]["model"].update(entries)


CARDS = [
    (deep(DEEP), "is damaged (of its document: it is nested too deeply)"),
    (deep(60), "it is nested more than 50 levels deep"),
    (lambda document: json.dumps(document).replace('"iteration": 1', f'"iteration": {DIGITS}'),
     "it holds an integer of 100,000 digits"),
    (lambda document: json.dumps(document).replace('"gsd": 1.0', '"gsd": 1.0, "gsd": 2.0'), "the key 'gsd' more than"),
    (change(gsd=0.0), "'gsd' is 0.0: Input should be greater than or equal to 0.000000001"),
    (change(gsd=float("nan")), "it holds NaN, which is no number"),
    (change(gsd=float("inf")), "it holds Infinity, which is no number"),
    (lambda document: json.dumps(document).replace('"gsd": 1.0', '"gsd": 1e999'), "'gsd' is"),
    (change(gsd=-1.0), "'gsd' is -1.0"),
    (change(gsd="1"), "'gsd' is '1': Input should be a valid number"),
    (change(gsd=True), "'gsd' is True: Input should be a valid number"),
    (settings(head_channels=1_000_000_000), "less than or equal to 4096"),
    (settings(multi_grid=[1] * 100_000), "at most 64 items"),
    (settings(kernel=4), "model.kernel is for gcn, and fcn has no use for it"),
    (settings(architecture="\x1b]0;title\x07"), r"\x1b]0;title\x07"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "wanted"), CARDS, ids=[wanted[:40] for _, wanted in CARDS])
def test_model_cards(
    refused: Refused, models: Callable, raster: Callable, tmp_path: Path, spoil: Callable, wanted: str
) -> None:
    document = document_of(models())
    spoilt = spoil(document)
    text = spoilt if isinstance(spoilt, str) else json.dumps(document)
    model = with_document(models(), tmp_path / "m.safetensors", text)
    for words in (("info", model), ("predict", model, raster("in.tif"), "-o", "map.tif")):
        line = refused(*words)
        assert "m.safetensors" in line
        assert wanted in line
        assert len(line) < 700


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("[" * DEEP + "]" * DEEP, "it is nested too deeply"),
        ('{"a":' * 60 + "1" + "}" * 60, "nested more than 50 levels deep"),
        (f'{{"w": {{"data_offsets": [0, {DIGITS}]}}}}', "an integer of 100,000 digits"),
    ],
)
def test_headers_of_model_files(refused: Refused, tmp_path: Path, header: str, wanted: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
    assert wanted in refused("info", "m.safetensors")


def test_a_checkpoint_that_contains_itself(refused: Refused, tmp_path: Path) -> None:
    held: dict[str, object] = {}
    held["model"] = held
    torch.save(held, tmp_path / "circle.pth")
    line = refused("import-weights", "circle.pth", "--from", "torchvision", "-o", "m.safetensors")
    assert "circle.pth holds no state dict" in line


# Chip datasets


@pytest.fixture
def chips(run: Callable, raster: Callable, labels: Path, tmp_path: Path) -> Path:
    tile = ("tile", raster("in.tif"), "--labels", labels, "--chip-size", 32, "--block", 1, "-o", "chips")
    assert run(*tile).code == 0
    return tmp_path / "chips"


def commands() -> tuple[tuple[str, ...], ...]:
    return ("info", "chips"), ("train", "chips", "--recipe", "fcn", "-o", "run")


def test_documents_of_datasets(refused: Refused, chips: Path) -> None:
    document = chips / "dataset.json"
    good = document.read_bytes()
    facts = json.loads(good)
    for content, wanted in (
        (good.replace(b'"tool_version": "', b'"tool_version": "\xe9'), "is not UTF-8 at byte 0xe9 in line 3"),
        (b"[" * DEEP + b"]" * DEEP, "it is nested too deeply"),
        (json.dumps({**facts, "seed": 0}).replace('"seed": 0', f'"seed": {DIGITS}').encode(), "100,000 digits"),
        (json.dumps({**facts, "gsd": 0}).encode(), "'gsd' is 0"),
        (json.dumps({**facts, "gsd": float("nan")}).encode(), "it holds NaN"),
        (json.dumps({**facts, "bands": []}).encode(), "'bands'"),
        (json.dumps({**facts, "chip_size": "32"}).encode(), "'chip_size' is '32'"),
        (b"5", "dataset.json"),
    ):  # fmt: skip
        document.write_bytes(content)
        for words in commands():
            line = refused(*words)
            assert "dataset.json" in line
            assert wanted in line
            assert "run `aerial-seg tile` again" in line


def test_indices_of_datasets(refused: Refused, chips: Path) -> None:
    index = chips / "chips.gpkg"
    good, table = index.read_bytes(), geopandas.read_file(index)
    damaged = bytearray(good)
    damaged[100:] = bytes(len(good) - 100)
    for content in (b"no database", bytes(damaged), good[: len(good) // 2]):
        index.write_bytes(content)
        for words in commands():
            line = refused(*words)
            assert "chips.gpkg" in line
            assert "run `aerial-seg tile` again" in line
    first = table["chip"][0]
    for change, wanted in (
        (table.drop(columns="split"), "has no field 'split'; its fields are: chip, "),
        (table.drop(columns="chip"), "has no field 'chip'"),
        (table.assign(chip="../../etc/passwd"), "chips whose name is none"),
        (table.assign(chip=first), f"chips more than once: {first}"),
        (table.assign(split=5), f"6 of 6 chips have no known split: {first} has no text"),
        (table.assign(split=["trian", *table["split"][1:]]),
         f"1 of 6 chips have no known split: {first} has 'trian'; wanted train, val, test; did you mean 'train'?"),
        (table.assign(split=[None, *table["split"][1:]]), f"1 of 6 chips have no known split: {first} has no text"),
    ):  # fmt: skip
        index.unlink()
        change.to_file(index, layer="chips")
        for words in commands():
            assert wanted in refused(*words)


# Rasters


def test_vrts_nested_without_end(
    refused: Refused, raster: Callable, models: Callable, tmp_path: Path
) -> None:
    vrt = (
        '<VRTDataset rasterXSize="80" rasterYSize="60"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">{}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    raster("v1200.tif")
    for number in range(1200):
        below = f"v{number + 1}.vrt" if number < 1199 else "v1200.tif"
        (tmp_path / f"v{number}.vrt").write_text(vrt.format(below), encoding="utf-8")
    for words in (("info", "v0.vrt"), ("predict", models(), "v0.vrt", "-o", "map.tif")):
        line = refused(*words)
        assert "v0.vrt is a VRT of VRTs nested more than 16 deep" in line
        assert "make one VRT of the rasters themselves (gdalbuildvrt)" in line


def test_a_vrt_ten_deep_is_read_and_what_lacks_at_its_end_is_named(
    run: Callable, refused: Refused, raster: Callable, tmp_path: Path
) -> None:
    vrt = (
        '<VRTDataset rasterXSize="80" rasterYSize="60"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">{}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    end = raster("end.tif")
    for number in range(10):
        below = f"v{number + 1}.vrt" if number < 9 else "end.tif"
        (tmp_path / f"v{number}.vrt").write_text(vrt.format(below), encoding="utf-8")
    assert run("info", "v0.vrt").code == 0
    end.unlink()
    assert "end.tif" in refused("info", "v0.vrt")


TAGS = [
    ("AERIAL_SEG_SOURCES", "5", "it is 5, wanted a list of names as JSON"),
    ("AERIAL_SEG_SOURCES", '[5, "a.tif"]', "wanted a list of names as JSON"),
    ("AERIAL_SEG_SOURCES", "[" * DEEP + "]" * DEEP, "nested too deeply"),
    ("AERIAL_SEG_SOURCES", "[a.tif]", "it is not JSON"),
    ("AERIAL_SEG_MODEL_SHA256", "\x1b[31m", "wanted hexadecimal digits"),
    ("AERIAL_SEG_LEGEND", "5", "damaged AERIAL_SEG_LEGEND tag"),
    ("AERIAL_SEG_LEGEND", "[" * DEEP + "]" * DEEP, "nested too deeply"),
    ("AERIAL_SEG_LEGEND", '{"entries": [{"value": "1", "name": "a", "colour": "#000000"}]}', "'entries.0.value' is"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("tag", "value", "wanted"), TAGS, ids=[f"{tag} {wanted[:20]}" for tag, _, wanted in TAGS]
)
def test_tags_of_masks(refused: Refused, raster: Callable, tag: str, value: str, wanted: str) -> None:
    path = raster("map.tif", bands=1)
    with rasterio.open(path, "r+") as file:
        file.update_tags(**{tag: value})
    line = refused("vectorize", "map.tif", "map.gpkg")
    assert f"map.tif has a damaged {tag} tag" in line
    assert wanted in line
    assert f"gdal_edit.py -unsetmd {tag}" in line
    # The remedy works.
    with rasterio.open(path, "r+") as file:
        file.update_tags(**{tag: ""})
    assert len(line) < 600


# Journals


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        (lambda lines: [lines[0], "5", *lines[1:]], "line 2 of 3 is no record"),
        (lambda lines: [lines[0], '{"panel": [], "rows": 5}'], "a record is odd at"),
        (lambda lines: [*lines, '{"report": 5}'], "a record is odd at"),
    ],
)
def test_journals(
    run: Callable,
    models: Callable,
    raster: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    spoil: Callable,
    wanted: str,
) -> None:
    predict = ("predict", models(), raster("in.tif"), "-o", "map.tif")
    with monkeypatch.context() as patch:
        patch.setattr("aerial_seg.jobs.predict.one_scene.write_results", lambda *_, **__: {}["stopped"])
        assert run(*predict).code == 3
    journal = tmp_path / "map.tif.work" / "journal.jsonl"
    lines = spoil(journal.read_text(encoding="utf-8").splitlines())
    journal.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = run(*predict)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "the journal map.tif.work/journal.jsonl is damaged" in result.err
    assert wanted in result.err
    assert "pass --restart to begin anew" in result.err
    assert journal.exists()
    assert run(*predict, "--restart").code == 0
