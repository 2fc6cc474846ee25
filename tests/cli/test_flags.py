"""Settings that the library's messages name come out as the options of the command that runs, and as nothing else."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import rasterio

from aerial_seg.cli import COMMANDS
from aerial_seg.cli.setting_options import SettingOption, as_flags
from aerial_seg.geo.raster.band_choice import bands_setting
from aerial_seg.mentions import FORMER_CALL, SAME_CALL, Placeholder, setting


def commands() -> Iterator[click.Command]:
    for name in COMMANDS:
        command = importlib.import_module(f"aerial_seg.cli.{name.replace('-', '_')}").command
        yield from command.commands.values() if isinstance(command, click.Group) else (command,)


def told(name: str, text: str) -> str:
    (command,) = [one for one in commands() if one.name == name]
    return as_flags(text, click.Context(command))


@pytest.mark.parametrize(
    ("command", "said", "wanted"),
    [
        ("vectorize", setting("overwrite", True), "--overwrite"),
        ("predict", setting("georeferenced", False), "--no-georef"),
        ("predict", setting("georeferenced"), "--no-georef"),
        ("predict", setting("aoi_crs", "EPSG:…"), "--aoi-crs EPSG:…"),
        ("predict", setting("aoi", "my areas/`north`.gpkg"), "--aoi my areas/`north`.gpkg"),
        ("predict", setting("bounds", (1.0, -2.5, 3.25, 1e6)), "--bounds 1 -2.5 3.25 1000000"),
        ("predict", setting("taken", "2024"), "--datetime 2024"),
        ("predict", setting("nodata", -9999.0), "--nodata -9999"),
        ("predict", setting("nodata", float("nan")), "--nodata nan"),
        ("predict", setting("output"), "-o"),
        ("predict", bands_setting(numbers=(4, 3, 2)), "--bidx 4,3,2"),
        ("predict", bands_setting(numbers=(1, 2, ...)), "--bidx 1,2,…"),
        ("predict", bands_setting(numbers=(1, 2), names=("red", "nir")), "--bands red=1,nir=2"),
        ("predict", bands_setting(numbers=(1, ...), names=("NAME", ...)), "--bands NAME=1,…"),
        ("predict", bands_setting(numbers=...), "--bidx"),
        ("tile", bands_setting(names=...), "--bands"),
        ("tile", bands_setting(stack=("h.tif",)), "--stack h.tif"),
        ("tile", setting("crs", "EPSG:xxxx"), "--labels-crs EPSG:xxxx"),
        ("tile", setting("unlabelled", (Placeholder("VALUE"),)), "--unlabelled VALUE"),
        ("evaluate", setting("unlabelled", (0, 9)), "--unlabelled 0 --unlabelled 9"),
        ("tile", setting("classes", {1: "water", 7: "sand"}), "--classes 1=water,7=sand"),
        ("vectorize", setting("format"), "--of"),
        ("vectorize", setting("method", "visvalingam"), "--simplify-method visvalingam"),
        ("vectorize", setting("instances", ("house", "shed")), "--instances house,shed"),
        ("vectorize", setting("connectivity", 8), "--connectivity 8"),
        ("vectorize", setting("confidence", True, job="predict"), "predict --confidence"),
        ("export", setting("upsample", False), "--no-upsample"),
        ("export", setting("probabilities", False), "--logits"),
        ("voc", setting("split", "test"), "--split test"),
        ("train", "run `aerial-seg tile` with smaller `val`", "run `aerial-seg tile` with smaller --val"),
        ("info", setting("georeferenced", False), "--no-georef"),
        ("predict", f"{SAME_CALL}; {FORMER_CALL}", "run the same command again; repeat the former command"),
    ],
)
def test_a_setting_becomes_the_option_of_the_command(command: str, said: str, wanted: str) -> None:
    assert told(command, f"no: pass {said}, or not") == f"no: pass {wanted}, or not"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("predict", setting("dst_crs", "EPSG:4326")),  # vectorize has it
        ("train", bands_setting(numbers=(1, 2))),
        ("models", bands_setting(numbers=(1, 2))),  # whose --bands is a count
        ("predict", setting("overwrite", False)),  # there is no flag for it
        ("predict", "`overwrite=`, `Overwrite=True`, `overwrite =True`, overwrite=True, `overwrite=(`"),
        ("tile", "`aerial-seg tile`"),
    ],
)
def test_what_the_command_cannot_say_stays_as_it_is(command: str, said: str) -> None:
    assert told(command, f"pass {said}") == f"pass {said}"


def test_without_a_command_nothing_changes() -> None:
    text = f"pass {setting('overwrite', True)}, or {SAME_CALL}"
    assert as_flags(text) == text


@pytest.mark.parametrize("command", list(commands()), ids=lambda command: str(command.name))
def test_every_option_is_the_word_for_one_setting(command: click.Command) -> None:
    """By its own name, or by that of the setting that it stands for; the first one where two set one (--crf)."""
    found: dict[str, str] = {}
    for option in command.params:
        if not isinstance(option, click.Option) or option.name in ("bidx", "bands", "stack"):
            continue
        named = option.setting if isinstance(option, SettingOption) else option.name or ""
        name = named.rpartition(".")[2]
        if name in found:
            assert option.name == "crf_parameters"
            continue
        found[name] = as_flags(setting(name), click.Context(command))
        assert found[name] in option.opts
    assert len(set(found.values())) == len(found)


def test_errors_notes_and_documents_speak_of_flags_and_names_stay(
    run: Callable[..., Any], raster: Callable[..., Path]
) -> None:
    """A band that is called as a setting is said stays called so: only messages are turned."""
    path = raster("in.tif", crs=None)
    with rasterio.open(path, "r+") as file:
        file.set_band_description(1, "`nodata=1`")
    document = json.loads(run("info", path, "--json").out)
    assert "or pass --no-georef to work in pixel coordinates" in document["problem"]
    assert document["bands"][0]["name"] == "`nodata=1`"
    shown = run("info", path).out
    assert "--no-georef" in shown
    assert "`nodata=1`" in shown
    Path("map.gpkg").write_text("there")
    refused = run("vectorize", path, "map.gpkg")
    assert refused.code == 1
    assert refused.err == "Error: map.gpkg exists; pass --overwrite to replace it, or choose another name\n"
