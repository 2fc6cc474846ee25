"""What differs on Windows and macOS, tried with Windows' rules played on Linux or with its own paths."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import pytest

from aerial_seg.cli import console, net
from aerial_seg.errors import InputError, OutputError
from aerial_seg.files import operating_system
from aerial_seg.files.names import (
    OgrName,
    as_typed,
    check_address,
    check_output,
    exact,
    ogr_name,
    writing_folder,
)
from aerial_seg.files.operating_system import ignores_case, name_problem, replace, shell_line, sync
from aerial_seg.files.protect import Inputs
from aerial_seg.files.staging import staged_files, staged_folder
from aerial_seg.files.subdatasets import find_subdataset
from aerial_seg.files.work import locked_work, work_folder
from aerial_seg.geo.raster.remote import gdal_name, is_remote, public_name, url_path
from aerial_seg.outputs import stac

needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="NOT PROVED: kills are played in forked processes"
)


@pytest.fixture
def windows_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are read as on Windows; the file system stays what it is."""
    monkeypatch.setattr(operating_system, "WINDOWS", True)


class TestLock:
    def test_two_runs_are_told_in_one_line_and_nothing_stays(self, windows: Any, tmp_path: Path) -> None:
        final = tmp_path / "map.tif"
        with locked_work(final):
            with (
                pytest.raises(OutputError, match="being written by another run; wait for it"),
                locked_work(final),
            ):
                pytest.fail("two runs write one output")
            assert (work_folder(final) / "lock").exists()
        assert list(tmp_path.iterdir()) == []
        assert windows.refused == []

    @needs_fork
    def test_a_killed_run_holds_nothing(self, windows: Any, tmp_path: Path) -> None:
        final = tmp_path / "map.tif"
        child = os.fork()
        if child == 0:
            try:
                with locked_work(final):
                    os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(3)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert (work_folder(final) / "lock").exists()
        with locked_work(final):
            pass
        assert list(tmp_path.iterdir()) == []

    def test_what_is_to_be_gone_on_with_stays(self, windows: Any, tmp_path: Path) -> None:
        final = tmp_path / "map.tif"

        def stopped() -> None:
            with locked_work(final, keep=lambda work: True) as work:
                (work / "journal.jsonl").write_text("{}")
                raise KeyError

        with pytest.raises(KeyError):
            stopped()
        assert sorted(path.name for path in work_folder(final).iterdir()) == ["journal.jsonl", "lock"]

    def test_runs_that_come_and_go_never_overlap(self, windows: Any, tmp_path: Path) -> None:
        final, inside, most, wins = tmp_path / "map.tif", [], [], []

        def run() -> None:
            until = time.monotonic() + 300.0
            while len(wins) < 40 and time.monotonic() < until:
                try:
                    with locked_work(final):
                        inside.append(1)
                        most.append(len(inside))
                        inside.pop()
                        wins.append(1)
                except OutputError:
                    continue

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert max(most) == 1
        assert len(wins) >= 40
        # On Windows a run that is refused may look at the lock just when the winner takes its folder away, which then
        # stays, empty: the next run of that output removes it.
        with locked_work(final):
            pass
        assert list(tmp_path.iterdir()) == []


class TestFiles:
    def test_folders_are_not_synced_and_files_are_opened_for_writing(
        self, windows: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "a").write_text("a")
        sync(tmp_path)
        sync(tmp_path / "a")

    def test_results_take_their_place(self, windows: Any, tmp_path: Path) -> None:
        for content in ("old", "new"):
            with staged_files(tmp_path / "map.tif", overwrite=True) as folder:
                (folder / "map.tif").write_text(content)
            with staged_folder(tmp_path / "set", overwrite=True, marker="m.json") as folder:
                (folder / "m.json").write_text(content)
        assert (tmp_path / "map.tif").read_text() == (tmp_path / "set" / "m.json").read_text() == "new"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", "set"]
        assert windows.refused == []

    def test_what_another_program_has_open_is_told_and_the_old_result_stays(
        self, windows: Any, tmp_path: Path
    ) -> None:
        final = tmp_path / "map.tif"
        final.write_text("old")
        with (
            final.open(),
            pytest.raises(OutputError, match="could not be written"),
            staged_files(final, overwrite=True) as folder,
        ):
            (folder / "map.tif").write_text("new")
        assert final.read_text() == "old"
        assert list(tmp_path.iterdir()) == [final]

    @pytest.mark.parametrize("looks", [1, 3])
    def test_a_scanner_that_looks_into_a_new_file_is_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int
    ) -> None:
        left, honest = [looks], os.replace
        (tmp_path / "a").write_text("a")

        def scanned(source: Path, target: Path) -> None:
            if left[0]:
                left[0] -= 1
                raise PermissionError(13, "in use")
            honest(source, target)

        monkeypatch.setattr(os, "replace", scanned)
        monkeypatch.setattr(operating_system, "_PAUSE", 0.001)
        with pytest.raises(PermissionError):  # elsewhere it would not help
            replace(tmp_path / "a", tmp_path / "b")
        left[0] = looks
        monkeypatch.setattr(operating_system, "WINDOWS", True)
        replace(tmp_path / "a", tmp_path / "b")
        assert (tmp_path / "b").read_text() == "a"

    def test_files_without_a_number_are_not_one_and_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in "ab":
            (tmp_path / name).write_text(name)
        monkeypatch.setattr(
            "aerial_seg.files.protect.os.stat", lambda path: SimpleNamespace(st_dev=0, st_ino=0)
        )
        inputs = Inputs([tmp_path / "a"])
        inputs.refuse([tmp_path / "b"])
        with pytest.raises(OutputError, match="one of the files to read"):
            inputs.refuse([tmp_path / "a"])

    def test_a_folder_is_known_by_what_it_is_where_capitals_count_for_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Played with a link whose other name nobody resolves, as nobody resolves capitals on macOS."""
        (tmp_path / "chips" / "deep").mkdir(parents=True)
        (tmp_path / "chips" / "deep" / "image.tif").write_text("image")
        (tmp_path / "CHIPS").symlink_to(tmp_path / "chips")
        (tmp_path / "other").mkdir()
        monkeypatch.setattr("aerial_seg.files.protect.os.path.realpath", os.path.abspath)
        inputs = Inputs([tmp_path / "chips" / "deep" / "image.tif"])
        with pytest.raises(OutputError, match="would be replaced, but"):
            inputs.refuse_folder(tmp_path / "CHIPS")
        inputs.refuse_folder(tmp_path / "other")

    def test_this_file_system_tells_whether_case_counts(self, tmp_path: Path) -> None:
        (tmp_path / "Name").mkdir()
        assert ignores_case(tmp_path / "Name") == (tmp_path / "nAME").exists()


class TestNames:
    @pytest.mark.parametrize(
        ("name", "problem"),
        [
            ("C:\\maps\\con.tif", "device"),
            ("maps\\COM1", "device"),
            ("lpt\u00b2.gpkg", "device"),
            ("C:\\maps\\nul .tif", "device"),
            ("C:\\maps\\map.", "ends in a dot"),
            ("C:\\maps \\map.tif", "ends in a blank"),
            ("map.tif:hidden", "holds :"),
            ("C:\\maps\\a?.tif", r"holds \?"),
            ("C:\\maps\\a|b.tif", r"holds \|"),
            ("C:\\maps\\a\x07b.tif", r"holds U\+0007"),
        ],
    )
    def test_names_that_windows_would_change_or_lose_are_refused(
        self, windows_names: None, name: str, problem: str
    ) -> None:
        with pytest.raises(OutputError, match=problem) as told:
            check_output(name)
        assert "\n" not in str(told.value)
        assert "choose another output" in str(told.value)

    @pytest.mark.parametrize(
        "name",
        ["C:\\maps\\map.tif", "C:map.tif", "\\\\server\\share\\map.tif", "..\\console.tif", ".\\com10.tif", "nulls",
         "C:/maps/.hidden", "C:\\größe\\мапа.tif", "/tmp/map.tif"],
    )  # fmt: skip
    def test_other_names_are_none_of_its_business(self, windows_names: None, name: str) -> None:
        assert name_problem(name) is None

    @pytest.mark.skipif(os.name == "nt", reason="elsewhere these are names like others")
    @pytest.mark.parametrize("name", ["con.tif", "a:b.tif", "map ", "map."])
    def test_elsewhere_they_are_names_like_others(self, tmp_path: Path, name: str) -> None:
        check_output(tmp_path / name)
        with staged_files(tmp_path / name, overwrite=False) as folder:
            (folder / name).write_text("")
        assert (tmp_path / name).exists()

    def test_long_paths_are_refused_where_windows_opens_none(
        self, windows_names: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        long = "/" + "/".join(["d" * 50] * 4) + "/map.tif"
        with pytest.raises(OutputError, match=r"path of 212 letters, wanted at most 199, .*LongPathsEnabled"):
            check_output(long)
        check_output("/" + long[20:])
        monkeypatch.setattr(operating_system, "_takes_long_paths", lambda: True)
        check_output(long)

    @pytest.mark.parametrize("enabled", [0, 1])
    def test_the_registry_says_whether_paths_may_be_long(
        self, windows_names: None, monkeypatch: pytest.MonkeyPatch, enabled: int
    ) -> None:
        class Key:
            def __enter__(self) -> str:
                return "key"

            def __exit__(self, *_: object) -> None:
                pass

        def open_key(root: int, name: str) -> Key:
            assert (root, name) == (7, r"SYSTEM\CurrentControlSet\Control\FileSystem")
            return Key()

        registry: Any = SimpleNamespace(
            HKEY_LOCAL_MACHINE=7,
            OpenKey=open_key,
            QueryValueEx=lambda key, name: ({"LongPathsEnabled": enabled}[name], 4),
        )
        monkeypatch.setitem(sys.modules, "winreg", registry)
        assert operating_system.longest_path() == (None if enabled else 259)

    @pytest.mark.parametrize(
        "name",
        ["C:\\x\\y.tif", "c:/x/y.tif", "\\\\server\\share\\y.tif", "//server/share/y.tif", "x\\y.tif", "y.tif",
         "\\\\?\\C:\\x\\y.tif", "..\\y.tif", ".\\y.tif"],
    )  # fmt: skip
    def test_a_path_of_windows_is_a_path_and_no_address(self, windows_names: None, name: str) -> None:
        for path in (name, PureWindowsPath(name)):
            text = str(path)
            assert exact(path) == gdal_name(path) == text  # type: ignore[arg-type]
            assert find_subdataset(path) is None  # type: ignore[arg-type]
            assert not is_remote(path)  # type: ignore[arg-type]
            check_address(path)  # type: ignore[arg-type]

    def test_a_path_that_begins_where_its_drive_is_becomes_whole(self, windows_names: None) -> None:
        assert exact("C:y.tif").endswith("y.tif")
        assert ":" not in exact("C:y.tif")[2:]
        assert not exact("C:y.tif").startswith("./")

    @pytest.mark.parametrize(
        ("address", "name"),
        [
            ("https://host.org/a/b%20c.tif?sig=1", "/vsicurl/https://host.org/a/b%20c.tif?sig=1"),
            ("s3://bucket/key/a.tif", "/vsis3/bucket/key/a.tif"),
            ("/vsicurl/https://host.org/a.tif", "/vsicurl/https://host.org/a.tif"),
            ("/vsizip/a.zip/b/c.tif", "/vsizip/a.zip/b/c.tif"),
        ],
    )
    def test_addresses_survive_a_path_of_windows(
        self, windows_names: None, address: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("aerial_seg.geo.raster.remote.Path", PureWindowsPath)
            path = url_path(address)
        assert "\\" in str(path)
        assert gdal_name(path) == name  # type: ignore[arg-type]
        assert is_remote(path) == (not name.startswith("/vsizip"))  # type: ignore[arg-type]
        assert public_name(path) == address.rpartition("/")[2].partition("?")[0]  # type: ignore[arg-type]
        check_address(path)  # type: ignore[arg-type]

    def test_wrong_slashes_of_an_address_are_still_told_elsewhere(self) -> None:
        with pytest.raises(InputError, match=r"wanted https://host/a\.tif"):
            check_address("https:\\\\host\\a.tif")
        assert as_typed("https:\\\\host") == "https:\\\\host"

    @pytest.mark.parametrize(
        ("name", "file", "inside"),
        [
            ('NETCDF:"C:\\x\\f.nc":soil', "C:\\x\\f.nc", "soil"),
            ("GPKG:C:\\x\\f.gpkg:tiles", "C:\\x\\f.gpkg", "tiles"),
            ("GTIFF_DIR:2:C:\\x\\f.tif", "C:\\x\\f.tif", "2"),
            ('HDF5:"f.h5"://group/name', "f.h5", "group/name"),
        ],
    )
    def test_rasters_in_files_on_a_drive(
        self, windows_names: None, name: str, file: str, inside: str
    ) -> None:
        for path in (name, PureWindowsPath(name)):
            found = find_subdataset(path)  # type: ignore[arg-type]
            assert found is not None
            assert (found.file, found.inside) == (file, inside)
            assert found.text == name

    def test_a_vector_file_is_read_as_it_is(self, windows_names: None) -> None:
        name = ogr_name(PureWindowsPath("C:\\a;b\\x!y.gpkg"))  # type: ignore[arg-type]
        assert isinstance(name, OgrName)
        assert name.read() == "C:\\a;b\\x!y.gpkg"

    @pytest.mark.parametrize("folder", ["a;b", "a!b", "a#b"])
    def test_vectors_on_a_server_in_a_folder_that_pyogrio_parses_are_refused(
        self, windows_names: None, tmp_path: Path, folder: str
    ) -> None:
        with pytest.raises(OutputError, match="drive letter"), writing_folder(tmp_path / folder):
            pytest.fail("it would be written elsewhere")
        with writing_folder(tmp_path / "plain") as place:
            assert place == tmp_path / "plain"

    def test_a_style_on_another_drive_is_named_by_its_whole_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def apart(*_: object) -> str:
            raise ValueError("path is on mount 'C:', start on mount 'D:'")

        monkeypatch.setattr(os.path, "relpath", apart)
        assert stac._reference(tmp_path / "a b.gpkg", tmp_path) == (tmp_path / "a b.gpkg").resolve().as_uri()

    def test_commands_are_quoted_for_the_shell_that_reads_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        words = ["ogr2ogr", "C:\\my maps\\a.kml"]
        assert shell_line(words) == "ogr2ogr 'C:\\my maps\\a.kml'"
        monkeypatch.setattr(operating_system, "WINDOWS", True)
        assert shell_line(words) == 'ogr2ogr "C:\\my maps\\a.kml"'


class TestTerminal:
    def test_letters_that_a_pipe_of_windows_has_not_are_written_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252", newline="\n"))
        console.write_every_letter()
        console.say("größe → дом")
        sys.stdout.flush()
        assert raw.getvalue() == "größe \\u2192 \\u0434\\u043e\\u043c\n".encode("cp1252")

    def test_ctrl_break_interrupts_as_ctrl_c_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Played with another signal: SIGBREAK is Windows' own."""
        assert signal.SIGTERM in net._ENDINGS
        stand_in = getattr(signal, "SIGUSR1", signal.SIGTERM)
        monkeypatch.setattr(net, "_ENDINGS", (signal.SIGTERM, stand_in))
        before = signal.getsignal(stand_in)
        with pytest.raises(KeyboardInterrupt), net.termination_interrupts():
            signal.raise_signal(stand_in)
        assert signal.getsignal(stand_in) == before
