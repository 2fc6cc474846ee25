"""A value that an option refuses: the line names the option once, and the value."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from rasterio.transform import from_origin

from aerial_seg.cli.main import COMMANDS
from aerial_seg.cli.setting_options import SettingOption, Written

HOSTILE = ("nonesuch", "1=a,b", "1.5", "0,2,x", "a=b=c", "1e999", "=", "-1", "255=x", "8,8")


def written_options() -> Iterator[tuple[str, SettingOption]]:
    for name in COMMANDS:
        command = importlib.import_module(f"aerial_seg.cli.{name.replace('-', '_')}").command
        leaves = command.commands.values() if isinstance(command, click.Group) else (command,)
        for leaf in leaves:
            for option in leaf.params:
                if isinstance(option, SettingOption) and isinstance(option.type, Written):
                    yield f"{leaf.name} {option.opts[-1]}", option


NAMES_OF_DATA = {
    "vectorize --classes", "vectorize --instances", "vectorize --regularize", "tile --priority", "evaluate --priority",
    "report --priority",
}  # fmt: skip
"""Any text may be a class's name; the mask or the labels refuse those that they lack."""


@pytest.mark.parametrize(
    ("where", "option"), list(written_options()), ids=[name for name, _ in written_options()]
)
def test_a_refused_value_is_shown_behind_its_option_named_once(where: str, option: SettingOption) -> None:
    command = click.Command(where.split()[0], params=[option], callback=lambda **_: None)
    refused = 0
    for value in HOSTILE:
        said = CliRunner().invoke(command, [f"{option.opts[-1]}={value}"])
        if said.exit_code == 0:
            continue
        line = next(line for line in said.stderr.splitlines() if line.startswith("Error: "))
        refused += 1
        assert said.exit_code == 2, line
        behind = line.partition("': ")[2]
        assert all(word not in behind for word in option.opts), line
        # Of a list the part that is refused is enough.
        quoted = re.findall("'([^']+)'", behind)
        assert value in behind or quoted[0] in value, line
        assert f"{value}: '{value}'" not in behind, line
        assert "`" not in line, line
    assert bool(refused) != (where in NAMES_OF_DATA), where


@pytest.mark.parametrize(
    ("option", "value", "got"),
    [
        ("--dst-crs", "EPSG:abc", "--dst-crs EPSG:abc is not a CRS; wanted for example EPSG:32645"),
        ("--dst-crs", "EPSG:4978", "--dst-crs EPSG:4978 is WGS 84 (Geocentric CRS), wanted a map's CRS"),
        ("--classes", "house", "--classes names 'house', which is no class of the mask, it has class 1"),
        ("--instances", "house", "--instances names 'house'"),
        ("--regularize", "house", "--regularize names 'house'"),
    ],
)
def test_what_only_the_mask_can_refuse_names_its_option(
    refused: Callable[..., str], tmp_path: Path, option: str, value: str, got: str
) -> None:
    with rasterio.open(
        tmp_path / "m.tif", "w", driver="GTiff", count=1, height=8, width=8, dtype="uint8",
        crs="EPSG:32633", transform=from_origin(5e5, 5.2e6, 1, 1),
    ) as file:  # fmt: skip
        file.write(np.ones((1, 8, 8), np.uint8))
    said = refused("vectorize", "m.tif", "o.gpkg", option, value, code=2)
    assert got in said
