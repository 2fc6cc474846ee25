"""What a user types becomes a list of files, each once, in an order that can be foretold."""

from __future__ import annotations

from pathlib import Path

import pytest

from aerial_seg.errors import InputError
from aerial_seg.geo.raster.inputs import expand_rasters


@pytest.fixture
def scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.tif", "a.TIF", "c.vrt", "a.tif.aux.xml", "notes.txt", "deep/d.tif", "odd[1].tif"):
        path = tmp_path / "scenes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "scenes"


def test_a_folder_stands_for_the_rasters_directly_in_it_by_name(scenes: Path) -> None:
    names = [path.name for path in expand_rasters([str(scenes)])]
    assert names == ["a.TIF", "b.tif", "c.vrt", "odd[1].tif"]


def test_arguments_keep_their_order_and_files_count_once(scenes: Path) -> None:
    found = expand_rasters(["scenes/c.vrt", "scenes/*.tif", str(scenes / "b.tif"), "scenes"])
    assert [path.name for path in found] == ["c.vrt", "b.tif", "odd[1].tif", "a.TIF"]


def test_globs_match_absolute_relative_and_deep_patterns(scenes: Path) -> None:
    assert expand_rasters([str(scenes / "b*")]) == (scenes / "b.tif",)
    assert {path.name for path in expand_rasters(["**/*.tif"])} == {"b.tif", "d.tif", "odd[1].tif"}


def test_an_existing_file_is_no_pattern(scenes: Path) -> None:
    assert expand_rasters(["scenes/odd[1].tif"]) == (Path("scenes/odd[1].tif"),)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("gone.tif", "gone.tif does not exist; check the path"),
        ("scenes/x*.tif", r"no file matches scenes/x\*.tif; check the pattern"),
        ("empty", "folder empty holds no raster, wanted one of .tif"),
    ],
)
def test_what_names_nothing_is_an_error(scenes: Path, argument: str, message: str) -> None:
    (scenes.parent / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        expand_rasters(["scenes", argument])


def test_no_argument_is_an_error() -> None:
    with pytest.raises(InputError, match="no raster was given"):
        expand_rasters([])
