"""What is read is never written, whatever it is called; what we did not make is never deleted."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerial_seg.errors import OutputError
from aerial_seg.files import disk
from aerial_seg.files.disk import DiskFullError, human_bytes, is_full, usual_mode, write_failure
from aerial_seg.files.made import LIST
from aerial_seg.files.protect import Inputs
from aerial_seg.files.staging import check_folder, staged_folder


class TestInputs:
    @pytest.fixture
    def read(self, tmp_path: Path) -> Path:
        path = tmp_path / "data" / "labels.gpkg"
        path.parent.mkdir()
        path.write_text("read")
        return path

    @pytest.mark.parametrize("how", ["same", "relative", "link", "hard link", "link to the folder"])
    def test_an_input_is_known_by_every_name(
        self, read: Path, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tmp_path / "other.gpkg"
        monkeypatch.chdir(tmp_path)
        if how == "link":
            other.symlink_to(read)
        if how == "hard link":
            os.link(read, other)
        if how == "link to the folder":
            (tmp_path / "folder").symlink_to(read.parent)
            other = tmp_path / "folder" / "labels.gpkg"
        name = {"same": read, "relative": Path("data/../data/labels.gpkg")}.get(how, other)
        for inputs, output in ((Inputs([read]), name), (Inputs([name]), read)):
            with pytest.raises(OutputError, match="is one of the files to read") as told:
                inputs.refuse([tmp_path / "fine.gpkg", output])
            assert str(output) in str(told.value)
        Inputs([read]).refuse([tmp_path / "new.gpkg", read.parent / "labels.shp"])

    @pytest.mark.parametrize("how", ["same", "link", "hard link"])
    def test_what_comes_to_light_later_is_held_to_what_was_asked_before(
        self, read: Path, how: str, tmp_path: Path
    ) -> None:
        """A raster's sidecars, and a VRT's members, are known when it is opened."""
        other = read if how == "same" else tmp_path / "other.gpkg"
        if how == "link":
            other.symlink_to(read)
        if how == "hard link":
            os.link(read, other)
        inputs = Inputs([])
        inputs.refuse([other, tmp_path / "new.gpkg"])
        with pytest.raises(OutputError, match="is one of the files to read") as told:
            inputs.add([tmp_path / "none", read])
        assert str(other) in str(told.value)

    def test_a_folder_that_holds_an_input_is_not_replaced(self, read: Path, tmp_path: Path) -> None:
        (tmp_path / "link.gpkg").symlink_to(read)
        (tmp_path / "data-2").mkdir()
        for name in (read, tmp_path / "link.gpkg", read.parent):
            with pytest.raises(OutputError, match=r"data would be replaced, but .* lies in it and is read"):
                Inputs([name]).refuse_folder(tmp_path / "data")
        Inputs([read]).refuse_folder(tmp_path / "data-2")
        Inputs([read]).refuse_folder(tmp_path / "none")

    def test_what_is_no_file_is_passed_over(self, tmp_path: Path) -> None:
        inputs = Inputs(["https://server/a.tif", "/vsizip/none.zip/a.tif", "nul\0", tmp_path / "none"])
        inputs.refuse([tmp_path / "none", tmp_path / "a.tif"])

    def test_thousands_of_inputs_cost_each_output_the_same(self, tmp_path: Path) -> None:
        """A question costs what it costs: it may not grow with the number of inputs."""

        def looked_at(count: int) -> int:
            inputs, calls = Inputs(tmp_path / f"{k}.tif" for k in range(count)), [0]
            inputs._real = _Counting(inputs._real, calls)  # type: ignore[assignment]
            inputs.refuse([tmp_path / "new.tif"])
            return calls[0]

        for k in range(2000):
            (tmp_path / f"{k}.tif").touch()
        assert looked_at(2000) == looked_at(2) <= 2


class _Counting(dict[str, object]):
    def __init__(self, content: dict[str, object], calls: list[int]) -> None:
        super().__init__(content)
        self._calls = calls

    def get(self, key: str, default: object = None) -> object:
        self._calls[0] += 1
        return super().get(key, default)

    def items(self) -> object:
        raise AssertionError("goes through all inputs")

    __iter__ = items  # type: ignore[assignment]


class TestFolders:
    @pytest.fixture
    def ours(self, tmp_path: Path) -> Path:
        with staged_folder(tmp_path / "set", overwrite=False, marker="set.json") as folder:
            for name in ("set.json", "chips.gpkg", "images/a_0000_0001.tif"):
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text("ours")
        return tmp_path / "set"

    def again(self, final: Path) -> None:
        with staged_folder(final, overwrite=True, marker="set.json", own=("images/*.tif",)) as folder:
            (folder / "set.json").write_text("new")

    @pytest.mark.parametrize(
        "name", ["labels.gpkg", "images/b_0000_0001.tif", "images/a_0000_0001.tif.txt", "chips.qml", "sub/x"]
    )
    @pytest.mark.parametrize("linked", [False, True])
    def test_files_of_somebody_else_are_named_and_stay(
        self, ours: Path, name: str, linked: bool, tmp_path: Path
    ) -> None:
        (ours / name).parent.mkdir(exist_ok=True)
        (tmp_path / "elsewhere").mkdir()
        if linked:
            (ours / name).symlink_to(tmp_path / "elsewhere")
        else:
            (ours / name).write_text("mine")
        before = sorted(path.name for path in ours.rglob("*"))
        with pytest.raises(OutputError, match="were not made with it") as told:
            self.again(ours)
        assert name in str(told.value)
        assert sorted(path.name for path in ours.rglob("*")) == before

    @pytest.mark.parametrize(
        "name",
        ["images/a_0000_0001.tif.aux.xml", "images/a_0000_0001.tif.ovr", "chips.gpkg-shm", ".DS_Store"],
    )
    def test_what_programs_leave_beside_our_files_goes_with_them(self, ours: Path, name: str) -> None:
        (ours / name).write_text("left")
        (ours / "images" / "empty").mkdir()
        self.again(ours)
        assert sorted(path.name for path in ours.iterdir()) == [LIST, "set.json"]

    def test_a_database_that_is_open_elsewhere_stays(self, ours: Path) -> None:
        (ours / "chips.gpkg-wal").write_text("what somebody has just changed")
        with pytest.raises(OutputError, match=r"chips\.gpkg is open in another program; close it"):
            self.again(ours)
        assert (ours / "chips.gpkg").exists()

    def test_folders_of_older_versions_have_no_list(self, ours: Path) -> None:
        (ours / LIST).unlink()
        with pytest.raises(OutputError, match=r"chips\.gpkg"):
            check_folder(ours, overwrite=True, marker="set.json", own=("images/*.tif",))
        check_folder(ours, overwrite=True, marker="set.json", own=("images/*.tif", "chips.gpkg"))

    def test_of_a_link_the_folder_behind_it_is_replaced(self, ours: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(ours)
        self.again(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert (ours / "set.json").read_text() == "new"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "set"]


def sqlite_full() -> sqlite3.Error:
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.Error) as raised:
            database.execute("CREATE TABLE t AS SELECT zeroblob(100000)")
    return raised.value


class TestDisk:
    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            RuntimeError('Io("No space left on device (os error 28)")'),
            RuntimeError("sqlite3_exec(...) failed: database or disk is full"),
            sqlite_full(),
        ],
        ids=lambda error: type(error).__name__ + str(error)[:12],
    )
    def test_a_full_disk_is_known_by_what_libraries_say_of_it(self, error: Exception, tmp_path: Path) -> None:
        told = write_failure(error, tmp_path / "new" / "a.gpkg", "remedy")
        assert isinstance(told, DiskFullError)
        line = str(told)
        assert f"no space left on the disk of {tmp_path}, " in line
        assert "free disk space there" in line
        assert "\n" not in line
        wrapped = ValueError("no such table: rtree_map_geom")
        wrapped.__cause__ = error
        assert isinstance(write_failure(wrapped, tmp_path / "a.gpkg", "remedy"), DiskFullError)

    @pytest.mark.parametrize(
        "error", [OSError("TIFFAppendToStrip failed"), RuntimeError("no such table: rtree")]
    )
    def test_for_an_error_that_tells_nothing_the_disk_is_asked(
        self, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert not is_full(error, tmp_path)
        assert str(write_failure(error, tmp_path / "a", "do that")).endswith(f"written ({error}); do that")
        asked = []
        monkeypatch.setattr(disk, "takes", lambda folder, size: asked.append(folder))
        assert is_full(error, tmp_path)
        assert asked == [tmp_path]

    def test_other_errors_of_the_system_are_not_asked_about(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(disk, "takes", lambda folder, size: False)
        for number in (errno.EACCES, errno.EFBIG, errno.ENOENT):
            assert not is_full(OSError(number, os.strerror(number)), tmp_path)
        assert is_full(OSError(errno.EIO, "Input/output error"), tmp_path)

    @pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="elsewhere the file has a name for a moment")
    def test_a_kill_while_the_usual_mode_is_asked_for_leaves_no_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[list[Path]] = []
        close = os.close

        def closing(descriptor: int) -> None:
            seen.append(list(tmp_path.iterdir()))
            close(descriptor)

        monkeypatch.setattr(os, "close", closing)
        usual_mode(tmp_path)
        assert seen[0] == []

    @given(st.floats(0, 1e15))
    def test_sizes_have_digits(self, size: float) -> None:
        number, unit = human_bytes(size).split()
        scale = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
        assert float(number) * scale == pytest.approx(size, rel=0.006, abs=0.51)

    @pytest.mark.parametrize("named", [False, True])
    @pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
    def test_the_usual_mode_is_that_of_a_new_file(
        self, tmp_path: Path, umask: int, named: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if named:
            monkeypatch.delattr(os, "O_TMPFILE", raising=False)
        before = os.umask(umask)
        try:
            (tmp_path / "new").touch()
            assert usual_mode(tmp_path) == (tmp_path / "new").stat().st_mode & 0o777 == 0o666 & ~umask
        finally:
            os.umask(before)
        assert [path.name for path in tmp_path.iterdir()] == ["new"]
