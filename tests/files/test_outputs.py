"""Results appear whole or not at all, and nothing that is not ours is replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aerial_seg.errors import OutputError
from aerial_seg.files import staging as outputs
from aerial_seg.files.made import LIST
from aerial_seg.files.staging import check_folder, check_writable, staged_files, staged_folder

MARKER = "dataset.json"


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_files_take_their_place_the_main_one_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    honest = Path.replace

    def watched(self: Path, target: Path) -> Path:
        order.append(self.name)
        return honest(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    final = tmp_path / "new" / "deep" / "mask.tif"
    with staged_files(final, overwrite=False) as work:
        for name in ("mask.tif", "mask.tif.aux.xml", "mask.qml", "a.txt"):
            (work / name).write_text(name)
        assert not final.exists()
    order.remove("placing.json.partial")
    assert order[-1] == "mask.tif"
    assert sorted(order) == sorted(["mask.tif", "mask.tif.aux.xml", "mask.qml", "a.txt"])
    assert tree(tmp_path / "new") == ["deep", *sorted(f"deep/{name}" for name in order)]


def fail(work: Path, error: BaseException | type[BaseException]) -> None:
    (work / "mask.tif").write_text("half")
    raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_leaves_all_as_it_was(tmp_path: Path, error: type[BaseException], existing: bool) -> None:
    if existing:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "mask.tif").write_text("old")
    before = tree(tmp_path)
    for stage in (
        lambda: staged_files(tmp_path / "new" / "mask.tif", overwrite=True),
        lambda: staged_folder(tmp_path / "sub" / "set", overwrite=True, marker=MARKER),
    ):
        with pytest.raises(error), stage() as work:
            fail(work, error)
    assert tree(tmp_path) == before
    assert not existing or (tmp_path / "new" / "mask.tif").read_text() == "old"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(28, "No space left on device"),
            r"\(no space left on the disk of .*, \d.* free\); free disk space",
        ),
        (OSError("TIFFAppendToStrip failed"), r"\(TIFFAppendToStrip failed\); free space"),
    ],
)
def test_a_disk_that_refuses_is_one_line(tmp_path: Path, error: OSError, message: str) -> None:
    with (
        pytest.raises(OutputError, match=r"mask\.tif could not be written " + message),
        staged_files(tmp_path / "mask.tif", overwrite=False) as work,
    ):
        fail(work, error)
    assert tree(tmp_path) == []


def test_an_existing_result_needs_overwrite(tmp_path: Path) -> None:
    (tmp_path / "mask.tif").write_text("old")
    with pytest.raises(OutputError, match="exists already; pass `overwrite=True`"):
        check_writable(tmp_path / "mask.tif", overwrite=False)
    with staged_files(tmp_path / "mask.tif", overwrite=True) as work:
        (work / "mask.tif").write_text("new")
    assert (tmp_path / "mask.tif").read_text() == "new"


def test_a_folder_of_ours_is_replaced_whole(tmp_path: Path) -> None:
    final = tmp_path / "set"
    for content in ("one", "two"):
        with staged_folder(final, overwrite=True, marker=MARKER) as work:
            (work / MARKER).write_text(content)
            (work / content).write_text(content)
    assert tree(tmp_path) == ["set", f"set/{LIST}", f"set/{MARKER}", "set/two"]
    with pytest.raises(OutputError, match="pass `overwrite=True`"):
        check_folder(final, overwrite=False, marker=MARKER)


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    with pytest.raises(OutputError, match=f"holds other files and no {MARKER}"):
        check_folder(tmp_path / "photos", overwrite=True, marker=MARKER)
    with pytest.raises(OutputError), staged_folder(tmp_path / "photos", overwrite=True, marker=MARKER):
        pytest.fail("must not begin")
    assert tree(tmp_path) == ["photos", "photos/holiday.jpg"]


def test_a_users_folder_called_old_survives(tmp_path: Path) -> None:
    (tmp_path / "set.old").mkdir()
    (tmp_path / "set.old" / "keep.txt").touch()
    for _ in range(2):
        with staged_folder(tmp_path / "set", overwrite=True, marker=MARKER) as work:
            (work / MARKER).touch()
    assert tree(tmp_path) == ["set", "set.old", "set.old/keep.txt", f"set/{LIST}", f"set/{MARKER}"]


def test_when_the_swap_fails_the_old_folder_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final = tmp_path / "set"
    with staged_folder(final, overwrite=True, marker=MARKER) as work:
        (work / MARKER).write_text("old")
    honest = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if self.name == "result":
            raise OSError(5, "Input/output error")
        return honest(self, target)

    monkeypatch.setattr(outputs.Path, "replace", failing)
    with (
        pytest.raises(OutputError, match="Input/output"),
        staged_folder(final, overwrite=True, marker=MARKER) as work,
    ):
        (work / MARKER).write_text("new")
    assert (final / MARKER).read_text() == "old"
    assert tree(tmp_path) == ["set", f"set/{LIST}", f"set/{MARKER}"]


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with staged_folder(tmp_path / "set", overwrite=False, marker=MARKER) as work:
        (work / MARKER).touch()
    assert tree(tmp_path) == ["set", f"set/{LIST}", f"set/{MARKER}"]


def test_files_and_folders_do_not_take_each_others_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file where a folder"):
        check_folder(tmp_path / "file", overwrite=False, marker=MARKER)
    with pytest.raises(OutputError, match="is a folder where a file"):
        check_writable(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="file is not a folder"):
        check_writable(tmp_path / "file" / "mask.tif", overwrite=False)


@pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 0)() == 0,
    reason="NOT PROVED: root, and who writes on Windows, may write everywhere",
)
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="not writable"):
        check_writable(tmp_path / "new" / "mask.tif", overwrite=False)
