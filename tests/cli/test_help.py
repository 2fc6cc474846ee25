"""Help that an analyst understands, without waiting for torch."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from aerial_seg.cli.help.short import ShortHelp
from aerial_seg.cli.main import group
from aerial_seg.version import __version__

COMMANDS = (
    "demo", "tile", "check", "train", "predict", "vectorize", "evaluate", "report", "assess", "benchmark",
    "import-weights", "export", "models", "recipes", "info",
)  # fmt: skip


def installed(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the installed command."""
    command = Path(sys.executable).with_name("aerial-seg")
    return subprocess.run([command, *arguments], capture_output=True, text=True, cwd=folder, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(run: Callable, command: str) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert result.err == ""
    assert "Example" in result.out
    assert f"aerial-seg {command}" in result.out
    assert run(command, "-h").out == result.out
    assert max(map(len, result.out.splitlines())) <= 110


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_on_a_screen_and_hides_no_option(run: Callable, command: str) -> None:
    """What the short help only names, --help-all explains."""
    short = run(command, "--help").out
    found = group.get_command(click.Context(group), command)
    assert found is not None
    assert len(short.splitlines()) <= 60
    options = [option for option in found.params if isinstance(option, click.Option)]
    for option in options:
        assert set(re.findall(r"--[a-z0-9-]+", short)) & set(option.opts), option.name
    if isinstance(found, ShortHelp):
        whole = run(command, "--help-all")
        assert (whole.code, whole.err) == (0, "")
        names = [name for option in options for name in option.opts]
        assert set(found.common) <= set(names)
        explained = re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", whole.out, re.MULTILINE)
        assert set(explained) >= {option.opts[0] for option in options if len(option.opts) == 1}
        assert max(map(len, whole.out.splitlines())) <= 110


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_does(command: str) -> None:
    found = group.get_command(click.Context(group), command)
    assert found is not None
    assert found.help
    for option in found.params:
        if isinstance(option, click.Option):
            assert option.help, option.name


def test_the_group_lists_its_commands_with_whole_sentences(run: Callable) -> None:
    result = run("--help")
    assert result.code == 0
    assert all(f"\n  {command} " in result.out for command in COMMANDS)
    assert "..." not in result.out.partition("Commands:")[2]
    assert "Exit codes" in result.out


def test_no_command_at_all_shows_the_help_and_is_wrong_use(run: Callable) -> None:
    result = run()
    assert result.code == 2
    assert result.out == ""
    assert result.err == run("--help").out


def test_an_unknown_command_names_the_nearest(run: Callable) -> None:
    result = run("predct")
    assert result.code == 2
    assert (
        result.err
        == "Error: there is no command 'predct'; did you mean 'predict'? Try 'aerial-seg --help'.\n"
    )
    assert "demo, tile, check, train" in run("xyz").err


def test_the_installed_command_tells_its_version() -> None:
    result = installed("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"aerial-seg {__version__}\n", "")


def test_the_installed_command_refuses_in_one_line(tmp_path: Path) -> None:
    result = installed("info", "gone.tif", folder=tmp_path)
    assert result.returncode == 1
    assert result.stderr == "Error: gone.tif does not exist; check the path\n"
    assert result.stdout == ""


def test_help_imports_no_heavy_library(tmp_path: Path) -> None:
    # Elsewhere than in the checkout, whose own aerial_seg/ has no cli.
    # One process for all: importing is what costs, so what is not imported is not waited for.
    program = (
        "import sys\n"
        "from aerial_seg.cli.main import main\n"
        f"for command in {COMMANDS}:\n"
        "    main([command, '--help'])\n"
        "main(['--help']); main(['--version'])\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    imported = {name.split(".")[0] for name in result.stderr.split()}
    heavy = {
        "torch",
        "torchvision",
        "rasterio",
        "numpy",
        "geopandas",
        "pandas",
        "shapely",
        "pyproj",
        "matplotlib",
    }
    assert "click" in imported
    assert imported & (heavy | {"pydantic", "segmentation_models_pytorch", "numba", "tqdm"}) == set()
