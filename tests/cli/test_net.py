"""One net under every command: whatever is raised is one line, and the only `except Exception` is the net's."""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click
import pytest

import aerial_seg.jobs.predict.one_scene as mapping
import aerial_seg.outputs.mask
from aerial_seg.cli.main import group
from aerial_seg.errors import InputError, KeptNote

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "aerial_seg").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])
COMMANDS = group.list_commands(click.Context(group))


def catches_all(handler: ast.ExceptHandler) -> bool:
    caught = ast.dump(handler.type) if handler.type else "bare"
    return "'Exception'" in caught or caught == "bare"


def test_the_net_is_the_only_one_that_catches_whatever_comes() -> None:
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ExceptHandler):
                continue
            if catches_all(node):
                found.append(path.relative_to(ROOT).as_posix())
            elif node.type is not None and "'BaseException'" in ast.dump(node.type):
                last = node.body[-1]
                assert isinstance(last, ast.Raise), f"{path}:{node.lineno} keeps what it caught"
                assert last.exc is None
    assert found == ["cli/net.py"]


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a command raise this error, whatever it is called with."""

    def make(name: str, error: BaseException) -> None:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        monkeypatch.setattr(command, "callback", raising(error))
        monkeypatch.setattr(command, "params", [])
        monkeypatch.setattr(command, "no_args_is_help", False)
        monkeypatch.setattr(command, "invoke_without_command", True, raising=False)

    return make


@pytest.mark.parametrize("name", COMMANDS)
def test_a_defect_in_any_command_is_one_line(run: Callable, failing: Callable[..., None], name: str) -> None:
    failing(name, ZeroDivisionError("division\nby zero"))
    wanted = (
        f"Error: {name} stopped with ZeroDivisionError: division by zero; this is a defect of aerial-seg: please "
        f"report it with what this shows: aerial-seg --debug {name}\n"
    )
    result = run(name)
    assert (result.code, result.out, result.err) == (1, "", wanted)
    for words in (("--debug", name), (name, "--debug")):
        debugged = run(*words)
        assert debugged.code == 1
        assert debugged.err.startswith("Traceback (most recent call last):\n")
        assert "in fail\n" in debugged.err
        assert debugged.err.endswith(wanted)


def test_every_subcommand_takes_debug(run: Callable) -> None:
    for words in (("benchmark", "voc"), ("benchmark", "check"), *((name,) for name in COMMANDS)):
        assert "--debug" in run(*words, "--help").out


def test_errors_with_a_remedy_keep_their_own_words_and_show_where_with_debug(
    run: Callable, failing: Callable[..., None]
) -> None:
    failing("info", InputError("in.tif is blue; paint it"))
    assert run("info").err == "Error: in.tif is blue; paint it\n"
    debugged = run("info", "--debug")
    assert debugged.err.startswith("Traceback")
    assert debugged.err.endswith("\nError: in.tif is blue; paint it\n")


def test_the_line_names_the_file_at_work(
    run: Callable, raster: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    raster("in.tif")
    monkeypatch.setattr(aerial_seg.outputs.mask, "_legend_of_categories", raising(KeyError("odd")))
    result = run("info", "in.tif")
    assert result.code == 1
    assert result.err.startswith("Error: info stopped at in.tif with KeyError: 'odd'; this is a defect")


def test_a_defect_keeps_the_pieces_and_the_same_command_goes_on(
    run: Callable, raster: Callable, models: Callable, tmp_path: Path
) -> None:
    predict = ("predict", models(), raster("in.tif"), "-o")
    assert run(*predict, "whole.tif").code == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapping, "write_results", raising(KeyError("odd")))
        result = run(*predict, "map.tif")
    assert result.code == 3
    assert result.err.count("\n") == 1
    assert "predict stopped" in result.err
    assert "KeyError: 'odd'; this is a defect" in result.err
    assert result.err.endswith(
        "; finished rows are kept; run the same command again to go on, or pass --restart to begin anew\n"
    )
    assert (tmp_path / "map.tif.work").is_dir()
    resumed = run(*predict, "map.tif")
    assert resumed.code == 0
    assert "went on after 60 rows" in resumed.err
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def kept(error: Exception) -> Exception:
    error.add_note(KeptNote("rows are kept"))
    return error


@pytest.mark.parametrize(
    ("error", "code", "wanted"),
    [
        (MemoryError(), 1, "memory ran out (MemoryError); close other programs or ask for less"),
        (kept(MemoryError()), 3, "in the recipe); rows are kept"),
        (RecursionError("deep"), 1, "RecursionError: deep; this is a defect"),
        (EOFError("nothing left"), 1, "EOFError: nothing left; this is a defect"),
        (OSError(errno.ENOSPC, "No space left on device", "out/map.tif"), 1,
         "the system refused out/map.tif (No space left on device); check its name, its permissions and its disk"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "a"), 1, "refused a (Too many levels"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "n" * 300), 1, "n (File name too long)"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 1, "this is a defect"),
        (RuntimeError("x" * 5000), 1, "x; this is a defect"),
        (UnicodeEncodeError("utf-8", "a\udce9", 1, 2, "no"), 1, "UnicodeEncodeError"),
        (ValueError("\x1b[31mred\x07"), 1, r"ValueError: \x1b[31mred\x07; this"),
        (ExceptionGroup("two", [KeyError("a"), ValueError("b")]), 1, "ExceptionGroup: two (2 sub-exceptions)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)  # fmt: skip
def test_errors_of_every_kind(
    run: Callable, failing: Callable[..., None], error: Exception, code: int, wanted: str
) -> None:
    failing("info", error)
    result = run("info")
    assert result.err.startswith("Error: ")
    assert result.err.count("\n") == 1
    assert wanted in result.err
    assert result.code == code
    assert len(result.err) < 1200
    assert result.err[:-1].isprintable()


def test_ctrl_c_outside_of_jobs_is_an_interruption(run: Callable, failing: Callable[..., None]) -> None:
    failing("info", KeyboardInterrupt())
    result = run("info")
    assert (result.code, result.err) == (130, "Interrupted.\n")


def test_an_output_that_nobody_reads_any_more_is_no_defect(raster: Callable) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [Path(sys.executable).with_name("aerial-seg"), "info", raster("in.tif")]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.stderr == "Stopped: the program that reads the output closed it before its end\n"
    assert done.returncode == 1


def test_names_that_no_disk_takes_and_circles_of_links_are_one_line(
    run: Callable, raster: Callable, models: Callable, tmp_path: Path
) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    predict = ("predict", models(), raster("in.tif"), "-o")
    for output in ("n" * 300 + ".tif", "a/map.tif"):
        result = run(*predict, output)
        assert result.code in (1, 2)
        assert result.err.startswith("Error: ")
        assert result.err.count("\n") == 1
    for path in ("n" * 300 + ".tif", "a", "a/in.tif"):
        result = run("info", path)
        assert result.code == 1
        assert result.err.startswith("Error: ")
        assert result.err.count("\n") == 1


def test_a_warning_of_a_library_is_one_line_that_steers_nothing(
    run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = group.get_command(click.Context(group), "info")
    monkeypatch.setattr(
        command, "callback", lambda: warnings.warn("odd\n\x1b[31mfile", UserWarning, stacklevel=1)
    )
    monkeypatch.setattr(command, "params", [])
    result = run("info")
    assert (result.code, result.out, result.err) == (0, "", "warning: odd \\x1b[31mfile\n")
