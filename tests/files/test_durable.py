"""A file is whole and under its name, or as it was; and there is one way to write it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from aerial_seg.errors import OutputError
from aerial_seg.files import operating_system
from aerial_seg.files.durable import disk_errors, settled_file

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("aerial_seg", "cli")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not path.is_relative_to(ROOT / "aerial_seg" / "files")
]
RENAMES = {("os", "replace"), ("os", "rename"), ("os", "renames"), ("shutil", "move")}


class OddError(Exception):
    """As a library may raise it."""


def renames(source: str) -> list[int]:
    """Lines that give a file another name: texts are replaced with two arguments, dataclasses with named ones."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        one = len(node.args) == 1 and not node.keywords
        if (owner, node.func.attr) in RENAMES or (node.func.attr in ("replace", "rename") and one):
            found.append(node.lineno)
    return found


def test_a_rename_is_seen() -> None:
    assert renames("partial.replace(final)\nos.replace(a, b)\nshutil.move(a, b)\npath.rename(other)") == [
        1,
        2,
        3,
        4,
    ]
    assert renames("text.replace('a', 'b')\nreplace(card, a=1)\nnow.replace(tzinfo=UTC)") == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_files_gives_files_their_names(path: Path) -> None:
    assert renames(path.read_text(encoding="utf-8")) == [], "write through files.durable or files.staging"


def test_a_file_is_there_when_the_block_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    plain = operating_system.sync
    monkeypatch.setattr("aerial_seg.files.durable.sync", lambda path: (synced.append(path), plain(path)))
    final = tmp_path / "a.txt"
    final.write_text("before")
    with settled_file(final) as partial:
        partial.write_text("after")
        assert final.read_text() == "before"
    assert final.read_text() == "after"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert synced == [partial, tmp_path]


@pytest.mark.parametrize("error", [OddError("no room"), OSError(5, "no room")])
def test_what_a_library_raises_names_the_file_and_leaves_it(tmp_path: Path, error: Exception) -> None:
    final = tmp_path / "a.txt"
    final.write_text("before")

    def write() -> None:
        with settled_file(final, errors=(OddError, OSError), remedy="try another") as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(OutputError, match=r"a\.txt could not be written \(no room\); try another"):
        write()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "before")]


def test_other_errors_pass_and_leave_the_file_too(tmp_path: Path) -> None:
    final, draft = tmp_path / "a.gpkg", tmp_path / "partial-a.gpkg"

    def write() -> None:
        with disk_errors(final), settled_file(final, draft=draft) as partial:
            assert partial == draft
            partial.write_text("half")
            raise OddError

    with pytest.raises(OddError):
        write()
    assert not list(tmp_path.iterdir())
